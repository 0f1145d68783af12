package openb

import (
	"context"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/neap-dev/neap/core/gpu"
)

// A Row is one run at one level, as `neap replay gpu` prints it.
type Row struct {
	Trace              string   `json:"trace"`
	Policy             string   `json:"policy"`
	Seed               int64    `json:"seed"`
	ArrivedPercent     int      `json:"arrivedPercent"`
	UnallocatedPercent float64  `json:"unallocatedPercent"`
	FragPercent        float64  `json:"fragPercent"`
	EmptyMachines      int      `json:"emptyMachines"`
	BoundUnallocated   *float64 `json:"boundUnallocatedPercent,omitempty"` // only if asked for
	DecisionMicrosP50  float64  `json:"decisionMicrosP50"`                 // measured
	DecisionMicrosP99  float64  `json:"decisionMicrosP99"`                 // measured
}

// A Matrix is what [Matrix.Run] plays: every trace with every seed and policy.
type Matrix struct {
	Traces   []*Trace
	Seeds    []int64
	Policies []string
	At       []int // levels, 0 to [MaxLevel]
	Bound    bool
	Workers  int // at most so many runs at once; below 1 means 1
}

// Run plays the matrix and returns its rows by trace, policy, seed and level in the
// order given. A level in which nothing arrived has no row.
func (x Matrix) Run(ctx context.Context) ([]Row, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type job struct{ trace, policy, seed int } // policy −1: the bound
	results := make([]*Result, len(x.Traces)*len(x.Policies)*len(x.Seeds))
	bounds := make([][]float64, len(x.Traces)*len(x.Seeds))
	jobs := make(chan job)
	var wait sync.WaitGroup
	for range max(1, x.Workers) {
		wait.Go(func() {
			for j := range jobs {
				t, seed := x.Traces[j.trace], x.Seeds[j.seed]
				if j.policy < 0 {
					bounds[j.trace*len(x.Seeds)+j.seed] = Floors(t, seed, x.At)
					continue
				}
				r, err := Run(ctx, t, Options{Policy: x.Policies[j.policy], Seed: seed})
				if err != nil {
					cancel(fmt.Errorf("%s, seed %d: %w", t.Name, seed, err))
					continue
				}
				results[(j.trace*len(x.Policies)+j.policy)*len(x.Seeds)+j.seed] = r
			}
		})
	}
	first := 0
	if x.Bound {
		first = -1
	}
feed:
	for t := range x.Traces {
		for p := first; p < len(x.Policies); p++ {
			for s := range x.Seeds {
				select {
				case jobs <- job{t, p, s}:
				case <-ctx.Done():
					break feed
				}
			}
		}
	}
	close(jobs)
	wait.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	rows := []Row{}
	for t := range x.Traces {
		for p := range x.Policies {
			for s := range x.Seeds {
				r := results[(t*len(x.Policies)+p)*len(x.Seeds)+s]
				for i, at := range x.At {
					l := r.Levels[at]
					if l.Arrivals == 0 {
						continue
					}
					row := Row{
						Trace: x.Traces[t].Name, Policy: x.Policies[p], Seed: x.Seeds[s], ArrivedPercent: at,
						UnallocatedPercent: rounded(l.Unallocated), FragPercent: rounded(l.Fragments), EmptyMachines: l.Empty,
						DecisionMicrosP50: rounded(r.DecisionMicros), DecisionMicrosP99: rounded(r.DecisionP99),
					}
					if x.Bound {
						row.BoundUnallocated = &bounds[t*len(x.Seeds)+s][i]
					}
					rows = append(rows, row)
				}
			}
		}
	}
	return rows, nil
}

func rounded(v float64) float64 { return math.Round(v*1000) / 1000 }

// boundSteps bounds the work for one bound; a few thousand are the most seen.
const boundSteps = 20_000

// Floors returns for each level the least percent of the fleet's GPUs that any
// placement of what has arrived by the end of that level leaves unallocated,
// whichever pods it leaves out, with or without moving any: rounded down.
func Floors(t *Trace, seed int64, levels []int) []float64 {
	pods, nodes := Arrivals(t.Nodes, t.Pods, seed)
	machines := make([]gpu.Machine, len(nodes))
	var capacity int64
	for i, n := range nodes {
		machines[i] = n.Machine
		capacity += int64(n.Machine.GPUs) * gpu.Whole
	}
	floors := make([]float64, len(levels))
	for i, level := range levels {
		var arrived int64
		have := 0
		for _, p := range pods {
			arrived += p.Demand.GPU()
			if int(math.Round(100*float64(arrived)/float64(capacity))) > level {
				break
			}
			have++
		}
		most := gpu.Bound(machines, MixOf(pods[:have]), boundSteps)
		floors[i] = math.Floor(1e5*(1-float64(min(most, capacity))/float64(capacity))) / 1000
	}
	return floors
}

