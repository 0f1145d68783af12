// The day's two charts on one time axis: capacity in cores, and the load of
// every module. uPlot draws axes, capacity and cursor. The curves of load, which
// may be sixty times 1,440 points, are drawn once for a stretch wider than the
// screen into a bitmap that panning only shifts, so a frame costs the same
// however many modules there are.

import uPlot from "uplot";

export interface Style {
  ink: string;
  soft: string;
  line: string;
  used: string;
  bought: string;
  held: string;
  ready: string;
  accent: string;
  panel: string;
  font: string;
  cats: string[];
}

// style reads the colours of the theme that is on.
export function style(): Style {
  const css = getComputedStyle(document.documentElement);
  const v = (name: string) => css.getPropertyValue(name).trim();
  return {
    ink: v("--ink"),
    soft: v("--soft"),
    line: v("--line"),
    used: v("--c-used"),
    bought: v("--c-bought"),
    held: v("--c-held"),
    ready: v("--c-ready"),
    accent: v("--accent"),
    panel: v("--panel"),
    font: `11px ${v("--font")}`,
    cats: Array.from({ length: 12 }, (_, i) => v(`--cat${i}`)),
  };
}

type Curve = (number | null)[];

export interface CurvesData {
  times: number[]; // seconds
  capacity: { bought: Curve; held: Curve; ready: Curve; used: Curve };
  modules: { name: string; load: Curve; colour: number }[];
  highlight: number; // index into modules, −1 for none
}

export interface CurvesOptions {
  zone: string;
  value: (v: number) => string;
  clock: (seconds: number) => string;
  onCursor: (index: number | null) => void;
  onView: (from: number, to: number) => void;
}

const GAP = 60; // pixels kept for the value axis

export class Curves {
  private top: uPlot;
  private low: uPlot;
  private data: CurvesData;
  private from: number;
  private to: number;
  private loadMax = 1;
  private capacityMax = 1;
  private frame = 0;
  private tile: { canvas: HTMLCanvasElement; from: number; to: number; perSecond: number; key: string } | null = null;
  private version = 0;
  private abort = new AbortController();
  // What each drawn frame cost, in milliseconds; for measurements of the page.
  readonly work: number[] = [];

  constructor(
    private topBox: HTMLElement,
    private lowBox: HTMLElement,
    private style: Style,
    data: CurvesData,
    private options: CurvesOptions,
    view: [number, number] | null,
  ) {
    this.data = data;
    [this.from, this.to] = view ?? this.whole();
    this.measure();
    const width = Math.max(200, topBox.clientWidth);
    this.top = new uPlot(this.opts(width, width < 620 ? 220 : 250, this.capacitySeries(), () => this.capacityMax), this.topData(), topBox);
    this.low = new uPlot(
      {
        ...this.opts(width, width < 620 ? 220 : 280, [{}, ...data.modules.map((m) => ({ label: m.name, scale: "y", paths: () => null, points: { show: false } }))], () => this.loadMax),
        hooks: { drawAxes: [(u) => this.drawLoad(u)], setCursor: [(u) => this.cursor(u)] },
      },
      this.lowData(),
      lowBox,
    );
    for (const u of [this.top, this.low]) this.hands(u);
    this.apply();
  }

  // whole is the window that there is data for.
  private whole(): [number, number] {
    const t = this.data.times;
    return [t[0], Math.max(t[t.length - 1], t[0] + 60)];
  }

  private measure() {
    const most = (c: Curve, m: number) => {
      for (const v of c) if (v !== null && v > m) m = v;
      return m;
    };
    const c = this.data.capacity;
    this.capacityMax = [c.bought, c.held, c.ready, c.used].reduce((m, x) => most(x, m), 1e-9) * 1.06;
    this.loadMax = this.data.modules.reduce((m, x) => most(x.load, m), 1e-9) * 1.06;
  }

  private topData(): uPlot.AlignedData {
    const c = this.data.capacity;
    return [this.data.times, c.bought, c.held, c.ready, c.used];
  }

  private lowData(): uPlot.AlignedData {
    return [this.data.times, ...this.data.modules.map((m) => m.load)];
  }

  private capacitySeries(): uPlot.Series[] {
    const s = this.style;
    const stepped = uPlot.paths.stepped!({ align: 1 });
    return [
      {},
      { label: "bought", scale: "y", stroke: s.bought, width: 1.5, fill: s.bought + "22", paths: stepped, points: { show: false } },
      { label: "held", scale: "y", stroke: s.held, width: 1.5, dash: [5, 3], points: { show: false } },
      { label: "ready", scale: "y", stroke: s.ready, width: 1.5, points: { show: false } },
      { label: "used", scale: "y", stroke: s.used, width: 1.5, fill: s.used + "33", points: { show: false } },
    ];
  }

