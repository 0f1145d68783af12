import { useMemo } from "preact/hooks";
import type { Curve, ElasticAnswer, ElasticDayAnswer, ElasticPolicy } from "../api";
import type { LayersData } from "../charts/layers";
import { colour, Mark, Twin } from "../charts/twin";
import { count, dayClock, percent } from "../format";
import type { Key } from "../i18n";
import { Figure, How, Load, Money, Notes, Table, WindowPicker } from "../parts";
import { amend, link, type Route, useAnswer, useApp } from "../state";
import { Rows } from "./decisions";

// The layers in the order in which they are read, and their colours in the theme.
const layers = ["manual", "cron", "timetable", "forecast", "reactive", "panic", "bounds", "hold"] as const;
const colours: Record<string, string> = {
  manual: "cat3",
  cron: "cat1",
  timetable: "cat4",
  forecast: "cat6",
  reactive: "cat8",
  panic: "cat11",
  bounds: "cat10",
  hold: "cat9",
  desired: "ink",
  ready: "c-ready",
  demand: "c-used",
};
const poolColours = ["cat2", "cat6", "cat1", "cat4", "cat3", "cat8"];

const layerName = (t: ReturnType<typeof useApp>["t"], layer: string) => (layer in colours ? t(`elastic.layer.${layer}` as Key) : layer);

export default function Elastic({ route }: { route: Route }) {
  const { t, live } = useApp();
  const { policy, from, to } = route.query;
  const list = useAnswer<ElasticAnswer>("elastic", {}, live ? 10_000 : 0);
  const known = list.data?.policies ?? [];
  return (
    <>
      <div class="pagehead">
        <h1>{t("elastic.title")}</h1>
        {policy && <WindowPicker route={route} shown={from && to ? { from, to } : undefined} />}
      </div>
      {policy ? (
        <>
          <div class="tools">
            <label>
              {t("elastic.policy")}
              <select value={policy} onChange={(e) => amend(route, { policy: e.currentTarget.value })}>
                {(known.some((p) => p.name === policy) ? known : [{ name: policy }, ...known]).map((p) => (
                  <option key={p.name}>{p.name}</option>
                ))}
              </select>
            </label>
            <a href={link("elastic")}>{t("elastic.all")}</a>
          </div>
          <Workload key={policy} policy={policy} from={from} to={to} />
        </>
      ) : (
        <Load answer={list}>{(a) => <List a={a} />}</Load>
      )}
      <How lines={["elastic.how.1", "elastic.how.2", "elastic.how.3"]} />
    </>
  );
}

function List({ a }: { a: ElasticAnswer }) {
  const { t, lang } = useApp();
  const n = (v: number | undefined | null) => (v === undefined || v === null ? "–" : count(v, lang));
  return (
    <>
      <Notes notes={a.notes} />
      {a.policies.length === 0 ? (
        <p class="quiet">{t("elastic.none")}</p>
      ) : (
        <Table
          rows={a.policies}
          caption={t("elastic.caption", { n: a.policies.length })}
          rowKey={(p) => p.name}
          sorted={["name", 1]}
          columns={[
            { key: "name", head: t("elastic.policy"), value: (p) => p.name, cell: (p) => <a href={link("elastic", { policy: p.name })}>{p.name}</a> },
            { key: "mode", head: t("decisions.mode"), wide: true, value: (p) => p.mode },
            { key: "winner", head: t("elastic.winner"), value: (p) => p.winner ?? "", cell: (p) => <Layer of={p.winner} /> },
            { key: "ready", head: t("elastic.layer.ready"), num: true, value: (p) => p.replicas.ready ?? -1, cell: (p) => n(p.replicas.ready) },
            { key: "desired", head: t("elastic.layer.desired"), num: true, value: (p) => p.replicas.desired ?? -1, cell: (p) => n(p.replicas.desired) },
            { key: "demand", head: t("elastic.layer.demand"), num: true, wide: true, value: (p) => p.demand ?? -1, cell: (p) => (p.demand === null ? "–" : <Demand p={p} />) },
            ...(["reactive", "forecast", "timetable", "cron"] as const).map((l) => ({ key: l, head: t(`elastic.layer.${l}`), num: true, wide: true, value: (p: ElasticPolicy) => p.replicas[l] ?? -1, cell: (p: ElasticPolicy) => n(p.replicas[l]) })),
            { key: "strays", head: t("elastic.strays"), num: true, wide: true, value: (p) => p.violations, cell: (p) => n(p.violations) },
          ]}
        />
      )}
    </>
  );
}

