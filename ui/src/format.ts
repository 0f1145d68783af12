// How figures and times are written. Pure: language, currency and zone are
// arguments.

export type Lang = "en" | "zh";

// Numbers and dates differ: en-GB writes a million as "m", which is also milli.
const locale = (lang: Lang) => (lang === "zh" ? "zh-CN" : "en-US");
const dateLocale = (lang: Lang) => (lang === "zh" ? "zh-CN" : "en-GB");

const cache = new Map<string, Intl.NumberFormat | Intl.DateTimeFormat>();

function numbers(lang: Lang, o: Intl.NumberFormatOptions): Intl.NumberFormat {
  const key = lang + JSON.stringify(o);
  let f = cache.get(key) as Intl.NumberFormat | undefined;
  if (!f) cache.set(key, (f = new Intl.NumberFormat(locale(lang), o)));
  return f;
}

function dates(lang: Lang, zone: string, o: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = lang + zone + JSON.stringify(o);
  let f = cache.get(key) as Intl.DateTimeFormat | undefined;
  if (!f) cache.set(key, (f = new Intl.DateTimeFormat(dateLocale(lang), { timeZone: zone, hourCycle: "h23", ...o })));
  return f;
}

const symbols: Record<string, string> = { USD: "$", CNY: "¥", EUR: "€", GBP: "£" };

const MINUS = "\u2212";

// money writes nano-units with as many decimals as a reader can use: two for
// what is not small, more below.
export function money(nano: number, currency: string, lang: Lang, signed = false): string {
  const v = nano / 1e9;
  const a = Math.abs(v);
  const digits = a === 0 || a >= 0.095 ? 2 : a >= 0.001 ? 4 : 6;
  const body = numbers(lang, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(a);
  const sign = v < 0 ? MINUS : signed && v > 0 ? "+" : "";
  return sign + (symbols[currency] ?? currency + "\u00a0") + body;
}

// exact writes every nano-unit, for titles and for checking sums by hand.
export function exact(nano: number, currency: string): string {
  const a = BigInt(Math.abs(Math.trunc(nano)));
  const unit = 1_000_000_000n;
  return `${nano < 0 ? MINUS : ""}${a / unit}.${(a % unit).toString().padStart(9, "0")} ${currency}`;
}

// short writes money for the axes and marks of charts.
export function short(nano: number, currency: string, lang: Lang): string {
  const v = nano / 1e9;
  const a = Math.abs(v);
  const sign = v < 0 ? MINUS : "";
  const unit = symbols[currency] ?? currency + "\u00a0";
  if (a > 0 && a < 0.005) return `${sign}<${unit}0.01`;
  const o: Intl.NumberFormatOptions = a >= 1000 ? { notation: "compact", maximumSignificantDigits: 4 } : { maximumFractionDigits: a >= 100 ? 0 : a >= 10 ? 1 : 2 };
  return sign + unit + numbers(lang, o).format(a);
}

export function percent(part: number, whole: number, lang: Lang, digits = 1): string {
  if (!whole) return "–";
  return numbers(lang, { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits }).format(part / whole).replace("-", MINUS);
}

// count writes a plain number, compact from a hundred thousand up.
export function count(v: number, lang: Lang, digits = 0): string {
  if (!Number.isFinite(v)) return "–";
  if (Math.abs(v) >= 1e5) return numbers(lang, { notation: "compact", maximumSignificantDigits: 4 }).format(v);
  return numbers(lang, { maximumFractionDigits: digits }).format(v);
}

// factor writes a number of the identity, whose sizes differ by orders.
export function factor(v: number, lang: Lang): string {
  if (!Number.isFinite(v)) return "–";
  const a = Math.abs(v);
  if (a !== 0 && (a < 1e-4 || a >= 1e9)) {
    const e = Math.floor(Math.log10(a));
    return `${numbers(lang, { maximumSignificantDigits: 4 }).format(v / 10 ** e)}×10${superscript(e)}`;
  }
  return numbers(lang, a >= 1e5 ? { notation: "compact", maximumFractionDigits: 2 } : { maximumSignificantDigits: 4 }).format(v);
}

function superscript(n: number): string {
  return [...String(n)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("");
}

export function cores(milli: number, lang: Lang): string {
  return numbers(lang, { maximumFractionDigits: milli < 10_000 ? 2 : 0 }).format(milli / 1000);
}

export function gib(bytes: number, lang: Lang): string {
  return numbers(lang, { maximumFractionDigits: 1 }).format(bytes / 2 ** 30);
}

export const clock = (t: string | number | Date, lang: Lang, zone: string) => dates(lang, zone, { hour: "2-digit", minute: "2-digit" }).format(new Date(t));

export const dayClock = (t: string | number | Date, lang: Lang, zone: string) =>
  dates(lang, zone, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }).format(new Date(t));

export const fullClock = (t: string | number | Date, lang: Lang, zone: string) =>
  dates(lang, zone, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(new Date(t));

// span writes a window as "2 Mar, 00:00 – 3 Mar, 00:00 (24 h)".
export function span(from: string, to: string, lang: Lang, zone: string): string {
  const o: Intl.DateTimeFormatOptions = { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
  const f = dates(lang, zone, o);
  const h = (Date.parse(to) - Date.parse(from)) / 3_600_000;
  const len = lang === "zh" ? `${count(h, lang, 1)} 小时` : `${count(h, lang, 1)} h`;
  return `${f.format(new Date(from))} – ${f.format(new Date(to))} (${len})`;
}

// toLocal writes an instant as the value of a datetime-local field in zone.
export function toLocal(t: string, zone: string): string {
  const p = Object.fromEntries(
    new Intl.DateTimeFormat("en-GB", { timeZone: zone, hourCycle: "h23", year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit" })
      .formatToParts(new Date(t))
      .map((x) => [x.type, x.value]),
  );
  return `${p.year}-${p.month}-${p.day}T${p.hour}:${p.minute}`;
}

// fromLocal reads such a value back; "" if it is not a time. Around a change of
// the clock it takes the later offset.
export function fromLocal(v: string, zone: string): string {
  const guess = Date.parse(v + "Z");
  if (Number.isNaN(guess)) return "";
  let t = guess;
  for (let i = 0; i < 3; i++) t += guess - Date.parse(toLocal(new Date(t).toISOString(), zone) + "Z");
  return iso(t);
}

// iso writes an instant as the API reads it, a full hour.
export function iso(t: number): string {
  return new Date(Math.floor(t / 3_600_000) * 3_600_000).toISOString().replace(".000Z", "Z");
}
