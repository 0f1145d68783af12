import { useMemo, useState } from "preact/hooks";
import type { GPUHost, GPUModel, GPUMove, GPUPlan, GPUPod, GPUsAnswer } from "../api";
import { roving } from "../charts/scale";
import { count, fullClock, percent } from "../format";
import type { Key } from "../i18n";
import { Figure, How, Load, Money, Table } from "../parts";
import { useAnswer, useApp } from "../state";

export default function GPUs() {
  const { t, live, lang, zone } = useApp();
  const answer = useAnswer<GPUsAnswer>("gpus", {}, live ? 10_000 : 0);
  return (
    <>
      <div class="pagehead">
        <h1>{t("gpus.title")}</h1>
        {answer.data && answer.data.hosts.length > 0 && <span class="quiet">{t("machines.at", { t: fullClock(answer.data.at, lang, zone) })}</span>}
      </div>
      <Load answer={answer}>{(d) => <Body d={d} />}</Load>
      <How lines={["gpus.how.1", "gpus.how.2", "gpus.how.3"]} />
    </>
  );
}

// gpus writes thousandths as GPUs.
const gpus = (milli: number, lang: Parameters<typeof count>[1]) => count(milli / 1000, lang, milli % 1000 ? (milli < 10_000 ? 2 : 1) : 0);

function Body({ d }: { d: GPUsAnswer }) {
  const { t, lang } = useApp();
  if (d.hosts.length === 0) return <p class="quiet">{t(d.notes.includes("no-live") ? "gpus.nolive" : "gpus.none")}</p>;
  const sick = d.models.reduce((a, m) => a + m.sick, 0);
  return (
    <>
      {d.notes.map((n) => (
        <p class="note" key={n}>
          {n}
        </p>
      ))}
      <dl class="figures gpus" aria-label={t("gpus.figures")}>
        <Figure name={t("gpus.allocated")}>{t("gpus.of", { a: gpus(d.allocatedMilli, lang), b: gpus(d.capacityMilli, lang), p: percent(d.allocatedMilli, d.capacityMilli || 1, lang, 1) })}</Figure>
        <Figure name={t("gpus.gap")}>
          <span id="gap">{d.gapMilli > 0 ? t("gpus.gap.at", { n: gpus(d.gapMilli, lang) }) : t("gpus.gap.none")}</span>
        </Figure>
        <Figure name={t("gpus.least")}>{d.unpriced > 0 ? t("gpus.unpriced", { n: d.unpriced }) : <Hourly nano={d.gapNano} currency={d.currency} text="gpus.least.at" />}</Figure>
        <Figure name={t("gpus.machines")}>{t("gpus.machines.of", { u: count(d.used, lang), e: count(d.empty, lang) })}</Figure>
        <Figure name={t("gpus.waiting")}>
          <span class={d.waiting.length > 0 ? "state broken" : "state met"}>{t("gpus.waiting.of", { n: count(d.waiting.length, lang), g: gpus(d.waitingMilli, lang) })}</span>
        </Figure>
        <Figure name={t("gpus.sick")}>
          <span class={sick > 0 ? "state broken" : "state met"}>{count(sick, lang)}</span>
        </Figure>
      </dl>
      <section aria-label={t("gpus.models")}>
        <h2>{t("gpus.models")}</h2>
        <Table
          rows={d.models}
          caption={t("gpus.models")}
          rowKey={(m) => m.model}
          sorted={["gpus", -1]}
          columns={[
            { key: "model", head: t("gpus.model"), value: (m) => m.model },
            { key: "gpus", head: t("gpus.count"), num: true, value: (m) => m.gpus },
            { key: "allocated", head: t("gpus.allocated"), num: true, value: (m) => m.allocatedMilli / Math.max(1, m.allocatedMilli + m.idleMilli), cell: (m) => percent(m.allocatedMilli, Math.max(1, m.allocatedMilli + m.idleMilli), lang, 1) },
            { key: "idle", head: t("gpus.idle"), num: true, value: (m) => m.idleMilli, cell: (m) => gpus(m.idleMilli, lang) },
            { key: "fragment", head: t("gpus.fragment"), num: true, value: (m) => m.fragmentMilli, cell: (m: GPUModel) => gpus(m.fragmentMilli, lang) },
            { key: "sick", head: t("gpus.sick"), num: true, wide: true, value: (m) => m.sick },
          ]}
        />
      </section>
      <Hosts d={d} />
      {d.waiting.length > 0 && (
        <section aria-label={t("gpus.waiting")}>
          <h2>{t("gpus.waiting")}</h2>
          <Pods pods={d.waiting} caption={t("gpus.waiting")} why />
        </section>
      )}
      <Plans d={d} />
    </>
  );
}

