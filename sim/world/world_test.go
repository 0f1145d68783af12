package world

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/scenario"
)

var start = time.Date(2026, 9, 16, 0, 0, 0, 0, time.UTC)

// online is a module whose one request takes 10 ms of a core and 20 ms elsewhere.
func online(name string) scenario.Module {
	return scenario.Module{
		Name: name, Namespace: "school", Kind: scenario.Online, Pools: []string{"general"},
		Requests: resource.Vector{resource.CPU: 1000, resource.Memory: resource.GiB},
		Limits:   resource.Vector{resource.CPU: 2000, resource.Memory: 2 * resource.GiB},
		Needs: scenario.Needs{BaseCPU: 50, CPUPerRequest: 10 * time.Millisecond, BaseMemory: 256 * resource.MiB,
			MemoryPerRequest: resource.MiB, ServiceTime: 20 * time.Millisecond, Concurrency: 64, Timeout: 2 * time.Second},
		Load: &scenario.Demand{},
	}
}

func fleet(t testing.TB, machines, podsEach int, m ...scenario.Module) *World {
	t.Helper()
	w := New(m)
	n := 0
	for i := range machines {
		name := fmt.Sprintf("m%03d", i)
		w.AddMachine(Machine{Name: name, Pool: "general", Type: "m5.4xlarge", RatingMillis: 1000,
			Capacity: resource.Vector{resource.CPU: 16000, resource.Memory: 64 * resource.GiB}})
		for range podsEach {
			mod := m[n%len(m)]
			id := fmt.Sprintf("p%05d", n)
			if !w.AddPod(Pod{ID: id, Name: id, Namespace: mod.Namespace, Module: mod.Key(), Machine: name, Requests: mod.Requests, Limits: mod.Limits}, start) {
				t.Fatalf("pod %s was refused", id)
			}
			w.SetReady(id, start)
			n++
		}
	}
	return w
}

func constant(rps float64) func(workload.Key) float64 {
	return func(workload.Key) float64 { return rps }
}

func TestUseFollowsTheLoad(t *testing.T) {
	w := fleet(t, 1, 2, online("api"))
	f := w.Step(start, start.Add(time.Minute), constant(100))
	if got, want := f.Pods[0].Use[resource.CPU], int64(550); got != want { // 50 + 50·10 ms
		t.Errorf("a pod with half of 100 requests/s uses %d m, want %d m", got, want)
	}
	m := f.Modules[0]
	if m.Requests != 6000 || m.Failed != 0 || m.Success < 0.99999 {
		t.Errorf("the module met %+v", m)
	}
	if m.P99 < 50*time.Millisecond || m.P99 > 300*time.Millisecond {
		t.Errorf("p99 is %v", m.P99)
	}
	if len(m.Ready) != 1 || m.Ready[0] != (PoolCount{"general", 2}) {
		t.Errorf("ready is %v", m.Ready)
	}
	if f.Machines[0].Use[resource.CPU] != 1100 {
		t.Errorf("the machine used %v", f.Machines[0].Use)
	}
}

func TestTooMuchLoadIsThrottledAndFails(t *testing.T) {
	w := fleet(t, 1, 2, online("api"))
	f := w.Step(start, start.Add(time.Minute), constant(1000)) // 500 a pod; 2 cores carry 195
	if got := f.Pods[0].Use[resource.CPU]; got != 2000 {
		t.Errorf("a pod beyond its limit uses %d m, want its limit", got)
	}
	m := f.Modules[0]
	if m.Success < 0.37 || m.Success > 0.40 || m.Failed == 0 {
		t.Errorf("success is %v, want about 195/500", m.Success)
	}
	if m.P99 < time.Second {
		t.Errorf("p99 is %v although requests time out", m.P99)
	}
}

func TestLoadWithoutReadyPodsFails(t *testing.T) {
	w := New([]scenario.Module{online("api")})
	m := w.Step(start, start.Add(time.Minute), constant(10)).Modules[0]
	if m.Success != 0 || m.Failed != 600 {
		t.Errorf("got %+v", m)
	}
}

