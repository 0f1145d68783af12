import { useMemo, useState } from "preact/hooks";
import type { MachinesAnswer, MachineTile } from "../api";
import { roving } from "../charts/scale";
import { cores, count, fullClock, gib, percent } from "../format";
import { Guards, How, Load, Table } from "../parts";
import { type Route, useAnswer, useApp } from "../state";

export default function Machines({ route }: { route: Route }) {
  const { t, lang, zone, live } = useApp();
  const { from, to } = route.query;
  const answer = useAnswer<MachinesAnswer>("machines", { from, to }, live ? 5_000 : 0);
  return (
    <>
      <div class="pagehead">
        <h1>{t("machines.title")}</h1>
        {answer.data && <span class="quiet">{t(answer.data.live ? "machines.at" : "machines.mean", { t: fullClock(answer.data.at, lang, zone) })}</span>}
      </div>
      <Load answer={answer}>{(d) => <Body d={d} />}</Load>
    </>
  );
}

// gather makes one machine of the pods' own machines of a serverless node.
function gather(machines: MachineTile[]): MachineTile[] {
  const nodes = new Map<string, MachineTile>();
  for (const m of machines) {
    if (!m.serverless) {
      nodes.set(m.name, m);
      continue;
    }
    const name = m.name.split("/")[0];
    const node = nodes.get(name);
    if (!node) nodes.set(name, { ...m, name, capacity: [...m.capacity], pods: [...m.pods] });
    else {
      node.pods.push(...m.pods);
      m.capacity.forEach((v, k) => (node.capacity[k] += v));
    }
  }
  return [...nodes.values()];
}

