import { useId, useState } from "preact/hooks";
import type { ChangeLine, DiffAnswer } from "../api";
import { base, roving, ticks, waterfall } from "../charts/scale";
import { fromLocal, iso, money, percent, short, span, toLocal } from "../format";
import type { Key } from "../i18n";
import { Chart, Guards, How, Load, Money, Table } from "../parts";
import { amend, type Route, useAnswer, useApp, useWidth } from "../state";
import { KeyName } from "./bill";

export default function Bridge({ route }: { route: Route }) {
  const { t } = useApp();
  const { beforeFrom, beforeTo, afterFrom, afterTo } = route.query;
  const answer = useAnswer<DiffAnswer>("bill/diff", { beforeFrom, beforeTo, afterFrom, afterTo });
  return (
    <>
      <div class="pagehead">
        <h1>{t("bridge.title")}</h1>
        <Pair route={route} shown={answer.data} />
      </div>
      <Load answer={answer}>{(d) => <Body d={d} route={route} />}</Load>
    </>
  );
}

function Body({ d, route }: { d: DiffAnswer; route: Route }) {
  const { t, lang, zone } = useApp();
  const c = d.currency;
  // An effect below a hundred-thousandth of the bill has no height on a screen.
  const effects = d.effects.filter((e) => Math.abs(e.nano) > Math.max(d.beforeNano, d.afterNano) / 1e5 || e.effect === route.query.effect);
  const steps = waterfall(
    d.beforeNano,
    effects.map((e) => ({ key: e.effect, value: e.nano })),
    d.afterNano,
  );
  const picked = steps.some((s) => s.key === route.query.effect) ? route.query.effect : "";
  const pick = (key: string) => amend(route, { effect: key === picked ? undefined : key });
  const name = (key: string) => t(`effect.${key}` as Key);
  return (
    <>
      <dl class="equation">
        <div>
          <dt>{t("bridge.from")}</dt>
          <dd class="big">
            <Money nano={d.beforeNano} currency={c} />
            <p class="quiet">{span(d.before.from, d.before.to, lang, zone)}</p>
          </dd>
        </div>
        <div data-op="→">
          <dt>{t("bridge.to")}</dt>
          <dd class="big">
            <Money nano={d.afterNano} currency={c} />
            <p class="quiet">{span(d.after.from, d.after.to, lang, zone)}</p>
          </dd>
        </div>
        <div>
          <dt>{t("bridge.change")}</dt>
          <dd class="big">
            <Money nano={d.changeNano} currency={c} signed /> <span class="quiet">{percent(d.changeNano, d.beforeNano, lang)}</span>
            <p class={d.residualNano === 0 ? "closes" : "opens"}>{d.residualNano === 0 ? t("bridge.residual") : t("bridge.residual.not", { v: money(d.residualNano, c, lang) })}</p>
          </dd>
        </div>
      </dl>
      <Guards guard={d.guard} />
      {(d.notes ?? []).map((n) => (
        <p class="note" key={n}>
          {n}
        </p>
      ))}
      <Chart
        title={t("bridge.chart", { from: money(d.beforeNano, c, lang), to: money(d.afterNano, c, lang) })}
        table={() => (
          <Table
            rows={[{ effect: "before", nano: d.beforeNano }, ...d.effects, { effect: "after", nano: d.afterNano }].map((e, order, all) => ({ ...e, order, total: order === 0 || order === all.length - 1 }))}
            caption={t("bridge.title")}
            rowKey={(e) => e.effect}
            sorted={["order", 1]}
            columns={[
              { key: "order", head: t("bridge.change"), value: (e) => e.order, cell: (e) => name(e.effect) },
              { key: "hint", head: t("bridge.meaning"), wide: true, value: (e) => e.order, cell: (e) => <span class="quiet">{t(`effect.${e.effect}.hint` as Key)}</span> },
              { key: "value", head: t("col.cost"), num: true, value: (e) => e.nano, cell: (e) => <Money nano={e.nano} currency={c} signed={!e.total} /> },
            ]}
          />
        )}
      >
        <Waterfall steps={steps} currency={c} picked={picked} pick={pick} name={name} />
      </Chart>
      <section aria-live="polite">
        {picked ? <Behind d={d} effect={picked} name={name(picked)} /> : <p class="quiet">{effects.length ? t("bridge.pick") : t("bridge.none")}</p>}
      </section>
      <How lines={["bridge.how.1", "bridge.how.2", "bill.how.3"]} />
    </>
  );
}

