package bill

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// A Report is the bill of a window, as every command, page and file shows it.
// AllocatedNano + Σ IdleNano == BillNano, and UnexplainedNano == 0.
type Report struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Currency string    `json:"currency"`

	BillNano        money.Amount         `json:"billNano"`
	AllocatedNano   money.Amount         `json:"allocatedNano"` // Σ used
	IdleNano        map[Box]money.Amount `json:"idleNano"`      // every box but unexplained; slack among them
	UnexplainedNano money.Amount         `json:"unexplainedNano"`

	// Resources divide the bill by resource; Binding is the one that keeps more
	// pods off most of the machines, most of the time: to buy less, save there.
	Resources []ResourceReport `json:"resources"`
	Binding   string           `json:"binding,omitempty"`

	// EstimatedNano is how much of the bill rests on use that was not measured.
	EstimatedNano money.Amount `json:"estimatedNano"`
	// Notes say, one sentence each, what the reader must know to trust the figures.
	Notes []string `json:"notes,omitempty"`

	By    string `json:"by"` // what Lines are grouped by: module, namespace, pool, machineType, feature, label:KEY
	Lines []Line `json:"lines"`
}

// A ResourceReport is one resource's part of the bill.
type ResourceReport struct {
	Resource      string               `json:"resource"`
	BillNano      money.Amount         `json:"billNano"`
	AllocatedNano money.Amount         `json:"allocatedNano"`
	IdleNano      map[Box]money.Amount `json:"idleNano"`
	BindsMillis   int64                `json:"bindsMillis"` // thousandths of the machines' time in which it was the fullest
}

// A Line is one row of a report. Σ lines of a column == the report's figure.
type Line struct {
	Key       string       `json:"key"`
	UsedNano  money.Amount `json:"usedNano"`
	SlackNano money.Amount `json:"slackNano"`
	// SharedNano is this line's share of the other boxes; the lines' Used, Slack
	// and Shared add up to the bill. A line "(nobody)" carries what none could.
	SharedNano   money.Amount `json:"sharedNano"`
	CostNano     money.Amount `json:"costNano"` // Used + Slack + Shared
	OpenCostNano money.Amount `json:"openCostNano"`

	// Factors of the identity for the line, per resource name.
	Factors map[string]Factors `json:"factors,omitempty"`
	// Requests is the load; −1 if unknown.
	Requests int64   `json:"requests"`
	Pods     float64 `json:"pods"` // mean number of pods over the window
	// Quality is "met", "broken" or "unknown": whether the line's modules kept
	// their targets in every hour that is known. MetHours of KnownHours kept them.
	Quality    string `json:"quality"`
	MetHours   int    `json:"metHours"`
	KnownHours int    `json:"knownHours"`
}

// Factors are Q·k·r·f·π of one line and one resource, for showing; the exact
// numbers are the integers they are made of. An NCU-hour of memory is a
// GiB-hour, of a GPU a GPU-hour. What is undefined (slack of something unused)
// is 0.
type Factors struct {
	Load  float64 `json:"load"`  // Q, requests; −1 if unknown
	Need  float64 `json:"need"`  // k, NCU-hours used a request; Q·k, the NCU-hours used, if Q is unknown
	Slack float64 `json:"slack"` // r, held ÷ used
	Match float64 `json:"match"` // f, bought ÷ held
	Price float64 `json:"price"` // π, currency units per NCU-hour

	CostNano money.Amount `json:"costNano"`
}

// Unnamed keys of report lines.
const (
	NoFeature = "(no feature)" // of modules that no feature names
	NoLabel   = "(no label)"   // of pods without the label
	NoPool    = "(no pool)"    // of machines in no pool
)

// The groupings of a report; a label is asked for as "label:KEY".
const (
	ByModule      = "module"
	ByNamespace   = "namespace"
	ByPool        = "pool"
	ByMachineType = "machineType"
	ByFeature     = "feature"
	ByLabel       = "label:"
)

// CheckBy says in one sentence what is wrong with a grouping, if anything.
func CheckBy(by string) error {
	switch by {
	case ByModule, ByNamespace, ByPool, ByMachineType, ByFeature:
		return nil
	}
	if key, ok := strings.CutPrefix(by, ByLabel); ok && key != "" {
		return nil
	}
	return fmt.Errorf("a bill cannot be grouped by %q: use module, namespace, pool, machineType, feature or label:KEY", by)
}

