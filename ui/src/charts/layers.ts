// The day of a workload: what every layer wanted, what was ready and what the
// load would fill, and below it the pools. Two uPlot charts on one time axis that
// zoom together. A band at the top tells which layer decided; red columns are
// minutes in which too few replicas were ready.

import uPlot from "uplot";

type Curve = (number | null)[];

export interface Line {
  name: string;
  values: Curve;
  colour: string;
  width: number;
  dash?: number[];
  fill?: boolean;
}

export interface Stretch {
  from: number; // seconds
  to: number;
  colour: string;
}

export interface LayersData {
  times: number[]; // seconds; the end of each step
  lines: Line[];
  pools: Line[]; // stacked, the first lowest
  winners: Stretch[];
  under: Stretch[];
}

export interface LayersOptions {
  zone: string;
  soft: string;
  line: string;
  font: string;
  value: (v: number) => string;
  clock: (seconds: number) => string;
  onCursor: (index: number | null) => void;
}

const GAP = 60; // pixels kept for the value axis
const BAND = 10; // pixels of the band that tells who decided

export class Layers {
  private charts: uPlot[];
  private from: number;
  private to: number;

  constructor(
    private boxes: [HTMLElement, HTMLElement],
    private data: LayersData,
    private options: LayersOptions,
    view: [number, number] | null,
  ) {
    [this.from, this.to] = view ?? this.whole();
    this.charts = [this.make(boxes[0], data.lines, 300, true), this.make(boxes[1], stacked(data.pools), 150, false)];
    this.apply();
  }

  private whole(): [number, number] {
    const t = this.data.times;
    return [t[0], Math.max(t[t.length - 1], t[0] + 60)];
  }

  private make(box: HTMLElement, lines: Line[], height: number, judged: boolean): uPlot {
    const o = this.options;
    const axis = { stroke: o.soft, grid: { stroke: o.line, width: 1 }, ticks: { stroke: o.line, width: 1, size: 4 }, font: o.font };
    const stepped = uPlot.paths.stepped!({ align: -1 });
    let most = 1;
    for (const l of lines) for (const v of l.values) if (v !== null && v > most) most = v;
    return new uPlot(
      {
        width: Math.max(200, box.clientWidth),
        height,
        legend: { show: false },
        padding: [judged ? BAND + 6 : 8, 12, 0, 0],
        tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), o.zone),
        scales: { x: { time: true, auto: false, range: () => [this.from, this.to] }, y: { auto: false, range: () => [0, most * 1.06] } },
        axes: [
          { ...axis, size: 30, space: 70, values: (_u, splits) => splits.map((v) => o.clock(v)) },
          { ...axis, scale: "y", size: GAP, values: (_u, splits) => splits.map((v) => o.value(v)) },
        ],
        cursor: { drag: { x: true, y: false, setScale: false }, points: { show: false }, y: false, sync: { key: "neap-elastic" } },
        series: [{}, ...lines.map((l) => ({ label: l.name, scale: "y", stroke: l.colour, width: l.width, dash: l.dash, fill: l.fill ? l.colour + "33" : undefined, paths: stepped, points: { show: false } }))],
        hooks: {
          drawAxes: [(u) => judged && this.judge(u)],
          setCursor: [(u) => o.onCursor(u.cursor.idx ?? null)],
          setSelect: [
            (u) => {
              if (u.select.width < 8) return;
              this.show(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
        },
      },
      [this.data.times, ...lines.map((l) => l.values)] as uPlot.AlignedData,
      box,
    );
  }

  // judge draws who decided, above the curves, and what was short, behind them.
  private judge(u: uPlot) {
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    const x = (t: number) => Math.min(Math.max(u.valToPos(t, "x", true), left), left + width);
    const bar = (s: Stretch, y: number, h: number) => {
      const a = x(s.from);
      const b = x(s.to);
      if (b <= left || a >= left + width) return;
      u.ctx.fillStyle = s.colour;
      u.ctx.fillRect(a, y, Math.max(b - a, 1), h);
    };
    u.ctx.save();
    for (const s of this.data.under) bar(s, top, height);
    for (const s of this.data.winners) bar(s, top - (BAND + 4) * ratio, BAND * ratio);
    u.ctx.restore();
  }

  private apply() {
    for (const u of this.charts) u.batch(() => u.setScale("x", { min: this.from, max: this.to }));
  }

  private show(from: number, to: number) {
    const [lo, hi] = this.whole();
    const long = Math.min(Math.max(to - from, 600), hi - lo);
    this.from = Math.min(Math.max(from, lo), hi - long);
    this.to = this.from + long;
    this.apply();
  }

  // zoom makes the shown stretch so many times as long, around its middle.
  zoom(by: number) {
    const mid = (this.from + this.to) / 2;
    const half = ((this.to - this.from) / 2) * by;
    this.show(mid - half, mid + half);
  }

  // pan moves by a part of what is shown.
  pan(part: number) {
    const d = (this.to - this.from) * part;
    this.show(this.from + d, this.to + d);
  }

  reset() {
    this.show(...this.whole());
  }

  view(): [number, number] | null {
    const [lo, hi] = this.whole();
    return this.from === lo && this.to === hi ? null : [this.from, this.to];
  }

  // key is a key pressed while the charts have the focus; true if it did something.
  key(k: string): boolean {
    const moves: Record<string, () => void> = {
      ArrowLeft: () => this.pan(-0.15),
      ArrowRight: () => this.pan(0.15),
      PageUp: () => this.pan(-0.9),
      PageDown: () => this.pan(0.9),
      "+": () => this.zoom(0.7),
      "=": () => this.zoom(0.7),
      "-": () => this.zoom(1 / 0.7),
      "0": () => this.reset(),
    };
    moves[k]?.();
    return k in moves;
  }

  resize() {
    this.charts.forEach((u, i) => {
      const width = Math.max(200, this.boxes[i].clientWidth);
      if (width !== u.width) u.setSize({ width, height: u.height });
    });
  }

  destroy() {
    for (const u of this.charts) u.destroy();
  }
}

// stacked puts each line on the sum of those before it, drawn from the top down
// so that the lower ones stay visible.
export function stacked(lines: Line[]): Line[] {
  const sum: Curve = lines[0] ? lines[0].values.map(() => null) : [];
  const out = lines.map((l) => {
    l.values.forEach((v, i) => {
      if (v !== null) sum[i] = (sum[i] ?? 0) + v;
    });
    return { ...l, values: [...sum] };
  });
  return out.reverse();
}