function Demand({ p }: { p: ElasticPolicy }) {
  const { lang, t } = useApp();
  const short = p.demand !== null && p.replicas.ready !== undefined && p.demand > p.replicas.ready;
  return (
    <span class={short ? "state broken" : undefined} title={short ? t("elastic.under") : undefined}>
      {count(p.demand ?? 0, lang, 1)}
    </span>
  );
}

function Layer({ of }: { of?: string }) {
  const { t } = useApp();
  if (!of) return <>–</>;
  return (
    <span>
      <Mark of={colours[of] ?? "cat10"} /> {layerName(t, of)}
    </span>
  );
}

function Workload({ policy, from, to }: { policy: string; from?: string; to?: string }) {
  const { live } = useApp();
  const answer = useAnswer<ElasticDayAnswer>("elastic/day", { policy, from, to }, live && !to ? 15_000 : 0);
  return (
    <Load answer={answer}>
      {(d) => (
        <>
          <Notes notes={d.notes} />
          {d.policy.name && <Body d={d} />}
        </>
      )}
    </Load>
  );
}

function Body({ d }: { d: ElasticDayAnswer }) {
  const { t, lang, dark } = useApp();
  const said = layers.filter((l) => d.replicas[l]?.some((v) => v !== null));
  const data: LayersData = useMemo(() => {
    const start = Date.parse(d.from) / 1000;
    const none: Curve = Array.from({ length: d.points }, () => null);
    return {
      times: Array.from({ length: d.points }, (_, i) => start + (i + 1) * d.stepSeconds),
      lines: [
        { name: "demand", values: d.demand, colour: colour(colours.demand), width: 1, fill: true },
        ...said.map((l) => ({ name: l, values: d.replicas[l], colour: colour(colours[l]), width: 1.2, dash: [4, 3] })),
        { name: "ready", values: d.replicas.ready ?? none, colour: colour(colours.ready), width: 1.8 },
        { name: "desired", values: d.replicas.desired ?? none, colour: colour(colours.desired), width: 1.6 },
      ],
      pools: d.pools.map((p, i) => ({ name: p.name, values: p.running, colour: colour(poolColours[i % poolColours.length]), width: 1, fill: true })),
      winners: d.winners.map((w) => ({ from: Date.parse(w.from) / 1000, to: Date.parse(w.to) / 1000, colour: colour(colours[w.layer] ?? "cat10") })),
      under: d.under.map((u) => ({ from: Date.parse(u.from) / 1000, to: Date.parse(u.to) / 1000, colour: colour("bad") + "55" })),
    };
  }, [d, dark]);
  const decided = (i: number) => {
    const w = d.winners.find((w) => Date.parse(w.from) / 1000 < data.times[i] && data.times[i] <= Date.parse(w.to) / 1000);
    return w ? t("elastic.decided", { layer: layerName(t, w.layer) }) : t("elastic.gap");
  };
  const cost = d.money.reduce((a, m) => a + m.costNano, 0);
  return (
    <>
      <dl class="figures elastic" aria-label={t("elastic.figures")}>
        <Figure name={t("elastic.winner")}>
          <Layer of={d.policy.winner} />
        </Figure>
        <Figure name={`${t("elastic.layer.ready")} / ${t("elastic.layer.desired")}`}>
          {count(d.policy.replicas.ready ?? 0, lang)} / {count(d.policy.replicas.desired ?? 0, lang)}
        </Figure>
        <Figure name={t("elastic.under")}>
          <span id="under" class={d.underSteps > 0 ? "state broken" : "state met"}>
            {t("elastic.under.of", { n: count((d.underSteps * d.stepSeconds) / 60, lang), p: percent(d.underSteps, Math.max(1, d.known), lang, 2) })}
          </span>
        </Figure>
        <Figure name={t("elastic.unmet")}>{percent(d.unmet, 1, lang, 3)}</Figure>
        <Figure name={t("elastic.cost")}>{d.money.length ? <Money nano={cost} currency={d.currency} /> : "–"}</Figure>
        <Figure name={t("elastic.strays")}>{count(d.policy.violations, lang)}</Figure>
        {Object.entries(d.startP95).map(([pool, s]) => (
          <Figure key={pool} name={t("elastic.start", { pool })}>
            {count(s, lang, s < 10 ? 1 : 0)} s
          </Figure>
        ))}
      </dl>
      <Twin
        data={data}
        label={t("elastic.chart")}
        top={{ title: t("elastic.replicas"), keys: ["demand", ...said, "ready", "desired"].map((l) => ({ name: layerName(t, l), of: colours[l], values: l === "demand" ? d.demand : d.replicas[l] })) }}
        low={{ title: t("elastic.pools"), keys: d.pools.map((p, k) => ({ name: p.name, of: poolColours[k % poolColours.length], values: p.running })) }}
        value={(v) => count(v, lang, v < 10 && v % 1 ? 1 : 0)}
        said={decided}
        hint={t("elastic.band")}
        table={<Hours d={d} />}
      />
      <section aria-label={t("decisions.title")}>
        <h2>{t("decisions.title")}</h2>
        {d.decisions.length === 0 ? <p class="quiet">{t("elastic.undecided")}</p> : <Rows rows={d.decisions} currency={d.currency} />}
      </section>
    </>
  );
}

