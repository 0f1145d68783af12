import { describe, expect, it } from "vitest";
import { layout, reach } from "./sankey";
import { base, elide, ticks, waterfall } from "./scale";

describe("waterfall", () => {
  const steps = waterfall(
    100,
    [
      { key: "load", value: 30 },
      { key: "match", value: -50 },
    ],
    80,
  );
  it("ends where the second total is", () => {
    expect(steps.map((s) => [s.key, s.from, s.to])).toEqual([
      ["before", 0, 100],
      ["load", 100, 130],
      ["match", 130, 80],
      ["after", 0, 80],
    ]);
  });
  it("starts at zero unless the change would be too small to see", () => {
    expect(base(steps)).toBe(0);
    expect(base(waterfall(1000, [{ key: "load", value: 10 }], 1010))).toBeGreaterThan(900);
    expect(base(waterfall(0, [{ key: "load", value: 10 }], 10))).toBe(0);
    expect(base(waterfall(5, [{ key: "load", value: -10 }], -5))).toBe(-5);
  });
});

describe("ticks", () => {
  it("are round and within the range", () => expect(ticks(0, 733, 5)).toEqual([0, 200, 400, 600]));
  it("of nothing are one", () => expect(ticks(5, 5, 4)).toEqual([5]));
});

describe("elide", () => {
  it("leaves short names alone", () => expect(elide("api", 100)).toBe("api"));
  it("counts Chinese characters as wide", () => expect(elide("等待缩容的机器", 40)).toBe("等待…"));
});

describe("sankey", () => {
  const nodes = [
    { id: "f1", column: 0, value: 60 },
    { id: "f2", column: 0, value: 40 },
    { id: "m", column: 1, value: 100 },
  ];
  const links = [
    { source: "f1", target: "m", value: 60 },
    { source: "f2", target: "m", value: 40 },
  ];
  const made = layout(nodes, links, 500, 10, 8, 2, new Set());
  it("draws heights in proportion to money", () => {
    expect(made.boxes.get("m")!.h).toBe(200);
    expect(made.boxes.get("f1")!.h).toBe(120);
    expect(made.bands.map((b) => b.width)).toEqual([120, 80]);
  });
  it("keeps every band inside its boxes", () => {
    for (const b of made.bands) {
      const s = made.boxes.get(b.source)!;
      const e = made.boxes.get(b.target)!;
      expect(b.y0 - b.width / 2).toBeGreaterThanOrEqual(s.y - 1e-9);
      expect(b.y0 + b.width / 2).toBeLessThanOrEqual(s.y + s.h + 1e-9);
      expect(b.y1 - b.width / 2).toBeGreaterThanOrEqual(e.y - 1e-9);
      expect(b.y1 + b.width / 2).toBeLessThanOrEqual(e.y + e.h + 1e-9);
    }
  });
  it("follows money both ways", () => {
    const found = reach("f1", links);
    expect(found.has("m")).toBe(true);
    expect(found.has("f2")).toBe(false);
  });
});
