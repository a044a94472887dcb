/** What Bun 1.4 has and its types leave out; each is proved by test/sys. */
import "bun";

declare module "bun" {
  /** Adopts a connected, non-blocking socket and owns it from then on. */
  function connect<Data = undefined>(options: FdSocketOptions<Data>): Promise<Socket<Data>>;

  /** Accepts on a listening, non-blocking socket and owns it from then on. */
  function listen<Data = undefined>(options: FdSocketOptions<Data>): UnixSocketListener<Data>;

  interface Socket<Data = undefined> {
    /** Stops reading: the peer feels back-pressure. */
    pause(): void;
    resume(): void;
  }
}
