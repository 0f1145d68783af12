package openb

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/internal/shareddata"
)

const (
	nodeHead = "sn,cpu_milli,memory_mib,gpu,model\n"
	podHead  = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"
)

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	var models Catalogue
	nodes, err := ReadNodes(write(t, "n.csv", "\ufeff"+nodeHead+"a,32000,1024,0,\nb,96000,2048,2,T4\n"), &models)
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 2 || nodes[1].Name != "b" || nodes[1].Machine.CPU != 96000 || nodes[1].Machine.IdleMilli() != 2000 || nodes[0].Machine.GPUs != 0 {
		t.Errorf("got %+v", nodes)
	}
	pods, err := ReadPods(write(t, "p.csv", podHead+"p,1000,10,1,500,G2|T4\nq,2000,10,0,1000,T4\n"), &models)
	if err != nil {
		t.Fatal(err)
	}
	if want := (gpu.Demand{CPU: 1000, Memory: 10, Devices: 1, Milli: 500, Models: 3}); pods[0].Demand != want {
		t.Errorf("got %+v, want %+v", pods[0].Demand, want)
	}
	if want := (gpu.Demand{CPU: 2000, Memory: 10}); pods[1].Demand != want {
		t.Errorf("a pod without GPUs: got %+v, want %+v", pods[1].Demand, want)
	}
	if got := models.Names(); !slices.Equal(got, []string{"T4", "G2"}) {
		t.Errorf("models %v", got)
	}
	if _, err := ReadPods(write(t, "p.csv", "name,cpu_milli,memory_mib,num_gpu,gpu_milli\np,1000,10,1,500\n"), &models); err != nil {
		t.Errorf("a list without gpu_spec: %v", err)
	}
}

func TestMistakesAreNamedByFileAndLine(t *testing.T) {
	readNodes := func(path string) error { _, err := ReadNodes(path, &Catalogue{}); return err }
	readPods := func(path string) error { _, err := ReadPods(path, &Catalogue{}); return err }
	good := "p,1,1,1,500,\n"
	cases := map[string]struct {
		read func(string) error
		text string
		want []string
	}{
		"an empty file":                     {readPods, "", []string{"f.csv: is empty"}},
		"a column that is missing":          {readPods, "name,cpu_milli\n", []string{"f.csv:1: there is no column memory_mib"}},
		"a number that is none":             {readPods, podHead + "p,1.5,1,1,500,\n", []string{`f.csv:2: cpu_milli: "1.5" is not a whole number`}},
		"a number that is negative":         {readPods, podHead + good + "q,1,-1,1,500,\n", []string{"f.csv:3: memory_mib: -1 is negative"}},
		"a number out of all proportion":    {readPods, podHead + "p,9000000000000,1,1,500,\n", []string{"f.csv:2: cpu_milli: 9000000000000 is more than"}},
		"a number beyond any":               {readPods, podHead + "p,99999999999999999999,1,1,500,\n", []string{"f.csv:2: cpu_milli:"}},
		"more of a GPU than there is of it": {readPods, podHead + "p,1,1,1,1500,\n", []string{"f.csv:2: gpu milli 1500"}},
		"pieces of several GPUs":            {readPods, podHead + "p,1,1,2,500,\n", []string{"f.csv:2: gpu milli 500 of each of 2 GPUs"}},
		"a line too short":                  {readPods, podHead + good + "q,1\n", []string{"f.csv:3: 2 fields, but the first line names 6"}},
		"a quote that is not closed":        {readPods, podHead + "\"p,1,1,1,500,\n", []string{"f.csv:2: extraneous or missing"}},
		"all mistakes at once":              {readPods, podHead + "p,x,1,1,500,\nq,1,y,1,500,\n", []string{"f.csv:2: cpu_milli", "f.csv:3: memory_mib"}},
		"a name twice":                      {readPods, podHead + good + good, []string{`f.csv: "p" is named twice`}},
		"no pod for a GPU":                  {readPods, podHead + "p,1,1,0,0,\n", []string{"f.csv: no pod asks for a GPU"}},
		"GPUs without a model":              {readNodes, nodeHead + "a,1,1,2,\n", []string{"f.csv:2: model: is missing"}},
		"too many GPUs":                     {readNodes, nodeHead + "a,1,1,17,T4\n", []string{"f.csv:2: gpu: 17 are more"}},
		"no machine with a GPU":             {readNodes, nodeHead + "a,1,1,0,\n", []string{"f.csv: no machine has a GPU"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := tc.read(write(t, "f.csv", tc.text))
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want one with %q", err, want)
				}
			}
		})
	}
	t.Run("too many models", func(t *testing.T) {
		text := nodeHead
		for i := range gpu.MaxModels + 1 {
			text += string(rune('A'+i/10)) + string(rune('0'+i%10)) + ",1,1,1,m" + string(rune('A'+i/10)) + string(rune('0'+i%10)) + "\n"
		}
		if err := readNodes(write(t, "f.csv", text)); err == nil || !strings.Contains(err.Error(), "at most 64") {
			t.Errorf("got %v", err)
		}
	})
}

