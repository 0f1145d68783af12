package server_test

import (
	"math"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/server"
)

type colocationDay struct {
	Points                        int
	Milli                         map[string][]*float64
	Slack, WaitMillis             []*float64
	Steps                         []struct{ Layer string }
	Short                         []struct{ From, To time.Time }
	BatchCoreHours, LostCoreHours float64
	Evictions                     float64
	Decisions                     []bill.Decision
	Notes                         []string
}

type colocationNow struct {
	Machines []struct {
		Name, Policy, Step string
		Milli              map[string]float64
		Frozen             int
		Slack              *float64
	}
	Earned []struct {
		Policy, Currency string
		PerHour          float64
	}
	Notes []string
}

// Two machines for an hour, told by PromQL as agents and controller do: what the page
// is told of each, and of both, adds up.
func TestColocationIsToldByMachineAndForAll(t *testing.T) {
	m, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	f := fleet(t)
	end := f.Now().Truncate(time.Hour)
	var samples []metrics.Sample
	write := func(v float64, labels ...string) {
		l := map[string]string{}
		for i := 0; i < len(labels); i += 2 {
			l[labels[i]] = labels[i+1]
		}
		samples = append(samples, metrics.Sample{Labels: l, V: v})
	}
	for i := range 61 {
		samples = samples[:0]
		for k, node := range []string{"a", "b"} {
			for metric, v := range map[string]float64{
				"neap_colocation_online_milli": 4000 + 1000*float64(k),
				"neap_colocation_batch_milli":  3000, "neap_colocation_budget_milli": 5000,
				"neap_colocation_batch_core_seconds_total": float64(i) * 180, "neap_colocation_frozen_pods": float64(k),
			} {
				write(v, "__name__", metric, "node", node)
			}
			write(6000, "__name__", "neap_batch_capacity_milli", "node", node, "policy", "night")
			write(1, "__name__", "neap_colocation_step", "node", node, "step", []string{"Idle", "Quota"}[k])
			write(0.0125, "__name__", "neap_colocation_runqueue_seconds", "node", node, "pod", "p", "quantile", "0.99")
			slack := 0.5
			if k == 1 && i >= 30 && i < 40 {
				slack = -0.1
			}
			write(slack, "__name__", "neap_colocation_slack", "node", node, "namespace", "live", "workload", "chat", "signal", "p99")
		}
		write(0.75, "__name__", "neap_batch_earned_per_hour", "policy", "night", "currency", "USD")
		if err := m.Append(t.Context(), end.Add(time.Duration(i-60)*time.Minute), samples); err != nil {
			t.Fatal(err)
		}
	}
	h := server.New(server.Options{Store: f, Metrics: m, Assets: page, Now: func() time.Time { return end }})
	now := get[colocationNow](t, h, "/api/v1/colocation")
	if len(now.Machines) != 2 || len(now.Notes) != 0 || len(now.Earned) != 1 || now.Earned[0].PerHour != 0.75 {
		t.Fatalf("%+v", now)
	}
	if b := now.Machines[1]; b.Name != "b" || b.Policy != "night" || b.Step != "Quota" || b.Frozen != 1 || b.Milli["online"] != 5000 || b.Milli["offered"] != 6000 || b.Slack == nil || *b.Slack != 0.5 {
		t.Errorf("machine b: %+v", b)
	}
	window := "?from=" + end.Add(-time.Hour).Format(time.RFC3339) + "&to=" + end.Format(time.RFC3339)
	one := get[colocationDay](t, h, "/api/v1/colocation/day"+window+"&machine=b")
	all := get[colocationDay](t, h, "/api/v1/colocation/day"+window)
	if one.Points != 60 || *one.Milli["online"][59] != 5000 || *all.Milli["online"][59] != 9000 || *all.Milli["offered"][0] != 12000 {
		t.Errorf("online of b and all: %v, %v", one.Milli["online"], all.Milli["online"])
	}
	if len(one.Steps) != 1 || one.Steps[0].Layer != "Quota" || len(all.Steps) != 1 || all.Steps[0].Layer != "Quota" {
		t.Errorf("steps %+v, %+v: the sternest of all counts", one.Steps, all.Steps)
	}
	if len(one.Short) != 1 || one.Short[0].To.Sub(one.Short[0].From) != 10*time.Minute {
		t.Errorf("without slack: %+v", one.Short)
	}
	if *all.WaitMillis[5] != 12.5 || math.Abs(all.BatchCoreHours-6) > 0.2 || math.Abs(one.BatchCoreHours-3) > 0.1 {
		t.Errorf("waits %v ms, batch %v and %v core-hours", *all.WaitMillis[5], one.BatchCoreHours, all.BatchCoreHours)
	}
}