func TestAPodIsCountedForThePartOfTheStepItIsThere(t *testing.T) {
	w := fleet(t, 1, 1, online("api"))
	w.RemovePod("p00000", start.Add(30*time.Second))
	f := w.Step(start, start.Add(time.Minute), constant(10))
	p := f.Pods[0]
	if !p.Gone || p.To.Sub(p.From) != 30*time.Second || p.Use[resource.CPU] != 150 {
		t.Errorf("the last frame is %+v", p)
	}
	if p.CPUSeconds < 4.49 || p.CPUSeconds > 4.51 {
		t.Errorf("it used %v core-seconds, want 4.5", p.CPUSeconds)
	}
	if n := len(w.Step(start.Add(time.Minute), start.Add(2*time.Minute), constant(0)).Pods); n != 0 || w.Pods() != 0 {
		t.Errorf("%d pods are left", n)
	}
}

func TestCountersNeverLoseARequest(t *testing.T) {
	w := fleet(t, 2, 3, online("api"))
	sum, at := int64(0), start
	for range 100 {
		f := w.Step(at, at.Add(7*time.Second), constant(0.3))
		sum += f.Modules[0].Requests
		at = at.Add(7 * time.Second)
	}
	if sum < 209 || sum > 210 { // 0.3 · 700
		t.Errorf("counted %d requests, want 210", sum)
	}
}

func TestNoMachineUsesMoreThanItHas(t *testing.T) {
	w := fleet(t, 4, 40, online("a"), online("b"))
	for _, rps := range []float64{0, 10, 1e3, 1e4, 1e6} {
		f := w.Step(start, start.Add(time.Minute), constant(rps))
		for _, m := range f.Machines {
			if m.Use[resource.CPU] > m.Machine.Capacity[resource.CPU]+20 { // rounding of 40 pods
				t.Errorf("at %v requests/s machine %s uses %d m of %d m", rps, m.Machine.Name, m.Use[resource.CPU], m.Machine.Capacity[resource.CPU])
			}
		}
	}
}

func TestTheSameCallsGiveTheSameNumbers(t *testing.T) {
	run := func() string {
		w := fleet(t, 3, 10, online("a"), online("b"), online("c"))
		out, at := "", start
		for i := range 20 {
			f := w.Step(at, at.Add(time.Minute), constant(float64(i*37)))
			for _, p := range f.Pods {
				out += fmt.Sprint(p.Use, p.CPUSecondsTotal)
			}
			out += fmt.Sprint(f.Modules)
			at = at.Add(time.Minute)
		}
		return out
	}
	if a, b := run(), run(); a != b {
		t.Error("two runs differ")
	}
}

func BenchmarkStep(b *testing.B) {
	var mods []scenario.Module
	for i := range 60 {
		mods = append(mods, online(fmt.Sprintf("m%02d", i)))
	}
	w := fleet(b, 500, 20, mods...)
	at := start
	for b.Loop() {
		w.Step(at, at.Add(time.Minute), constant(5000))
		at = at.Add(time.Minute)
	}
}

