import "uplot/dist/uPlot.min.css";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { Curve, DayAnswer } from "../api";
import { Curves, style, type CurvesData } from "../charts/curves";
import { clock, count, dayClock, span } from "../format";
import type { Key } from "../i18n";
import { Guards, How, Load, Money, Swatch, Table, WindowPicker } from "../parts";
import { amend, type Route, useAnswer, useApp } from "../state";

declare global {
  interface Window {
    neapDay?: Curves; // the charts on the screen, for measurements of the page
  }
}

export default function Day({ route }: { route: Route }) {
  const { t, live } = useApp();
  const { from, to } = route.query;
  const answer = useAnswer<DayAnswer>("day", { from, to }, live && !to ? 30_000 : 0);
  return (
    <>
      <div class="pagehead">
        <h1>{t("day.title")}</h1>
        <WindowPicker route={route} shown={answer.data ?? undefined} />
      </div>
      <Load answer={answer}>{(d) => <Body d={d} route={route} />}</Load>
    </>
  );
}

// together adds pools up. A gap in one is a gap in the sum, but a curve that a
// pool does not have at all is left out.
function together(curves: Curve[], n: number): Curve {
  const there = curves.filter((c) => c.some((v) => v !== null));
  if (there.length === 1) return there[0];
  return Array.from({ length: n }, (_, i) => {
    if (there.length === 0) return null;
    let sum = 0;
    for (const c of there) {
      const v = c[i];
      if (v === null) return null;
      sum += v;
    }
    return sum;
  });
}

const kinds = ["bought", "held", "ready", "used"] as const;

