import { expect, test } from "bun:test";
import { Counter, formatFamilies, Histogram } from "./prometheus.ts";

test("families as text: help and labels escaped, empty ones left out", () => {
  const counter = new Counter();
  counter.increment({ reason: 'a "quoted"\nback\\slash' });
  counter.increment({ reason: "other" });
  counter.increment({ reason: "other" });
  expect(
    formatFamilies([
      { name: "hits_total", type: "counter", help: "one\\two\nthree", samples: counter.samples },
      { name: "nothing", type: "gauge", help: "left out", samples: [] },
      { name: "bound", type: "gauge", help: "none", samples: [{ labels: {}, value: Number.POSITIVE_INFINITY }] },
    ]),
  ).toBe(
    `# HELP hits_total one\\\\two\\nthree
# TYPE hits_total counter
hits_total{reason="a \\"quoted\\"\\nback\\\\slash"} 1
hits_total{reason="other"} 2
# HELP bound none
# TYPE bound gauge
bound +Inf
`,
  );
});

test("a histogram's buckets count everything up to their bound, the bound included", () => {
  const histogram = new Histogram([0.1, 1]);
  for (const value of [0.05, 0.1, 0.5, 2, 3]) histogram.observe(value, { shape: "a" });
  expect(formatFamilies([{ name: "t", type: "histogram", help: "h", samples: histogram.samples }])).toBe(
    `# HELP t h
# TYPE t histogram
t_bucket{shape="a",le="0.1"} 2
t_bucket{shape="a",le="1"} 3
t_bucket{shape="a",le="+Inf"} 5
t_sum{shape="a"} 5.65
t_count{shape="a"} 5
`,
  );
});
