import { describe, expect, test } from "bun:test";
import { parseProcess } from "../../oci/spec.ts";
import { buildProcess, type ProcessChanges } from "./exec-process.ts";

const own = parseProcess(
  JSON.stringify({
    args: ["init"],
    cwd: "/srv",
    env: ["A=1"],
    terminal: true,
    consoleSize: { height: 1, width: 2 },
    user: { uid: 1, gid: 2, additionalGids: [3] },
    capabilities: { bounding: ["CAP_KILL"] },
    rlimits: [{ type: "RLIMIT_CORE", hard: 1, soft: 1 }],
  }),
  "own",
);
const none: ProcessChanges = {
  cwd: undefined,
  env: [],
  tty: false,
  user: undefined,
  "additional-gids": [],
  "no-new-privs": false,
  cap: [],
  apparmor: undefined,
  "process-label": undefined,
};

describe("exec's process", () => {
  test("is the container's own with another command, and no terminal unless asked for", () => {
    const { consoleSize: _size, ...rest } = own;
    expect(buildProcess(undefined, own, none, ["ls", "-l"])).toEqual({ ...rest, args: ["ls", "-l"], terminal: false });
  });

  test("changes", () => {
    const changed = buildProcess(
      undefined,
      own,
      {
        ...none,
        cwd: "/x",
        env: ["B=2"],
        tty: true,
        user: "5:6",
        "additional-gids": ["7"],
        "no-new-privs": true,
        cap: ["CAP_CHOWN"],
        apparmor: "profile",
        "process-label": "label",
      },
      ["ls"],
    );
    const both = ["CAP_KILL", "CAP_CHOWN"];
    const added = ["CAP_CHOWN"];
    expect(changed).toMatchObject({
      cwd: "/x",
      env: ["A=1", "B=2"],
      terminal: true,
      user: { uid: 5, gid: 6, additionalGids: [3, 7] },
      noNewPrivileges: true,
      apparmorProfile: "profile",
      selinuxLabel: "label",
      capabilities: { bounding: both, effective: added, permitted: added, ambient: [] },
    });
    expect(changed.capabilities?.inheritable).toBeUndefined();
    expect(own.env).toEqual(["A=1"]);
    expect(buildProcess(undefined, own, { ...none, user: "9" }, ["ls"]).user).toMatchObject({ uid: 9, gid: 2 });
  });

  test("an added capability is ambient where the container's own is inheritable, and nowhere else", () => {
    const inheritable = ["CAP_CHOWN", "CAP_SYSLOG"];
    const process = { ...own, capabilities: { inheritable, ambient: ["CAP_CHOWN"] } };
    const changed = buildProcess(undefined, process, { ...none, cap: ["CAP_SYSLOG", "CAP_KILL"] }, ["ls"]);
    expect(changed.capabilities).toEqual({
      bounding: ["CAP_SYSLOG", "CAP_KILL"],
      effective: ["CAP_SYSLOG", "CAP_KILL"],
      permitted: ["CAP_SYSLOG", "CAP_KILL"],
      inheritable,
      ambient: ["CAP_CHOWN", "CAP_SYSLOG"],
    });
  });

  test("a given process is used as it is", () => {
    const given = parseProcess('{"args":["x"],"cwd":"/"}', "given");
    expect(buildProcess(given, own, { ...none, env: ["B=2"] }, [])).toEqual(given);
    expect(buildProcess(given, own, { ...none, tty: true }, []).terminal).toBe(true);
    expect(() => buildProcess({ ...given, args: [] }, own, none, [])).toThrow("process args cannot be empty");
  });

  test.each(["", "x", "1:", "-1", "2147483648", "1:2:x:"])("user %j", (user) => {
    const build = (): unknown => buildProcess(undefined, own, { ...none, user }, ["ls"]);
    expect(build).toThrow("must be a number below 2^31");
  });
});
