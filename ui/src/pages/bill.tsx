import { useState } from "preact/hooks";
import type { BillAnswer, Line, Report } from "../api";
import { count, factor, money, percent } from "../format";
import type { Key } from "../i18n";
import { BoxBar, Guards, How, Load, Money, Table, WindowPicker, type Column } from "../parts";
import { amend, type Route, useAnswer, useApp } from "../state";

const groupings = ["module", "namespace", "pool", "machineType", "feature"];

export default function Bill({ route }: { route: Route }) {
  const { t } = useApp();
  const { from, to, by } = route.query;
  const answer = useAnswer<BillAnswer>("bill", { from, to, by });
  return (
    <>
      <div class="pagehead">
        <h1>{t("bill.title")}</h1>
        <WindowPicker route={route} shown={answer.data?.report} />
      </div>
      <Load answer={answer}>
        {({ report, guard, labels }) => (
          <>
            <Headline report={report} />
            <Guards guard={guard} />
            {(report.notes ?? []).map((n) => (
              <p class="note" key={n}>
                {n}
              </p>
            ))}
            <Lines route={route} report={report} labels={labels ?? []} />
            <How lines={["bill.how.1", "bill.how.2", "bill.how.3", "bill.how.4"]} />
          </>
        )}
      </Load>
    </>
  );
}

function Headline({ report }: { report: Report }) {
  const { t, lang } = useApp();
  const idle = Object.values(report.idleNano).reduce((a, b) => a + b, 0) + report.unexplainedNano;
  const over = report.billNano - report.allocatedNano - idle;
  const c = report.currency;
  return (
    <section class="headline" aria-label={t("bill.title")}>
      <dl class="equation">
        <div>
          <dt>{t("bill.bill")}</dt>
          <dd class="big" id="headline-bill">
            <Money nano={report.billNano} currency={c} />
          </dd>
        </div>
        <div data-op="=">
          <dt>
            {t("bill.allocated")} <span class="quiet">{percent(report.allocatedNano, report.billNano, lang)}</span>
          </dt>
          <dd class="big">
            <Money nano={report.allocatedNano} currency={c} />
          </dd>
        </div>
        <div data-op="+">
          <dt>
            {t("bill.idle")} <span class="quiet">{percent(idle, report.billNano, lang)}</span>
          </dt>
          <dd class="big">
            <Money nano={idle} currency={c} />
          </dd>
        </div>
        <div class="proof">
          <dt>{t("bill.unexplained")}</dt>
          <dd>
            <Money nano={report.unexplainedNano} currency={c} />
            <p class={over === 0 && report.unexplainedNano === 0 ? "closes" : "opens"}>{over === 0 ? t("bill.closes") : t("bill.opens", { v: money(over, c, lang) })}</p>
          </dd>
        </div>
      </dl>
      <BoxBar used={report.allocatedNano} idle={report.idleNano} total={report.billNano} currency={c} label={t("bill.bill")} />
      {report.estimatedNano > 0 && <p class="note">{t("bill.estimated", { v: money(report.estimatedNano, c, lang) })}</p>}
    </section>
  );
}

