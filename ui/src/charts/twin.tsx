// A day in two charts on one time axis, with their keys, the values under the cursor,
// buttons for those who cannot drag, and the same as a table.

import "uplot/dist/uPlot.min.css";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { clock, count, dayClock } from "../format";
import type { Key } from "../i18n";
import { useApp } from "../state";
import { style } from "./curves";
import type { Curve } from "../api";
import { Layers, type LayersData } from "./layers";

declare global {
  interface Window {
    neapTwin?: Layers; // the charts on the screen, for tests of the page
  }
}

export interface Keyed {
  name: string;
  of: string; // a colour of the theme
  values?: Curve;
}

export interface TwinProps {
  data: LayersData; // memoised: a new one draws the charts anew
  label: string;
  top: { title: string; keys: Keyed[] };
  low: { title: string; keys: Keyed[] };
  value: (v: number) => string;
  said: (index: number) => string; // what is to be told of a step
  hint: string;
  table: ComponentChildren;
}

// colour reads a colour of the theme that is on.
export const colour = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// Mark shows a colour of the theme beside its name.
export function Mark({ of }: { of: string }) {
  return <span class="swatch" aria-hidden="true" style={{ background: `var(--${of})` }} />;
}

export function Twin({ data, label, top, low, value, said, hint, table }: TwinProps) {
  const { t, lang, zone } = useApp();
  const [at, setAt] = useState<number | null>(null);
  const [open, setOpen] = useState(false);
  const boxes = [useRef<HTMLDivElement>(null), useRef<HTMLDivElement>(null)];
  const charts = useRef<Layers | null>(null);
  useEffect(() => {
    const [a, b] = [boxes[0].current, boxes[1].current];
    if (!a || !b || data.times.length < 2) return;
    const s = style();
    const c = new Layers([a, b], data, { zone, soft: s.soft, line: s.line, font: s.font, value, clock: (sec) => clock(sec * 1000, lang, zone), onCursor: setAt }, charts.current?.view() ?? null);
    charts.current = window.neapTwin = c;
    const observer = new ResizeObserver(() => c.resize());
    observer.observe(a);
    return () => {
      observer.disconnect();
      c.destroy();
    };
  }, [data, lang, zone]);
  const i = at !== null && at < data.times.length ? at : null;
  const keys = (list: Keyed[]) => (
    <ul class="keys">
      {list.map((k) => {
        const v = i === null ? null : k.values?.[i];
        return (
          <li key={k.name}>
            <Mark of={k.of} /> {k.name} <span class="num">{v === null || v === undefined ? "" : count(v, lang, 1)}</span>
          </li>
        );
      })}
    </ul>
  );
  const button = (key: Key, action: () => void, sign: string) => (
    <button type="button" aria-label={t(key)} title={t(key)} onClick={action}>
      {sign}
    </button>
  );
  return (
    <figure class="chart day" tabIndex={0} aria-label={`${label}. ${t("day.keys")}`} onKeyDown={(e) => e.target === e.currentTarget && charts.current?.key(e.key) && e.preventDefault()}>
      <figcaption>
        <span class="charttitle">{top.title}</span>
        {keys(top.keys)}
        <span class="buttons">
          {button("day.left", () => charts.current?.pan(-0.3), "←")}
          {button("day.right", () => charts.current?.pan(0.3), "→")}
          {button("day.zoomin", () => charts.current?.zoom(0.6), "+")}
          {button("day.zoomout", () => charts.current?.zoom(1 / 0.6), "−")}
          {button("day.reset", () => charts.current?.reset(), "⤢")}
        </span>
        <button type="button" class="link" aria-expanded={open} onClick={() => setOpen(!open)}>
          {open ? t("app.table.hide") : t("app.table")}
        </button>
      </figcaption>
      <div ref={boxes[0]} id="layers-chart" class="curves" />
      <div class="caption">
        <span class="charttitle">{low.title}</span>
        {keys(low.keys)}
      </div>
      <div ref={boxes[1]} id="pools-chart" class="curves" />
      <p class="readout small">
        {i !== null ? (
          <>
            <strong class="num">{dayClock(data.times[i] * 1000, lang, zone)}</strong> · {said(i)}
          </>
        ) : (
          <span class="quiet">{hint}</span>
        )}
      </p>
      {open && table}
    </figure>
  );
}