function Body({ d }: { d: MachinesAnswer }) {
  const { t, lang } = useApp();
  const [colour, setColour] = useState("namespace");
  const [picked, setPicked] = useState("");
  const [find, setFind] = useState("");
  const [table, setTable] = useState(false);
  const machines = useMemo(() => gather(d.machines), [d]);
  const namespaces = useMemo(() => [...new Set(d.modules.map((m) => m.split("/")[0]))].sort(), [d]);
  const pools = useMemo(() => [...new Set(machines.map((m) => m.pool))].sort(), [machines]);
  const sum = (m: MachineTile, of: "request" | "use", k: number) => m.pods.reduce((a, p) => a + p[of][k], 0);
  const needle = find.toLowerCase();
  const matches = (m: MachineTile) => !needle || m.name.toLowerCase().includes(needle) || m.pods.some((p) => p.name.toLowerCase().includes(needle) || d.modules[p.module].toLowerCase().includes(needle));
  const label = (m: MachineTile) =>
    t("machines.label", { name: m.name, type: m.type, pods: m.pods.length, req: cores(sum(m, "request", 0), lang), cap: cores(m.capacity[0], lang), use: cores(sum(m, "use", 0), lang) }) + (m.closed ? `, ${t("machines.closed")}` : "");
  const focusable = machines.some((m) => m.name === picked) ? picked : "";
  return (
    <>
      <Guards guard={d.guard} />
      <div class="tools">
        <span>{t("machines.count", { n: count(machines.length, lang), p: count(machines.reduce((a, m) => a + m.pods.length, 0), lang) })}</span>
        <label>
          {t("machines.colour")}
          <select value={colour} onChange={(e) => setColour(e.currentTarget.value)}>
            <option value="namespace">{t("machines.colour.namespace")}</option>
            <option value="use">{t("machines.colour.use")}</option>
          </select>
        </label>
        <label>
          {t("machines.find")}
          <input type="search" value={find} onInput={(e) => setFind(e.currentTarget.value)} />
        </label>
        <button type="button" class="link" aria-expanded={table} onClick={() => setTable(!table)}>
          {table ? t("app.table.hide") : t("app.table")}
        </button>
      </div>
      {colour === "namespace" && (
        <ul class="keys">
          {namespaces.map((n, i) => (
            <li key={n}>
              <span class={`swatch cat${i % 12}`} aria-hidden="true" /> {n}
            </li>
          ))}
        </ul>
      )}
      {table ? (
        <Table
          rows={machines.filter(matches)}
          caption={t("machines.title")}
          rowKey={(m) => m.name}
          sorted={["name", 1]}
          detail={(m) => <Inside m={m} modules={d.modules} />}
          columns={[
            { key: "name", head: t("machines.machine"), value: (m) => m.name },
            { key: "pool", head: t("machines.pool"), value: (m) => m.pool },
            { key: "type", head: t("machines.type"), value: (m) => m.type, wide: true },
            { key: "pods", head: t("machines.pods"), num: true, value: (m) => m.pods.length },
            { key: "req", head: t("machines.cpu"), num: true, value: (m) => sum(m, "request", 0) / (m.capacity[0] || 1), cell: (m) => percent(sum(m, "request", 0), m.capacity[0], lang) },
            { key: "use", head: t("machines.cpuused"), num: true, wide: true, value: (m) => sum(m, "use", 0) / (m.capacity[0] || 1), cell: (m) => percent(sum(m, "use", 0), m.capacity[0], lang) },
            { key: "mem", head: t("machines.mem"), num: true, wide: true, value: (m) => sum(m, "request", 1) / (m.capacity[1] || 1), cell: (m) => percent(sum(m, "request", 1), m.capacity[1], lang) },
            { key: "gpu", head: t("machines.gpu"), num: true, wide: true, value: (m) => (m.capacity[2] ? sum(m, "request", 2) / m.capacity[2] : -1), cell: (m) => percent(sum(m, "request", 2), m.capacity[2], lang) },
          ]}
        />
      ) : (
        <>
          <p class="quiet small">{t("machines.pick")}</p>
          {pools.map((pool) => {
            const list = machines.filter((m) => m.pool === pool);
            const total = (f: (m: MachineTile) => number) => list.reduce((a, m) => a + f(m), 0);
            const cap = total((m) => m.capacity[0]);
            const first = list.some((m) => m.name === focusable) ? focusable : list[0].name;
            const open = list.find((m) => m.name === picked);
            return (
              <section class="pool" key={pool} aria-label={pool}>
                <h2>
                  {pool || t("app.none")}
                  <span class="quiet small num">
                    {count(list.length, lang)} · {t("machines.cpu")} {percent(total((m) => sum(m, "request", 0)), cap, lang)} · {t("machines.cpuused")} {percent(total((m) => sum(m, "use", 0)), cap, lang)}
                  </span>
                </h2>
                <div class="tiles" onKeyDown={(e) => roving(e, ".tile")}>
                  {list.map((m) => (
                    <button
                      key={m.name}
                      type="button"
                      class={`tile ${m.closed ? "closed" : ""} ${matches(m) ? "" : "faded"}`}
                      tabIndex={m.name === first ? 0 : -1}
                      aria-pressed={m.name === picked}
                      aria-label={label(m)}
                      title={label(m)}
                      data-machine={m.name}
                      onClick={() => setPicked(m.name === picked ? "" : m.name)}
                    >
                      <Blocks m={m} colour={colour} of={(i) => namespaces.indexOf(d.modules[i].split("/")[0]) % 12} />
                      <span class="name" aria-hidden="true">
                        {m.name}
                      </span>
                    </button>
                  ))}
                </div>
                {open && (
                  <div class="panel" aria-live="polite">
                    <h3>{open.name}</h3>
                    <Inside m={open} modules={d.modules} />
                  </div>
                )}
              </section>
            );
          })}
        </>
      )}
      <How lines={["machines.how.1"]} />
    </>
  );
}