// Hourly puts an amount into a sentence.
function Hourly({ nano, currency, text, n }: { nano: number; currency: string; text: Key; n?: number }) {
  const { t } = useApp();
  const [before, after] = t(text, { v: "\u0000", n: n ?? 0 }).split("\u0000");
  return (
    <>
      {before}
      <Money nano={nano} currency={currency} />
      {after}
    </>
  );
}

const modelOf = (h: GPUHost) => [...new Set(h.devices.map((x) => x.model))].join(", ");
const allocated = (h: GPUHost) => h.devices.reduce((a, x) => a + (x.healthy ? 1000 - x.idleMilli : 0), 0);

function Hosts({ d }: { d: GPUsAnswer }) {
  const { t, lang } = useApp();
  const [picked, setPicked] = useState("");
  const [find, setFind] = useState("");
  const [table, setTable] = useState(false);
  const namespaces = useMemo(() => [...new Set(d.hosts.flatMap((h) => h.pods.map((p) => p.namespace)))].sort(), [d]);
  const models = useMemo(() => [...new Set(d.hosts.map(modelOf))].sort(), [d]);
  const needle = find.toLowerCase();
  const matches = (h: GPUHost) => !needle || `${h.name} ${modelOf(h)} ${h.pods.map((p) => `${p.namespace}/${p.name}`).join(" ")}`.toLowerCase().includes(needle);
  const label = (h: GPUHost) => {
    const sick = h.devices.filter((x) => !x.healthy).length;
    return t("gpus.label", { name: h.name, g: h.devices.length, model: modelOf(h), p: percent(allocated(h), h.devices.length * 1000 || 1, lang), n: h.pods.length }) + (sick ? `, ${t("gpus.label.sick", { n: sick })}` : "");
  };
  const colour = (p: GPUPod) => namespaces.indexOf(p.namespace) % 12;
  return (
    <section aria-label={t("gpus.machines")}>
      <div class="tools">
        <label>
          {t("gpus.find")}
          <input type="search" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
        </label>
        <button type="button" class="link" aria-expanded={table} onClick={() => setTable(!table)}>
          {table ? t("app.table.hide") : t("app.table")}
        </button>
      </div>
      <ul class="keys">
        {namespaces.map((n, i) => (
          <li key={n}>
            <span class={`swatch cat${i % 12}`} aria-hidden="true" /> {n}
          </li>
        ))}
      </ul>
      {table ? (
        <Table
          rows={d.hosts.filter(matches)}
          caption={t("gpus.machines")}
          rowKey={(h) => h.name}
          sorted={["name", 1]}
          detail={(h) => <Inside h={h} />}
          columns={[
            { key: "name", head: t("machines.machine"), value: (h) => h.name },
            { key: "model", head: t("gpus.model"), value: modelOf },
            { key: "gpus", head: t("gpus.count"), num: true, value: (h) => h.devices.length },
            { key: "allocated", head: t("gpus.allocated"), num: true, value: (h) => allocated(h) / Math.max(1, h.devices.length * 1000), cell: (h) => percent(allocated(h), h.devices.length * 1000 || 1, lang) },
            { key: "pods", head: t("gpus.pods"), num: true, value: (h) => h.pods.length },
            { key: "sick", head: t("gpus.sick"), num: true, wide: true, value: (h) => h.devices.filter((x) => !x.healthy).length },
          ]}
        />
      ) : (
        <>
          <p class="quiet small">{t("gpus.pick")}</p>
          {models.map((model) => {
            const list = d.hosts.filter((h) => modelOf(h) === model);
            const first = list.some((h) => h.name === picked) ? picked : list[0].name;
            const open = list.find((h) => h.name === picked);
            const all = list.reduce((a, h) => a + h.devices.length * 1000, 0);
            return (
              <section class="pool" key={model} aria-label={model}>
                <h2>
                  {model || t("app.none")}
                  <span class="quiet small num">
                    {count(list.length, lang)} · {t("gpus.allocated")} {percent(list.reduce((a, h) => a + allocated(h), 0), all || 1, lang)}
                  </span>
                </h2>
                <div class="tiles" onKeyDown={(e) => roving(e, ".tile")}>
                  {list.map((h) => (
                    <button key={h.name} type="button" class={`tile ${matches(h) ? "" : "faded"}`} tabIndex={h.name === first ? 0 : -1} aria-pressed={h.name === picked} aria-label={label(h)} title={label(h)} data-machine={h.name} onClick={() => setPicked(h.name === picked ? "" : h.name)}>
                      <Bars h={h} colour={colour} />
                      <span class="name" aria-hidden="true">
                        {h.name}
                      </span>
                    </button>
                  ))}
                </div>
                {open && (
                  <div class="panel" aria-live="polite">
                    <h3>{open.name}</h3>
                    <Inside h={open} />
                  </div>
                )}
              </section>
            );
          })}
        </>
      )}
    </section>
  );
}