// Summarise reports facts of hours in one currency, grouped by one of the
// groupings. features name the product features that modules serve.
func Summarise(facts []Facts, by string, features map[workload.Key][]workload.Feature) (Report, error) {
	if err := CheckBy(by); err != nil {
		return Report{}, err
	}
	w, err := Rollup(facts...)
	if err != nil {
		return Report{}, err
	}
	key, ok := strings.CutPrefix(by, ByLabel)
	if !ok {
		return SummariseWindow(w, by, features)
	}
	r, lines := start(&w, by)
	type fraction struct{ cost, bought int64 }
	for i := range facts {
		f := &facts[i]
		hour := rollHour(f)
		// A pod's bought amount follows from its money at its type's price; its
		// share of the idle boxes counts at its pool's.
		types, pools := map[spot][resource.Kinds]fraction{}, map[string][resource.Kinds]fraction{}
		for _, b := range hour.Boxes {
			var t [resource.Kinds]fraction
			p := pools[b.Pool]
			for k := range t {
				t[k] = fraction{int64(b.Bill[k]), b.Capacity[k]}
				p[k].cost += t[k].cost
				p[k].bought += t[k].bought
			}
			types[spot{b.Pool, b.Type}], pools[b.Pool] = t, p
		}
		ratings := map[string]int64{}
		for m := range f.Machines {
			ratings[f.Machines[m].Name+"\x00"+f.Machines[m].Type] = f.Machines[m].RatingMillis
		}
		for n := range f.Pods {
			p := &f.Pods[n]
			value, ok := p.Labels[key]
			if !ok {
				value = NoLabel
			}
			l := lines.at(value)
			l.podMillis += p.To.Sub(p.From).Milliseconds()
			l.unknownLoad = true
			rating := ratings[p.Machine+"\x00"+p.Type]
			for k := range resource.Kinds {
				c := Cell{Used: p.Used[k], Slack: p.Slack[k], Shared: p.Shared[k], OpenCost: p.OpenCost[k]}
				if !p.IsHeadroom {
					c.Use, c.Held = ncu(resource.Kind(k), p.UseSeconds[k], rating), ncu(resource.Kind(k), p.HeldSeconds[k], rating)
				}
				if t := types[spot{p.Pool, p.Type}][k]; t.cost > 0 {
					c.Bought += int64(money.Amount(t.bought).Scale(int64(c.Used+c.Slack), t.cost))
				}
				if t := pools[p.Pool][k]; t.cost > 0 {
					c.Bought += int64(money.Amount(t.bought).Scale(int64(c.Shared), t.cost))
				}
				l.cells[k].add(c)
			}
		}
		for m := range f.Machines {
			if u := f.Machines[m].Unshared; u != (Amounts{}) {
				l := lines.at(Nobody)
				for k := range u {
					l.cells[k].Shared += u[k]
				}
			}
		}
	}
	r.Lines = lines.finish(w.To.Sub(w.From))
	return r, nil
}

