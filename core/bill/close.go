package bill

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/place"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// ErrObservation is wrapped by the errors of [Close] about what was observed, as
// opposed to prices; branch on it with errors.Is.
var ErrObservation = errors.New("contradictory observation")

// most bounds any one amount of a resource, so that nonsense cannot overflow: a
// thousand million cores or GPUs, a petabyte.
var most = [resource.Kinds]int64{1e12, 1e15, 1e12}

// Close accounts for one hour to the last nano-unit.
//
//  1. Every machine's time is cut into slices at every change: the machine's and
//     its pods' start and end, request steps, usage samples, prices.
//  2. A slice costs the effective price for its length; slices add up to the
//     machine's time exactly. The cost divides over the resources by the price's
//     weights, and of each resource over the pods' used and slack, what the
//     machine keeps from pods (system), declared spare, and the rest, in
//     proportion to amounts, by largest remainder.
//  3. The rest is told apart by re-packing the fleet (place.Repack) several
//     times an hour.
//  4. Idle boxes other than slack are shared, by pool, type and resource, over
//     the pool's modules in proportion to what their pods held, and within a
//     module over its pods; where the pool's pods held nothing of the resource,
//     over those of the whole hour. Headroom pods carry no share.
//
// Use without a measurement counts as the request and is marked as estimated.
// Observations that contradict each other in a way that could make a wrong
// number are refused with an error; those that can be put right for sure are,
// and a note says so.
func Close(h Hour, book *machine.PriceBook, opts Options) (Facts, error) {
	c := &closer{hour: h, book: book, notes: map[string]int{}}
	if err := c.checkTime(); err != nil {
		return Facts{}, err
	}
	if err := c.takeMachines(); err != nil {
		return Facts{}, err
	}
	if err := c.takePods(); err != nil {
		return Facts{}, err
	}
	c.label(opts)
	f := Facts{From: h.From, To: h.To, Currency: book.Currency(), Loads: takeLoads(h.Loads), Offers: OfferTypes(book, h.From)}
	f.Machines = make([]MachineFact, 0, len(c.machines))
	f.Pods = make([]PodFact, 0, c.pods)
	for i := range c.machines {
		if err := c.closeMachine(&c.machines[i], &f); err != nil {
			return Facts{}, err
		}
	}
	slices.SortFunc(f.Pods, func(a, b PodFact) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name),
			strings.Compare(a.UID, b.UID), a.From.Compare(b.From))
	})
	carry(&f)
	f.Notes = c.listNotes()
	return f, nil
}

type closer struct {
	hour     Hour
	book     *machine.PriceBook
	machines []closing
	pods     int
	notes    map[string]int // sentence with %d: how often
	borders  []int64        // of the intervals that have their own labels

	// Kept between machines to spare allocations.
	edges   []int64
	weights []int64
	parts   []money.Amount
	sums    []podSums
	active  []*segment
	buffer  []segment
	at      []int
}

// A closing is one machine's time in the hour, in nanoseconds from its start.
type closing struct {
	Machine
	from, to int64
	pods     []tenant
	labels   []labelled // by interval
}

// A tenant is one pod's time on the machine. Its steps and samples are in order.
type tenant struct {
	*Pod
	from, to int64
	steps    []Step
	samples  []Sample
	segments []segment // only while its machine is closed: they are many
}

// A segment is a stretch in which nothing about a pod changes.
type segment struct {
	from, to           int64
	request, use, held resource.Vector
	estimated          bool
}

func (c *closer) note(format string) { c.notes[format]++ }

func (c *closer) listNotes() []string {
	var out []string
	for format, n := range c.notes {
		out = append(out, fmt.Sprintf(format, n))
	}
	slices.Sort(out)
	return out
}

func (c *closer) checkTime() error {
	h := &c.hour
	const clock = "2006-01-02T15:04:05.999999999Z07:00"
	switch {
	case !h.From.Before(h.To):
		return fmt.Errorf("%w: close the hour from %s to %s: it ends before it starts; check the clock",
			ErrObservation, h.From.UTC().Format(clock), h.To.UTC().Format(clock))
	case h.To.After(h.From.UTC().Truncate(time.Hour).Add(time.Hour)):
		return fmt.Errorf("%w: close the hour from %s to %s: it crosses a full hour; close the hours one by one",
			ErrObservation, h.From.UTC().Format(clock), h.To.UTC().Format(clock))
	}
	return nil
}

