/** Which code is generated from which protocols: the product's, and that of what only tests speak. */
export const PROTOCOLS = [
  { template: "buf.gen.yaml", sources: "proto", output: "src/gen" },
  { template: "buf.gen.test.yaml", sources: "test/proto", output: "test/gen" },
] as const;

/** For mustRun; `more` are further arguments. */
export function generateCommand(template: string, ...more: readonly string[]): readonly string[] {
  return ["buf", "generate", "--template", template, ...more];
}