// SummariseWindow is [Summarise] for a roll-up. It cannot group by label, for
// roll-ups do not keep labels.
func SummariseWindow(w Window, by string, features map[workload.Key][]workload.Feature) (Report, error) {
	if err := CheckBy(by); err != nil {
		return Report{}, err
	}
	if strings.HasPrefix(by, ByLabel) {
		return Report{}, fmt.Errorf("group by %q: roll-ups keep no labels; ask for the facts of a shorter time", by)
	}
	r, lines := start(&w, by)
	for i := range w.Rows {
		row := &w.Rows[i]
		if row.Module == (workload.Key{}) && row.Namespace == "" && by != ByPool && by != ByMachineType {
			lines.at(Nobody).addRow(row, 1000)
			continue
		}
		switch by {
		case ByModule:
			lines.at(row.Module.String()).addRow(row, 1000)
		case ByNamespace:
			lines.at(row.Namespace).addRow(row, 1000)
		case ByPool:
			lines.at(orElse(row.Pool, NoPool)).addRow(row, 1000)
		case ByMachineType:
			lines.at(row.Type).addRow(row, 1000)
		case ByFeature:
			for _, part := range splitRow(row, features[row.Module]) {
				lines.at(part.feature).addRow(&part.Row, part.shareMillis)
			}
		}
	}
	for i := range w.Loads {
		load := &w.Loads[i]
		switch by {
		case ByModule:
			lines.load(load.Module.String(), load, load.Requests)
		case ByNamespace:
			lines.load(load.Module.Namespace, load, load.Requests)
		case ByFeature:
			names, shares := featureShares(features[load.Module])
			for n, part := range money.Split(money.Amount(load.Requests), shares) {
				lines.load(names[n], load, int64(part))
			}
		}
	}
	if by == ByPool || by == ByMachineType { // quality of the modules that paid there; the load is not known by place
		loads := map[workload.Key]*LoadRow{}
		for i := range w.Loads {
			loads[w.Loads[i].Module] = &w.Loads[i]
		}
		seen := map[string]bool{}
		for i := range w.Rows {
			row := &w.Rows[i]
			key := row.Type
			if by == ByPool {
				key = orElse(row.Pool, NoPool)
			}
			lines.at(key).unknownLoad = true
			load, pair := loads[row.Module], key+"\x00"+row.Module.String()
			if load == nil || row.PodMillis == 0 || seen[pair] {
				continue
			}
			seen[pair] = true
			lines.load(key, load, 0)
		}
	}
	r.Lines = lines.finish(w.To.Sub(w.From))
	return r, nil
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// start fills in the report's totals.
func start(w *Window, by string) (Report, *lineSet) {
	r := Report{From: w.From, To: w.To, Currency: w.Currency, By: by, Notes: slices.Clone(w.Notes), IdleNano: map[Box]money.Amount{}}
	for _, b := range Boxes {
		if b != Unexplain {
			r.IdleNano[b] = 0
		}
	}
	idle := money.Amount(0)
	r.Resources = w.resources()
	most := int64(0)
	for _, part := range r.Resources {
		if part.BindsMillis > most {
			most, r.Binding = part.BindsMillis, part.Resource
		}
	}
	for i := range w.Boxes {
		b := &w.Boxes[i]
		r.BillNano += b.Bill.Sum()
		for n, box := range boxOrder {
			if box != Unexplain {
				r.IdleNano[box] += b.Idle[n].Sum()
				idle += b.Idle[n].Sum()
			}
		}
	}
	for i := range w.Rows {
		for _, c := range w.Rows[i].Cells {
			r.AllocatedNano += c.Used
		}
		r.EstimatedNano += w.Rows[i].Estimated
	}
	// Used comes from the pods and the boxes from the machines, so that money
	// lost between them would show here.
	r.UnexplainedNano = r.BillNano - r.AllocatedNano - idle
	if r.UnexplainedNano != 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%s %s of the bill is unexplained: the stored facts contradict each other; close these hours again.", r.UnexplainedNano, w.Currency))
	}
	return r, &lineSet{byKey: map[string]*lineSum{}}
}

// resources divides the window's bill by resource.
func (w *Window) resources() []ResourceReport {
	var binds [resource.Kinds]int64
	machines := int64(0)
	var parts []ResourceReport
	for k := range resource.Kinds {
		p := ResourceReport{Resource: resource.Kind(k).String(), IdleNano: map[Box]money.Amount{}}
		for n, box := range boxOrder {
			if box == Unexplain {
				continue
			}
			p.IdleNano[box] = 0
			for i := range w.Boxes {
				p.IdleNano[box] += w.Boxes[i].Idle[n][k]
			}
		}
		for i := range w.Boxes {
			p.BillNano += w.Boxes[i].Bill[k]
			p.AllocatedNano += w.Boxes[i].Used[k]
			binds[k] += w.Boxes[i].BindMillis[k]
		}
		machines += binds[k]
		parts = append(parts, p)
	}
	if machines > 0 {
		for k := range parts {
			parts[k].BindsMillis = int64(float64(binds[k]) / float64(machines) * 1000)
		}
	}
	return parts
}

type lineSum struct {
	key         string
	podMillis   int64
	cells       [resource.Kinds]Cell
	requests    int64
	unknownLoad bool
	loads       int // rows of load added
	known, met  int
	broken      bool
}

type lineSet struct {
	byKey map[string]*lineSum
	list  []*lineSum
}

func (s *lineSet) at(key string) *lineSum {
	l := s.byKey[key]
	if l == nil {
		l = &lineSum{key: key}
		s.byKey[key] = l
		s.list = append(s.list, l)
	}
	return l
}

func (s *lineSet) load(key string, l *LoadRow, requests int64) {
	sum := s.byKey[key]
	if sum == nil {
		return // it was asked for something but cost nothing: no line
	}
	sum.loads++
	sum.requests += requests
	sum.unknownLoad = sum.unknownLoad || l.HoursUnknown > 0
	sum.known += l.HoursGuarded
	sum.met += l.HoursMet
	sum.broken = sum.broken || l.HoursMet < l.HoursGuarded
}