  private opts(width: number, height: number, series: uPlot.Series[], max: () => number): uPlot.Options {
    const s = this.style;
    const axis = { stroke: s.soft, grid: { stroke: s.line, width: 1 }, ticks: { stroke: s.line, width: 1, size: 4 }, font: s.font };
    return {
      width,
      height,
      series,
      legend: { show: false },
      padding: [8, 12, 0, 0],
      tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), this.options.zone),
      scales: { x: { time: true, auto: false, range: () => [this.from, this.to] }, y: { auto: false, range: () => [0, max()] } },
      axes: [
        { ...axis, size: 30, space: 70, values: (_u, splits) => splits.map((v) => this.options.clock(v)) },
        { ...axis, scale: "y", size: GAP, values: (_u, splits) => splits.map((v) => this.options.value(v)) },
      ],
      cursor: { drag: { x: false, y: false, setScale: false }, points: { show: false }, y: false, sync: { key: "neap-day" } },
      hooks: { setCursor: [(u) => this.cursor(u)] },
    };
  }

  private cursor(u: uPlot) {
    this.options.onCursor(u.cursor.idx ?? null);
  }

  // drawLoad shifts the bitmap of the curves into place.
  private drawLoad(u: uPlot) {
    const ratio = devicePixelRatio;
    const { left, top, width, height } = u.bbox;
    const perSecond = width / (this.to - this.from);
    const key = `${this.version} ${width} ${height} ${ratio}`;
    const tile = this.tile;
    if (!tile || tile.key !== key || Math.abs(tile.perSecond / perSecond - 1) > 1e-9 || this.from < tile.from - 1 / perSecond || this.to > tile.to + 1 / perSecond) {
      this.tile = this.paint(height, perSecond, key, ratio);
    }
    const t = this.tile!;
    const ctx = u.ctx;
    const x = Math.round((this.from - t.from) * perSecond);
    const have = Math.min(width, t.canvas.width - x);
    if (have > 0) ctx.drawImage(t.canvas, x, 0, have, height, left, top, have, height);
  }

  // paint draws the curves for the whole day where that fits into a bitmap of
  // sensible size, else for what is seen and as much again on both sides.
  private paint(height: number, perSecond: number, key: string, ratio: number) {
    let [from, to] = this.whole();
    if ((to - from) * perSecond > 8192) {
      const seen = this.to - this.from;
      from = Math.max(from, this.from - seen);
      to = Math.min(to, this.to + seen);
    }
    from = Math.min(from, this.from);
    to = Math.max(to, this.to);
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil((to - from) * perSecond);
    canvas.height = Math.ceil(height);
    const ctx = canvas.getContext("2d")!;
    const { times, modules, highlight } = this.data;
    const per = height / this.loadMax;
    const lo = Math.max(0, times.findIndex((t) => t >= from) - 1);
    let hi = times.length - 1;
    while (hi > 0 && times[hi - 1] > to) hi--;
    const xs = new Float64Array(times.length);
    for (let i = lo; i <= hi; i++) xs[i] = (times[i] - from) * perSecond;
    ctx.lineJoin = "round";
    const draw = (m: CurvesData["modules"][number], alpha: number, line: number, colour: string) => {
      ctx.globalAlpha = alpha;
      ctx.lineWidth = line * ratio;
      ctx.strokeStyle = colour;
      ctx.beginPath();
      let open = false;
      for (let i = lo; i <= hi; i++) {
        const v = m.load[i];
        if (v === null) open = false;
        else if (open) ctx.lineTo(xs[i], height - v * per);
        else {
          ctx.moveTo(xs[i], height - v * per);
          open = true;
        }
      }
      ctx.stroke();
    };
    modules.forEach((m, i) => i !== highlight && draw(m, highlight < 0 ? 0.85 : 0.22, 1, this.style.cats[m.colour]));
    if (highlight >= 0) draw(modules[highlight], 1, 2.2, this.style.accent);
    return { canvas, from, to, perSecond, key };
  }

  private apply() {
    const start = performance.now();
    for (const u of [this.top, this.low]) u.batch(() => u.setScale("x", { min: this.from, max: this.to }));
    this.work.push(performance.now() - start);
    if (this.work.length > 5000) this.work.splice(0, 2500);
    this.options.onView(this.from, this.to);
  }

  private show(from: number, to: number) {
    const [lo, hi] = this.whole();
    const long = Math.min(Math.max(to - from, 600), hi - lo);
    from = Math.min(Math.max(from, lo), hi - long);
    if (from === this.from && from + long === this.to) return;
    this.from = from;
    this.to = from + long;
    if (!this.frame)
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.apply();
      });
  }

  // zoom makes the shown stretch so many times as long, around a moment.
  zoom(by: number, around = (this.from + this.to) / 2) {
    const long = this.to - this.from;
    const next = Math.min(Math.max(long * by, 600), this.whole()[1] - this.whole()[0]);
    this.show(around - ((around - this.from) / long) * next, around + ((this.to - around) / long) * next);
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

  get modules() {
    return this.data.modules.length;
  }

  get points() {
    return this.data.times.length;
  }

  // hands are pointers on a chart: one drags, two pinch.
  private hands(u: uPlot) {
    const el = u.over;
    const signal = this.abort.signal;
    const down = new Map<number, number>();
    const at = (x: number) => u.posToVal(x - el.getBoundingClientRect().left, "x");
    el.addEventListener(
      "pointerdown",
      (e) => {
        if (e.button !== 0) return;
        down.set(e.pointerId, e.clientX);
        try {
          el.setPointerCapture(e.pointerId);
        } catch {
          // a pointer that a script made up cannot be captured
        }
        el.classList.add("dragging");
      },
      { signal },
    );
    el.addEventListener(
      "pointermove",
      (e) => {
        const was = down.get(e.pointerId);
        if (was === undefined) return;
        if (down.size === 1) {
          const d = ((was - e.clientX) / el.clientWidth) * (this.to - this.from);
          this.show(this.from + d, this.to + d);
        } else {
          const other = [...down].find(([id]) => id !== e.pointerId)![1];
          const before = Math.abs(was - other);
          const now = Math.abs(e.clientX - other);
          if (before > 10 && now > 10) this.zoom(before / now, at((e.clientX + other) / 2));
        }
        down.set(e.pointerId, e.clientX);
      },
      { signal },
    );
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"] as const)
      el.addEventListener(
        end,
        (e) => {
          down.delete(e.pointerId);
          if (down.size === 0) el.classList.remove("dragging");
        },
        { signal },
      );
    el.addEventListener(
      "wheel",
      (e) => {
        const focused = el.closest(".day")?.contains(document.activeElement);
        if (Math.abs(e.deltaX) > Math.abs(e.deltaY)) {
          e.preventDefault();
          this.pan(e.deltaX / el.clientWidth);
        } else if (focused || e.ctrlKey || e.metaKey) {
          e.preventDefault();
          this.zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY / 300))), at(e.clientX));
        }
      },
      { signal, passive: false },
    );
    el.addEventListener("dblclick", () => this.reset(), { signal });
  }

  // key is a key pressed while the charts have the focus; true if it did something.
  key(k: string): boolean {
    switch (k) {
      case "ArrowLeft":
        this.pan(-0.15);
        break;
      case "ArrowRight":
        this.pan(0.15);
        break;
      case "PageUp":
        this.pan(-0.9);
        break;
      case "PageDown":
        this.pan(0.9);
        break;
      case "+":
      case "=":
        this.zoom(0.7);
        break;
      case "-":
        this.zoom(1 / 0.7);
        break;
      case "0":
        this.reset();
        break;
      default:
        return false;
    }
    return true;
  }

  // set shows other data in the same view, or all of it if all was shown.
  set(data: CurvesData) {
    if (data === this.data) return;
    const view = this.view();
    this.data = data;
    this.version++;
    this.measure();
    [this.from, this.to] = view ?? this.whole();
    if (this.low.series.length - 1 !== data.modules.length) {
      while (this.low.series.length > 1) this.low.delSeries(this.low.series.length - 1);
      data.modules.forEach((m) => this.low.addSeries({ label: m.name, scale: "y", paths: () => null, points: { show: false } }));
    }
    this.top.setData(this.topData(), false);
    this.low.setData(this.lowData(), false);
    this.apply();
  }

  resize() {
    const width = Math.max(200, this.topBox.clientWidth);
    if (width === this.top.width) return;
    this.top.setSize({ width, height: this.top.height });
    this.low.setSize({ width: Math.max(200, this.lowBox.clientWidth), height: this.low.height });
  }

  destroy() {
    cancelAnimationFrame(this.frame);
    this.abort.abort();
    this.top.destroy();
    this.low.destroy();
  }
}