// offset is an instant in nanoseconds from the hour's start, cut off at its ends.
func (c *closer) offset(t time.Time) int64 {
	if t.Before(c.hour.From) {
		return 0
	}
	if t.After(c.hour.To) {
		t = c.hour.To
	}
	return int64(t.Sub(c.hour.From))
}

func (c *closer) instant(offset int64) time.Time { return c.hour.From.Add(time.Duration(offset)) }

func (c *closer) takeMachines() error {
	for _, m := range c.hour.Machines {
		if m.Name == "" {
			return fmt.Errorf("%w: a machine of type %q in pool %q has no name", ErrObservation, m.Type, m.Pool)
		}
		for _, k := range resource.All {
			if m.Capacity[k] < 0 || m.Capacity[k] > most[k] {
				return fmt.Errorf("%w: machine %q says its %s capacity is %d; correct its status", ErrObservation, m.Name, k, m.Capacity[k])
			}
			if m.Allocatable[k] < 0 || m.Allocatable[k] > m.Capacity[k] {
				c.note("%d machines said that pods may have less than nothing or more than there is of a resource; the capacity was taken as the bound.")
				m.Allocatable[k] = min(max(m.Allocatable[k], 0), m.Capacity[k])
			}
			m.Spare[k] = min(max(m.Spare[k], 0), m.Allocatable[k])
		}
		if m.To.Before(m.From) {
			return fmt.Errorf("%w: machine %q ends at %s, before it starts at %s; check the clock",
				ErrObservation, m.Name, m.To.UTC().Format(time.RFC3339Nano), m.From.UTC().Format(time.RFC3339Nano))
		}
		if m.Capacity.IsZero() {
			c.note("%d machines have not said how large they are; all they cost counts as system.")
		}
		cl := closing{Machine: m, from: c.offset(m.From), to: c.offset(m.To)}
		if cl.from < cl.to {
			c.machines = append(c.machines, cl)
		}
	}
	slices.SortStableFunc(c.machines, func(a, b closing) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.from, b.from))
	})
	for i := 1; i < len(c.machines); i++ {
		if a, b := &c.machines[i-1], &c.machines[i]; a.Name == b.Name && b.from < a.to {
			return fmt.Errorf("%w: machine %q is listed twice at %s; it would be billed twice",
				ErrObservation, a.Name, c.instant(b.from).UTC().Format(time.RFC3339Nano))
		}
	}
	return nil
}

func (c *closer) takePods() error {
	byName := make(map[string]int, len(c.machines)) // first of the name
	known := make(map[string]bool, len(c.hour.Machines))
	for i := len(c.machines) - 1; i >= 0; i-- {
		byName[c.machines[i].Name] = i
	}
	for i := range c.hour.Machines {
		known[c.hour.Machines[i].Name] = true
	}
	type stay struct {
		uid      string
		from, to int64
	}
	stays := make([]stay, 0, len(c.hour.Pods))
	for i := range c.hour.Pods {
		p := &c.hour.Pods[i]
		if !known[p.Machine] {
			return fmt.Errorf("%w: pod %s/%s is on machine %q, which was not there from %s to %s; its cost would be lost",
				ErrObservation, p.Namespace, p.Name, p.Machine, c.hour.From.UTC().Format(time.RFC3339), c.hour.To.UTC().Format(time.RFC3339))
		}
		if p.To.Before(p.From) {
			return fmt.Errorf("%w: pod %s/%s ends at %s, before it starts at %s; check the clock",
				ErrObservation, p.Namespace, p.Name, p.To.UTC().Format(time.RFC3339Nano), p.From.UTC().Format(time.RFC3339Nano))
		}
		from, to := c.offset(p.From), c.offset(p.To)
		if from >= to {
			continue
		}
		stays = append(stays, stay{p.UID, from, to})
		covered := int64(0)
		steps, samples := c.cleanSteps(p), c.cleanSamples(p)
		first, ok := byName[p.Machine]
		for n := first; ok && n < len(c.machines) && c.machines[n].Name == p.Machine; n++ {
			m := &c.machines[n]
			lo, hi := max(from, m.from), min(to, m.to)
			if lo >= hi {
				continue
			}
			covered += hi - lo
			c.pods++
			m.pods = append(m.pods, tenant{Pod: p, from: lo, to: hi, steps: steps, samples: samples})
		}
		if covered < to-from {
			c.note("%d pods were on a machine before it started or after it ended; that time cost nothing.")
		}
	}
	slices.SortFunc(stays, func(a, b stay) int { return cmp.Or(strings.Compare(a.uid, b.uid), cmp.Compare(a.from, b.from)) })
	for i := 1; i < len(stays); i++ {
		if a, b := stays[i-1], stays[i]; a.uid == b.uid && b.from < a.to {
			return fmt.Errorf("%w: the pod with UID %q is listed twice at %s; it would be billed twice",
				ErrObservation, a.uid, c.instant(b.from).UTC().Format(time.RFC3339Nano))
		}
	}
	for i := range c.machines {
		slices.SortFunc(c.machines[i].pods, func(a, b tenant) int {
			return cmp.Or(cmp.Compare(a.from, b.from), strings.Compare(a.UID, b.UID))
		})
	}
	return nil
}