func (l *lineSum) addRow(r *Row, shareMillis int64) {
	l.podMillis += r.PodMillis * shareMillis / 1000
	for k := range l.cells {
		l.cells[k].add(r.Cells[k])
	}
}

// finish returns the lines, the most expensive first.
func (s *lineSet) finish(window time.Duration) []Line {
	lines := make([]Line, 0, len(s.list))
	for _, sum := range s.list {
		l := Line{Key: sum.key, Requests: sum.requests, Quality: "unknown", MetHours: sum.met, KnownHours: sum.known}
		if sum.unknownLoad || sum.loads == 0 {
			l.Requests = -1
		}
		if window > 0 {
			l.Pods = float64(sum.podMillis) / float64(window.Milliseconds())
		}
		switch {
		case sum.broken:
			l.Quality = "broken"
		case sum.met > 0:
			l.Quality = "met"
		}
		for k := range resource.Kinds {
			c := &sum.cells[k]
			l.UsedNano += c.Used
			l.SlackNano += c.Slack
			l.SharedNano += c.Shared
			l.OpenCostNano += c.OpenCost
			if c.Cost() != 0 || c.Held != 0 {
				if l.Factors == nil {
					l.Factors = map[string]Factors{}
				}
				l.Factors[resource.Kind(k).String()] = factorsOf(resource.Kind(k), l.Requests, c)
			}
		}
		l.CostNano = l.UsedNano + l.SlackNano + l.SharedNano
		lines = append(lines, l)
	}
	slices.SortFunc(lines, func(a, b Line) int {
		if a.CostNano != b.CostNano {
			if a.CostNano > b.CostNano {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Key, b.Key)
	})
	return lines
}

// perNCUHour is how much of a cell's unit an NCU-hour, GiB-hour or GPU-hour is.
var perNCUHour = [resource.Kinds]float64{3600e3, 3600 * 1024, 3600e3}

func factorsOf(kind resource.Kind, requests int64, c *Cell) Factors {
	unit := perNCUHour[kind]
	use, held, bought := float64(c.Use)/unit, float64(c.Held)/unit, float64(c.Bought)/unit
	f := Factors{Load: float64(requests), CostNano: c.Cost()}
	if requests > 0 {
		f.Need = use / float64(requests)
	} else {
		f.Load, f.Need = min(f.Load, 0), use
	}
	if use > 0 {
		f.Slack = held / use
	}
	if held > 0 {
		f.Match = bought / held
	}
	if bought > 0 {
		f.Price = c.Cost().Float() / bought
	}
	return f
}

type rowPart struct {
	feature     string
	shareMillis int64
	Row
}

func featureShares(features []workload.Feature) ([]string, []int64) {
	var names []string
	var shares []int64
	sum := int64(0)
	for _, f := range features {
		if f.ShareMillis > 0 {
			names, shares, sum = append(names, f.Name), append(shares, f.ShareMillis), sum+f.ShareMillis
		}
	}
	if sum < 1000 { // what no feature claims stays visible
		names, shares = append(names, NoFeature), append(shares, 1000-sum)
	}
	return names, shares
}

// splitRow divides a row over the features its module serves; the parts sum to
// it in every figure.
func splitRow(r *Row, features []workload.Feature) []rowPart {
	names, shares := featureShares(features)
	parts := make([]rowPart, len(names))
	total := int64(0)
	for _, s := range shares {
		total += s
	}
	for i := range parts {
		parts[i] = rowPart{names[i], shares[i] * 1000 / total, Row{Module: r.Module, Namespace: r.Namespace, Pool: r.Pool, Type: r.Type, PodMillis: r.PodMillis}}
	}
	buf := make([]money.Amount, len(names))
	for k := range r.Cells {
		for _, field := range cellFields {
			money.SplitInto(buf, money.Amount(*field(&r.Cells[k])), shares)
			for i := range parts {
				*field(&parts[i].Cells[k]) = int64(buf[i])
			}
		}
	}
	return parts
}

var cellFields = [...]func(*Cell) *int64{
	func(c *Cell) *int64 { return &c.Use },
	func(c *Cell) *int64 { return &c.Held },
	func(c *Cell) *int64 { return &c.Bought },
	func(c *Cell) *int64 { return (*int64)(&c.Used) },
	func(c *Cell) *int64 { return (*int64)(&c.Slack) },
	func(c *Cell) *int64 { return (*int64)(&c.Shared) },
	func(c *Cell) *int64 { return (*int64)(&c.List) },
	func(c *Cell) *int64 { return (*int64)(&c.OpenCost) },
}