// A Published is what the benchmark's authors measured: percent of GPUs allocated,
// by trace, by our name of the policy, by seed and level.
type Published map[string]map[string]map[int64][]float64

// ReadPublished reads published_allo.csv. Policies we do not know are left out.
// Errors name file and line.
func ReadPublished(path string) (Published, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	in := csv.NewReader(f)
	head, err := in.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	column := func(name string) int { return slices.Index(head, name) }
	trace, policy, seed, zero := column("workload"), column("sc_policy"), column("seed"), column("0")
	if trace < 0 || policy < 0 || seed < 0 || zero < 0 || len(head) <= zero+MaxLevel || head[zero+MaxLevel] != strconv.Itoa(MaxLevel) {
		return nil, fmt.Errorf("%s:1: the first line must name the columns workload, sc_policy, seed and 0 to %d", path, MaxLevel)
	}
	all, err := in.ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p := Published{}
	for i, r := range all {
		at := slices.IndexFunc(policies, func(q policyInfo) bool { return q.published != "" && q.published == r[policy] })
		if at < 0 {
			continue
		}
		s, err := strconv.ParseInt(r[seed], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: seed: %q is not a whole number", path, i+2, r[seed])
		}
		levels := make([]float64, MaxLevel+1)
		for k := range levels {
			if levels[k], err = strconv.ParseFloat(r[zero+k], 64); err != nil {
				return nil, fmt.Errorf("%s:%d: %d: %q is not a number", path, i+2, k, r[zero+k])
			}
		}
		name := strings.TrimPrefix(r[trace], "openb_pod_list_")
		if p[name] == nil {
			p[name] = map[string]map[int64][]float64{}
		}
		if p[name][policies[at].name] == nil {
			p[name][policies[at].name] = map[int64][]float64{}
		}
		p[name][policies[at].name][s] = levels
	}
	return p, nil
}

// Unallocated returns the mean over the seeds of the percent of GPUs that were not
// allocated at a level, and false if one of the seeds was not published.
func (p Published) Unallocated(trace, policy string, seeds []int64, level int) (float64, bool) {
	var sum float64
	for _, s := range seeds {
		levels := p[trace][policy][s]
		if levels == nil {
			return 0, false
		}
		sum += 100 - levels[level]
	}
	return sum / float64(len(seeds)), len(seeds) > 0
}

// A Mean is rows of one trace, policy and level, averaged over the seeds.
type Mean struct {
	Trace, Policy                              string
	ArrivedPercent                             int
	Seeds                                      []int64
	Unallocated, Deviation, Frag, Empty, Floor float64 // Deviation: of Unallocated over the seeds; Floor −1 if not asked for
	Micros                                     float64 // mean of the medians
}

// Means averages rows over their seeds, in the order of first appearance.
func Means(rows []Row) []Mean {
	type key struct {
		trace, policy string
		at            int
	}
	index := map[key]int{}
	var means []Mean
	var squares []float64
	for _, r := range rows {
		k := key{r.Trace, r.Policy, r.ArrivedPercent}
		i, ok := index[k]
		if !ok {
			i = len(means)
			index[k] = i
			means = append(means, Mean{Trace: r.Trace, Policy: r.Policy, ArrivedPercent: r.ArrivedPercent})
			squares = append(squares, 0)
		}
		m := &means[i]
		m.Seeds = append(m.Seeds, r.Seed)
		m.Unallocated += r.UnallocatedPercent
		squares[i] += r.UnallocatedPercent * r.UnallocatedPercent
		m.Frag += r.FragPercent
		m.Empty += float64(r.EmptyMachines)
		m.Micros += r.DecisionMicrosP50
		if r.BoundUnallocated != nil {
			m.Floor += *r.BoundUnallocated
		} else {
			m.Floor--
		}
	}
	for i := range means {
		m := &means[i]
		n := float64(len(m.Seeds))
		m.Unallocated /= n
		m.Deviation = math.Sqrt(max(0, squares[i]/n-m.Unallocated*m.Unallocated))
		m.Frag /= n
		m.Empty /= n
		m.Micros /= n
		m.Floor /= n
	}
	return means
}
