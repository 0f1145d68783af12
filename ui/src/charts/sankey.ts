// The layout of a flow between columns. Pure: sizes in, boxes and bands out.

export interface FlowNode {
  id: string;
  column: number;
  value: number;
}

export interface FlowLink {
  source: string;
  target: string;
  value: number;
}

export interface Box {
  x: number;
  y: number;
  h: number;
  column: number;
  value: number;
}

export interface Band {
  source: string;
  target: string;
  value: number;
  y0: number; // middle at the source
  y1: number; // middle at the target
  width: number;
}

export interface Layout {
  boxes: Map<string, Box>;
  bands: Band[];
  height: number;
}

// layout places nodes in their columns so that heights are in proportion to
// values, and orders them to keep bands from crossing: largest first in the
// first column, then by the mean place of what flows in, a few times over. Nodes
// of "last" stay at the end of their column.
export function layout(nodes: FlowNode[], links: FlowLink[], width: number, nodeWidth: number, gap: number, unit: number, last: Set<string>): Layout {
  const columns: FlowNode[][] = [];
  for (const n of nodes) (columns[n.column] ??= []).push(n);
  const ins = new Map<string, FlowLink[]>();
  const outs = new Map<string, FlowLink[]>();
  for (const l of links) {
    (ins.get(l.target) ?? ins.set(l.target, []).get(l.target)!).push(l);
    (outs.get(l.source) ?? outs.set(l.source, []).get(l.source)!).push(l);
  }
  for (const c of columns) c?.sort((a, b) => b.value - a.value);

  const place = new Map<string, number>();
  const settle = (c: FlowNode[]) => {
    let y = 0;
    for (const n of c) {
      place.set(n.id, y + (n.value * unit) / 2);
      y += Math.max(1, n.value * unit) + gap;
    }
  };
  columns.forEach(settle);
  const mean = (n: FlowNode, of: Map<string, FlowLink[]>, end: "source" | "target") => {
    let sum = 0;
    let weight = 0;
    for (const l of of.get(n.id) ?? []) {
      sum += (place.get(l[end]) ?? 0) * l.value;
      weight += l.value;
    }
    return weight ? sum / weight : (place.get(n.id) ?? 0);
  };
  const order = (c: FlowNode[], of: Map<string, FlowLink[]>, end: "source" | "target") => {
    const at = new Map(c.map((n) => [n.id, last.has(n.id) ? Infinity : mean(n, of, end)]));
    c.sort((a, b) => {
      const d = at.get(a.id)! - at.get(b.id)!;
      return Number.isNaN(d) || d === 0 ? b.value - a.value : d;
    });
    settle(c);
  };
  for (let round = 0; round < 3; round++) {
    for (let i = 1; i < columns.length; i++) order(columns[i], ins, "source");
    for (let i = columns.length - 2; i > 0; i--) order(columns[i], outs, "target");
  }

  const tall = (c: FlowNode[]) => c.reduce((a, n) => a + Math.max(1, n.value * unit), 0) + gap * (c.length - 1);
  const height = Math.ceil(Math.max(...columns.map(tall)));
  const boxes = new Map<string, Box>();
  columns.forEach((c, i) => {
    const spare = c.length > 1 ? Math.min((height - tall(c)) / (c.length - 1), 28) : 0;
    let y = (height - tall(c) - spare * (c.length - 1)) / 2;
    for (const n of c) {
      const h = Math.max(1, n.value * unit);
      boxes.set(n.id, { x: columns.length > 1 ? ((width - nodeWidth) * i) / (columns.length - 1) : 0, y, h, column: i, value: n.value });
      y += h + gap + spare;
    }
  });

  const bands: Band[] = [];
  const filled = { out: new Map<string, number>(), in: new Map<string, number>() };
  const sorted = (list: FlowLink[], end: "source" | "target") => [...list].sort((a, b) => boxes.get(a[end])!.y - boxes.get(b[end])!.y);
  const y1 = new Map<FlowLink, number>();
  for (const [id, list] of ins) {
    for (const l of sorted(list, "source")) {
      const w = l.value * unit;
      const used = filled.in.get(id) ?? 0;
      y1.set(l, boxes.get(id)!.y + used + w / 2);
      filled.in.set(id, used + w);
    }
  }
  for (const [id, list] of outs) {
    for (const l of sorted(list, "target")) {
      const w = l.value * unit;
      const used = filled.out.get(id) ?? 0;
      bands.push({ source: l.source, target: l.target, value: l.value, y0: boxes.get(id)!.y + used + w / 2, y1: y1.get(l)!, width: w });
      filled.out.set(id, used + w);
    }
  }
  return { boxes, bands, height };
}

// reach returns the nodes that money of one node comes from or goes to.
export function reach(id: string, links: FlowLink[]): Set<string> {
  const found = new Set([id]);
  for (const [from, to] of [
    ["source", "target"],
    ["target", "source"],
  ] as const) {
    const queue = [id];
    for (const at of queue) {
      for (const l of links) {
        if (l[from] === at && !found.has(l[to] + to)) {
          found.add(l[to] + to).add(l[to]);
          queue.push(l[to]);
        }
      }
    }
  }
  return found;
}