interface HourRow {
  from: number;
  desired: number;
  ready: number;
  demand: number;
  under: number; // minutes
  cost: number; // nano-units; NaN for an hour that is not closed
}

// Hours is the same as means by the hour, with the hour's money.
function Hours({ d }: { d: ElasticDayAnswer }) {
  const { t, lang, zone } = useApp();
  const per = 3600 / d.stepSeconds;
  const start = Date.parse(d.from);
  const money = new Map(d.money.map((m) => [Date.parse(m.from), m]));
  const rows: HourRow[] = [];
  for (let lo = 0; lo < d.points; lo += per) {
    const hi = Math.min(d.points, lo + per);
    const mean = (c: Curve | undefined) => {
      const there = (c ?? []).slice(lo, hi).filter((v) => v !== null);
      return there.length ? there.reduce((a, b) => a + b, 0) / there.length : NaN;
    };
    const from = start + lo * d.stepSeconds * 1000;
    const shortOf = (u: { from: string; to: string }) => Math.max(0, Math.min(Date.parse(u.to), from + 3_600_000) - Math.max(Date.parse(u.from), from)) / 60_000;
    rows.push({ from, desired: mean(d.replicas.desired), ready: mean(d.replicas.ready), demand: mean(d.demand), under: d.under.reduce((a, u) => a + shortOf(u), 0), cost: money.get(Math.floor(from / 3_600_000) * 3_600_000)?.costNano ?? NaN });
  }
  const fig = (key: "demand" | "ready" | "desired") => ({ key, head: t(`elastic.layer.${key}`), num: true, value: (r: HourRow) => r[key], cell: (r: HourRow) => count(r[key], lang, 1) });
  return (
    <div class="alt">
      <Table
        rows={rows}
        caption={t("elastic.title")}
        rowKey={(r) => String(r.from)}
        sorted={["hour", 1]}
        columns={[
          { key: "hour", head: t("day.hour"), value: (r) => r.from, cell: (r) => dayClock(new Date(r.from).toISOString(), lang, zone) },
          fig("demand"),
          fig("ready"),
          fig("desired"),
          { key: "under", head: t("elastic.under.min"), num: true, value: (r) => r.under, cell: (r) => count(r.under, lang) },
          { key: "cost", head: t("col.cost"), num: true, value: (r) => r.cost, cell: (r) => (Number.isNaN(r.cost) ? "–" : <Money nano={r.cost} currency={d.currency} />) },
        ]}
      />
    </div>
  );
}
