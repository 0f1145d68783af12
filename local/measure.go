package local

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/sim/series"
)

// A Measurement is one run of a cluster. Figures that a run does not measure are 0.
type Measurement struct {
	What     string  `json:"what"`
	Scenario string  `json:"scenario"`
	Speed    float64 `json:"speed"`
	Machines int     `json:"machines"`
	Pods     int     `json:"pods"` // ready when the day began

	AddressSeconds float64 `json:"addressSeconds"` // until the page and the API server answered
	ReadySeconds   float64 `json:"readySeconds"`   // until all pods were ready and the day began
	DaySeconds     float64 `json:"daySeconds"`     // of the day that were played
	WallSeconds    float64 `json:"wallSeconds"`    // that took on the wall
	Cores          float64 `json:"cores"`          // used meanwhile, all processes together
	ResidentMiB    float64 `json:"residentMiB"`    // at the end, all processes together
	BehindSeconds  float64 `json:"behindSeconds"`  // of the day that the physics had not done at the end

	LiveNano   int64   `json:"liveNano"`   // bill of the hours played
	ReplayNano int64   `json:"replayNano"` // bill of the same hours, replayed
	Apart      float64 `json:"apart"`      // percent between the two
	// AllocatedApart is the same for what was used, in percent.
	AllocatedApart float64 `json:"allocatedApart"`
}

// MeasureOptions say what to measure. The zero value is fit for a bench.
type MeasureOptions struct {
	BinDir string
	Log    func(format string, args ...any)

	Machines, Pods int // of MeasureScale; 0 means 500 and 10,000
	// Scenario and Until are of MeasureDay; by default two hours of school-day.
	Scenario *scenario.Scenario
	Until    time.Duration
	Speed    float64 // of MeasureDay; 0 means 60
}

// MeasureScale fills a fleet and lets a minute pass at real speed.
func MeasureScale(ctx context.Context, o MeasureOptions) (Measurement, error) {
	if o.Machines == 0 {
		o.Machines, o.Pods = 500, 10_000
	}
	m := Measurement{What: "scale", Speed: 1}
	_, err := o.run(ctx, &m, Options{Scenario: large(o.Machines, o.Pods), Speed: 1, Until: time.Minute})
	return m, err
}

// MeasureDay plays the first hours of a day, and replays the same.
func MeasureDay(ctx context.Context, o MeasureOptions) (Measurement, error) {
	if o.Scenario == nil {
		s, err := scenario.Load("school-day", scenario.Options{})
		if err != nil {
			return Measurement{}, err
		}
		o.Scenario = s
	}
	if o.Until == 0 {
		o.Until = 2 * time.Hour
	}
	if o.Speed == 0 {
		o.Speed = 60
	}
	m := Measurement{What: "day", Speed: o.Speed}
	live, err := o.run(ctx, &m, Options{Scenario: o.Scenario, Speed: o.Speed, Until: o.Until})
	if err != nil {
		return m, err
	}
	again, err := replay.Run(ctx, o.Scenario, replay.Options{Until: o.Until})
	if err != nil {
		return m, err
	}
	m.LiveNano, m.ReplayNano = int64(live.Bill.BillNano), int64(again.Bill.BillNano)
	m.Apart = apart(live.Bill.BillNano, again.Bill.BillNano)
	m.AllocatedApart = apart(live.Bill.AllocatedNano, again.Bill.AllocatedNano)
	return m, nil
}

// apart returns by how many percent two amounts differ.
func apart(a, b money.Amount) float64 {
	if b == 0 {
		return 0
	}
	return max(float64(a-b), float64(b-a)) / float64(b) * 100
}

