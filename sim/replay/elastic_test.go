package replay

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/scenario"
)

// school is a small school with all layers: a ramp up in the evening, classes, a
// floor by the clock and one by a person, on machines, GPU machines and
// serverless capacity.
const school = `
name: evening
start: 2026-09-16T17:00
zone: Asia/Shanghai
length: 4h
seed: 7
machineTypes:
  - {name: box, cpu: 8, memory: 32Gi, pricePerHour: 0.4}
  - {name: gpubox, cpu: 16, memory: 64Gi, gpu: 2, pricePerHour: 2}
  - {name: pod-hours, perCoreHour: 0.1, perGiBHour: 0.01}
pools:
  - {name: own, kind: Machines, machineType: box, order: 1, count: 6, elastic: {count: 2}}
  - {name: gpu, kind: SpareOnGPUMachines, machineType: gpubox, order: 2, count: 1, taint: true, guard: {cpuPerGPU: 5, memoryPerGPU: 8Gi}}
  - {name: pods, kind: Serverless, machineType: pod-hours, order: 3}
series:
  - {name: evening, noise: 2%, shape: [1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,3,4,20,20,4,2,1,1]}
classes:
  api:
    kind: online
    pools: [own]
    requests: {cpu: 1, memory: 2Gi}
    limits: {cpu: 2, memory: 4Gi}
    cpuPerRequest: 5ms
    serviceTime: 20ms
    start: {schedule: 1s, imagePull: 5s, readiness: 20s}
    targets: {success: 99%, p99: 500ms}
    elastic: {min: 2, max: 60, target: 60%, pools: [own, gpu, pods]}
timetables:
  - {name: lessons, namespace: live, sessions: [{course: maths, start: "2026-09-16T19:00", minutes: 60, enrolled: 3500}]}
calendar: [{date: 2026-10-01, kind: Holiday}]
modules:
  - {name: room, namespace: live, class: api, replicas: 24, elastic: {timetable: {names: [lessons], perSeat: 1}}, load: {series: evening, peak: 2000, trough: 60}}
  - {name: chat, namespace: live, class: api, replicas: 10, elastic: {forecast: {}, cron: [{name: evening, start: "18:30", duration: 2h, days: [Workday], floor: 9}]}, load: {series: evening, peak: 600, trough: 20}}
  - {name: desk, namespace: live, class: api, replicas: 2, elastic: {manual: [{name: fair, floor: 4, from: 1h, until: 2h, reason: an open day, by: Li}]}, load: {series: evening, peak: 30, trough: 3}}
  - {name: ocr, namespace: ai, kind: inference, pools: [gpu], requests: {cpu: 5, memory: 8Gi, gpu: 1}, gpuPerRequest: 50ms, replicas: 2, load: {series: evening, peak: 10, trough: 1}}
`