function Body({ d, route }: { d: DayAnswer; route: Route }) {
  const { t, lang, zone, dark } = useApp();
  const pool = d.pools.some((p) => p.name === route.query.pool) ? route.query.pool : "";
  const picked = route.query.module ?? "";
  const [at, setAt] = useState<number | null>(null);
  const [view, setView] = useState<[number, number] | null>(null);
  const [table, setTable] = useState(false);
  const top = useRef<HTMLDivElement>(null);
  const low = useRef<HTMLDivElement>(null);
  const charts = useRef<Curves | null>(null);
  const namespaces = useMemo(() => [...new Set(d.modules.map((m) => m.name.split("/")[0]))].sort(), [d]);
  const data: CurvesData = useMemo(() => {
    const start = Date.parse(d.from) / 1000;
    const pools = d.pools.filter((p) => !pool || p.name === pool);
    const sum = (k: (typeof kinds)[number]) => together(pools.map((p) => p[k]), d.points);
    return {
      times: Array.from({ length: d.points }, (_, i) => start + (i + 1) * d.stepSeconds),
      capacity: { bought: sum("bought"), held: sum("held"), ready: sum("ready"), used: sum("used") },
      modules: d.modules.map((m) => ({ name: m.name, load: m.load, colour: namespaces.indexOf(m.name.split("/")[0]) % 12 })),
      highlight: d.modules.findIndex((m) => m.name === picked),
    };
  }, [d, pool, picked]);

  useEffect(() => {
    if (!top.current || !low.current || data.times.length < 2) return;
    let timer = 0;
    const c = new Curves(
      top.current,
      low.current,
      style(),
      data,
      {
        zone,
        value: (v) => count(v, lang, v < 10 ? 1 : 0),
        clock: (s) => clock(s * 1000, lang, zone),
        onCursor: setAt,
        onView: (a, b) => {
          // The words under the charts follow when the hand rests.
          clearTimeout(timer);
          timer = window.setTimeout(() => setView([a, b]), 150);
        },
      },
      charts.current?.view() ?? null,
    );
    charts.current = window.neapDay = c;
    const observer = new ResizeObserver(() => c.resize());
    observer.observe(top.current);
    return () => {
      clearTimeout(timer);
      observer.disconnect();
      c.destroy();
    };
  }, [lang, zone, dark, data.times.length < 2]);
  useEffect(() => charts.current?.set(data), [data]);

  const i = at ?? null;
  const loadAt = (n: number) =>
    d.modules
      .map((m) => ({ name: m.name, v: m.load[n] }))
      .filter((m): m is { name: string; v: number } => m.v !== null)
      .sort((a, b) => b.v - a.v);
  const bar = (key: Key, action: () => void, sign: string) => (
    <button type="button" aria-label={t(key)} title={t(key)} onClick={action}>
      {sign}
    </button>
  );
  return (
    <>
      <Guards guard={d.guard} />
      {d.notes.map((n) => (
        <p class="note" key={n}>
          {/^(metrics|window): /.test(n) ? t(`day.note.${n.slice(0, 6) === "window" ? "window" : "metrics"}`, { v: n.slice(n.indexOf(" ") + 1) }) : t(`day.note.${n}` as Key)}
        </p>
      ))}
      <div class="tools">
        <label>
          {t("day.pool")}
          <select value={pool} onChange={(e) => amend(route, { pool: e.currentTarget.value || undefined })}>
            <option value="">{t("day.pool.all")}</option>
            {d.pools.map((p) => (
              <option key={p.name} value={p.name}>
                {p.name || t("app.none")}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("day.module")}
          <select value={picked} onChange={(e) => amend(route, { module: e.currentTarget.value || undefined })}>
            <option value="">{t("day.module.none")}</option>
            {d.modules.map((m) => (
              <option key={m.name}>{m.name}</option>
            ))}
          </select>
        </label>
        <span class="buttons">
          {bar("day.left", () => charts.current?.pan(-0.3), "←")}
          {bar("day.right", () => charts.current?.pan(0.3), "→")}
          {bar("day.zoomin", () => charts.current?.zoom(0.6), "+")}
          {bar("day.zoomout", () => charts.current?.zoom(1 / 0.6), "−")}
          {bar("day.reset", () => charts.current?.reset(), "⤢")}
        </span>
      </div>
      <figure class="chart day" tabIndex={0} aria-label={`${t("day.chart.capacity")}; ${t("day.chart.load", { n: d.modules.length })}. ${t("day.keys")}`} onKeyDown={(e) => e.target === e.currentTarget && charts.current?.key(e.key) && e.preventDefault()}>
        <figcaption>
          <span class="charttitle">{t("day.capacity")}</span>
          <ul class="keys">
            {kinds.map((k) => (
              <li key={k}>
                <Swatch of={k} /> {t(`day.${k}` as Key)} <span class="num">{i !== null && data.capacity[k][i] != null ? count(data.capacity[k][i]!, lang, 1) : ""}</span>
              </li>
            ))}
          </ul>
          <button type="button" class="link" aria-expanded={table} onClick={() => setTable(!table)}>
            {table ? t("app.table.hide") : t("app.table")}
          </button>
        </figcaption>
        <div ref={top} id="capacity-chart" class="curves" />
        <div class="caption">
          <span class="charttitle">{t("day.loads")}</span>
          <ul class="keys">
            {namespaces.map((n, k) => (
              <li key={n}>
                <span class={`swatch cat${k % 12}`} aria-hidden="true" /> {n}
              </li>
            ))}
          </ul>
        </div>
        <div ref={low} id="load-chart" class="curves" />
        <p class="readout small">
          {i !== null && data.times[i] !== undefined ? (
            <>
              <strong class="num">{dayClock(data.times[i] * 1000, lang, zone)}</strong> · {t("day.loadsum")} <span class="num">{count(loadAt(i).reduce((a, m) => a + m.v, 0), lang)}</span>
              {" · "}
              {loadAt(i)
                .slice(0, 4)
                .map((m) => `${m.name} ${count(m.v, lang)}`)
                .join(", ")}
            </>
          ) : (
            <span class="quiet">
              {view && span(new Date(view[0] * 1000).toISOString(), new Date(view[1] * 1000).toISOString(), lang, zone)} {t("day.keys")}
            </span>
          )}
        </p>
        {table && <Hours d={d} data={data} />}
      </figure>
      <How lines={["day.how.1"]} />
    </>
  );
}

// Hours is the same as means by the hour, with the hour's money.
function Hours({ d, data }: { d: DayAnswer; data: CurvesData }) {
  const { t, lang, zone } = useApp();
  const rows = d.money.map((m) => {
    const lo = (Date.parse(m.from) - Date.parse(d.from)) / 1000 / d.stepSeconds;
    const hi = Math.min(d.points, lo + 3600 / d.stepSeconds);
    const mean = (c: Curve) => {
      const there = c.slice(lo, hi).filter((v) => v !== null);
      return there.length ? there.reduce((a, b) => a + b, 0) / there.length : NaN;
    };
    return { ...m, bought: mean(data.capacity.bought), held: mean(data.capacity.held), ready: mean(data.capacity.ready), used: mean(data.capacity.used), load: data.modules.reduce((a, x) => a + (mean(x.load) || 0), 0) };
  });
  return (
    <div class="alt">
      <Table
        rows={rows}
        caption={t("day.title")}
        rowKey={(r) => r.from}
        sorted={["hour", 1]}
        columns={[
          { key: "hour", head: t("day.hour"), value: (r) => r.from, cell: (r) => dayClock(r.from, lang, zone) },
          ...kinds.map((k) => ({ key: k, head: t(`day.${k}` as Key), num: true, wide: k === "held" || k === "ready", value: (r: (typeof rows)[number]) => r[k], cell: (r: (typeof rows)[number]) => count(r[k], lang, 1) })),
          { key: "load", head: t("day.load"), num: true, wide: true, value: (r) => r.load, cell: (r) => count(r.load, lang) },
          { key: "bill", head: t("bill.bill"), num: true, value: (r) => r.billNano, cell: (r) => <Money nano={r.billNano} currency={d.currency} /> },
        ]}
      />
    </div>
  );
}
