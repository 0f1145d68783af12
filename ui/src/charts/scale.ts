// Small helpers of the charts. Pure.

// ticks returns round numbers from lo to hi, about n of them.
export function ticks(lo: number, hi: number, n: number): number[] {
  if (!(hi > lo) || n < 1) return [lo];
  const raw = (hi - lo) / n;
  const mag = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * mag).find((s) => s >= raw) ?? 10 * mag;
  const out: number[] = [];
  for (let v = Math.ceil(lo / step) * step; v <= hi + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}

export interface Step {
  key: string;
  from: number;
  to: number;
  total: boolean;
}

// waterfall lays the effects between the two totals end to end.
export function waterfall(before: number, effects: { key: string; value: number }[], after: number): Step[] {
  const steps: Step[] = [{ key: "before", from: 0, to: before, total: true }];
  let at = before;
  for (const e of effects) {
    steps.push({ key: e.key, from: at, to: at + e.value, total: false });
    at += e.value;
  }
  steps.push({ key: "after", from: 0, to: after, total: true });
  return steps;
}

// base is where the value axis starts: at zero, unless the changes would then be
// too small to see.
export function base(steps: Step[]): number {
  const ends = steps.flatMap((s) => (s.total ? [s.to] : [s.from, s.to]));
  const lo = Math.min(...ends);
  const hi = Math.max(...ends);
  if (lo <= 0 || hi - lo > 0.3 * hi) return Math.min(0, lo);
  const start = lo - (hi - lo) * 0.6;
  return start <= 0 ? 0 : start;
}

// elide cuts a name to about so many pixels of text of a size.
export function elide(name: string, px: number, size = 12): string {
  let w = 0;
  for (let i = 0; i < name.length; i++) {
    w += size * (name.charCodeAt(i) > 0x2e80 ? 1 : 0.55);
    if (w > px) return name.slice(0, Math.max(1, i - 1)) + "…";
  }
  return name;
}

// roving moves the focus among the elements of a chart with arrow keys; with it
// only one of them is in the tab order.
export function roving(e: KeyboardEvent, selector: string) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[e.key];
  const all = [...(e.currentTarget as Element).querySelectorAll<HTMLElement>(selector)];
  const at = all.indexOf(document.activeElement as HTMLElement);
  if (at < 0) return;
  const to = step ? at + step : e.key === "Home" ? 0 : e.key === "End" ? all.length - 1 : at;
  if (to === at) return;
  e.preventDefault();
  all[(to + all.length) % all.length].focus();
}