// FuzzWorld plays a fleet at random and holds the laws: no machine uses more
// than it has, no pod more than its limit, counters never fall, and what is
// answered and what fails is what was asked.
func FuzzWorld(f *testing.F) {
	f.Add(uint64(1), 20)
	f.Add(uint64(99), 200)
	f.Fuzz(func(t *testing.T, seed uint64, steps int) {
		if steps < 0 || steps > 300 {
			return
		}
		r := rand.New(rand.NewPCG(seed, 1))
		mods := []scenario.Module{online("a"), online("b"), {Name: "job", Namespace: "school", Kind: scenario.Batch, Requests: resource.Vector{resource.CPU: 500, resource.Memory: resource.GiB},
			Work: &scenario.Work{Pods: 1, Use: resource.Vector{resource.CPU: 800, resource.Memory: resource.GiB}}}}
		w := New(mods)
		at, next := start, 0
		var machines, pods []string
		asked := map[workload.Key]float64{}
		total := map[workload.Key]int64{}
		cpu := map[string]float64{}
		for range steps {
			span := time.Duration(1+r.IntN(60_000)) * time.Millisecond
			within := func() time.Time { return at.Add(time.Duration(r.Int64N(int64(span)))) }
			for range r.IntN(6) {
				switch r.IntN(7) {
				case 0:
					name := fmt.Sprintf("m%d", next)
					next++
					w.AddMachine(Machine{Name: name, Pool: "p", RatingMillis: int64(500 + r.IntN(2000)), Serverless: r.IntN(5) == 0, Capacity: resource.Vector{resource.CPU: int64(r.IntN(8000)), resource.Memory: 8 * resource.GiB}})
					machines = append(machines, name)
				case 1, 2, 3:
					if len(machines) > 0 {
						m := mods[r.IntN(len(mods))]
						id := fmt.Sprintf("p%d", next)
						next++
						limits := resource.Vector{}
						if r.IntN(2) == 0 {
							limits[resource.CPU] = int64(1 + r.IntN(3000))
						}
						if w.AddPod(Pod{ID: id, Module: m.Key(), Machine: machines[r.IntN(len(machines))], Requests: m.Requests, Limits: limits}, within()) {
							pods = append(pods, id)
							w.SetReady(id, within())
						}
					}
				case 4:
					if len(pods) > 0 {
						w.RemovePod(pods[r.IntN(len(pods))], within())
					}
				case 5:
					if len(machines) > 0 && r.IntN(4) == 0 {
						w.RemoveMachine(machines[r.IntN(len(machines))])
					}
				case 6:
					if len(pods) > 0 {
						w.SetUnready(pods[r.IntN(len(pods))])
					}
				}
			}
			rps := float64(r.IntN(2000))
			frame := w.Step(at, at.Add(span), constant(rps))
			perMachine := map[string]float64{}
			for _, p := range frame.Pods {
				perMachine[p.Pod.Machine] += p.CPUSeconds
				if l := p.Pod.Limits[resource.CPU]; l > 0 && p.Use[resource.CPU] > l {
					t.Fatalf("pod %s uses %d m of its limit of %d m", p.Pod.ID, p.Use[resource.CPU], l)
				}
				if p.CPUSecondsTotal < cpu[p.Pod.ID] || math.IsNaN(p.CPUSecondsTotal) {
					t.Fatalf("the counter of %s falls from %v to %v", p.Pod.ID, cpu[p.Pod.ID], p.CPUSecondsTotal)
				}
				cpu[p.Pod.ID] = p.CPUSecondsTotal
			}
			for _, m := range frame.Machines {
				if have := float64(m.Machine.Capacity[resource.CPU]) / 1000 * span.Seconds(); !m.Machine.Serverless && perMachine[m.Machine.Name] > have+1e-6 {
					t.Fatalf("machine %s used %v core-seconds of %v", m.Machine.Name, perMachine[m.Machine.Name], have)
				}
			}
			for _, m := range frame.Modules {
				if m.Module.Kind == "Deployment" {
					asked[m.Module] += rps * span.Seconds()
				}
				total[m.Module] += m.Requests
				if m.Failed < 0 || m.FailedTotal > m.RequestsTotal || total[m.Module] != m.RequestsTotal {
					t.Fatalf("%s: %+v after %d", m.Module, m, total[m.Module])
				}
				if d := asked[m.Module] - float64(m.RequestsTotal); d < -1e-3 || d > 1+1e-3 {
					t.Fatalf("%s was asked %v and counts %d", m.Module, asked[m.Module], m.RequestsTotal)
				}
				below := int64(0)
				for _, n := range m.BucketTotals {
					if n < below || n > m.RequestsTotal {
						t.Fatalf("%s has the buckets %v of %d requests", m.Module, m.BucketTotals, m.RequestsTotal)
					}
					below = n
				}
				if m.Success < 0 || m.Success > 1 {
					t.Fatalf("%s succeeds %v", m.Module, m.Success)
				}
			}
			at = at.Add(span)
		}
	})
}

