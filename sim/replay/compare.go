package replay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/scenario"
)

// A Case is a way to run a scenario's day.
type Case string

// The cases, the dearest first.
const (
	// Reserved has every replica of the day's busiest minute all day, and every
	// job, on machines of its kind: pods without a GPU on machines without one.
	// As few machines are owned as hold them.
	Reserved Case = "reserved"
	// Spare is Reserved, but modules whose pools name it also use the spare CPU of
	// GPU machines.
	Spare Case = "spare"
	// Scheduled has the replicas, schedules, pools and machines that the scenario
	// writes for the day without policies.
	Scheduled Case = "scheduled"
	// Elastic plays the scenario's policies.
	Elastic Case = "elastic"
)

// Cases lists them.
var Cases = []Case{Reserved, Spare, Scheduled, Elastic}

// CompareOptions say what to compare. Scenario is required.
type CompareOptions struct {
	Scenario *scenario.Scenario
	Cases    []Case // empty: all
	// Ratios ask for the break-even curve: at each ratio of the serverless to the
	// owned price, the number of owned machines at which [Elastic] is cheapest.
	Ratios []float64
	Until  time.Duration // 0: the scenario's length
	// Workers is how many replays run at once; 0 means 1.
	Workers int
	// Progress, if any, is told what is replayed. It may be called at once from
	// several goroutines.
	Progress func(what string)
}

// A Comparison is the same day, run in several ways. All of it is simulated.
type Comparison struct {
	Scenario   string `json:"scenario"`
	Seed       uint64 `json:"seed"`
	Simulated  bool   `json:"simulated"`
	RealSeries bool   `json:"realSeries"`
	Currency   string `json:"currency"`
	// PriceRatio is the scenario's: what the capacity of a machine of the first
	// pool costs when bought by the pod, ÷ what the machine costs.
	PriceRatio float64    `json:"priceRatio"`
	Rows       []CaseRow  `json:"rows"`
	Curve      []RatioRow `json:"curve,omitempty"`
	Notes      []string   `json:"notes"`
}

// A CaseRow is the day in one case.
type CaseRow struct {
	Case     Case         `json:"case"`
	BillNano money.Amount `json:"billNano"`
	Pools    []PoolMoney  `json:"pools"`
	// Saved is by how many percent the bill is below that of each other case.
	Saved map[Case]float64 `json:"savedPercent"`

	HoursMet    int      `json:"hoursMet"`    // module-hours in which targets were met
	HoursBroken int      `json:"hoursBroken"` // and in which they were not
	Broken      []string `json:"broken,omitempty"`
	GuardGreen  bool     `json:"guardGreen"` // no module broke more hours than when Scheduled, and no job was left waiting
	Failed      float64  `json:"failedShare"`

	PodsMost   int            `json:"podsMost"`
	Winners    map[string]int `json:"winners,omitempty"` // module-minutes by the layer that decided
	Violations int            `json:"violations"`
	Moved      int            `json:"moved"`
	Skilled    int            `json:"skilled"` // modules whose forecast had skill
}

// PoolMoney is what one pool cost.
type PoolMoney struct {
	Name     string       `json:"name"`
	Kind     string       `json:"kind"`
	Machines int          `json:"machines"` // owned at most; 0 for serverless
	BillNano money.Amount `json:"billNano"`
}

// A RatioRow is the cheapest number of owned machines at one price ratio.
type RatioRow struct {
	PriceRatio     float64          `json:"priceRatio"`
	Machines       int              `json:"machines"` // owned, of the first pool
	OwnedNano      money.Amount     `json:"ownedNano"`
	ServerlessNano money.Amount     `json:"serverlessNano"`
	BillNano       money.Amount     `json:"billNano"`
	Saved          map[Case]float64 `json:"savedPercent"`
}

// comparing is a comparison under way.
type comparing struct {
	ctx       context.Context
	o         CompareOptions
	past      Past
	foresight Foresight
	pool      *scenario.Pool // whose number of machines is chosen

	mu    sync.Mutex
	owned map[int]*CaseRow // Elastic by number of machines
	base  map[string]int   // hours broken by module when Scheduled
}

