import { useMemo } from "preact/hooks";
import type { ColocatedNode, ColocationAnswer, ColocationDayAnswer, Curve } from "../api";
import type { LayersData } from "../charts/layers";
import { colour, Mark, Twin } from "../charts/twin";
import { count, dayClock, percent } from "../format";
import type { Key } from "../i18n";
import { Figure, How, Load, Money, Notes, Table, WindowPicker } from "../parts";
import { amend, link, type Route, useAnswer, useApp } from "../state";
import { Rows } from "./decisions";

// The colours of what a machine's cores do, and of the steps of the ladder.
const colours: Record<string, string> = { online: "cat1", system: "cat10", batch: "cat6", budget: "ink", offered: "cat4", allocated: "cat3" };
const steps: Record<string, string> = { Idle: "cat6", Quota: "cat4", Memory: "cat3", Freeze: "cat8", Evict: "bad" };

const stepName = (t: ReturnType<typeof useApp>["t"], step: string) => (step === "None" || step in steps ? t(`colo.step.${step}` as Key) : step);
// cores writes thousandths as cores.
const cores = (milli: number | null | undefined, lang: Parameters<typeof count>[1]) => (milli === null || milli === undefined ? "–" : count(milli / 1000, lang, 1));

export default function Colocation({ route }: { route: Route }) {
  const { t, live } = useApp();
  const { machine = "", from, to } = route.query;
  const list = useAnswer<ColocationAnswer>("colocation", {}, live ? 10_000 : 0);
  const known = list.data?.machines ?? [];
  return (
    <>
      <div class="pagehead">
        <h1>{t("colo.title")}</h1>
        {known.length > 0 && <WindowPicker route={route} shown={from && to ? { from, to } : undefined} />}
      </div>
      <Load answer={list}>
        {(a) => (
          <>
            <Notes notes={a.notes} />
            {a.machines.length === 0 ? (
              <p class="quiet">{t("colo.none")}</p>
            ) : (
              <>
                <div class="tools">
                  <label>
                    {t("machines.machine")}
                    <select value={machine} onChange={(e) => amend(route, { machine: e.currentTarget.value || undefined })}>
                      <option value="">{t("colo.all", { n: a.machines.length })}</option>
                      {(machine && !known.some((m) => m.name === machine) ? [{ name: machine }, ...known] : known).map((m) => (
                        <option key={m.name}>{m.name}</option>
                      ))}
                    </select>
                  </label>
                </div>
                <Day key={machine} machine={machine} from={from} to={to} earned={machine ? [] : a.earned} />
                {!machine && <Machines rows={a.machines} />}
              </>
            )}
          </>
        )}
      </Load>
      <How lines={["colo.how.1", "colo.how.2", "colo.how.3"]} />
    </>
  );
}

function Machines({ rows }: { rows: ColocatedNode[] }) {
  const { t, lang } = useApp();
  const fig = (key: string, wide = false) => ({ key, head: t(`colo.${key}` as Key), num: true, wide, value: (m: ColocatedNode) => m.milli[key] ?? -1, cell: (m: ColocatedNode) => cores(m.milli[key], lang) });
  return (
    <section aria-label={t("nav.machines")}>
      <h2>{t("nav.machines")}</h2>
      <Table
        rows={rows}
        caption={t("nav.machines")}
        rowKey={(m) => m.name}
        sorted={["name", 1]}
        columns={[
          { key: "name", head: t("machines.machine"), value: (m) => m.name, cell: (m) => <a href={link("colocation", { machine: m.name })}>{m.name}</a> },
          { key: "step", head: t("colo.step"), value: (m) => m.step, cell: (m) => <Step of={m.step} /> },
          fig("online"),
          fig("batch"),
          fig("budget"),
          fig("offered", true),
          fig("allocated", true),
          { key: "slack", head: t("colo.slack"), num: true, value: (m) => m.slack ?? 9, cell: (m) => <Slack of={m.slack} /> },
          { key: "frozen", head: t("colo.frozen"), num: true, wide: true, value: (m) => m.frozen },
          { key: "policy", head: t("elastic.policy"), wide: true, value: (m) => m.policy },
        ]}
      />
    </section>
  );
}

function Step({ of }: { of: string }) {
  const { t } = useApp();
  return (
    <span>
      {of in steps && <Mark of={steps[of]} />} {stepName(t, of)}
    </span>
  );
}

function Slack({ of }: { of: number | null }) {
  const { lang } = useApp();
  return of === null ? <>–</> : <span class={of < 0 ? "state broken" : undefined}>{percent(of, 1, lang)}</span>;
}

function Day({ machine, from, to, earned }: { machine: string; from?: string; to?: string; earned: ColocationAnswer["earned"] }) {
  const { live } = useApp();
  const answer = useAnswer<ColocationDayAnswer>("colocation/day", { machine: machine || undefined, from, to }, live && !to ? 15_000 : 0);
  return (
    <Load answer={answer}>
      {(d) => (
        <>
          <Notes notes={d.notes} />
          {Object.keys(d.milli).length > 0 && <Body d={d} earned={earned} />}
        </>
      )}
    </Load>
  );
}