// A pod in a serverless pool is as large as what was bought for it: its limit
// does not make it larger.
func TestAServerlessPodHasWhatItAskedForAndNoMore(t *testing.T) {
	m := scenario.Module{Name: "api", Namespace: "shop", Kind: scenario.Online, Needs: scenario.Needs{CPUPerRequest: 10 * time.Millisecond, Timeout: time.Second}, Load: &scenario.Demand{}}
	use := func(serverless bool) int64 {
		w := New([]scenario.Module{m})
		w.AddMachine(Machine{Name: "a", Pool: "p", RatingMillis: 1000, Serverless: serverless, Capacity: resource.Vector{resource.CPU: 8000}})
		at := time.Unix(0, 0)
		w.AddPod(Pod{ID: "1", Module: m.Key(), Machine: "a", Requests: resource.Vector{resource.CPU: 1000}, Limits: resource.Vector{resource.CPU: 2000}}, at)
		w.SetReady("1", at)
		return w.Step(at, at.Add(time.Minute), func(workload.Key) float64 { return 150 }).Pods[0].Use[resource.CPU]
	}
	if on := use(false); on != 1500 {
		t.Errorf("on a machine it uses %d m of the 1500 m it wants", on)
	}
	if on := use(true); on != 1000 {
		t.Errorf("in a serverless pool it uses %d m, and 1000 m were bought", on)
	}
}

func TestBatchUsesWhatOthersLeave(t *testing.T) {
	online := scenario.Module{Name: "web", Namespace: "shop", Kind: scenario.Online, Needs: scenario.Needs{BaseCPU: 3000}, Load: &scenario.Demand{}}
	work := scenario.Module{Name: "etl", Namespace: "data", Kind: scenario.Batch, Colocate: true, Work: &scenario.Work{Pods: 1, Use: resource.Vector{resource.CPU: 8000}}}
	start := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	w := New([]scenario.Module{online, work})
	w.AddMachine(Machine{Name: "m", Capacity: resource.Vector{resource.CPU: 16_000, resource.Memory: 1 << 36}})
	w.AddPod(Pod{ID: "a", Module: online.Key(), Machine: "m", Requests: resource.Vector{resource.CPU: 4000}}, start)
	w.AddPod(Pod{ID: "b", Module: work.Key(), Machine: "m", Batch: true}, start)
	w.AddPod(Pod{ID: "c", Module: work.Key(), Machine: "m", Batch: true}, start)
	for _, id := range []string{"a", "b", "c"} {
		w.SetReady(id, start)
	}
	for _, tc := range []struct{ most, online, batch, budget int64 }{
		{12_800, 3000, 9800, 9800},     // four fifths of the machine, less what is used
		{2000, 3000, 20, 20},           // nothing is left: a hundredth of a core each
		{40_000, 3000, 13_000, 13_000}, // there is no more than the machine has
	} {
		w.Lend("m", tc.most)
		f := w.Step(start, start.Add(time.Minute), nil)
		start = start.Add(time.Minute)
		m := f.Machines[0]
		if !m.Lent || m.Online != tc.online || m.Batch != tc.batch || m.Budget != tc.budget {
			t.Errorf("with %d for all: online %d, batch %d of %d; want %d, %d of %d", tc.most, m.Online, m.Batch, m.Budget, tc.online, tc.batch, tc.budget)
		}
		if b, c := f.Pods[1].Use[resource.CPU], f.Pods[2].Use[resource.CPU]; b != c {
			t.Errorf("two alike have %d and %d", b, c)
		}
	}
}
