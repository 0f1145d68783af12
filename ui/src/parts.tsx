// The parts that pages are put together from.

import { Fragment, type ComponentChildren } from "preact";
import { useId, useState } from "preact/hooks";
import type { Guard, Span } from "./api";
import { exact, fromLocal, iso, money, percent, span, toLocal } from "./format";
import type { Key } from "./i18n";
import { amend, type Route, useApp } from "./state";

export const boxOrder = ["slack", "system", "spare", "stranded-shape", "stranded-constraint", "waiting-scale-down", "unexplained"];

// Swatch shows a colour beside its name; the name says the same in words.
export function Swatch({ of }: { of: string }) {
  return <span class={`swatch fill-${of}`} aria-hidden="true" />;
}

export function Money({ nano, currency, signed }: { nano: number; currency: string; signed?: boolean }) {
  const { lang } = useApp();
  return (
    <data class="num" value={nano} title={exact(nano, currency)}>
      {money(nano, currency, lang, signed)}
    </data>
  );
}

// Figure is one number of a list of figures (dl), under its name.
export function Figure({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd class="num">{children}</dd>
    </div>
  );
}

export function Problem({ error, again }: { error: string; again?: () => void }) {
  const { t } = useApp();
  return (
    <div class="problem" role="alert">
      <p>{error === "unreachable" ? t("app.unreachable") : error}</p>
      {again && (
        <button type="button" onClick={again}>
          {t("app.retry")}
        </button>
      )}
    </div>
  );
}

// Load shows what there is of an answer: the problem, the data or a wait.
export function Load<T>({ answer, children }: { answer: { data: T | null; error: string | null; again(): void }; children: (data: T) => ComponentChildren }) {
  const { t } = useApp();
  return (
    <>
      {answer.error && <Problem error={answer.error} again={answer.again} />}
      {answer.data ? children(answer.data) : !answer.error && <p class="waiting">{t("app.loading")}</p>}
    </>
  );
}

export function How({ lines }: { lines: Key[] }) {
  const { t } = useApp();
  return (
    <details class="how">
      <summary>{t("app.how")}</summary>
      {lines.map((k) => (
        <p key={k}>{t(k)}</p>
      ))}
    </details>
  );
}

// Guards says how quality stood while the money was spent.
export function Guards({ guard }: { guard: Guard }) {
  const { t } = useApp();
  const guarded = guard.met + guard.broken;
  const state = guard.broken ? "broken" : guarded ? "met" : "unknown";
  return (
    <section class={`guards ${state}`} aria-label={t("guard.title")}>
      <span class="mark" aria-hidden="true">
        {state === "broken" ? "!" : state === "met" ? "✓" : "?"}
      </span>
      <strong>{t("guard.title")}</strong>
      <span>
        {guarded === 0
          ? t("guard.none")
          : guard.broken === 0
            ? `${t("guard.met", { n: guard.met })}: ${t("guard.allmet")}`
            : `${t("guard.broken", { n: guard.broken })} · ${t("guard.met", { n: guard.met })}`}
        {guarded > 0 && guard.unknown > 0 && ` · ${t("guard.unknown", { n: guard.unknown })}`}
      </span>
      {guard.modules.length > 0 && (
        <details>
          <summary>{t("guard.list")}</summary>
          <ul>
            {guard.modules.map((m) => (
              <li key={m.module}>
                <code>{m.module}</code> <span class={`state ${m.state}`}>{t(`guard.state.${m.state}` as Key)}</span>
              </li>
            ))}
          </ul>
        </details>
      )}
    </section>
  );
}

const HOUR = 3_600_000;