function Body({ d, earned }: { d: ColocationDayAnswer; earned: ColocationAnswer["earned"] }) {
  const { t, lang, dark } = useApp();
  const inCores = (c: Curve | undefined): Curve => (c ?? Array.from({ length: d.points }, () => null)).map((v) => (v === null ? null : v / 1000));
  const curves = useMemo(() => Object.fromEntries(Object.entries(d.milli).map(([k, c]) => [k, inCores(c)])), [d]);
  const none: Curve = useMemo(() => Array.from({ length: d.points }, () => null), [d]);
  const data: LayersData = useMemo(() => {
    const start = Date.parse(d.from) / 1000;
    const line = (name: string, width: number, more: object = {}) => ({ name, values: curves[name] ?? none, colour: colour(colours[name]), width, ...more });
    return {
      times: Array.from({ length: d.points }, (_, i) => start + (i + 1) * d.stepSeconds),
      lines: [line("online", 1.2, { fill: true }), line("offered", 1.2, { dash: [4, 3] }), line("budget", 1.2), line("batch", 1.8)],
      pools: ["system", "online", "batch"].map((n) => line(n, 1, { fill: true })),
      winners: d.steps.map((s) => ({ from: Date.parse(s.from) / 1000, to: Date.parse(s.to) / 1000, colour: colour(steps[s.layer] ?? "cat10") })),
      under: d.short.map((s) => ({ from: Date.parse(s.from) / 1000, to: Date.parse(s.to) / 1000, colour: colour("bad") + "55" })),
    };
  }, [d, dark]);
  const keys = (names: string[]) => names.map((n) => ({ name: t(`colo.${n}` as Key), of: colours[n], values: curves[n] }));
  const shortMinutes = d.short.reduce((a, s) => a + (Date.parse(s.to) - Date.parse(s.from)) / 60_000, 0);
  const waits = d.waitMillis.filter((v) => v !== null);
  const said = (i: number) => {
    const s = d.steps.find((s) => Date.parse(s.from) / 1000 < data.times[i] && data.times[i] <= Date.parse(s.to) / 1000);
    const wait = d.waitMillis[i];
    return [stepName(t, s?.layer ?? "None"), d.slack[i] === null ? "" : `${t("colo.slack")} ${percent(d.slack[i]!, 1, lang)}`, wait === null ? "" : t("colo.wait.at", { n: count(wait, lang, 2) })].filter(Boolean).join(" · ");
  };
  return (
    <>
      <dl class="figures elastic" aria-label={t("elastic.figures")}>
        <Figure name={t("colo.worked")}>
          <span id="batch-hours">{t("colo.hours", { n: count(d.batchCoreHours, lang, d.batchCoreHours < 100 ? 1 : 0) })}</span>
        </Figure>
        <Figure name={t("colo.lost")}>{t("colo.lost.of", { n: count(d.lostCoreHours, lang, 1), e: count(d.evictions, lang) })}</Figure>
        {earned.map((e) => (
          <Figure key={e.policy} name={t("colo.earned", { policy: e.policy })}>
            <Money nano={Math.round(e.perHour * 1e9)} currency={e.currency} />
          </Figure>
        ))}
        <Figure name={t("colo.short")}>
          <span id="short" class={shortMinutes > 0 ? "state broken" : "state met"}>
            {t("colo.minutes", { n: count(shortMinutes, lang) })}
          </span>
        </Figure>
        <Figure name={t("colo.wait")}>{waits.length ? t("colo.wait.at", { n: count(Math.max(...waits), lang, 2) }) : "–"}</Figure>
      </dl>
      <Twin
        data={data}
        label={t("colo.chart")}
        top={{ title: t("colo.cores"), keys: keys(["online", "offered", "budget", "batch"]) }}
        low={{ title: t("colo.use"), keys: keys(["system", "online", "batch"]) }}
        value={(v) => count(v, lang, v < 10 && v % 1 ? 1 : 0)}
        said={said}
        hint={t("colo.band")}
        table={<Hours d={d} curves={curves} />}
      />
      <ul class="keys">
        {Object.keys(steps).map((s) => (
          <li key={s}>
            <Step of={s} />
          </li>
        ))}
      </ul>
      <section aria-label={t("decisions.title")}>
        <h2>{t("decisions.title")}</h2>
        {d.decisions.length === 0 ? <p class="quiet">{t("elastic.undecided")}</p> : <Rows rows={d.decisions} currency="" />}
      </section>
    </>
  );
}

// Hours is the same as means by the hour.
function Hours({ d, curves }: { d: ColocationDayAnswer; curves: Record<string, Curve> }) {
  const { t, lang, zone } = useApp();
  const per = 3600 / d.stepSeconds;
  const names = ["online", "offered", "budget", "batch"];
  const rows: { from: number; means: number[] }[] = [];
  for (let lo = 0; lo < d.points; lo += per) {
    const mean = (c: Curve | undefined) => {
      const there = (c ?? []).slice(lo, lo + per).filter((v) => v !== null);
      return there.length ? there.reduce((a, b) => a + b, 0) / there.length : NaN;
    };
    rows.push({ from: Date.parse(d.from) + lo * d.stepSeconds * 1000, means: names.map((n) => mean(curves[n])) });
  }
  return (
    <div class="alt">
      <Table
        rows={rows}
        caption={t("colo.title")}
        rowKey={(r) => String(r.from)}
        sorted={["hour", 1]}
        columns={[
          { key: "hour", head: t("day.hour"), value: (r) => r.from, cell: (r) => dayClock(new Date(r.from).toISOString(), lang, zone) },
          ...names.map((n, i) => ({ key: n, head: t(`colo.${n}` as Key), num: true, value: (r: { means: number[] }) => r.means[i], cell: (r: { means: number[] }) => (Number.isNaN(r.means[i]) ? "–" : count(r.means[i], lang, 1)) })),
        ]}
      />
    </div>
  );
}