// small is a fleet of two machines and a workload that fills it.
func small(t *testing.T) *Trace {
	t.Helper()
	var models Catalogue
	nodes, err := ReadNodes(write(t, "n.csv", nodeHead+"a,8000,1000,2,T4\nb,8000,1000,2,G2\n"), &models)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := ReadPods(write(t, "p.csv", podHead+"p,1000,10,1,600,\nq,1000,10,1,400,T4\nr,1000,10,0,0,\ns,1000,10,2,1000,\n"), &models)
	if err != nil {
		t.Fatal(err)
	}
	return &Trace{Name: "small", Nodes: nodes, Pods: pods}
}

func TestRunKeepsTheBooks(t *testing.T) {
	trace := small(t)
	for _, policy := range Policies() {
		t.Run(policy, func(t *testing.T) {
			for seed := range int64(30) {
				r, err := Run(context.Background(), trace, Options{Policy: policy, Seed: seed})
				if err != nil {
					t.Fatal(err)
				}
				pods, _ := Arrivals(trace.Nodes, trace.Pods, seed)
				if r.Placed+r.Rejected != len(pods) {
					t.Fatalf("%d placed and %d rejected of %d", r.Placed, r.Rejected, len(pods))
				}
				before := 100.0
				levels := make([]int, MaxLevel+1)
				for k := range levels {
					levels[k] = k
				}
				floors := Floors(trace, seed, levels)
				for k, l := range r.Levels {
					if l.Arrivals == 0 {
						continue
					}
					if l.Unallocated > before || l.Unallocated < floors[k]-0.01 || l.Fragments < 0 || l.Fragments > l.Unallocated+0.01 || l.Empty < 0 || l.Empty > 2 {
						t.Fatalf("seed %d, level %d: %+v after %v, the floor being %v", seed, k, l, before, floors[k])
					}
					before = l.Unallocated
				}
			}
		})
	}
	if _, err := Run(context.Background(), trace, Options{Policy: "best"}); err == nil || !strings.Contains(err.Error(), "there are neap, fgd") {
		t.Errorf("an unknown policy: %v", err)
	}
	stopped, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(stopped, trace, Options{Policy: "neap"}); err == nil {
		t.Error("a run that was stopped has no error")
	}
}