func (o MeasureOptions) run(ctx context.Context, m *Measurement, up Options) (*Report, error) {
	dir, err := os.MkdirTemp("", "neap-bench-up-")
	if err != nil {
		return nil, fmt.Errorf("measure a day: %w", err)
	}
	defer os.RemoveAll(dir)
	began := time.Now()
	var cpu float64
	var since time.Time
	up.Dir, up.BinDir, up.Listen = dir, o.BinDir, "127.0.0.1:0"
	up.Ready = func(Addresses) { m.AddressSeconds = time.Since(began).Seconds() }
	up.begun = func(pids []int, c counts) {
		m.Machines, m.Pods = c.machines, c.ready
		cpu, _ = used(pids)
		since = time.Now()
	}
	up.ended = func(pids []int) {
		after, resident := used(pids)
		m.WallSeconds = time.Since(since).Seconds()
		m.Cores, m.ResidentMiB = (after-cpu)/m.WallSeconds, resident
	}
	if o.Log != nil {
		up.Out = lines(o.Log)
		o.Log("playing %v of %s at %g times real speed", up.Until, up.Scenario.Name, up.Speed)
	}
	r, err := Up(ctx, up)
	if err != nil {
		return nil, err
	}
	m.Scenario, m.ReadySeconds, m.BehindSeconds = r.Scenario, r.StartupSeconds, r.BehindSeconds
	m.DaySeconds = r.To.Sub(r.From).Seconds()
	return r, nil
}

// lines is a writer that hands every line to a logger.
type lines func(format string, args ...any)

func (l lines) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		l("%s", strings.TrimRight(line, "\n"))
	}
	return len(b), nil
}

// used returns the CPU seconds and the resident MiB of this process and others.
func used(pids []int) (cpu, resident float64) {
	for _, pid := range append([]int{os.Getpid()}, pids...) {
		c, r := usedBy(pid)
		cpu, resident = cpu+c, resident+r
	}
	return cpu, resident
}

// usedBy is used for one process; it is 0 for one that ended, or on no Linux.
func usedBy(pid int) (cpu, resident float64) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 22 {
		return 0, 0
	}
	number := func(i int) float64 {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return 0
		}
		return v
	}
	const ticks = 100 // USER_HZ, the same on every Linux
	return (number(11) + number(12)) / ticks, number(21) * float64(syscall.Getpagesize()) / (1 << 20)
}

// large makes a scenario of alike machines and services.
func large(machines, pods int) *scenario.Scenario {
	const modules = 50
	capacity := resource.Vector{resource.CPU: 16_000, resource.Memory: 64 * resource.GiB}
	s := &scenario.Scenario{
		Name: fmt.Sprintf("scale-%d-%d", machines, pods), Start: time.Date(2026, 9, 16, 19, 0, 0, 0, time.UTC), Location: time.UTC,
		Length: time.Hour, Seed: 1, Currency: "USD",
		MachineTypes: []machine.Type{{Name: "m6a.4xlarge", Capacity: capacity, List: 691_200_000, Currency: "USD", RatingMillis: 1200, RatingSource: "scenario"}},
		Pools: []scenario.Pool{{
			Name: "general", Kind: scenario.Machines, MachineType: "m6a.4xlarge", Order: 1, Count: machines, MaxPods: 110,
			Capacity: capacity, Allocatable: resource.Vector{resource.CPU: 15_680, resource.Memory: 60 * resource.GiB},
			Zones: []string{"zone-a", "zone-b", "zone-c"},
		}},
	}
	for i := range modules {
		n := pods / modules
		if i < pods%modules {
			n++
		}
		s.Modules = append(s.Modules, scenario.Module{
			Name: fmt.Sprintf("service-%02d", i), Namespace: fmt.Sprintf("team-%d", i%5), Kind: scenario.Online,
			Pools: []string{"general"}, Replicas: n,
			Requests: resource.Vector{resource.CPU: 500, resource.Memory: resource.GiB},
			Limits:   resource.Vector{resource.CPU: 1000, resource.Memory: 2 * resource.GiB},
			Needs: scenario.Needs{BaseCPU: 15, CPUPerRequest: 4 * time.Millisecond, BaseMemory: 380 * resource.MiB,
				MemoryPerRequest: 300 * resource.KiB, ServiceTime: 15 * time.Millisecond, Concurrency: 64, Timeout: 5 * time.Second},
			Load: &scenario.Demand{Curve: steady{}, Low: 0, High: 1, Peak: 60 * float64(n), Noise: series.Noise{}, Name: "steady"},
		})
	}
	return s
}

// steady is a load that is always at its peak.
type steady struct{}

func (steady) At(time.Time) (float64, bool) { return 1, true }
