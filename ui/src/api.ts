// The server's answers, as server/*.go writes them, and how to ask for them.
// Amounts of money are integers of nano-units in a currency.

export interface Span {
  from: string;
  to: string;
}

export interface Guard {
  met: number;
  broken: number;
  unknown: number;
  modules: { module: string; state: string }[];
}

export interface Factors {
  load: number;
  need: number;
  slack: number;
  match: number;
  price: number;
  costNano: number;
}

export interface Line {
  key: string;
  usedNano: number;
  slackNano: number;
  sharedNano: number;
  costNano: number;
  openCostNano: number;
  factors?: Record<string, Factors>;
  requests: number;
  pods: number;
  quality?: string;
}

export interface Totals extends Span {
  currency: string;
  billNano: number;
  allocatedNano: number;
  idleNano: Record<string, number>;
  unexplainedNano: number;
  estimatedNano: number;
}

export interface Report extends Totals {
  notes?: string[];
  by: string;
  lines: Line[];
}

export interface BillAnswer {
  report: Report;
  guard: Guard;
  labels?: string[];
}

export interface LiveStatus {
  now: string;
  speed: number;
  simulated: boolean;
  scenario?: string;
  from?: string;
  until?: string;
  state: string;
  message?: string;
  machines: number;
  pods: number;
  pending: number;
}

export interface ResourceChange {
  resource: string;
  beforeNano: number;
  afterNano: number;
  changeNano: number;
  effects: Record<string, number> | null;
  before?: Factors;
  after?: Factors;
}

export interface ChangeLine {
  key: string;
  beforeNano: number;
  afterNano: number;
  changeNano: number;
  residualNano: number;
  effects: Record<string, number> | null;
  resources: ResourceChange[] | null;
}

export interface DiffAnswer {
  before: Span;
  after: Span;
  currency: string;
  beforeNano: number;
  afterNano: number;
  changeNano: number;
  residualNano: number;
  effects: { effect: string; nano: number }[];
  lines: ChangeLine[] | null;
  notes?: string[];
  guard: Guard;
}

export interface StatusAnswer {
  title: string;
  simulated: boolean;
  zone: string;
  now: string;
  closed: Span | null;
  live: LiveStatus | null;
}

export interface Provisional extends Totals {
  guard: Guard;
}

export interface FlowAnswer extends Span {
  currency: string;
  billNano: number;
  nodes: { id: string; kind: string; name: string; nano: number }[];
  links: { source: string; target: string; nano: number }[];
  guard: Guard;
}

export type Curve = (number | null)[];

export interface DayAnswer extends Span {
  stepSeconds: number;
  points: number;
  pools: { name: string; bought: Curve; held: Curve; ready: Curve; used: Curve }[];
  modules: { name: string; load: Curve }[];
  money: { from: string; billNano: number; usedNano: number }[];
  notes: string[];
  currency: string;
  guard: Guard;
}

export type Vector = [cpuMilli: number, bytes: number, gpuMilli: number];

export interface MachineTile {
  name: string;
  pool: string;
  type: string;
  domain?: string;
  serverless?: boolean;
  closed?: boolean;
  capacity: Vector;
  pods: { module: number; name: string; request: Vector; use: Vector; waiting?: boolean; headroom?: boolean }[];
}

export interface MachinesAnswer {
  at: string;
  live: boolean;
  modules: string[];
  machines: MachineTile[];
  guard: Guard;
}

export interface IdleAnswer extends Span {
  currency: string;
  hours: string[];
  boxes: string[];
  totals: number[];
  machines: { name: string; pool: string; type: string; bill: number[]; boxes: Record<string, number[]> }[];
  guard: Guard;
}

export interface Decision {
  id: string;
  at: string;
  actor: string;
  lever: string;
  mode: string;
  action: string;
  subject: string;
  reason: string;
  inputs?: Record<string, string>;
  considered?: string[];
  predictedNano: number;
  realisedNano?: number;
  outcome: string;
}

export interface DecisionsAnswer {
  decisions: Decision[];
  left: number;
  currency: string;
  guard: Guard;
}

