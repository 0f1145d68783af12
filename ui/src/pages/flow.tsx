import { useMemo, useState } from "preact/hooks";
import type { FlowAnswer } from "../api";
import { layout, reach, type FlowNode } from "../charts/sankey";
import { elide, roving } from "../charts/scale";
import { money, percent, short } from "../format";
import type { Key } from "../i18n";
import { Chart, Guards, How, Load, Money, Table, WindowPicker } from "../parts";
import { type Route, useAnswer, useApp, useWidth } from "../state";

const kinds = ["feature", "module", "resource", "money"];

export default function Flow({ route }: { route: Route }) {
  const { t, lang } = useApp();
  const { from, to } = route.query;
  const answer = useAnswer<FlowAnswer>("flow", { from, to });
  const name = useName();
  return (
    <>
      <div class="pagehead">
        <h1>{t("flow.title")}</h1>
        <WindowPicker route={route} shown={answer.data ?? undefined} />
      </div>
      <Load answer={answer}>
        {(d) => (
          <>
            <Guards guard={d.guard} />
            <Chart
              title={t("flow.chart", { v: money(d.billNano, d.currency, lang) })}
              table={() => (
                <Table
                  rows={d.links}
                  caption={t("flow.title")}
                  rowKey={(l) => l.source + l.target}
                  columns={[
                    { key: "from", head: t("flow.table.from"), value: (l) => name(l.source) },
                    { key: "to", head: t("flow.table.to"), value: (l) => name(l.target) },
                    { key: "nano", head: t("col.cost"), num: true, value: (l) => l.nano, cell: (l) => <Money nano={l.nano} currency={d.currency} /> },
                    { key: "share", head: t("col.share"), num: true, value: (l) => l.nano, cell: (l) => percent(l.nano, d.billNano, lang) },
                  ]}
                />
              )}
            >
              <Sankey d={d} name={name} />
            </Chart>
            <How lines={["flow.how.1", "bill.how.2"]} />
          </>
        )}
      </Load>
    </>
  );
}

// useName says what a node is called: names of things as they are, the rest in
// the reader's language.
function useName() {
  const { t } = useApp();
  return (id: string) => {
    const kind = id.slice(0, id.indexOf(":"));
    const n = id.slice(kind.length + 1);
    if (n === "(nobody)") return t("app.nobody");
    if (n === "(rest)") return t("app.rest.plain");
    if (n === "(no feature)") return t("app.nofeature");
    if (kind === "resource") return t(`res.${n}` as Key);
    if (kind === "money") return t(`box.${n}` as Key);
    if (kind === "module") {
      const [namespace, , module] = n.split("/");
      return `${namespace}/${module}`;
    }
    return n;
  };
}

