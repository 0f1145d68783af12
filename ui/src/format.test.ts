import { describe, expect, it } from "vitest";
import { count, exact, factor, fromLocal, iso, money, percent, short, span, toLocal } from "./format";

describe("money", () => {
  it("shows two decimals of what is not small, and more of what is", () => {
    expect(money(702_908_000_000, "USD", "en")).toBe("$702.91");
    expect(money(1_234_567_890_000_000, "CNY", "zh")).toBe("¥1,234,567.89");
    expect(money(4_200_000, "USD", "en")).toBe("$0.0042");
    expect(money(42_000, "USD", "en")).toBe("$0.000042");
    expect(money(0, "USD", "en")).toBe("$0.00");
  });
  it("writes a change with its sign", () => {
    expect(money(-3_000_000_000, "USD", "en", true)).toBe("−$3.00");
    expect(money(3_000_000_000, "EUR", "en", true)).toBe("+€3.00");
    expect(money(3_000_000_000, "SEK", "en")).toBe("SEK\u00a03.00");
  });
  it("writes every nano-unit where a sum is to be checked", () => {
    expect(exact(702_908_000_001, "USD")).toBe("702.908000001 USD");
    expect(exact(-1, "USD")).toBe("−0.000000001 USD");
  });
  it("never rounds something to nothing on an axis", () => {
    expect(short(12, "USD", "en")).toBe("<$0.01");
    expect(short(-12, "USD", "en")).toBe("−<$0.01");
    expect(short(0, "USD", "en")).toBe("$0");
    expect(short(12_345_000_000_000, "USD", "en")).toBe("$12.35K");
  });
});

describe("other figures", () => {
  it("does not divide by nothing", () => expect(percent(1, 0, "en")).toBe("–"));
  it("has one kind of minus", () => expect(percent(-1, 4, "en")).toBe("−25.0%"));
  it("does not write a million like a thousandth", () => expect(count(1_300_000, "en")).toBe("1.3M"));
  it("shows a gap as a gap", () => expect(count(NaN, "en")).toBe("–"));
  it("writes very small factors with a power of ten", () => expect(factor(0.0000123, "en")).toBe("1.23×10⁻⁵"));
});

describe("times", () => {
  const zones = ["UTC", "Asia/Shanghai", "America/New_York", "Asia/Kolkata"];
  it("survive the way through a field in any zone", () => {
    for (const zone of zones)
      for (const t of ["2026-03-02T18:00:00Z", "2026-03-08T12:00:00Z", "2026-07-01T00:00:00Z"]) {
        const back = fromLocal(toLocal(t, zone), zone);
        expect(Math.abs(Date.parse(back) - Date.parse(t))).toBeLessThan(3_600_000); // half-hour zones fall on the hour before
        if (zone !== "Asia/Kolkata") expect(back).toBe(t);
      }
  });
  it("are full hours for the API", () => expect(iso(Date.parse("2026-03-02T18:59:59Z"))).toBe("2026-03-02T18:00:00Z"));
  it("a field that holds no time is no time", () => expect(fromLocal("", "UTC")).toBe(""));
  it("a window says how long it is", () => expect(span("2026-03-02T16:00:00Z", "2026-03-03T16:00:00Z", "en", "Asia/Shanghai")).toBe("3 Mar, 00:00 – 4 Mar, 00:00 (24 h)"));
});