// WindowPicker chooses from and to in the route's query.
export function WindowPicker({ route, shown }: { route: Route; shown?: Span }) {
  const { t, lang, zone, status } = useApp();
  const id = useId();
  const closed = status?.closed;
  const [custom, setCustom] = useState(false);
  const last = closed ? Date.parse(closed.to) : 0;
  const presets: Record<string, [Key, number, number]> = { "1": ["window.last1", 1, 0], "6": ["window.last6", 6, 0], "24": ["window.last24", 24, 0], "-24": ["window.prev24", 48, 24] };
  const hours = closed ? (last - Date.parse(closed.from)) / HOUR : 0;
  const current = custom ? "custom" : route.query.w ?? (route.query.from || route.query.to ? "custom" : "24");
  const choose = (v: string) => {
    setCustom(v === "custom");
    if (v === "custom" || !closed) return;
    if (v === "24") amend(route, { w: undefined, from: undefined, to: undefined });
    else if (v === "all") amend(route, { w: v, from: closed.from, to: closed.to });
    else amend(route, { w: v, from: iso(Math.max(Date.parse(closed.from), last - presets[v][1] * HOUR)), to: iso(last - presets[v][2] * HOUR) });
  };
  return (
    <form
      class="picker"
      aria-label={t("window.title")}
      onSubmit={(e) => {
        e.preventDefault();
        const form = new FormData(e.currentTarget as HTMLFormElement);
        const from = fromLocal(String(form.get("from")), zone);
        const to = fromLocal(String(form.get("to")), zone);
        setCustom(false);
        amend(route, { w: "custom", from, to });
      }}
    >
      <label for={id + "w"}>{t("window.title")}</label>
      <select id={id + "w"} value={current} onChange={(e) => choose(e.currentTarget.value)} disabled={!closed}>
        {Object.entries(presets)
          .filter(([, [, back, end]]) => end === 0 || hours > end || back <= hours)
          .map(([v, [key]]) => (
            <option key={v} value={v}>
              {t(key)}
            </option>
          ))}
        <option value="all">{t("window.all")}</option>
        <option value="custom">{t("window.custom")}</option>
      </select>
      {current === "custom" && shown && (
        <>
          <label for={id + "f"}>{t("window.from")}</label>
          <input id={id + "f"} name="from" type="datetime-local" step={3600} required value={toLocal(shown.from, zone)} />
          <label for={id + "t"}>{t("window.to")}</label>
          <input id={id + "t"} name="to" type="datetime-local" step={3600} required value={toLocal(shown.to, zone)} />
          <button type="submit">{t("window.apply")}</button>
        </>
      )}
      {shown && (
        <span class="quiet" title={t("window.zone", { zone })}>
          {span(shown.from, shown.to, lang, zone)}
        </span>
      )}
    </form>
  );
}

export interface Column<R> {
  key: string;
  head: string;
  hint?: string;
  value: (r: R) => number | string; // what it sorts by
  cell?: (r: R) => ComponentChildren;
  num?: boolean;
  wide?: boolean; // left out on narrow screens
}

