/** Typed QMP: the vocabulary over a connection. Commands are checked by type, answers and events when they arrive. */
import * as v from "valibot";
import { HearthError } from "../../../errors.ts";
import type { Log } from "../../../log.ts";
import { connectPassingFds } from "../../../sys/fd-passing-stream.ts";
import { type DeadlineOptions, withDeadline } from "../../../util/wait.ts";
import { type QmpCallOptions, QmpConnection, type QmpRunState } from "./connection.ts";
import type { QemuVersion } from "./message.ts";
import {
  QMP_EVENTS,
  QMP_RETURNS,
  type QmpArguments,
  type QmpCommand,
  type QmpEventData,
  type QmpEventName,
  type QmpReturn,
} from "./vocabulary.ts";

/** An event that is awaited since before the command that causes it. Disposing stops listening. */
export interface AwaitedEvent<Name extends QmpEventName> extends Disposable {
  /** The first matching event's data; fails with the deadline, the signal's reason, or the end of the connection. */
  readonly received: Promise<QmpEventData<Name>>;
}

export class QmpClient implements AsyncDisposable {
  readonly #connection: QmpConnection;

  constructor(connection: QmpConnection) {
    this.#connection = connection;
  }

  /** Connects to a QEMU that listens on `path`, one we started or one that was running before. */
  static async connect(path: string, options: DeadlineOptions & { readonly log?: Log } = {}): Promise<QmpClient> {
    const stream = await connectPassingFds(path, options);
    return new QmpClient(await QmpConnection.open(stream, options));
  }

  get state(): QmpRunState {
    return this.#connection.state;
  }

  get version(): QemuVersion {
    return this.#connection.version;
  }

  /** As QmpConnection.closed. */
  get closed(): Promise<HearthError> {
    return this.#connection.closed;
  }

  /** Runs one command; errors as QmpConnection.execute, and "unavailable" when the answer has another shape. */
  async run<Command extends QmpCommand>(
    command: Command,
    args: QmpArguments[Command],
    options: QmpCallOptions = {},
  ): Promise<QmpReturn<Command>> {
    const value = await this.#connection.execute(command, args, options);
    return parseForeign(QMP_RETURNS[command], value, `qmp ${command}`);
  }

  /** Calls `listener` with each event of that name from now on; the returned function ends that. */
  onEvent<Name extends QmpEventName>(name: Name, listener: (data: QmpEventData<Name>) => void): () => void {
    return this.#connection.onEvent((event) => {
      if (event.name === name) listener(parseForeign(QMP_EVENTS[name], event.data, `qmp event ${name}`));
    });
  }

  /** Listens from this call on, so create it before the command that causes the event, and await it after. */
  awaitEvent<Name extends QmpEventName>(
    name: Name,
    matches: (data: QmpEventData<Name>) => boolean = () => true,
    options: DeadlineOptions = {},
  ): AwaitedEvent<Name> {
    const { promise, resolve, reject } = Promise.withResolvers<QmpEventData<Name>>();
    const off = this.onEvent(name, (data) => {
      if (matches(data)) resolve(data);
    });
    void this.closed.then(reject);
    const received = withDeadline(`qmp event ${name}`, promise, options).finally(off);
    // The command itself may fail first; then nobody asks for the event any more.
    received.catch(() => undefined);
    promise.catch(() => undefined);
    return {
      received,
      [Symbol.dispose]: () => {
        off();
        reject(new HearthError("cancelled", `wait for qmp event ${name}: given up`));
      },
    };
  }

  /** Idempotent. Pending calls and awaited events fail with `cause`. */
  close(cause?: HearthError): void {
    this.#connection.close(cause);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function parseForeign<S extends v.GenericSchema>(schema: S, value: unknown, what: string): v.InferOutput<S> {
  const result = v.safeParse(schema, value);
  if (result.success) return result.output;
  const issue = result.issues[0];
  throw new HearthError("unavailable", `${what}: unexpected ${v.getDotPath(issue) ?? "value"}: ${issue.message}`);
}
