import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { IdleAnswer } from "../api";
import { elide } from "../charts/scale";
import { clock, dayClock, money, percent } from "../format";
import type { Key } from "../i18n";
import { boxOrder, Chart, Guards, How, Load, Money, Swatch, Table, WindowPicker } from "../parts";
import { amend, type Route, useAnswer, useApp, useWidth } from "../state";

export default function Idle({ route }: { route: Route }) {
  const { t } = useApp();
  const { from, to } = route.query;
  const answer = useAnswer<IdleAnswer>("idle", { from, to });
  return (
    <>
      <div class="pagehead">
        <h1>{t("idle.title")}</h1>
        <WindowPicker route={route} shown={answer.data ?? undefined} />
      </div>
      <Load answer={answer}>{(d) => <Body d={d} route={route} />}</Load>
    </>
  );
}

interface Row {
  name: string;
  pool: string;
  type: string;
  bill: number[];
  idle: number[];
  totalBill: number;
  totalIdle: number;
}

function Body({ d, route }: { d: IdleAnswer; route: Route }) {
  const { t, lang } = useApp();
  const box = d.boxes.includes(route.query.box) ? route.query.box : "all";
  const total = (b: string) => (b === "all" ? d.totals.reduce((a, v) => a + v, 0) : d.totals[d.boxes.indexOf(b)]);
  const rows: Row[] = useMemo(
    () =>
      d.machines.map((m) => {
        const parts = box === "all" ? Object.values(m.boxes) : m.boxes[box] ? [m.boxes[box]] : [];
        const idle = m.bill.map((_, h) => parts.reduce((a, p) => a + p[h], 0));
        return { ...m, idle, totalBill: m.bill.reduce((a, v) => a + Math.max(0, v), 0), totalIdle: idle.reduce((a, v) => a + v, 0) };
      }),
    [d, box],
  );
  const boxes = ["all", ...boxOrder.filter((b) => d.boxes.includes(b) && total(b) !== 0)];
  const name = t(`box.${box}` as Key);
  return (
    <>
      <Guards guard={d.guard} />
      <fieldset class="radios">
        <legend>{t("idle.box")}</legend>
        {boxes.map((b) => (
          <label key={b} title={b === "all" ? undefined : t(`box.${b}.hint` as Key)}>
            <input type="radio" name="box" value={b} checked={b === box} onChange={() => amend(route, { box: b === "all" ? undefined : b })} />
            {b !== "all" && <Swatch of={b} />}
            {t(`box.${b}` as Key)} <Money nano={total(b)} currency={d.currency} />
          </label>
        ))}
      </fieldset>
      <Chart
        title={`${name}: ${t("idle.chart", { m: rows.length, h: d.hours.length })}`}
        aside={
          <span class="scale">
            0 %
            <i aria-hidden="true" /> 100 % {t("idle.scale")}
          </span>
        }
        table={() => (
          <Table
            rows={rows}
            caption={name}
            rowKey={(r) => r.name}
            columns={[
              { key: "name", head: t("idle.machine"), value: (r) => r.name },
              { key: "pool", head: t("machines.pool"), wide: true, value: (r) => r.pool },
              { key: "type", head: t("machines.type"), wide: true, value: (r) => r.type },
              { key: "idle", head: name, num: true, value: (r) => r.totalIdle, cell: (r) => <Money nano={r.totalIdle} currency={d.currency} /> },
              { key: "bill", head: t("bill.bill"), num: true, value: (r) => r.totalBill, cell: (r) => <Money nano={r.totalBill} currency={d.currency} /> },
              { key: "share", head: t("col.share"), num: true, value: (r) => r.totalIdle / (r.totalBill || 1), cell: (r) => percent(r.totalIdle, r.totalBill, lang) },
            ]}
          />
        )}
      >
        <Heat d={d} rows={rows} />
      </Chart>
      <How lines={["idle.how.1"]} />
    </>
  );
}

const LIMIT = 150; // rows drawn before the reader asks for all

function mix(a: string, b: string, f: number): string {
  const c = (s: string, i: number) => parseInt(s.slice(1 + 2 * i, 3 + 2 * i), 16);
  return `rgb(${[0, 1, 2].map((i) => Math.round(c(a, i) + (c(b, i) - c(a, i)) * f)).join(",")})`;
}