// Table is a table that sorts by any column, the first numeric one at first.
export function Table<R>({ rows, columns, caption, rowKey, most = 100, sorted, detail, mark }: { rows: R[]; columns: Column<R>[]; caption: string; rowKey: (r: R) => string; most?: number; sorted?: [string, 1 | -1]; detail?: (r: R) => ComponentChildren; mark?: string }) {
  const { t, lang } = useApp();
  const [[by, dir], sort] = useState<[string, 1 | -1]>(sorted ?? [columns.find((c) => c.num)?.key ?? columns[0].key, -1]);
  const [all, setAll] = useState(false);
  const [open, setOpen] = useState<string | null>(null);
  const id = useId();
  const column = columns.find((c) => c.key === by) ?? columns[0];
  const order = [...rows].sort((a, b) => {
    const x = column.value(a);
    const y = column.value(b);
    return dir * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), lang));
  });
  const shown = all ? order : order.slice(0, most);
  return (
    <div class="tablebox">
      <table>
        <caption class="hidden">{caption}</caption>
        <thead>
          <tr>
            {columns.map((c) => (
              <th key={c.key} scope="col" class={`${c.num ? "num" : ""} ${c.wide ? "wide" : ""}`} aria-sort={c.key === by ? (dir > 0 ? "ascending" : "descending") : undefined}>
                <button type="button" title={c.hint} onClick={() => sort([c.key, c.key === by ? ((-dir) as 1 | -1) : c.num ? -1 : 1])}>
                  {c.head}
                  <span class="arrow" aria-hidden="true">
                    {c.key === by ? (dir > 0 ? "↑" : "↓") : ""}
                  </span>
                </button>
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {shown.map((r) => {
            const k = rowKey(r);
            const isOpen = open === k;
            return (
              <Fragment key={k}>
                <tr class={mark === k ? "marked" : undefined}>
                  {columns.map((c, i) => {
                    const body = c.cell ? c.cell(r) : c.value(r);
                    const cls = `${c.num ? "num" : ""} ${c.wide ? "wide" : ""}`;
                    if (i > 0) return <td key={c.key} class={cls}>{body}</td>;
                    return (
                      <th key={c.key} scope="row" class={cls}>
                        {detail ? (
                          <button type="button" class="opener" aria-expanded={isOpen} aria-controls={`${id}-${k}`} onClick={() => setOpen(isOpen ? null : k)}>
                            <span class="chevron" aria-hidden="true" />
                            <span class="keyname">{body}</span>
                          </button>
                        ) : (
                          body
                        )}
                      </th>
                    );
                  })}
                </tr>
                {detail && isOpen && (
                  <tr class="detail" id={`${id}-${k}`}>
                    <td colSpan={columns.length}>{detail(r)}</td>
                  </tr>
                )}
              </Fragment>
            );
          })}
        </tbody>
      </table>
      {shown.length < rows.length && (
        <button type="button" class="more" onClick={() => setAll(true)}>
          {t("app.more", { n: rows.length })}
        </button>
      )}
    </div>
  );
}

// Chart frames a drawing, with the same figures as a table on demand.
export function Chart({ title, children, table, aside }: { title: string; children: ComponentChildren; table: () => ComponentChildren; aside?: ComponentChildren }) {
  const { t } = useApp();
  const [open, setOpen] = useState(false);
  const id = useId();
  return (
    <figure class="chart">
      <figcaption>
        <span class="charttitle">{title}</span>
        {aside}
        <button type="button" class="link" aria-expanded={open} aria-controls={id} onClick={() => setOpen(!open)}>
          {open ? t("app.table.hide") : t("app.table")}
        </button>
      </figcaption>
      {children}
      <div id={id} class="alt" hidden={!open}>
        {open && table()}
      </div>
    </figure>
  );
}

// BoxBar is the bill as one bar: what was used and every idle box.
export function BoxBar({ used, idle, total, currency, label }: { used: number; idle: Record<string, number>; total: number; currency: string; label: string }) {
  const { t, lang } = useApp();
  const parts = [["used", used] as const, ...boxOrder.filter((b) => idle[b]).map((b) => [b, idle[b]] as const)];
  return (
    <div class="boxbar">
      <div class="bar" role="img" aria-label={`${label}: ${parts.map(([b, v]) => `${t(`box.${b}` as Key)} ${percent(v, total, lang)}`).join(", ")}`}>
        {parts.map(([b, v]) => (
          <span key={b} class={`fill-${b}`} style={{ flexGrow: Math.max(0, v / (total || 1)) }} />
        ))}
      </div>
      <ul class="legend">
        {parts.map(([b, v]) => (
          <li key={b} title={b === "used" ? undefined : t(`box.${b}.hint` as Key)}>
            <Swatch of={b} />
            <span>{t(`box.${b}` as Key)}</span>
            <Money nano={v} currency={currency} />
            <span class="quiet num">{percent(v, total, lang)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

// Notes are what an answer says of itself, by codes.
export function Notes({ notes }: { notes: string[] }) {
  const { t } = useApp();
  return (
    <>
      {notes.map((n) => (
        <p class="note" key={n}>
          {n.startsWith("metrics: ") ? t("day.note.metrics", { v: n.slice(9) }) : t(`day.note.${n}` as Key)}
        </p>
      ))}
    </>
  );
}