// Bars draws a machine's GPUs side by side, the pods' parts stacked in each. One
// path for each colour, not one element for each pod: a fleet has thousands.
function Bars({ h, colour, mark }: { h: GPUHost; colour: (p: GPUPod) => number; mark?: string }) {
  const H = 100;
  const wide = 1000 / Math.max(1, h.devices.length);
  const gap = Math.min(30, wide / 6);
  const paths = new Map<string, string>();
  const add = (cls: string, x: number, y: number, height: number) => paths.set(cls, `${paths.get(cls) ?? ""}M${x.toFixed(1)} ${y.toFixed(1)}h${(wide - gap).toFixed(1)}v${height.toFixed(1)}h${(gap - wide).toFixed(1)}z`);
  h.devices.forEach((dev, k) => {
    const x = k * wide;
    add(dev.healthy ? "gpu" : "gpu sick", x, 0, H);
    let y = H;
    for (const i of dev.pods) {
      const p = h.pods[i];
      const height = (p.milli / 1000) * H;
      y -= height;
      add(`cat${colour(p)}${mark && `${p.namespace}/${p.name}` === mark ? " marked" : ""}`, x, y + 1, Math.max(1, height - 1));
    }
  });
  return (
    <svg viewBox={`0 0 1000 ${H}`} preserveAspectRatio="none" aria-hidden="true">
      {[...paths].map(([cls, path]) => (
        <path key={cls} class={cls} d={path} />
      ))}
    </svg>
  );
}

function Inside({ h }: { h: GPUHost }) {
  const { t, lang } = useApp();
  return (
    <>
      <Table
        rows={h.devices}
        caption={h.name}
        rowKey={(x) => x.uuid}
        sorted={["uuid", 1]}
        columns={[
          { key: "uuid", head: t("gpus.device"), value: (x) => x.uuid },
          { key: "model", head: t("gpus.model"), wide: true, value: (x) => x.model },
          { key: "idle", head: t("gpus.idle"), num: true, value: (x) => x.idleMilli, cell: (x) => percent(x.idleMilli, 1000, lang, 1) },
          { key: "memory", head: t("gpus.memory"), num: true, wide: true, value: (x) => x.idleMiB, cell: (x) => (x.memoryMiB ? `${count(x.memoryMiB - x.idleMiB, lang)} / ${count(x.memoryMiB, lang)} MiB` : "–") },
          { key: "pods", head: t("gpus.pods"), num: true, value: (x) => x.pods.length },
          { key: "health", head: t("gpus.health"), value: (x) => (x.healthy ? "" : (x.reason ?? "")), cell: (x) => <span class={x.healthy ? "state met" : "state broken"}>{x.healthy ? t("gpus.healthy") : x.reason || t("gpus.sick")}</span> },
        ]}
      />
      {h.pods.length > 0 && <Pods pods={h.pods} caption={t("gpus.pods")} />}
    </>
  );
}