function Sankey({ d, name }: { d: FlowAnswer; name: (id: string) => string }) {
  const { t, lang } = useApp();
  const [ref, width] = useWidth<HTMLDivElement>();
  const [hot, setHot] = useState("");
  const narrow = width < 620;
  const nodeWidth = narrow ? 8 : 14;
  const last = (narrow ? 92 : 204) + nodeWidth; // room for the names of the last column
  const made = useMemo(() => {
    const nodes: FlowNode[] = d.nodes.map((n) => ({ id: n.id, column: kinds.indexOf(n.kind), value: n.nano }));
    const links = d.links.map((l) => ({ source: l.source, target: l.target, value: l.nano }));
    const rows = Math.max(...kinds.map((_, i) => nodes.filter((n) => n.column === i).length));
    const gap = narrow ? 10 : 7;
    const tall = Math.max(narrow ? 520 : 480, rows * 22);
    const unit = (tall - gap * rows) / (d.billNano || 1);
    return { links, ...layout(nodes, links, Math.max(80, width - last + nodeWidth), nodeWidth, gap, unit, new Set(["module:(rest)", "feature:(no feature)", "feature:(nobody)", "module:(nobody)"])) };
  }, [d, width, narrow]);
  const lit = useMemo(() => (hot ? reach(hot, made.links) : null), [hot, made]);
  const on = (id: string) => !lit || lit.has(id);
  const head = 26;
  const column = (width - last) / 3;
  const textRoom = (c: number) => (c === 3 ? last - nodeWidth - 10 : column - nodeWidth - 12) - (narrow ? 0 : 46);
  const first = d.nodes[0]?.id;
  let prev = 0; // where the last label of the column ended, to keep labels apart
  let prevColumn = -1;
  return (
    <div ref={ref} class="plot flow">
      {width > 0 && (
        <svg width={width} height={made.height + head + 8} role="group" aria-label={t("flow.title")} onKeyDown={(e) => roving(e, ".node")} onMouseLeave={() => setHot("")}>
          {kinds.map((k, i) => (
            <text key={k} class="axis" x={made ? ((width - last) * i) / 3 : 0} y={12}>
              {t(`flow.${k}` as Key)}
            </text>
          ))}
          <g transform={`translate(0 ${head})`}>
            {made.bands.map((b) => {
              const s = made.boxes.get(b.source)!;
              const e = made.boxes.get(b.target)!;
              const x0 = s.x + nodeWidth;
              const mid = (x0 + e.x) / 2;
              const h = Math.max(0.5, b.width) / 2;
              const tone = b.target.startsWith("money:") ? b.target.slice(6) : "flow";
              return (
                <path
                  key={b.source + b.target}
                  class={`band tone-${tone} ${on(b.source) && on(b.target) ? "" : "dim"} ${lit && on(b.source) && on(b.target) ? "lit" : ""}`}
                  d={`M${x0} ${b.y0 - h}C${mid} ${b.y0 - h} ${mid} ${b.y1 - h} ${e.x} ${b.y1 - h}V${b.y1 + h}C${mid} ${b.y1 + h} ${mid} ${b.y0 + h} ${x0} ${b.y0 + h}Z`}
                >
                  <title>{`${name(b.source)} → ${name(b.target)}: ${money(b.value, d.currency, lang)}`}</title>
                </path>
              );
            })}
            {[...made.boxes]
              .sort(([, a], [, b]) => a.column - b.column || a.y - b.y)
              .map(([id, b]) => {
                if (b.column !== prevColumn) {
                  prev = -Infinity;
                  prevColumn = b.column;
                }
                const mid = b.y + b.h / 2;
                const fits = mid - prev >= 13;
                if (fits) prev = mid;
                const text = `${name(id)}: ${money(b.value, d.currency, lang)}, ${percent(b.value, d.billNano, lang)}`;
                return (
                  <g
                    key={id}
                    class={`node ${on(id) ? "" : "dim"}`}
                    tabindex={(hot || first) === id ? 0 : -1}
                    role="img"
                    aria-label={text}
                    data-node={id}
                    onMouseEnter={() => setHot(id)}
                    onFocus={() => setHot(id)}
                    onBlur={() => setHot("")}
                    onClick={() => setHot(id)}
                  >
                    <title>{text}</title>
                    <rect class="hit ring" x={b.x - 2} y={b.y - 2} width={nodeWidth + 4} height={b.h + 4} rx={3} />
                    <rect class={`box ${id.startsWith("money:") ? `fill-${id.slice(6)}` : ""}`} x={b.x} y={b.y} width={nodeWidth} height={b.h} rx={1.5} />
                    {(fits || hot === id) && (
                      <text x={b.x + nodeWidth + 6} y={mid + 4}>
                        {elide(narrow ? name(id).replace(/^.*\//, "") : name(id), textRoom(b.column), narrow ? 10.5 : 12)}
                        {!narrow && <tspan class="soft"> {short(b.value, d.currency, lang)}</tspan>}
                      </text>
                    )}
                  </g>
                );
              })}
          </g>
        </svg>
      )}
      <p class="quiet small" aria-live="polite">
        {hot ? `${name(hot)}: ${money(made.boxes.get(hot)?.value ?? 0, d.currency, lang)} · ${percent(made.boxes.get(hot)?.value ?? 0, d.billNano, lang)}` : t("flow.hint")}
      </p>
    </div>
  );
}