export interface ElasticPolicy {
  name: string;
  target: string;
  mode: string;
  winner?: string;
  replicas: Record<string, number>;
  demand: number | null;
  violations: number;
}

export interface ElasticAnswer {
  at: string;
  policies: ElasticPolicy[];
  notes: string[];
}

export interface ElasticDayAnswer extends Span {
  stepSeconds: number;
  points: number;
  policy: ElasticPolicy;
  replicas: Record<string, Curve>;
  demand: Curve;
  winners: (Span & { layer: string })[];
  pools: { name: string; planned: Curve; running: Curve }[];
  startP95: Record<string, number>;
  known: number;
  under: Span[];
  underSteps: number;
  unmet: number;
  money: { from: string; costNano: number; usedNano: number; quality: string }[];
  currency: string;
  decisions: Decision[];
  notes: string[];
}

export interface ColocatedNode {
  name: string;
  policy: string;
  step: string;
  milli: Record<string, number>;
  frozen: number;
  slack: number | null;
}

export interface ColocationAnswer {
  at: string;
  machines: ColocatedNode[];
  earned: { policy: string; currency: string; perHour: number }[];
  notes: string[];
}

export interface ColocationDayAnswer extends Span {
  stepSeconds: number;
  points: number;
  machine: string;
  milli: Record<string, Curve>;
  slack: Curve;
  waitMillis: Curve;
  steps: (Span & { layer: string })[];
  short: Span[];
  batchCoreHours: number;
  lostCoreHours: number;
  evictions: number;
  decisions: Decision[];
  notes: string[];
}

export interface GPUPod {
  namespace: string;
  name: string;
  gpus: number;
  milli: number; // of each
  memoryMiB: number; // of each
  reason?: string;
}

export interface GPUDevice {
  uuid: string;
  model: string;
  memoryMiB: number;
  healthy: boolean;
  reason?: string;
  idleMilli: number;
  idleMiB: number;
  pods: number[]; // of the host's, by index
}

export interface GPUHost {
  name: string;
  pool?: string;
  priceNano: number;
  cpuLeftMilli: number;
  devices: GPUDevice[];
  pods: GPUPod[];
}

export interface GPUModel {
  model: string;
  gpus: number;
  sick: number;
  allocatedMilli: number;
  idleMilli: number;
  fragmentMilli: number;
}

export interface GPUMove {
  pod: string; // namespace/name
  from: string;
  fromDevices: string[];
  to: string;
  toDevices: string[];
  milli: number;
  memoryMiB: number;
  seconds: number;
  state: string;
  message?: string;
}

export interface GPUPlan {
  name: string;
  goal: string;
  mode: string;
  phase: string;
  reason?: string;
  moves: GPUMove[];
  peakGPUs: string;
  peakMachines: number;
  freed: string[];
  freedNano: number;
  lostSeconds: number;
}

export interface GPUsAnswer {
  at: string;
  hosts: GPUHost[];
  models: GPUModel[];
  waiting: GPUPod[];
  capacityMilli: number;
  allocatedMilli: number;
  waitingMilli: number;
  boundMilli: number;
  gapMilli: number;
  used: number;
  empty: number;
  usedNano: number;
  leastNano: number;
  gapNano: number;
  unpriced: number;
  currency: string;
  plans: GPUPlan[];
  notes: string[];
}

// ask fetches one answer. An Error's message is the server's sentence.
export async function ask<T>(route: string, query: Record<string, string | undefined>, signal?: AbortSignal): Promise<T> {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v) q.set(k, v);
  const search = q.toString();
  let res: Response;
  let text: string;
  try {
    res = await fetch(`api/v1/${route}${search ? "?" + search : ""}`, { signal, headers: { Accept: "application/json" } });
    text = await res.text();
  } catch (e) {
    if (signal?.aborted) throw e; // also while the body came: half an answer is none
    throw new Error("unreachable");
  }
  let body: { error?: string };
  try {
    body = JSON.parse(text);
  } catch {
    throw new Error(`${res.status} ${res.statusText}`);
  }
  if (!res.ok) throw new Error(body.error ?? `${res.status} ${res.statusText}`);
  return body as T;
}