// segments cuts a pod's time on a machine at its request steps and usage
// samples, and decides what it requested, used and held in each. It appends to
// out.
func (c *closer) segments(out []segment, p *tenant) []segment {
	first := len(out)
	step := p.stepAt(c, p.from)
	sample, _ := slices.BinarySearchFunc(p.samples, p.from, func(s Sample, at int64) int {
		if c.offset(s.To) <= at {
			return -1
		}
		return 1
	})
	nextStep, sampleFrom, sampleTo := p.stepEnd(c, step), int64(0), int64(-1)
	for at := p.from; at < p.to; {
		for nextStep <= at {
			step++
			nextStep = p.stepEnd(c, step)
		}
		for sample < len(p.samples) && sampleTo <= at {
			if sampleTo >= 0 {
				sample++
			}
			if sample < len(p.samples) {
				sampleFrom, sampleTo = c.offset(p.samples[sample].From), c.offset(p.samples[sample].To)
			}
		}
		s := segment{from: at, to: min(p.to, nextStep), estimated: true}
		if len(p.steps) > 0 {
			s.request = bounded(p.steps[step].Request)
		}
		s.use = s.request
		switch {
		case p.Headroom:
			s.use, s.estimated = resource.Vector{}, false
		case sample < len(p.samples) && sampleFrom <= at:
			x := &p.samples[sample]
			s.to = min(s.to, sampleTo)
			s.estimated = x.Estimated
			for k := range s.use {
				if !x.Missing[k] {
					s.use[k] = min(max(x.Use[k], 0), most[k])
				} else if s.request[k] > 0 {
					s.estimated = true
				}
			}
		case sample < len(p.samples):
			s.to = min(s.to, sampleFrom)
		}
		at = s.to
		s.held = s.request.Max(s.use)
		if n := len(out); n > first && out[n-1].request == s.request && out[n-1].use == s.use && out[n-1].estimated == s.estimated {
			out[n-1].to = s.to
		} else {
			out = append(out, s)
		}
	}
	return out
}

// stepAt is the index of the step that holds at a moment; the first holds from
// the pod's start.
func (p *tenant) stepAt(c *closer, at int64) int {
	step := 0
	for step+1 < len(p.steps) && c.offset(p.steps[step+1].At) <= at {
		step++
	}
	return step
}

// stepEnd is when a step ends; the last one does not.
func (p *tenant) stepEnd(c *closer, step int) int64 {
	if step+1 < len(p.steps) {
		return c.offset(p.steps[step+1].At)
	}
	return math.MaxInt64
}

func bounded(v resource.Vector) resource.Vector {
	for k := range v {
		v[k] = min(max(v[k], 0), most[k])
	}
	return v
}

func (c *closer) cleanSteps(p *Pod) []Step {
	if slices.IsSortedFunc(p.Requests, func(a, b Step) int { return a.At.Compare(b.At) }) {
		return p.Requests
	}
	c.note("%d pods had request changes out of order; they were put in order of time.")
	steps := slices.Clone(p.Requests)
	slices.SortStableFunc(steps, func(a, b Step) int { return a.At.Compare(b.At) })
	return steps
}