func TestMatrixIsTheSameWithAnyNumberOfWorkers(t *testing.T) {
	x := Matrix{Traces: []*Trace{small(t)}, Seeds: []int64{1, 2, 3}, Policies: Policies(), At: []int{50, 100, 130}, Bound: true}
	var want []Row
	for _, workers := range []int{0, 1, 4} {
		x.Workers = workers
		got, err := x.Run(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if got[i].BoundUnallocated == nil || *got[i].BoundUnallocated > got[i].UnallocatedPercent+0.01 {
				t.Fatalf("row %+v is below the bound", got[i])
			}
			got[i].DecisionMicrosP50, got[i].DecisionMicrosP99, got[i].BoundUnallocated = 0, 0, nil
		}
		if want == nil {
			want = got
		}
		if !slices.Equal(got, want) || len(got) == 0 {
			t.Errorf("%d workers: %d rows that differ", workers, len(got))
		}
	}
}

// published returns the benchmark's fleet, one of its traces and its results.
func published(t *testing.T, trace string) (*Trace, Published) {
	t.Helper()
	dir := filepath.Join(shareddata.Dir(t), "openb")
	var models Catalogue
	nodes, err := ReadNodes(filepath.Join(dir, "openb_node_list_gpu_node.csv"), &models)
	if err != nil {
		t.Fatal(err)
	}
	pods, err := ReadPods(filepath.Join(dir, "openb_pod_list_"+trace+".csv"), &models)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ReadPublished(filepath.Join(dir, "published_allo.csv"))
	if err != nil {
		t.Fatal(err)
	}
	return &Trace{trace, nodes, pods}, p
}

func TestPublishedRunsAreMetToTheLastDigit(t *testing.T) {
	trace, theirs := published(t, "default")
	for _, policy := range []string{"fgd", "bestfit", "packing", "clustering", "dotprod"} {
		for _, seed := range []int64{42, 43} {
			r, err := Run(context.Background(), trace, Options{Policy: policy, Seed: seed})
			if err != nil {
				t.Fatal(err)
			}
			for k := range MaxLevel + 1 {
				want, _ := theirs.Unallocated("default", policy, []int64{seed}, k)
				if got := r.Levels[k].Unallocated; math.Abs(got-want) > 0.011 {
					t.Errorf("%s, seed %d, %d %% arrived: %.3f %% unallocated, published %.2f", policy, seed, k, got, want)
					break
				}
			}
		}
	}
}

func TestNeapAgainstThePublished(t *testing.T) {
	trace, theirs := published(t, "default")
	rows, err := Matrix{Traces: []*Trace{trace}, Seeds: []int64{42, 43}, Policies: []string{"neap"}, At: []int{50, 70, 80, 100}, Bound: true, Workers: 2}.Run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	fgdEmpty := map[int]float64{50: 568, 70: 320, 80: 191}
	for _, m := range Means(rows) {
		if m.Floor > m.Unallocated {
			t.Errorf("%d %%: %.2f is below the bound %.2f", m.ArrivedPercent, m.Unallocated, m.Floor)
		}
		if m.ArrivedPercent < 100 {
			if m.Empty <= fgdEmpty[m.ArrivedPercent] {
				t.Errorf("%d %%: %.0f machines are empty, published FGD leaves %.0f", m.ArrivedPercent, m.Empty, fgdEmpty[m.ArrivedPercent])
			}
			continue
		}
		fgd, _ := theirs.Unallocated("default", "fgd", m.Seeds, 100)
		if closed := (fgd - m.Unallocated) / (fgd - m.Floor); closed < 0.4 {
			t.Errorf("%.2f %% unallocated closes %.0f %% of the way from FGD's %.2f to the floor %.2f", m.Unallocated, 100*closed, fgd, m.Floor)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(nodeHead + "a,8000,1000,2,T4\n")
	f.Add(podHead + "p,1000,10,1,600,T4|G2\nq,1,1,2,1000,\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "f.csv")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if pods, err := ReadPods(path, &Catalogue{}); err == nil {
			for _, p := range pods {
				if err := p.Demand.Validate(); err != nil {
					t.Errorf("read %+v: %v", p, err)
				}
			}
		}
		if nodes, err := ReadNodes(path, &Catalogue{}); err == nil && len(nodes) == 0 {
			t.Error("read no machines")
		}
	})
}