function Lines({ route, report, labels }: { route: Route; report: Report; labels: string[] }) {
  const { t, lang } = useApp();
  const [filter, setFilter] = useState("");
  const c = report.currency;
  const rows = report.lines.filter((l) => l.key.toLowerCase().includes(filter.toLowerCase()));
  const top = Math.max(1, ...report.lines.map((l) => l.costNano));
  const byName = report.by.startsWith("label:") ? t("bill.by.label", { key: report.by.slice(6) }) : t(`bill.by.${report.by}` as Key);
  const columns: Column<Line>[] = [
    { key: "key", head: byName, value: (l) => l.key, cell: (l) => <KeyName name={l.key} /> },
    {
      key: "cost",
      head: t("col.cost"),
      num: true,
      value: (l) => l.costNano,
      cell: (l) => <Money nano={l.costNano} currency={c} />,
    },
    {
      key: "share",
      head: t("col.share"),
      num: true,
      wide: true,
      value: (l) => l.costNano,
      cell: (l) => (
        <span class="sharecell">
          <span class="minibar" aria-hidden="true">
            <span class="fill-used" style={{ width: `${(100 * l.usedNano) / top}%` }} />
            <span class="fill-slack" style={{ width: `${(100 * l.slackNano) / top}%` }} />
            <span class="fill-system" style={{ width: `${(100 * l.sharedNano) / top}%` }} />
          </span>
          {percent(l.costNano, report.billNano, lang)}
        </span>
      ),
    },
    { key: "used", head: t("col.used"), num: true, wide: true, value: (l) => l.usedNano, cell: (l) => <Money nano={l.usedNano} currency={c} /> },
    { key: "slack", head: t("col.slack"), num: true, wide: true, value: (l) => l.slackNano, cell: (l) => <Money nano={l.slackNano} currency={c} /> },
    { key: "shared", head: t("col.shared"), num: true, wide: true, value: (l) => l.sharedNano, cell: (l) => <Money nano={l.sharedNano} currency={c} /> },
    { key: "pods", head: t("col.pods"), num: true, wide: true, value: (l) => l.pods, cell: (l) => count(l.pods, lang, 1) },
    { key: "requests", head: t("col.requests"), num: true, wide: true, value: (l) => l.requests, cell: (l) => (l.requests < 0 ? "–" : count(l.requests, lang)) },
    { key: "quality", head: t("col.quality"), value: (l) => l.quality ?? "", cell: (l) => <Quality state={l.quality} /> },
  ];
  return (
    <section aria-label={byName}>
      <div class="tools">
        <label>
          {t("bill.by")}
          <select value={report.by} onChange={(e) => amend(route, { by: e.currentTarget.value })}>
            {groupings.map((g) => (
              <option key={g} value={g}>
                {t(`bill.by.${g}` as Key)}
              </option>
            ))}
            {labels.map((k) => (
              <option key={k} value={`label:${k}`}>
                {t("bill.by.label", { key: k })}
              </option>
            ))}
          </select>
        </label>
        <label>
          {t("bill.filter")}
          <input type="search" placeholder={t("bill.filter.hint")} value={filter} onInput={(e) => setFilter(e.currentTarget.value)} />
        </label>
      </div>
      {rows.length === 0 ? (
        <p class="quiet">{t("bill.nothing")}</p>
      ) : (
        <Table rows={rows} columns={columns} caption={t("bill.caption", { by: byName, n: rows.length })} rowKey={(l) => l.key} sorted={["cost", -1]} detail={(l) => <Detail line={l} currency={c} total={report.billNano} />} />
      )}
    </section>
  );
}

// KeyName shows a module's name first and where it lives after it.
export function KeyName({ name }: { name: string }) {
  const { t } = useApp();
  if (name === "(nobody)") return <em>{t("app.nobody")}</em>;
  if (name === "(no feature)") return <em>{t("app.nofeature")}</em>;
  const parts = name.split("/");
  if (parts.length !== 3) return <span>{name || t("app.none")}</span>;
  return (
    <span>
      {parts[2]}{" "}
      <span class="quiet">
        {parts[0]} · {parts[1]}
      </span>
    </span>
  );
}

export function Quality({ state }: { state?: string }) {
  const { t } = useApp();
  const s = state?.startsWith("met") ? "met" : state?.startsWith("broken") ? "broken" : "unknown";
  return <span class={`state ${s}`}>{t(`guard.state.${s}` as Key)}</span>;
}

function Detail({ line, currency, total }: { line: Line; currency: string; total: number }) {
  const { t, lang } = useApp();
  const m = (v: number) => <Money nano={v} currency={currency} />;
  const figures: [string, preact.ComponentChildren][] = [
    [t("col.used"), m(line.usedNano)],
    [t("col.slack"), m(line.slackNano)],
    [t("col.shared"), m(line.sharedNano)],
    [t("col.cost"), m(line.costNano)],
    [t("col.share"), percent(line.costNano, total, lang)],
    [t("col.pods"), count(line.pods, lang, 1)],
    [t("col.requests"), line.requests < 0 ? "–" : count(line.requests, lang)],
    [t("col.opencost"), m(line.openCostNano)],
  ];
  const f = Object.entries(line.factors ?? {}).filter(([, v]) => v.costNano !== 0);
  return (
    <div class="detailbody">
      <dl class="figures">
        {figures.map(([k, v]) => (
          <div key={k}>
            <dt>{k}</dt>
            <dd>{v}</dd>
          </div>
        ))}
      </dl>
      {f.length > 0 && (
        <div class="factors">
          {f.map(([r, v]) => (
            <dl key={r} aria-label={t(`res.${r}` as Key)}>
              <dt class="resname">{t(`res.${r}` as Key)}</dt>
              {(
                [
                  ["col.load", v.load < 0 ? "–" : factor(v.load, lang)],
                  ["col.need", factor(v.need, lang)],
                  ["col.slackf", factor(v.slack, lang)],
                  ["col.match", factor(v.match, lang)],
                  ["col.price", factor(v.price, lang)],
                ] as [Key, string][]
              ).map(([k, x], i) => (
                <div key={k}>
                  <dt>
                    {i > 0 && <span aria-hidden="true">× </span>}
                    {t(k)}
                  </dt>
                  <dd class="num">{x}</dd>
                </div>
              ))}
              <div>
                <dt>= {t("col.cost")}</dt>
                <dd>{m(v.costNano)}</dd>
              </div>
            </dl>
          ))}
        </div>
      )}
    </div>
  );
}