func (c *closer) cleanSamples(p *Pod) []Sample {
	right := true
	for i := range p.Usage {
		s := &p.Usage[i]
		if !s.From.Before(s.To) || i > 0 && s.From.Before(p.Usage[i-1].To) {
			right = false
			break
		}
	}
	if right {
		return p.Usage
	}
	c.note("%d pods had usage samples that overlap or run backwards; of two that overlap the earlier one counted.")
	samples := slices.Clone(p.Usage)
	slices.SortStableFunc(samples, func(a, b Sample) int { return a.From.Compare(b.From) })
	var kept []Sample
	for _, s := range samples {
		if n := len(kept); n > 0 && s.From.Before(kept[n-1].To) {
			s.From = kept[n-1].To
		}
		if s.From.Before(s.To) {
			kept = append(kept, s)
		}
	}
	return kept
}

func takeLoads(loads []Load) []Load {
	out := slices.Clone(loads)
	for i := range out {
		out[i].Requests = max(out[i].Requests, -1)
	}
	slices.SortStableFunc(out, func(a, b Load) int { return a.Module.Compare(b.Module) })
	return slices.CompactFunc(out, func(a, b Load) bool { return a.Module == b.Module })
}

// label re-packs the fleet as it is in the middle of every interval.
func (c *closer) label(opts Options) {
	every := int64(opts.Repack)
	if every <= 0 {
		every = int64(15 * time.Minute)
	}
	length := int64(c.hour.To.Sub(c.hour.From))
	every = max(every, length/60) // at most one a minute
	var last []place.Machine
	var lastLabels []place.Label
	for start := int64(0); start < length; start += every {
		end := min(start+every, length)
		c.borders = append(c.borders, end)
		fleet, index := c.fleetAt((start + end) / 2)
		labels := lastLabels
		if last == nil || !slices.EqualFunc(fleet, last, sameMachine) {
			labels = place.Repack(fleet)
		}
		last, lastLabels = fleet, labels
		interval := len(c.borders) - 1
		for n, i := range index {
			m := &c.machines[i]
			for len(m.labels) <= interval {
				m.labels = append(m.labels, labelled{})
			}
			m.labels[interval] = labelled{labels[n], true}
		}
	}
}

func sameMachine(a, b place.Machine) bool {
	return a.Name == b.Name && a.Allocatable == b.Allocatable && a.Spare == b.Spare && a.Closed == b.Closed &&
		slices.EqualFunc(a.Pods, b.Pods, func(x, y place.Pod) bool {
			return x.Request == y.Request && x.Owner == y.Owner
		})
}

// fleetAt is the fleet at one moment, serverless capacity apart, and where its
// machines are in c.machines.
func (c *closer) fleetAt(at int64) ([]place.Machine, []int) {
	var fleet []place.Machine
	var index []int
	pods := make([]place.Pod, 0, c.pods)
	for i := range c.machines {
		m := &c.machines[i]
		if m.Serverless || at < m.from || at >= m.to {
			continue
		}
		first := len(pods)
		for n := range m.pods {
			p := &m.pods[n]
			if at < p.from || at >= p.to {
				continue
			}
			var request resource.Vector
			if len(p.steps) > 0 {
				request = bounded(p.steps[p.stepAt(c, at)].Request)
			}
			pods = append(pods, place.Pod{
				Request: request, Owner: p.UID, Pools: p.Rules.Pools, Alone: p.Rules.Alone,
				Spread: p.Rules.Spread, Domains: p.Rules.Domains, Pinned: p.Rules.Pinned, Daemon: p.Daemon,
			})
		}
		fleet = append(fleet, place.Machine{
			Name: m.Name, Pool: m.Pool, Domain: m.Domain, Allocatable: m.Allocatable, Spare: m.Spare,
			Closed: m.Closed, MaxPods: m.MaxPods, Pods: pods[first:len(pods):len(pods)],
		})
		index = append(index, i)
	}
	return fleet, index
}

// labelled is a label, or that there is none.
type labelled struct {
	place.Label
	known bool
}

