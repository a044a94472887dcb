import { expect, test } from "bun:test";
import { parseJunit } from "./junit.ts";

test("names, groups, outcomes and escapes", () => {
  const xml = `<?xml version="1.0"?><testsuites tests="5"><testsuite name="a.test.ts">
    <testcase name="alone" classname="" time="0" />
    <testsuite name="g &gt; h"><testcase name="one" classname="g &gt; h" time="0" />
      <testcase name="two &amp; &quot;q&quot; &#10003;" classname="g" time="0">
        <failure type="AssertionError" message="a &lt;skipped /&gt; b">text</failure>
      </testcase>
      <testcase name="three [skipped: no tap]" classname="g" time="0"><skipped /></testcase>
      <testcase name="four" classname="g" time="0"><skipped message="TODO" /></testcase>
    </testsuite></testsuite></testsuites>`;
  expect(parseJunit(xml)).toEqual([
    { name: "alone", outcome: "passed" },
    { name: "g > h > one", outcome: "passed" },
    { name: 'g > two & "q" ✓', outcome: "failed" },
    { name: "g > three [skipped: no tap]", outcome: "skipped" },
    { name: "g > four", outcome: "skipped" },
  ]);
});

test("a report without tests has none", () => {
  expect(parseJunit('<?xml version="1.0"?><testsuites tests="0"></testsuites>')).toEqual([]);
  expect(parseJunit("")).toEqual([]);
});
