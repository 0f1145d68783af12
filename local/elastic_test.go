package local_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/store"
)

// An evening over three pools: the load rises sixfold and falls again, and one
// module has a floor by the clock.
const threePools = `
name: three-pools
start: 2026-09-16T18:00
zone: Asia/Shanghai
length: 3h
seed: 11
machineTypes:
  - {name: gpubox, cpu: 16, memory: 64Gi, gpu: 2, pricePerHour: 2}
  - {name: pod-hours, perCoreHour: 0.06, perGiBHour: 0.006}
pools:
  - {name: own, kind: Machines, machineType: m6a.2xlarge, order: 1, count: 3}
  - {name: gpu, kind: SpareOnGPUMachines, machineType: gpubox, order: 2, count: 1, taint: true, guard: {cpuPerGPU: 5, memoryPerGPU: 8Gi}}
  - {name: pods, kind: Serverless, machineType: pod-hours, order: 3}
series:
  - {name: evening, noise: 2%, shape: [1,1,1,1,1,1,1,1,2,2,2,2,2,2,2,2,3,4,6,12,6,3,2,1]}
modules:
  - name: room
    namespace: live
    kind: online
    pools: [own]
    replicas: 30
    requests: {cpu: 1, memory: 2Gi}
    limits: {cpu: 2, memory: 4Gi}
    cpuPerRequest: 5ms
    serviceTime: 20ms
    start: {schedule: 100ms, imagePull: 3s, readiness: 8s}
    targets: {success: 99%, p99: 500ms}
    load: {series: evening, peak: 3600, trough: 200}
    elastic: {min: 2, max: 60, target: 60%, pools: [own, gpu, pods], forecast: {historyDays: 4}}
  - name: chat
    namespace: live
    kind: online
    pools: [own]
    replicas: 4
    requests: {cpu: 500m, memory: 1Gi}
    cpuPerRequest: 5ms
    start: {imagePull: 3s, readiness: 8s}
    load: {series: evening, peak: 100, trough: 10}
    elastic: {min: 1, max: 20, pools: [own, gpu, pods], cron: [{name: evening, start: "18:30", duration: 90m, floor: 7}]}
`

func TestPoliciesPlayLiveAsTheyDoInTheReplay(t *testing.T) {
	clustertest.Need(t)
	s, err := scenario.Parse([]byte(threePools), "three-pools.yaml", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const until = 2*time.Hour + 30*time.Minute
	dir := t.TempDir()
	live, err := local.Up(t.Context(), local.Options{Scenario: s, Dir: dir, Speed: 600, Until: until, Listen: "127.0.0.1:0", Out: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	closes(t, live.Bill)
	same, err := replay.Run(t.Context(), s, replay.Options{Until: until})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("live %s, replay %s; the day's pace %v in %.0f s", live.Bill.BillNano, same.Bill.BillNano, until, live.WallSeconds)
	// The 2 % are held by neap bench local --only day: at 600 times real speed a
	// busy machine's seconds are minutes of the day, and must not fail here.
	near(t, "the bill", float64(live.Bill.BillNano), float64(same.Bill.BillNano), 12)

	// The ledger says who won and why, live as in the replay.
	rows := func(all []bill.Decision) (scaled int, layers map[string]bool) {
		layers = map[string]bool{}
		for _, d := range all {
			if d.Actor == "scaler" && d.Action == "scale" {
				scaled++
				for k := range d.Inputs {
					layers[k] = true
				}
				if d.Reason == "" {
					t.Errorf("a decision has no reason: %+v", d)
				}
			}
		}
		return scaled, layers
	}
	kept, err := store.OpenRead(local.StoreDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	ledger, err := kept.Decisions(t.Context(), s.Start, s.Start.Add(until))
	if err != nil {
		t.Fatal(err)
	}
	n, layers := rows(ledger)
	m, _ := rows(same.Decisions)
	if n == 0 || n < m/3 || n > m*3 {
		t.Errorf("the policies scaled %d times live and %d times in the replay", n, m)
	}
	for _, want := range []string{"reactive load", "cron evening"} {
		if !layers[want] {
			t.Errorf("no row of the ledger has what the layer %s said; they have %v", want, layers)
		}
	}

	// Every minute was decided, and the page can ask what every layer said.
	db, err := metrics.Open(filepath.Join(dir, "metrics"), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	from, to := s.Start.Add(10*time.Minute), s.Start.Add(until-time.Minute)
	for _, query := range []string{
		`neap_elastic_replicas{policy="room",layer="reactive"}`, `neap_elastic_replicas{policy="room",layer="desired"}`,
		`neap_elastic_pool_replicas{policy="room",pool="pods",state="planned"}`, `neap_elastic_demand{policy="room"}`,
	} {
		got, err := db.Range(t.Context(), query, from, to, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		points := 0
		for _, g := range got {
			points = max(points, len(g.Points))
		}
		if want := int(to.Sub(from)/time.Minute) * 9 / 10; points < want {
			t.Errorf("%s has %d points in %v, want %d", query, points, to.Sub(from), want)
		}
	}
	// The past that the forecasts learn from is there, and says nothing of the day.
	got, err := db.Instant(t.Context(), `sum(rate(http_requests_total{module="room"}[10m]))`, s.Start.Add(-24*time.Hour))
	if err != nil || len(got) != 1 || !(got[0].Points[0].V > 100) {
		t.Errorf("a day before the start the load is %+v, %v", got, err)
	}
	for _, d := range same.Decisions {
		if strings.Contains(d.Reason, "NaN") {
			t.Errorf("a reason reads %q", d.Reason)
		}
	}
}