// labelAt is the machine's label in an interval, or the nearest one it has.
func (m *closing) labelAt(interval int) labelled {
	for d := 0; d <= interval || interval+d < len(m.labels); d++ {
		for _, i := range [2]int{interval + d, interval - d} {
			if i >= 0 && i < len(m.labels) && m.labels[i].known {
				return m.labels[i]
			}
		}
	}
	return labelled{}
}

// divide divides free capacity as the label divides what was free then. What has
// no label, for the machine lived too shortly, is of the wrong shape; capacity
// bought by the pod goes with it.
func (l *labelled) divide(rest int64, serverless bool, k int) (waiting, constraint int64) {
	if serverless {
		return rest, 0
	}
	sum := l.Waiting[k] + l.Constraint[k] + l.Shape[k]
	if !l.known || sum == 0 {
		return 0, 0
	}
	return int64(money.Amount(rest).Scale(l.Waiting[k], sum)), int64(money.Amount(rest).Scale(l.Constraint[k], sum))
}

// An integral adds up amounts over nanoseconds in 128 bits.
type integral struct{ hi, lo uint64 }

func (s *integral) add(amount, ns int64) {
	hi, lo := bits.Mul64(uint64(amount), uint64(ns))
	var carry uint64
	s.lo, carry = bits.Add64(s.lo, lo, 0)
	s.hi += hi + carry
}

// seconds is the integral over seconds, in the unit of facts, rounded down.
func (s *integral) seconds(kind int) int64 {
	hi, lo := s.hi, s.lo
	if resource.Kind(kind) == resource.Memory {
		lo = lo>>20 | hi<<44
		hi >>= 20
	}
	q, _ := bits.Div64(hi%uint64(time.Second), lo, uint64(time.Second))
	return int64(q)
}

type podSums struct {
	used, slack, headroom, openCost Amounts
	estimated                       money.Amount
	estimatedNanos                  int64
}

// closeMachine accounts for one machine, slice by slice.
func (c *closer) closeMachine(m *closing, f *Facts) error {
	fact := MachineFact{Name: m.Name, Pool: m.Pool, Type: m.Type, Serverless: m.Serverless, From: c.instant(m.from), To: c.instant(m.to)}
	typ, err := c.book.Type(m.Type, fact.From)
	if err != nil {
		return fmt.Errorf("price machine %q: %w", m.Name, err)
	}
	price, err := c.book.At(m.Type, m.Capacity, fact.From)
	if err != nil {
		return fmt.Errorf("price machine %q: %w", m.Name, err)
	}
	fact.RatingMillis, fact.ListPrice, fact.EffectivePrice = typ.Rating(), price.List, price.Effective

	// 1. Cut the time into slices in which nothing changes.
	c.cutPods(m)
	changes := c.book.Changes(m.Type, fact.From, fact.To)
	edges := c.edgesOf(m, changes)

	// 2. Price every slice and divide it.
	n := len(m.pods)
	c.sums = append(c.sums[:0], make([]podSums, n)...)
	c.at = append(c.at[:0], make([]int, n)...)
	var idle boxSums
	interval := 0
	label := m.labelAt(0)
	for e := 0; e+1 < len(edges); e++ {
		from, to := edges[e], edges[e+1]
		start, end := c.instant(from), c.instant(to)
		for ; len(changes) > 0 && !changes[0].After(start); changes = changes[1:] {
			if price, err = c.book.At(m.Type, m.Capacity, start); err != nil {
				return fmt.Errorf("price machine %q: %w", m.Name, err)
			}
		}
		for ; interval < len(c.borders)-1 && c.borders[interval] <= from; label = m.labelAt(interval) {
			interval++
		}
		fact.List += price.List.Between(start, end)
		weights := weightsOf(price)
		var cost Amounts
		money.SplitInto(cost[:], price.Effective.Between(start, end), weights[:])
		held := c.present(m, from, to)
		for k := range resource.Kinds {
			if cost[k] != 0 {
				fact.Bill[k] += cost[k]
				c.divide(m, k, cost[k], held[k], label, &idle)
			}
		}
	}
	fact.Idle = make(map[Box]Amounts, len(boxOrder))
	for i, box := range boxOrder {
		fact.Idle[box] = idle[i]
	}

	// 3. Write the facts of its pods, and what keeps more of them off.
	var held [resource.Kinds]int64
	for i := range m.pods {
		pf := c.podFact(m, &m.pods[i], &c.sums[i])
		for k := range held {
			held[k] += pf.HeldSeconds[k]
		}
		f.Pods = append(f.Pods, pf)
		m.pods[i].segments = nil
	}
	fullest := -1.0
	for k := range resource.Kinds {
		var capacity integral
		capacity.add(m.Capacity[k], m.to-m.from)
		fact.CapacitySeconds[k] = capacity.seconds(k)
		if fact.CapacitySeconds[k] > 0 {
			if full := float64(held[k]) / float64(fact.CapacitySeconds[k]); full > fullest {
				fullest, fact.Binding = full, resource.Kind(k)
			}
		}
	}
	f.Machines = append(f.Machines, fact)
	return nil
}