// Compare runs a scenario's day in several ways.
func Compare(ctx context.Context, o CompareOptions) (*Comparison, error) {
	s := o.Scenario
	if len(o.Cases) == 0 {
		o.Cases = Cases
	}
	c := &comparing{ctx: ctx, o: o, owned: map[int]*CaseRow{}}
	for i := range s.Pools {
		if s.Pools[i].Kind == scenario.Machines {
			c.pool = &s.Pools[i]
			break
		}
	}
	if c.pool == nil {
		return nil, fmt.Errorf("compare %s: it has no pool of kind %s, so there is nothing to own", s.Name, scenario.Machines)
	}
	if !s.Elastic() && (slices.Contains(o.Cases, Elastic) || len(o.Ratios) > 0) {
		return nil, fmt.Errorf("compare %s: none of its modules has an elastic policy; give some one, or compare without %s", s.Name, Elastic)
	}
	out := &Comparison{Scenario: s.Name, Seed: s.Seed, Simulated: true, RealSeries: s.RealSeries, Currency: s.Currency, PriceRatio: c.ratio(), Notes: c.notes()}
	// 1. What the others are held to.
	base, err := c.run(s.Scheduled(), Scheduled)
	if err != nil {
		return nil, err
	}
	c.base = base.broken
	base.row.GuardGreen = true
	c.past = Before(s)
	// 2. The cases.
	for _, k := range o.Cases {
		var row CaseRow
		switch k {
		case Scheduled:
			row = base.row
		case Elastic:
			r, err := c.run(s, Elastic)
			if err != nil {
				return nil, err
			}
			row = r.row
		default:
			if row, err = c.size(k); err != nil {
				return nil, err
			}
		}
		out.Rows = append(out.Rows, row)
	}
	for i := range out.Rows {
		out.Rows[i].Saved = saved(out.Rows[i].BillNano, out.Rows)
	}
	// 3. The curve.
	if len(o.Ratios) > 0 {
		if out.Curve, err = c.curve(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *comparing) notes() []string {
	n := []string{
		"reserved: every replica of the day's busiest minute all day, and every job, on machines of its kind; as few machines as hold them without a pod waiting",
		"spare: the same, but modules that name the pool also use the spare CPU of GPU machines",
		"scheduled: the replicas, schedules and pools that the scenario writes by hand",
		"elastic: the scenario's policies; the days before the start are given as history",
	}
	if c.o.Scenario.Elastic() {
		n = append(n, "guard: no module breaks its targets in more hours than when scheduled, and no job is left waiting at the end")
	}
	return n
}

func saved(bill money.Amount, rows []CaseRow) map[Case]float64 {
	out := map[Case]float64{}
	for i := range rows {
		if of := rows[i].BillNano; of > 0 {
			out[rows[i].Case] = round2(100 * (1 - float64(bill)/float64(of)))
		}
	}
	return out
}

// ratio is the price of the first pool's capacity bought by the pod, ÷ owned.
func (c *comparing) ratio() float64 {
	s := c.o.Scenario
	own, ok := s.Type(c.pool.MachineType)
	if !ok {
		return 0
	}
	for i := range s.Pools {
		if p := &s.Pools[i]; p.Kind == scenario.Serverless {
			t, _ := s.Type(p.MachineType)
			bought := 0.0
			for _, k := range []resource.Kind{resource.CPU, resource.Memory} {
				unit := 1000.0
				if k == resource.Memory {
					unit = float64(resource.GiB)
				}
				bought += float64(t.UnitList[k]) * float64(c.pool.Capacity[k]) / unit
			}
			return round2(bought * float64(1000-t.DiscountMillis) / (float64(own.List) * float64(1000-own.DiscountMillis)))
		}
	}
	return 0
}

// A played day: its row, and what must not get worse.
type played struct {
	row     CaseRow
	broken  map[string]int
	waiting bool // a replica waited for room, or a job to the end
	// waitingGPU says that one of those that wait needs a GPU.
	waitingGPU bool
}

func (c *comparing) run(s *scenario.Scenario, k Case) (*played, error) {
	r, err := Run(c.ctx, s, Options{Until: c.o.Until, Past: c.past, Foresight: &c.foresight})
	if err != nil {
		return nil, err
	}
	p := &played{broken: map[string]int{}, waiting: r.Counts.ReplicasWaiting > 0 || r.Counts.PendingLeft > 0, waitingGPU: r.Counts.WaitingGPU > 0}
	// A job that is never done is no saving either.
	row := CaseRow{Case: k, BillNano: r.Bill.BillNano, PodsMost: r.Counts.PodsMost, GuardGreen: r.Counts.PendingLeft == 0}
	for i := range s.Pools {
		pool := &s.Pools[i]
		m := PoolMoney{Name: pool.Name, Kind: string(pool.Kind)}
		for _, f := range r.Facts {
			for j := range f.Machines {
				if f.Machines[j].Pool == pool.Name {
					m.BillNano += f.Machines[j].Bill.Sum()
				}
			}
		}
		if pool.Kind != scenario.Serverless {
			m.Machines = r.Counts.OwnedMost[pool.Name]
		}
		row.Pools = append(row.Pools, m)
	}
	var requests, failed int64
	for _, m := range r.Modules {
		row.HoursMet += m.HoursMet
		row.HoursBroken += m.HoursBad
		requests += m.Requests
		failed += m.Failed
		if m.HoursBad > 0 {
			p.broken[m.Module] = m.HoursBad
			row.Broken = append(row.Broken, fmt.Sprintf("%s: %d h", m.Module, m.HoursBad))
		}
		if c.base != nil && m.HoursBad > c.base[m.Module] {
			row.GuardGreen = false
		}
		if m.Policy == nil {
			continue
		}
		if row.Winners == nil {
			row.Winners = map[string]int{}
		}
		for layer, n := range m.Policy.Winners {
			row.Winners[layer] += n
		}
		row.Violations += m.Policy.Violations
		row.Moved += m.Policy.Moved
		if m.Policy.Skilled {
			row.Skilled++
		}
	}
	if requests > 0 {
		row.Failed = float64(failed) / float64(requests)
	}
	p.row = row
	return p, nil
}

func (c *comparing) say(format string, args ...any) {
	if c.o.Progress != nil {
		c.o.Progress(fmt.Sprintf(format, args...))
	}
}

// owning returns a scenario with so many machines in a pool all day.
func owning(s *scenario.Scenario, pool string, n int) *scenario.Scenario {
	own := *s
	own.Pools = slices.Clone(s.Pools)
	for i := range own.Pools {
		if p := &own.Pools[i]; p.Name == pool {
			p.Elastic = &scenario.Owned{Count: n}
		}
	}
	return &own
}

// most bounds the search for machines that hold a day: so many times those that
// the scenario has, and some.
const most = 8

// size finds the fewest machines that hold a reserved day: of GPU machines as
// many more than the scenario has as it takes, then of the first pool.
func (c *comparing) size(k Case) (CaseRow, error) {
	s := reserved(c.o.Scenario, k, c.pool.Name)
	try := func(s *scenario.Scenario) (*played, bool, error) {
		c.say("%s with %s machines", k, counts(s))
		p, err := c.run(s, k)
		if err != nil {
			return nil, false, err
		}
		return p, !p.waiting && p.row.GuardGreen, nil
	}
	// 1. Enough of everything.
	low, high := 0, max(4, c.pool.Count)
	s = owning(s, c.pool.Name, high)
	var best *played
	for turn := 0; best == nil; turn++ {
		p, ok, err := try(s)
		switch {
		case err != nil:
			return CaseRow{}, err
		case ok:
			best = p
		case high > most*(c.pool.Count+most):
			return CaseRow{}, fmt.Errorf("compare %s: %d machines of the pool %s do not hold the %s day", s.Name, high, c.pool.Name, k)
		case p.waitingGPU:
			for i := range s.Pools {
				if pool := &s.Pools[i]; pool.Kind == scenario.SpareOnGPUMachines {
					pool.Elastic = &scenario.Owned{Count: owned(pool) + 1}
				}
			}
		default:
			low, high = high, high+max(4, high/4)
			s = owning(s, c.pool.Name, high)
		}
	}
	// 2. No more than enough of the first pool.
	for high-low > 1 {
		n := (low + high) / 2
		p, ok, err := try(owning(s, c.pool.Name, n))
		if err != nil {
			return CaseRow{}, err
		}
		if ok {
			best, high = p, n
		} else {
			low = n
		}
	}
	return best.row, nil
}

func owned(p *scenario.Pool) int {
	if p.Elastic != nil {
		return p.Elastic.Count
	}
	return p.Count
}

// counts lists the machines of a scenario's pools, for progress.
func counts(s *scenario.Scenario) string {
	var parts []string
	for i := range s.Pools {
		if p := &s.Pools[i]; p.Kind != scenario.Serverless {
			parts = append(parts, fmt.Sprintf("%d %s", owned(p), p.Name))
		}
	}
	return strings.Join(parts, " and ")
}

// reserved returns the scenario as if nothing were elastic: every module at the
// replicas of its busiest time, on owned machines.
func reserved(s *scenario.Scenario, k Case, own string) *scenario.Scenario {
	r := s.Scheduled()
	peak := map[workload.Key]int{}
	for i := range r.Modules {
		m := &r.Modules[i]
		n := m.Replicas
		for _, step := range m.Schedule {
			n = max(n, step.Count)
		}
		peak[m.Key()] = n
	}
	var events []scenario.Event
	for _, e := range r.Events {
		switch {
		case e.Scale != nil:
			peak[e.Scale.Module] = max(peak[e.Scale.Module], e.Scale.Replicas)
		case e.Machines != nil && e.Machines.Pool == own:
		default:
			events = append(events, e)
		}
	}
	r.Events = events
	for i := range r.Modules {
		m := &r.Modules[i]
		m.Replicas, m.Schedule = peak[m.Key()], nil
		m.Pools = slices.DeleteFunc(slices.Clone(m.Pools), func(name string) bool {
			p := r.Pool(name)
			return p.Kind == scenario.Serverless || k == Reserved && p.Kind == scenario.SpareOnGPUMachines && m.Requests[resource.GPU] == 0
		})
		if len(m.Pools) == 0 {
			m.Pools = []string{own}
		}
	}
	for i := range r.Pools { // all day as many as at most
		p := &r.Pools[i]
		for _, step := range p.Schedule {
			p.Count = max(p.Count, step.Count)
		}
		p.Schedule = nil
		p.Limit = 0 // as many as it takes
	}
	return r
}

// elastic returns the elastic day with so many machines in the first pool.
func (c *comparing) elastic(n int) (*CaseRow, error) {
	c.mu.Lock()
	row := c.owned[n]
	c.mu.Unlock()
	if row != nil {
		return row, nil
	}
	c.say("elastic with %d machines", n)
	p, err := c.run(owning(c.o.Scenario, c.pool.Name, n), Elastic)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.owned[n] = &p.row
	c.mu.Unlock()
	return &p.row, nil
}

// curve finds the cheapest number of owned machines at each ratio. What the
// policies do does not depend on the price but for the way back from serverless,
// which is taken as at the scenario's prices; so one replay serves all ratios.
func (c *comparing) curve(out *Comparison) ([]RatioRow, error) {
	if out.PriceRatio <= 0 {
		return nil, fmt.Errorf("compare %s: it has no serverless pool, so there is no price ratio", out.Scenario)
	}
	high := max(c.pool.Count, 1)
	for _, r := range out.Rows {
		for _, p := range r.Pools {
			if p.Name == c.pool.Name {
				high = max(high, p.Machines)
			}
		}
	}
	at := func(row *CaseRow, ratio float64) RatioRow {
		x := RatioRow{PriceRatio: ratio}
		for _, p := range row.Pools {
			if p.Kind == string(scenario.Serverless) {
				x.ServerlessNano += money.Amount(float64(p.BillNano) * ratio / out.PriceRatio)
				continue
			}
			x.OwnedNano += p.BillNano
			if p.Name == c.pool.Name {
				x.Machines = p.Machines
			}
		}
		x.BillNano = x.OwnedNano + x.ServerlessNano
		return x
	}
	// 1. A coarse grid, some at once.
	step := max(1, high/10)
	var grid []int
	for n := 0; n <= high; n += step {
		grid = append(grid, n)
	}
	if err := c.all(grid); err != nil {
		return nil, err
	}
	// 2. Around the best of each ratio, finer and finer: to within two machines,
	// which is less of the money than a day differs from the next.
	best := func(ratio float64) (int, RatioRow, bool) {
		var x RatioRow
		n, found := 0, false
		for k := 0; k <= high; k++ { // in order, so that equal bills have one winner
			row := c.owned[k]
			if row == nil || !row.GuardGreen {
				continue
			}
			if y := at(row, ratio); !found || y.BillNano < x.BillNano {
				n, x, found = k, y, true
			}
		}
		return n, x, found
	}
	for fine := max(1, min(2, high/20)); step > fine; {
		step = (step + 1) / 2
		var next []int
		for _, ratio := range c.o.Ratios {
			if n, _, ok := best(ratio); ok {
				next = append(next, max(0, n-step), min(high, n+step))
			}
		}
		slices.Sort(next)
		if err := c.all(slices.Compact(next)); err != nil {
			return nil, err
		}
	}
	var curve []RatioRow
	for _, ratio := range c.o.Ratios {
		_, x, ok := best(ratio)
		if !ok {
			return nil, fmt.Errorf("compare %s: with no number of machines did the policies keep every promise that is kept without them", out.Scenario)
		}
		x.Saved = saved(x.BillNano, out.Rows)
		delete(x.Saved, Elastic) // at another price
		curve = append(curve, x)
	}
	return curve, nil
}

// all replays the elastic day with each number of machines.
func (c *comparing) all(counts []int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(counts))
	slots := make(chan struct{}, max(1, c.o.Workers))
	for i, n := range counts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = c.elastic(n)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