function Pods({ pods, caption, why }: { pods: GPUPod[]; caption: string; why?: boolean }) {
  const { t, lang } = useApp();
  return (
    <Table
      rows={pods}
      caption={caption}
      rowKey={(p) => `${p.namespace}/${p.name}`}
      most={40}
      sorted={["milli", -1]}
      columns={[
        { key: "name", head: t("gpus.pod"), value: (p) => `${p.namespace}/${p.name}` },
        { key: "gpus", head: t("gpus.count"), num: true, value: (p) => p.gpus },
        { key: "milli", head: t("gpus.each"), num: true, value: (p) => p.milli, cell: (p) => percent(p.milli, 1000, lang, 1) },
        { key: "memory", head: t("gpus.memory"), num: true, wide: true, value: (p) => p.memoryMiB, cell: (p) => (p.memoryMiB ? `${count(p.memoryMiB, lang)} MiB` : "–") },
        ...(why ? [{ key: "why", head: t("gpus.why"), value: (p: GPUPod) => p.reason ?? "" }] : []),
      ]}
    />
  );
}

function Plans({ d }: { d: GPUsAnswer }) {
  const { t } = useApp();
  const [name, setName] = useState("");
  const plan = d.plans.find((p) => p.name === name) ?? d.plans[0];
  return (
    <section aria-label={t("gpus.plans")}>
      <h2>{t("gpus.plans")}</h2>
      {!plan ? (
        <p class="quiet">{t("gpus.plan.none")}</p>
      ) : (
        <>
          {d.plans.length > 1 && (
            <div class="tools">
              <label>
                {t("gpus.plan")}
                <select value={plan.name} onChange={(e) => setName(e.currentTarget.value)}>
                  {d.plans.map((p) => (
                    <option key={p.name}>{p.name}</option>
                  ))}
                </select>
              </label>
            </div>
          )}
          <Stepper key={plan.name} plan={plan} d={d} />
        </>
      )}
    </section>
  );
}

const done = (m: GPUMove) => m.state === "Done";