// cutPods finds the segments of the machine's pods, in memory that the next
// machine uses again.
func (c *closer) cutPods(m *closing) {
	c.buffer = c.buffer[:0]
	for i := range m.pods {
		first := len(c.buffer)
		c.buffer = c.segments(c.buffer, &m.pods[i])
		m.pods[i].segments = c.buffer[first:len(c.buffer):len(c.buffer)]
	}
}

// edgesOf returns the moments at which anything about the machine changes.
func (c *closer) edgesOf(m *closing, changes []time.Time) []int64 {
	edges := append(c.edges[:0], m.from, m.to)
	for _, b := range c.borders {
		if b > m.from && b < m.to {
			edges = append(edges, b)
		}
	}
	for _, t := range changes {
		edges = append(edges, c.offset(t))
	}
	for i := range m.pods {
		for n := range m.pods[i].segments {
			edges = append(edges, m.pods[i].segments[n].from)
		}
		edges = append(edges, m.pods[i].to)
	}
	slices.Sort(edges)
	c.edges = slices.Compact(edges)
	return c.edges
}

// present finds the segment of every pod that is there in a slice (nil for the
// others), and returns what they hold together.
func (c *closer) present(m *closing, from, to int64) (held resource.Vector) {
	c.active = c.active[:0]
	for i := range m.pods {
		p := &m.pods[i]
		at := c.at[i]
		for at < len(p.segments) && p.segments[at].to <= from {
			at++
		}
		c.at[i] = at
		if at == len(p.segments) || p.segments[at].from > from {
			c.active = append(c.active, nil)
			continue
		}
		s := &p.segments[at]
		c.active = append(c.active, s)
		held = held.Add(s.held)
		if s.estimated {
			c.sums[i].estimatedNanos += to - from
		}
	}
	return held
}

type boxSums [len(boxOrder)]Amounts

// divide splits what one resource cost in a slice over what the pods used and
// held on top, and over the boxes of what is free. Where pods hold more than
// there is, nothing is free and the weights scale them down: c = m·Cap/Σm.
func (c *closer) divide(m *closing, k int, cost money.Amount, held int64, label labelled, idle *boxSums) {
	capacity := m.Capacity[k]
	free := max(capacity-held, 0)
	if held == 0 && free == 0 { // paid for, and nothing there
		idle[boxSystem][k] += cost
		return
	}
	weights := c.weights[:0]
	for _, s := range c.active {
		if s == nil {
			weights = append(weights, 0, 0)
		} else {
			weights = append(weights, s.use[k], s.held[k]-s.use[k])
		}
	}
	system := min(capacity-m.Allocatable[k], free)
	spare := min(m.Spare[k], free-system)
	rest := free - system - spare
	waiting, constraint := label.divide(rest, m.Serverless, k)
	weights = append(weights, system, spare, rest-waiting-constraint, constraint, waiting)
	c.weights = weights
	if cap(c.parts) < len(weights) {
		c.parts = make([]money.Amount, 2*len(weights))
	}
	parts := money.SplitInto(c.parts[:len(weights)], cost, weights)

	for i, s := range c.active {
		if s == nil {
			continue
		}
		sum := &c.sums[i]
		used, slack := parts[2*i], parts[2*i+1]
		if held <= capacity {
			sum.openCost[k] += used + slack
		} else if capacity > 0 {
			sum.openCost[k] += overScale(cost, s.held[k], capacity)
		}
		if m.pods[i].Headroom {
			sum.headroom[k] += used + slack
			idle[boxSpare][k] += used + slack
			continue
		}
		sum.used[k] += used
		sum.slack[k] += slack
		idle[boxSlack][k] += slack
		if s.estimated {
			sum.estimated += used + slack
		}
	}
	own := parts[2*len(c.active):]
	for i, box := range [...]int{boxSystem, boxSpare, boxShape, boxConstraint, boxWaiting} {
		idle[box][k] += own[i]
	}
}