// Blocks draws a machine's pods side by side, as wide as they ask for CPU and
// filled as high as they use it.
function Blocks({ m, colour, of }: { m: MachineTile; colour: string; of: (module: number) => number }) {
  const W = 1000;
  const H = 100;
  const per = W / Math.max(1, m.capacity[0], m.pods.reduce((a, p) => a + p.request[0], 0));
  let x = 0;
  // One path for each colour, not one element for each pod: a fleet has 10,000.
  const ask = new Map<string, string>();
  const used = new Map<string, string>();
  const add = (to: Map<string, string>, cls: string, at: number, w: number, h: number) => to.set(cls, `${to.get(cls) ?? ""}M${at.toFixed(1)} ${H}v${-h.toFixed(1)}h${w.toFixed(1)}V${H}z`);
  for (const p of m.pods) {
    const w = p.request[0] * per;
    const use = p.request[0] ? Math.min(1, p.use[0] / p.request[0]) : 0;
    const cls = p.headroom ? "fill-spare" : colour === "use" ? (use > 0.9 ? "fill-stranded-constraint" : use > 0.5 ? "fill-used" : use > 0.2 ? "fill-waiting-scale-down" : "fill-slack") : `cat${of(p.module)}`;
    const gap = Math.min(6, w / 3);
    add(ask, cls, x, w - gap, H);
    if (!p.waiting) add(used, cls, x, w - gap, H * use);
    x += w;
  }
  return (
    <svg viewBox={`0 0 ${W} ${H}`} preserveAspectRatio="none" aria-hidden="true">
      {[...ask].map(([cls, d]) => (
        <path key={cls} class={`${cls} ask`} d={d} />
      ))}
      {[...used].map(([cls, d]) => (
        <path key={cls} class={cls} d={d} />
      ))}
    </svg>
  );
}

function Inside({ m, modules }: { m: MachineTile; modules: string[] }) {
  const { t, lang } = useApp();
  const sum = (of: "request" | "use", k: number) => m.pods.reduce((a, p) => a + p[of][k], 0);
  const meter = (name: string, part: number, whole: number, text: string) =>
    whole > 0 && (
      <span class="meter">
        <span class="quiet">{name}</span>
        <span class="track" aria-hidden="true">
          <span class="fill-used" style={{ width: `${Math.min(100, (100 * part) / whole)}%` }} />
        </span>
        <span class="num">{text}</span>
      </span>
    );
  return (
    <>
      <p>
        {m.type} {m.domain && <span class="quiet">{m.domain}</span>} {m.closed && <span class="tag">{t("machines.closed")}</span>}
      </p>
      <p>
        {meter(t("machines.cpu"), sum("request", 0), m.capacity[0], `${cores(sum("request", 0), lang)} / ${cores(m.capacity[0], lang)}`)}
        {meter(t("machines.cpuused"), sum("use", 0), m.capacity[0], percent(sum("use", 0), m.capacity[0], lang))}
        {meter(t("machines.mem"), sum("request", 1), m.capacity[1], `${gib(sum("request", 1), lang)} / ${gib(m.capacity[1], lang)} GiB`)}
        {meter(t("machines.gpu"), sum("request", 2), m.capacity[2], `${cores(sum("request", 2), lang)} / ${cores(m.capacity[2], lang)}`)}
      </p>
      <Table
        rows={m.pods}
        caption={m.name}
        rowKey={(p) => p.name}
        most={40}
        sorted={["req", -1]}
        columns={[
          {
            key: "name",
            head: t("machines.pod"),
            value: (p) => p.name,
            cell: (p) => (
              <>
                {p.name} {p.waiting && <span class="tag">{t("machines.waiting")}</span>} {p.headroom && <span class="tag">{t("machines.headroom")}</span>}
              </>
            ),
          },
          { key: "module", head: t("machines.module"), wide: true, value: (p) => modules[p.module] },
          { key: "req", head: t("machines.request"), num: true, value: (p) => p.request[0], cell: (p) => cores(p.request[0], lang) },
          { key: "use", head: t("machines.use"), num: true, value: (p) => p.use[0], cell: (p) => cores(p.use[0], lang) },
        ]}
      />
    </>
  );
}
