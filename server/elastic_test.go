package server_test

import (
	"math"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/server"
)

type elasticDay struct {
	From, To    time.Time
	StepSeconds int64
	Points      int
	Policy      struct {
		Name, Target, Mode, Winner string
		Replicas                   map[string]float64
	}
	Replicas map[string][]*float64
	Demand   []*float64
	Winners  []struct {
		From, To time.Time
		Layer    string
	}
	Pools []struct {
		Name             string
		Planned, Running []*float64
	}
	StartP95   map[string]float64
	Known      int
	Under      []struct{ From, To time.Time }
	UnderSteps int
	Unmet      float64
	Money      []struct{ CostNano int64 }
	Decisions  []bill.Decision
	Notes      []string
}

func TestThePoliciesAreListedAsTheyStand(t *testing.T) {
	f := fleet(t)
	a := get[struct {
		Policies []struct {
			Name, Target, Winner string
			Replicas             map[string]float64
			Demand               *float64
		}
	}](t, server.New(server.Options{Store: f, Metrics: f, Live: f, Assets: page}), "/api/v1/elastic")
	if len(a.Policies) != 4 || a.Policies[1].Name != "live/chat" || a.Policies[1].Target != "live/Deployment/chat" {
		t.Fatalf("policies %+v", a.Policies)
	}
	for _, p := range a.Policies {
		if p.Winner == "" || p.Replicas[p.Winner] != p.Replicas["desired"] || p.Demand == nil {
			t.Errorf("%s: %+v", p.Name, p)
		}
	}
}

// TestAWorkloadsDayAddsUp holds the day of a workload against itself: the winner
// of each minute said what was desired, the pools hold it, and the minutes that
// were short are counted.
func TestAWorkloadsDayAddsUp(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Metrics: f, Live: f, Assets: page})
	d := get[elasticDay](t, h, "/api/v1/elastic/day?policy="+url.QueryEscape("live/chat"))
	if d.Points != 24*60 || d.StepSeconds != 60 || !d.To.Equal(f.Now().Truncate(time.Minute)) {
		t.Fatalf("%d points of %d s up to %v", d.Points, d.StepSeconds, d.To)
	}
	won := make([]string, d.Points)
	for _, w := range d.Winners {
		for at := w.From; at.Before(w.To); at = at.Add(time.Minute) {
			won[int(at.Sub(d.From)/time.Minute)] = w.Layer
		}
	}
	known, under, demand, unmet := 0, 0, 0.0, 0.0
	for i := range d.Points {
		desired := d.Replicas["desired"][i]
		if desired == nil { // the gap at four in the morning
			if won[i] != "" {
				t.Fatalf("point %d has the winner %q in a gap", i, won[i])
			}
			continue
		}
		if said := d.Replicas[won[i]][i]; said == nil || *said != *desired {
			t.Fatalf("point %d: %q won with %v, desired %v", i, won[i], said, *desired)
		}
		sum := 0.0
		for _, p := range d.Pools {
			sum += *p.Planned[i]
		}
		if math.Abs(sum-*desired) > 1e-3**desired {
			t.Fatalf("point %d: the pools plan %v of %v", i, sum, *desired)
		}
		known++
		demand += *d.Demand[i]
		if lack := *d.Demand[i] - *d.Replicas["ready"][i]; lack > 0 {
			under++
			unmet += lack
		}
	}
	if d.Known != known || d.UnderSteps != under || known != 24*60-20 || math.Abs(d.Unmet-unmet/demand) > 1e-4 {
		t.Errorf("known %d, under %d, unmet %v; want %d, %d, %v", d.Known, d.UnderSteps, d.Unmet, known, under, unmet/demand)
	}
	if len(d.Money) != 24 || len(d.Decisions) == 0 || d.StartP95["burst"] != 9 {
		t.Errorf("%d hours of money, %d decisions, start times %v", len(d.Money), len(d.Decisions), d.StartP95)
	}
	if !slices.IsSortedFunc(d.Decisions, func(a, b bill.Decision) int { return b.At.Compare(a.At) }) {
		t.Error("the newest decision is not first")
	}
}

func TestAShortageIsShown(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Metrics: f, Live: f, Assets: page})
	d := get[elasticDay](t, h, "/api/v1/elastic/day?policy=live%2Fgateway")
	short := 0
	for _, u := range d.Under {
		short += int(u.To.Sub(u.From) / time.Minute)
	}
	if short != d.UnderSteps {
		t.Errorf("stretches of %d minutes, %d counted", short, d.UnderSteps)
	}
}

// TestWithoutMetricsTheElasticPagesSaySo has no metrics: no policy is known, and
// that is no error.
func TestWithoutMetricsTheElasticPagesSaySo(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Assets: page, Now: f.Now})
	for _, path := range []string{"/api/v1/elastic", "/api/v1/elastic/day?policy=live%2Fchat"} {
		if a := get[elasticDay](t, h, path); !slices.Equal(a.Notes, []string{"no-metrics"}) {
			t.Errorf("%s: notes %q", path, a.Notes)
		}
	}
}
