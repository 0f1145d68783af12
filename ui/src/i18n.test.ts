import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { en, preferred, translate, zh } from "./i18n";

const holes = (s: string) => [...s.matchAll(/\{\w+\}/g)].map((m) => m[0]).sort();

describe("the dictionaries", () => {
  it("have the same keys", () => expect(Object.keys(zh).sort()).toEqual(Object.keys(en).sort()));
  it("have the same placeholders and no empty text", () => {
    for (const key of Object.keys(en) as (keyof typeof en)[]) {
      expect(zh[key], key).toBeTruthy();
      expect(holes(zh[key]), key).toEqual(holes(en[key]));
    }
  });
  it("have no key that the page does not use", () => {
    const read = (dir: string): string => readdirSync(dir, { withFileTypes: true }).map((f) => (f.isDirectory() ? read(join(dir, f.name)) : /\.tsx?$/.test(f.name) && !/i18n|test/.test(f.name) ? readFileSync(join(dir, f.name), "utf8") : "")).join("\n");
    const source = read("src");
    const made = [...source.matchAll(/`([\w.]+)\.\$\{/g)].map((m) => m[1] + ".");
    const unused = Object.keys(en).filter((k) => !source.includes(`"${k}"`) && !made.some((p) => k.startsWith(p)));
    expect(unused).toEqual([]);
  });
});

describe("translate", () => {
  it("fills in values", () => expect(translate("en", "live.machines", { n: 3 })).toBe("3 machines"));
  it("shows what it does not know as it is", () => expect(translate("zh", "effect.weather")).toBe("weather"));
});

describe("preferred", () => {
  it("takes the first language it speaks", () => {
    expect(preferred(["fr", "zh-TW", "en"])).toBe("zh");
    expect(preferred(["en-GB", "zh"])).toBe("en");
    expect(preferred([])).toBe("en");
  });
});