func evening(t *testing.T) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Parse([]byte(school), "school.yaml", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnEveningOfPoliciesKeepsItsPromisesForLess(t *testing.T) {
	s := evening(t)
	r, err := Run(t.Context(), s, Options{})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	plain, err := Run(t.Context(), s.Scheduled(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with policies %s, without %s; %+v", r.Bill.BillNano, plain.Bill.BillNano, r.Counts)
	if r.Bill.BillNano >= plain.Bill.BillNano {
		t.Errorf("with policies it costs %s, without %s", r.Bill.BillNano, plain.Bill.BillNano)
	}
	byName := map[string]Module{}
	for _, m := range r.Modules {
		byName[m.Module] = m
		if m.HoursBad > 0 {
			t.Errorf("%s broke its promise for %d h: %+v", m.Module, m.HoursBad, m)
		}
		if m.Policy != nil && (m.Policy.Violations > 0 || m.Policy.Unplaced > 0) {
			t.Errorf("%s: %d replicas left out of turn, %d had no place", m.Module, m.Policy.Violations, m.Policy.Unplaced)
		}
	}
	for module, layer := range map[string]elastic.Layer{
		"live/Deployment/room": elastic.LayerTimetable, "live/Deployment/chat": elastic.LayerCron, "live/Deployment/desk": elastic.LayerManual,
	} {
		if p := byName[module].Policy; p == nil || p.Winners[string(layer)] == 0 {
			t.Errorf("the layer %s decided nothing for %s: %+v", layer, module, p)
		}
	}
	if n := byName["live/Deployment/room"].PodsMost; n < 15 {
		t.Errorf("a class of 3,500 that was never there before and a load of 2000 a second had %d replicas at most", n)
	}
	// All three pools were used, the serverless one only in the evening.
	for _, pt := range r.Curves {
		for _, p := range pt.Pools {
			if p.Name == "pods" && p.Ready > 0 && pt.T.Hour() == 17 && pt.T.Minute() < 30 {
				t.Errorf("at %s there are %d serverless replicas beside free machines", pt.T.Format(time.TimeOnly), p.Ready)
			}
		}
	}
	if r.Counts.ServerlessPods == 0 {
		t.Error("nothing was bought by the pod at the peak")
	}
}

// The guard keeps for each GPU what its pods need, however full the machine is.
func TestPodsWithoutAGPUTakeOnlyWhatTheGuardLeaves(t *testing.T) {
	r, err := Run(t.Context(), evening(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Counts.PendingLeft > 0 || r.Counts.WaitingGPU > 0 {
		t.Errorf("pods with a GPU waited: %+v", r.Counts)
	}
	for _, h := range r.Hours {
		for _, p := range h.Pools {
			if p.Name == "gpu" && p.RequestedMilli > 15_700 {
				t.Errorf("%d m are requested of the GPU machine's 15680", p.RequestedMilli)
			}
		}
	}
}

func TestEveryDecisionOfAPolicyIsInTheLedgerWithWhoWonAndWhy(t *testing.T) {
	r, err := Run(t.Context(), evening(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	layers := map[string]bool{}
	ids := map[string]bool{}
	for _, d := range r.Decisions {
		if ids[d.ID] {
			t.Errorf("two rows have the ID %s", d.ID)
		}
		ids[d.ID] = true
		if d.Actor != "scaler" {
			continue
		}
		layers[d.Inputs["winner"]] = true
		if d.Reason == "" || d.Inputs["desired"] == "" || d.Inputs["load"] == "" || d.Inputs["reactive load"] == "" || d.Inputs["pool own"] == "" || d.Lever != "elastic" || d.Mode != "Auto" {
			t.Errorf("a row says too little: %+v", d)
		}
	}
	for _, want := range []string{"cron", "manual", "timetable", "reactive"} {
		if !layers[want] {
			t.Errorf("no row says that %s won; those that did are %v", want, slices.Sorted(maps.Keys(layers)))
		}
	}
}

func TestPoliciesGiveTheSameBytesTwice(t *testing.T) {
	s := evening(t)
	past := Before(s)
	text := func(o Options) string {
		r, err := Run(t.Context(), s, o)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal([]any{r, r.Facts})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := text(Options{Past: past})
	if text(Options{Past: past}) != first || text(Options{}) != first {
		t.Error("two runs differ")
	}
}

// A policy that only watches decides for the ledger and changes nothing: the
// module keeps its own replicas and pools.
func TestAPreviewedPolicyLeavesTheReplicasAlone(t *testing.T) {
	s, err := scenario.Parse([]byte(strings.ReplaceAll(school, "elastic: {min: 2,", "elastic: {mode: Preview, min: 2,")), "school.yaml", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), s, Options{Until: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Modules {
		if spec := s.Module(workloadOf(t, s, m.Module)); m.Policy != nil && m.PodsMost != spec.Replicas {
			t.Errorf("%s had %d replicas, and its own are %d", m.Module, m.PodsMost, spec.Replicas)
		}
	}
	if r.Counts.ServerlessPods > 0 {
		t.Errorf("%d pods were bought where only a policy names the pool", r.Counts.ServerlessPods)
	}
	if !slices.ContainsFunc(r.Decisions, func(d bill.Decision) bool { return d.Actor == "scaler" && d.Mode == "Preview" }) {
		t.Error("nothing in the ledger says what the policies would have done")
	}
}

func workloadOf(t *testing.T, s *scenario.Scenario, name string) workload.Key {
	t.Helper()
	for i := range s.Modules {
		if k := s.Modules[i].Key(); k.String() == name {
			return k
		}
	}
	t.Fatalf("there is no module %s", name)
	return workload.Key{}
}

func TestCompareSizesTheReservedDayAndFindsTheBreakEven(t *testing.T) {
	s := evening(t)
	c, err := Compare(t.Context(), CompareOptions{Scenario: s, Ratios: []float64{1, 4}, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	rows := map[Case]CaseRow{}
	for _, r := range c.Rows {
		rows[r.Case] = r
		if !r.GuardGreen {
			t.Errorf("%s breaks promises that the scheduled day keeps: %v", r.Case, r.Broken)
		}
		sum := r.Pools[0].BillNano + r.Pools[1].BillNano + r.Pools[2].BillNano
		if sum != r.BillNano {
			t.Errorf("%s: the pools cost %s together, the bill is %s", r.Case, sum, r.BillNano)
		}
	}
	if rows[Reserved].BillNano <= rows[Elastic].BillNano || rows[Reserved].Pools[2].BillNano != 0 {
		t.Errorf("reserved costs %s, elastic %s; reserved has %+v", rows[Reserved].BillNano, rows[Elastic].BillNano, rows[Reserved].Pools)
	}
	if one, four := c.Curve[0], c.Curve[1]; one.Machines > four.Machines || one.BillNano > four.BillNano {
		t.Errorf("the dearer serverless is, the more machines are worth owning: %+v, %+v", one, four)
	}
	if _, err := Compare(t.Context(), CompareOptions{Scenario: s.Scheduled(), Cases: []Case{Elastic}}); err == nil || !strings.Contains(err.Error(), "elastic policy") {
		t.Errorf("a scenario without policies: %v", err)
	}
}