func (c *closer) podFact(m *closing, p *tenant, s *podSums) PodFact {
	pf := PodFact{
		UID: p.UID, Namespace: p.Namespace, Name: p.Name, Module: p.Module, Machine: m.Name, Pool: m.Pool, Type: m.Type,
		Labels: p.Labels, From: c.instant(p.from), To: c.instant(p.to),
		Used: s.used, Slack: s.slack, Headroom: s.headroom, IsHeadroom: p.Headroom, OpenCost: s.openCost,
		EstimatedMillis: s.estimatedNanos * 1000 / (p.to - p.from), Estimated: s.estimated,
	}
	var request, use, held [resource.Kinds]integral
	for n := range p.segments {
		g := &p.segments[n]
		for k := range resource.Kinds {
			request[k].add(g.request[k], g.to-g.from)
			use[k].add(g.use[k], g.to-g.from)
			held[k].add(g.held[k], g.to-g.from)
		}
	}
	for k := range resource.Kinds {
		pf.RequestSeconds[k], pf.UseSeconds[k], pf.HeldSeconds[k] = request[k].seconds(k), use[k].seconds(k), held[k].seconds(k)
	}
	return pf
}

const (
	boxSystem = iota
	boxSpare
	boxSlack
	boxShape
	boxConstraint
	boxWaiting
)

func weightsOf(p machine.Price) [resource.Kinds]int64 {
	if p.Weights == [resource.Kinds]int64{} {
		return [resource.Kinds]int64{1, 0, 0}
	}
	return p.Weights
}

// overScale is a·num/den where num may be any multiple of den, held below what
// sums could overflow with: a figure for comparison, not money.
func overScale(a money.Amount, num, den int64) money.Amount {
	const bound = math.MaxInt64 >> 20
	hi, lo := bits.Mul64(uint64(a), uint64(num))
	if hi >= uint64(den) {
		return bound
	}
	q, _ := bits.Div64(hi, lo, uint64(den))
	return money.Amount(min(q, bound))
}

// carry gives every pod its part of what its module carries of the idle boxes,
// and machines what nobody could.
func carry(f *Facts) {
	type holder struct {
		module    workload.Key
		namespace string
		pool      string // "" with wide
		wide      bool
	}
	type spotKind struct {
		spot
		kind int
	}
	due := map[holder]*Amounts{}
	shared := map[spotKind]bool{}
	for _, s := range shareIdle(f) {
		h := holder{module: s.module, namespace: s.namespace, pool: s.pool}
		if s.wide {
			h.pool, h.wide = "", true
		}
		a := due[h]
		if a == nil {
			a = new(Amounts)
			due[h] = a
		}
		a[s.kind] += s.amount
		shared[spotKind{s.spot, s.kind}] = true
	}
	members := map[holder][]int{}
	for i := range f.Pods {
		p := &f.Pods[i]
		if p.holdsRoom() {
			continue
		}
		for _, h := range [2]holder{{p.Module, p.Namespace, p.Pool, false}, {p.Module, p.Namespace, "", true}} {
			if due[h] != nil {
				members[h] = append(members[h], i)
			}
		}
	}
	var weights []int64
	for h, list := range members {
		for k := range resource.Kinds {
			if due[h][k] == 0 {
				continue
			}
			weights = weights[:0]
			for _, i := range list {
				weights = append(weights, f.Pods[i].HeldSeconds[k])
			}
			for n, part := range money.Split(due[h][k], weights) {
				f.Pods[list[n]].Shared[k] += part
			}
		}
	}
	for i := range f.Machines {
		m := &f.Machines[i]
		for k := range resource.Kinds {
			if shared[spotKind{spot{m.Pool, m.Type}, k}] {
				continue
			}
			for box, a := range m.Idle {
				if box != Slack {
					m.Unshared[k] += a[k]
				}
			}
		}
	}
}
