/** Reads the report that `bun test --reporter=junit` writes: which tests ran and how each ended. */

export interface TestCase {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
}

const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

function unescapeXml(text: string): string {
  return text.replaceAll(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, name) => {
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(hex, 16));
    return ENTITIES[name] ?? whole;
  });
}

/** The report's test cases in its order. Text of a failure is escaped there, so a tag in it is none. */
export function parseJunit(xml: string): TestCase[] {
  const cases: TestCase[] = [];
  for (const [, attributes = "", empty, body = ""] of xml.matchAll(
    /<testcase\s([^>]*?)(?:(\/)>|>([\s\S]*?)<\/testcase>)/g,
  )) {
    const attribute = (key: string): string =>
      unescapeXml(new RegExp(`(?:^|\\s)${key}="([^"]*)"`).exec(attributes)?.[1] ?? "");
    const group = attribute("classname");
    const name = group === "" ? attribute("name") : `${group} > ${attribute("name")}`;
    const outcome =
      empty !== undefined ? "passed" : body.includes("<skipped") ? "skipped" : isFailure(body) ? "failed" : "passed";
    cases.push({ name, outcome });
  }
  return cases;
}

function isFailure(body: string): boolean {
  return body.includes("<failure") || body.includes("<error");
}