function Heat({ d, rows }: { d: IdleAnswer; rows: Row[] }) {
  const { t, lang, zone, dark } = useApp();
  const [ref, width] = useWidth<HTMLDivElement>();
  const canvas = useRef<HTMLCanvasElement>(null);
  const [at, setAt] = useState<[number, number] | null>(null);
  const [all, setAll] = useState(false);
  const shown = all ? rows : rows.slice(0, LIMIT);
  const left = width < 620 ? 92 : 150;
  const top = 20;
  const hours = d.hours.length;
  const cw = Math.max(1, (width - left) / hours);
  const ch = 16;
  // Pools are kept apart by a little room.
  const y = useMemo(() => {
    let at = top;
    return shown.map((r, i) => {
      if (i > 0 && shown[i - 1].pool !== r.pool) at += 8;
      at += ch;
      return at - ch;
    });
  }, [shown]);
  const height = (y[y.length - 1] ?? 0) + ch + 2;

  useEffect(() => {
    const el = canvas.current;
    if (!el || width <= 0) return;
    const ratio = devicePixelRatio;
    el.width = width * ratio;
    el.height = height * ratio;
    const css = getComputedStyle(document.documentElement);
    const v = (n: string) => css.getPropertyValue(n).trim();
    const [cold, warm, hot, soft, ink] = [v("--heat0"), v("--heat5"), v("--heat1"), v("--soft"), v("--ink")];
    const heat = (f: number) => (f < 0.5 ? mix(cold, warm, 2 * f) : mix(warm, hot, 2 * f - 1));
    const g = el.getContext("2d")!;
    g.scale(ratio, ratio);
    g.font = `11px ${v("--font")}`;
    g.textBaseline = "middle";
    g.fillStyle = soft;
    const every = Math.max(1, Math.ceil(44 / cw));
    const stride = [1, 2, 3, 4, 6, 12, 24, 48].find((s) => s >= every) ?? 48;
    d.hours.forEach((h, i) => {
      if (i % stride === 0) g.fillText(clock(h, lang, zone), left + i * cw, 9);
    });
    shown.forEach((r, i) => {
      g.fillStyle = at?.[0] === i ? ink : soft;
      g.fillText(elide(r.name, left - 12), 0, y[i] + ch / 2);
      for (let h = 0; h < hours; h++) {
        if (r.bill[h] < 0) continue; // not bought: nothing is drawn
        g.fillStyle = heat(r.bill[h] ? Math.min(1, r.idle[h] / r.bill[h]) : 0);
        g.fillRect(left + h * cw, y[i], Math.max(1, cw - (cw > 6 ? 1 : 0)), ch - 1);
      }
    });
    if (at) {
      g.strokeStyle = ink;
      g.lineWidth = 2;
      g.strokeRect(left + at[1] * cw, y[at[0]], Math.max(3, cw - 1), ch - 1);
    }
  }, [d, rows, width, all, at, dark, lang, zone]);

  const point = (e: MouseEvent): [number, number] | null => {
    const r = canvas.current!.getBoundingClientRect();
    const h = Math.floor((e.clientX - r.left - left) / cw);
    const i = y.findIndex((v) => e.clientY - r.top >= v && e.clientY - r.top < v + ch);
    return i >= 0 && h >= 0 && h < hours ? [i, h] : null;
  };
  const key = (e: KeyboardEvent) => {
    const [i, h] = at ?? [0, 0];
    const to: Record<string, [number, number]> = { ArrowUp: [i - 1, h], ArrowDown: [i + 1, h], ArrowLeft: [i, h - 1], ArrowRight: [i, h + 1], Home: [i, 0], End: [i, hours - 1], PageUp: [i - 10, h], PageDown: [i + 10, h] };
    const next = to[e.key];
    if (!next) return;
    e.preventDefault();
    setAt(at ? [Math.min(Math.max(next[0], 0), shown.length - 1), Math.min(Math.max(next[1], 0), hours - 1)] : [0, 0]);
  };
  const r = at && shown[at[0]];
  const words = r
    ? r.bill[at[1]] < 0
      ? t("idle.absent", { machine: r.name, hour: dayClock(d.hours[at[1]], lang, zone) })
      : t("idle.cell", { machine: r.name, hour: dayClock(d.hours[at[1]], lang, zone), v: money(r.idle[at[1]], d.currency, lang), bill: money(r.bill[at[1]], d.currency, lang), share: percent(r.idle[at[1]], r.bill[at[1]], lang) })
    : t("idle.keys");
  return (
    <>
      <p class="readout small num-wrap" aria-live="polite" id="heat-cell">
        {words}
      </p>
      <div ref={ref} class="heat plot" tabIndex={0} role="application" aria-label={`${t("idle.chart", { m: rows.length, h: hours })}. ${t("idle.keys")}`} aria-describedby="heat-cell" onKeyDown={key}>
        <canvas ref={canvas} style={{ width: `${width}px`, height: `${height}px` }} onMouseMove={(e) => setAt(point(e))} onClick={(e) => setAt(point(e))} aria-hidden="true" />
      </div>
      {shown.length < rows.length && (
        <button type="button" class="more" onClick={() => setAll(true)}>
          {t("app.more", { n: rows.length })}
        </button>
      )}
    </>
  );
}