// Stepper walks through a plan, move by move: the two machines of a move as they
// are after it, and where it stands in the cluster.
function Stepper({ plan, d }: { plan: GPUPlan; d: GPUsAnswer }) {
  const { t, lang } = useApp();
  const now = plan.moves.findIndex((m) => !done(m));
  const [chosen, setChosen] = useState<number | null>(null);
  const n = plan.moves.length;
  const at = Math.min(chosen ?? (now < 0 ? n : now + 1), n); // moves that are shown as made
  const move = at > 0 ? plan.moves[at - 1] : undefined;
  const hosts = useMemo(() => after(d.hosts, plan.moves, at), [d, plan, at]);
  const namespaces = useMemo(() => [...new Set(d.hosts.flatMap((h) => h.pods.map((p) => p.namespace)))].sort(), [d]);
  const shown = move ? [move.from, move.to].map((h) => hosts.get(h)).filter((h) => h !== undefined) : [];
  return (
    <>
      <p>
        {t("gpus.plan.head", { goal: plan.goal, mode: plan.mode, phase: plan.phase, n, s: count(plan.moves.reduce((a, m) => a + m.seconds, 0), lang), g: plan.peakGPUs })}
        {plan.freed.length > 0 && (
          <>
            {" · "}
            <Hourly nano={plan.freedNano} currency={d.currency} text="gpus.plan.freed" n={plan.freed.length} />
          </>
        )}
      </p>
      {plan.reason && <p class="quiet">{plan.reason}</p>}
      {n > 0 && (
        <div class="stepper">
          <div class="buttons">
            <button type="button" aria-label={t("gpus.step.prev")} title={t("gpus.step.prev")} disabled={at === 0} onClick={() => setChosen(at - 1)}>
              ←
            </button>
            <input type="range" min={0} max={n} value={at} aria-label={t("gpus.plan.moves")} onInput={(e) => setChosen(Number(e.currentTarget.value))} />
            <button type="button" aria-label={t("gpus.step.next")} title={t("gpus.step.next")} disabled={at === n} onClick={() => setChosen(at + 1)}>
              →
            </button>
          </div>
          <p aria-live="polite" id="step">
            <strong class="num">{move ? t("gpus.step", { i: at, n }) : t("gpus.step.start")}</strong>
            {move && <> · {t("gpus.step.move", { pod: move.pod, from: move.from, to: move.to })}</>}
          </p>
          <div class="tiles two">
            {shown.map((h) => (
              <div class="tile" key={h.name}>
                <Bars h={h} colour={(p) => namespaces.indexOf(p.namespace) % 12} mark={move?.pod} />
                <span class="name">{h.name}</span>
              </div>
            ))}
          </div>
        </div>
      )}
      {n > 0 && (
        <Table
          rows={plan.moves.map((m, i) => ({ ...m, i: i + 1 }))}
          caption={t("gpus.plan.moves")}
          rowKey={(m) => String(m.i)}
          sorted={["i", 1]}
          columns={[
            { key: "i", head: "#", num: true, value: (m) => m.i },
            { key: "pod", head: t("gpus.pod"), value: (m) => m.pod },
            { key: "from", head: t("gpus.from"), value: (m) => m.from },
            { key: "to", head: t("gpus.to"), value: (m) => m.to },
            { key: "milli", head: t("gpus.each"), num: true, wide: true, value: (m) => m.milli, cell: (m) => percent(m.milli, 1000, lang, 1) },
            { key: "state", head: t("gpus.state"), value: (m) => m.state, cell: (m) => <span class={done(m) ? "state met" : m.state === "Failed" ? "state broken" : "state unknown"}>{m.message ? `${m.state}: ${m.message}` : m.state}</span> },
          ]}
        />
      )}
    </>
  );
}

// after is the hosts of a plan once its first n moves are made: those that are
// made in the cluster already stand there.
function after(hosts: GPUHost[], moves: GPUMove[], n: number): Map<string, GPUHost> {
  const touched = new Set(moves.flatMap((m) => [m.from, m.to]));
  const out = new Map<string, GPUHost>();
  for (const h of hosts) if (touched.has(h.name)) out.set(h.name, { ...h, pods: [...h.pods], devices: h.devices.map((x) => ({ ...x, pods: [...x.pods] })) });
  const put = (m: GPUMove, to: string, devices: string[], from: string) => {
    const source = out.get(from);
    const target = out.get(to);
    const i = source?.pods.findIndex((p) => `${p.namespace}/${p.name}` === m.pod) ?? -1;
    const [namespace, name] = m.pod.split("/");
    const pod = i >= 0 ? source!.pods[i] : { namespace, name, gpus: devices.length, milli: m.milli, memoryMiB: m.memoryMiB };
    for (const x of source?.devices ?? []) x.pods = x.pods.filter((k) => k !== i);
    if (!target) return;
    target.pods.push(pod);
    for (const x of target.devices) if (devices.includes(x.uuid)) x.pods.push(target.pods.length - 1);
  };
  moves.forEach((m, i) => {
    if (i < n && !done(m)) put(m, m.to, m.toDevices, m.from);
  });
  for (let i = moves.length - 1; i >= n; i--) if (done(moves[i])) put(moves[i], moves[i].from, moves[i].fromDevices, moves[i].to);
  return out;
}
