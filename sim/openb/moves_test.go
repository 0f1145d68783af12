package openb

import (
	"context"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/internal/shareddata"
)

func TestChurnKeepsTheBooks(t *testing.T) {
	trace := small(t)
	for seed := range int64(20) {
		var arrived int64
		for _, policy := range []string{"neap", "fgd", "bestfit", "random"} {
			for _, moves := range []int{0, 100, 5000} {
				opts := ChurnOptions{Options: Options{Policy: policy, Seed: seed}, OfferedPercent: 110, Arrivals: 60, MovesPerThousand: moves}
				r, err := Churn(context.Background(), trace, opts)
				if err != nil {
					t.Fatalf("%s: %v", policy, err)
				}
				if r.Arrivals != 60 || 1000*r.Moves > 60*moves || r.RejectedMilli > r.ArrivedMilli || r.HeldPercent < 0 || r.HeldPercent > 100 || r.Admitted > r.Moves {
					t.Errorf("%s, seed %d, %d moves: %+v", policy, seed, moves, r)
				}
				if arrived != 0 && r.ArrivedMilli != arrived {
					t.Errorf("%s, seed %d, %d moves: %d milli arrived, %d for others", policy, seed, moves, r.ArrivedMilli, arrived)
				}
				arrived = r.ArrivedMilli
				if again, _ := Churn(context.Background(), trace, opts); !reflect.DeepEqual(r, again) {
					t.Errorf("%s, seed %d: %+v, then %+v", policy, seed, r, again)
				}
			}
		}
	}
	if _, err := Churn(context.Background(), trace, ChurnOptions{Options: Options{Policy: "clustering"}}); err == nil {
		t.Error("a policy that knows no departures is played")
	}
}

func TestRepackGivesBackWhatItSays(t *testing.T) {
	trace := small(t)
	for _, policy := range Policies() {
		for seed := range int64(10) {
			r, err := Repack(context.Background(), trace, Options{Policy: policy, Seed: seed}, 60, gpu.Options{}, true)
			if err != nil { // it verifies the plan itself
				t.Fatalf("%s, seed %d: %v", policy, seed, err)
			}
			if after := r.Plan.After; int64(after.GPUs) < *r.BoundGPUs || int64(after.Machines) < *r.BoundMachines {
				t.Errorf("%s, seed %d: %+v is below the bounds %d and %d", policy, seed, after, *r.BoundGPUs, *r.BoundMachines)
			}
		}
	}
}

func TestLoadSecondsFollowTheQuantiles(t *testing.T) {
	const n = 10_000
	below := 0
	for i := range n {
		s := loadSeconds(i)
		if s < 0 || s > 80 {
			t.Fatalf("pod %d loads %d s", i, s)
		}
		if s <= 23 {
			below++
		}
	}
	if below < n*48/100 || below > n*53/100 {
		t.Errorf("%d of %d load within 23 s; the median is 22.7", below, n)
	}
}

// What is promised: repacking as it is, less is rejected than by the others, and
// machines come back.
func TestRepackingPays(t *testing.T) {
	if testing.Short() {
		t.Skip("plays thousands of arrivals")
	}
	dir := filepath.Join(shareddata.Dir(t), "openb")
	var models Catalogue
	nodes, err := ReadNodes(filepath.Join(dir, "openb_node_list_gpu_node.csv"), &models)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := ReadPods(filepath.Join(dir, "openb_pod_list_default.csv"), &models)
	if err != nil {
		t.Fatal(err)
	}
	trace := &Trace{Name: "default", Nodes: nodes, Pods: pods}
	rejected := func(policy string, moves int) int64 {
		r, err := Churn(context.Background(), trace, ChurnOptions{Options: Options{Policy: policy, Seed: 42}, OfferedPercent: 95, Arrivals: 6000, MovesPerThousand: moves})
		if err != nil {
			t.Fatal(err)
		}
		return r.RejectedMilli
	}
	ours, fgd, bestfit := rejected("neap", 30), rejected("fgd", 0), rejected("bestfit", 0)
	if 10*ours > fgd || 10*ours > bestfit {
		t.Errorf("neap with 30 moves for a thousand arrivals rejects %d milli, fgd %d, bestfit %d; it should be a tenth at most", ours, fgd, bestfit)
	}
	r, err := Repack(context.Background(), trace, Options{Policy: "random", Seed: 42}, 80, gpu.Options{MaxMoves: 600}, false)
	if err != nil {
		t.Fatal(err)
	}
	if p := r.Plan; p.Before.GPUs-p.After.GPUs < 500 || len(p.Moves) > 600 {
		t.Errorf("%d moves bring the GPUs of used machines from %d to %d; 600 should give 500 back", len(p.Moves), p.Before.GPUs, p.After.GPUs)
	}
}