function Waterfall({ steps, currency, picked, pick, name }: { steps: ReturnType<typeof waterfall>; currency: string; picked: string; pick: (k: string) => void; name: (k: string) => string }) {
  const { t, lang } = useApp();
  const [ref, width] = useWidth<HTMLDivElement>();
  const flip = width < 620; // bars lie down on a narrow screen
  const start = base(steps);
  const top = Math.max(...steps.flatMap((s) => [s.from, s.to]));
  const room = flip ? { left: 104, right: 76, top: 4, bottom: 22 } : { left: 58, right: 8, top: 24, bottom: 44 };
  const row = 34;
  const height = flip ? room.top + room.bottom + steps.length * row : 340;
  const long = flip ? width - room.left - room.right : height - room.top - room.bottom;
  const scale = (v: number) => ((Math.max(v, start) - start) / (top - start || 1)) * long;
  const slot = flip ? row : (width - room.left - room.right) / steps.length;
  const thick = Math.min(flip ? 20 : 84, slot * 0.66);
  const axis = ticks(start, top, flip ? 3 : 5);
  const label = (s: (typeof steps)[number]) => (s.total ? short(s.to, currency, lang) : (s.to >= s.from ? "+" : "") + short(s.to - s.from, currency, lang));
  const focusable = picked || steps[0].key;
  return (
    <div ref={ref} class="plot">
      {width > 0 && (
        <svg width={width} height={height} role="group" aria-label={t("bridge.title")} onKeyDown={(e) => roving(e, ".step")}>
          {axis.map((v) =>
            flip ? (
              <g key={v}>
                <line class="grid" x1={room.left + scale(v)} x2={room.left + scale(v)} y1={room.top} y2={height - room.bottom} />
                <text class="axis" x={room.left + scale(v)} y={height - 6} text-anchor="middle">
                  {short(v, currency, lang)}
                </text>
              </g>
            ) : (
              <g key={v}>
                <line class="grid" x1={room.left} x2={width - room.right} y1={height - room.bottom - scale(v)} y2={height - room.bottom - scale(v)} />
                <text class="axis" x={room.left - 8} y={height - room.bottom - scale(v) + 4} text-anchor="end">
                  {short(v, currency, lang)}
                </text>
              </g>
            ),
          )}
          {steps.map((s, i) => {
            const lo = scale(Math.min(s.from, s.to));
            const hi = scale(Math.max(s.from, s.to));
            const mid = (flip ? room.top : room.left) + slot * (i + 0.5);
            const rect = flip ? { x: room.left + lo, y: mid - thick / 2, width: Math.max(2, hi - lo), height: thick } : { x: mid - thick / 2, y: height - room.bottom - hi, width: thick, height: Math.max(2, hi - lo) };
            const end = scale(s.to);
            const kind = s.total ? "total" : s.to >= s.from ? "up" : "down";
            return (
              <g
                key={s.key}
                class={`step ${kind} ${picked === s.key ? "picked" : ""}`}
                role="button"
                tabindex={s.key === focusable ? 0 : -1}
                aria-pressed={picked === s.key}
                aria-label={`${name(s.key)} ${label(s)}: ${t(`effect.${s.key}.hint` as Key)}`}
                data-effect={s.key}
                onClick={() => pick(s.key)}
                onKeyDown={(e) => {
                  if (e.key === "Enter" || e.key === " ") {
                    e.preventDefault();
                    pick(s.key);
                  }
                }}
              >
                <rect class="hit" {...(flip ? { x: 0, y: mid - slot / 2, width, height: slot } : { x: mid - slot / 2, y: 0, width: slot, height })} />
                <rect class="bar" {...rect} rx={2} />
                {i < steps.length - 1 &&
                  (flip ? (
                    <line class="joint" x1={room.left + end} x2={room.left + end} y1={mid + thick / 2} y2={mid + slot - thick / 2} />
                  ) : (
                    <line class="joint" x1={mid + thick / 2} x2={mid + slot - thick / 2} y1={height - room.bottom - end} y2={height - room.bottom - end} />
                  ))}
                {flip ? (
                  <>
                    <text x={0} y={mid + 4}>
                      {name(s.key)}
                    </text>
                    <text x={width} y={mid + 4} text-anchor="end" class="value">
                      {label(s)}
                    </text>
                  </>
                ) : (
                  <>
                    <text x={mid} y={height - room.bottom + 18} text-anchor="middle">
                      {name(s.key)}
                    </text>
                    <text x={mid} y={height - room.bottom - hi - 6} text-anchor="middle" class="value">
                      {label(s)}
                    </text>
                  </>
                )}
              </g>
            );
          })}
        </svg>
      )}
      {start > 0 && <p class="quiet small">{t("bridge.axis", { v: short(start, currency, lang) })}</p>}
    </div>
  );
}

function Behind({ d, effect, name }: { d: DiffAnswer; effect: string; name: string }) {
  const { t, lang } = useApp();
  const value = (l: ChangeLine) => (effect === "before" ? l.beforeNano : effect === "after" ? l.afterNano : (l.effects?.[effect] ?? 0));
  const rows = (d.lines ?? []).filter((l) => value(l) !== 0);
  const most = Math.max(1, ...rows.map((l) => Math.abs(value(l))));
  const total = rows.reduce((a, l) => a + value(l), 0);
  const whole = effect === "before" || effect === "after";
  return (
    <>
      <h2 id="behind">{t("bridge.behind", { name })}</h2>
      <p class="quiet">
        {t(`effect.${effect}.hint` as Key)} · {t("app.total")} <Money nano={total} currency={d.currency} signed={!whole} />
      </p>
      <Table
        rows={rows}
        caption={t("bridge.behind", { name })}
        rowKey={(l) => l.key}
        most={30}
        sorted={["size", -1]}
        columns={[
          { key: "key", head: t("bill.by.module"), value: (l) => l.key, cell: (l) => <KeyName name={l.key} /> },
          {
            key: "size",
            head: whole ? t("col.cost") : t("bridge.module.change"),
            num: true,
            value: (l) => Math.abs(value(l)),
            cell: (l) => <Money nano={value(l)} currency={d.currency} signed={!whole} />,
          },
          {
            key: "bar",
            head: t("col.share"),
            wide: true,
            value: (l) => value(l),
            cell: (l) => (
              <span class="twoway" aria-hidden="true">
                <span class={value(l) < 0 ? "neg" : whole ? "all" : "pos"} style={{ width: `${(50 * Math.abs(value(l))) / most}%` }} />
              </span>
            ),
          },
          { key: "before", head: t("bridge.from"), num: true, wide: true, value: (l) => l.beforeNano, cell: (l) => <Money nano={l.beforeNano} currency={d.currency} /> },
          { key: "after", head: t("bridge.to"), num: true, wide: true, value: (l) => l.afterNano, cell: (l) => <Money nano={l.afterNano} currency={d.currency} /> },
          { key: "change", head: t("bridge.change"), num: true, value: (l) => l.changeNano, cell: (l) => <Money nano={l.changeNano} currency={d.currency} signed /> },
        ]}
        detail={(l) => (
          <dl class="figures">
            {Object.entries(l.effects ?? {}).map(([k, v]) => (
              <div key={k}>
                <dt>{t(`effect.${k}` as Key)}</dt>
                <dd>
                  <Money nano={v} currency={d.currency} signed />
                </dd>
              </div>
            ))}
            <div>
              <dt>= {t("bridge.change")}</dt>
              <dd>
                <Money nano={l.changeNano} currency={d.currency} signed /> <span class="quiet">{percent(l.changeNano, l.beforeNano, lang)}</span>
              </dd>
            </div>
          </dl>
        )}
      />
    </>
  );
}

const HOUR = 3_600_000;

// Pair chooses the two windows.
function Pair({ route, shown }: { route: Route; shown: DiffAnswer | null }) {
  const { t, zone, status } = useApp();
  const id = useId();
  const [custom, setCustom] = useState(false);
  const closed = status?.closed;
  const q = route.query;
  const current = custom ? "custom" : (q.w ?? (q.beforeFrom || q.afterFrom ? "custom" : ""));
  const hours = closed ? (Date.parse(closed.to) - Date.parse(closed.from)) / HOUR : 0;
  const choose = (v: string) => {
    setCustom(v === "custom");
    if (v === "custom" || !closed) return;
    const end = Date.parse(closed.to);
    const n = (v === "hours" ? 1 : Math.floor(hours / 2)) * HOUR;
    amend(route, v === "" ? { w: undefined, beforeFrom: undefined, beforeTo: undefined, afterFrom: undefined, afterTo: undefined } : { w: v, beforeFrom: iso(end - 2 * n), beforeTo: iso(end - n), afterFrom: iso(end - n), afterTo: iso(end) });
  };
  const fields: [string, Key, string | undefined][] = [
    ["beforeFrom", "window.before", shown?.before.from],
    ["beforeTo", "window.to", shown?.before.to],
    ["afterFrom", "window.after", shown?.after.from],
    ["afterTo", "window.to", shown?.after.to],
  ];
  return (
    <form
      class="picker"
      aria-label={t("window.title")}
      onSubmit={(e) => {
        e.preventDefault();
        const form = new FormData(e.currentTarget as HTMLFormElement);
        setCustom(false);
        amend(route, { w: "custom", ...Object.fromEntries(fields.map(([n]) => [n, fromLocal(String(form.get(n)), zone)])) });
      }}
    >
      <label for={id}>{t("window.title")}</label>
      <select id={id} value={current} onChange={(e) => choose(e.currentTarget.value)} disabled={!closed}>
        <option value="">{hours >= 48 ? t("window.pair.days") : t("window.pair.halves")}</option>
        {hours > 49 && <option value="halves">{t("window.pair.halves")}</option>}
        {hours >= 2 && <option value="hours">{t("window.pair.hours")}</option>}
        <option value="custom">{t("window.custom")}</option>
      </select>
      {current === "custom" &&
        shown &&
        fields.map(([n, key, v]) => (
          <label key={n}>
            {t(key)}
            <input name={n} type="datetime-local" step={3600} required value={v && toLocal(v, zone)} />
          </label>
        ))}
      {current === "custom" && <button type="submit">{t("window.apply")}</button>}
    </form>
  );
}
