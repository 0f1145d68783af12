package repacker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// repairs is how often a plan is made again because Kubernetes would not let a
	// pod go where the planner put it.
	repairs = 8
	// mostPlans is how often the rest of a plan is found anew before it stops.
	mostPlans = 50
	// mostFailed is how many moves may fail before a plan does.
	mostFailed = 3
)

var goals = map[v1alpha1.RepackGoal]gpu.Goal{
	v1alpha1.RepackAdmit: gpu.Admit, v1alpha1.RepackEmpty: gpu.Empty, v1alpha1.RepackEvacuate: gpu.Evacuate,
}

// allowed is how many further moves a plan may have.
func allowed(p *v1alpha1.RepackPlan) int {
	n := int(cmp.Or(p.Spec.Limits.MaxMoves, 100))
	for i := range p.Status.Moves {
		if p.Status.Moves[i].StartedAt != nil {
			n--
		}
	}
	return n
}

// options are the limits of a plan as the planner knows them.
func (w *world) options(p *v1alpha1.RepackPlan) (gpu.Options, error) {
	o := gpu.Options{MaxMoves: allowed(p), Parallel: int(max(1, p.Spec.Limits.Parallel))}
	if o.MaxMoves <= 0 {
		o.MaxMoves = -1 // none, where 0 would be as many as it takes
	}
	if m := p.Spec.MinimumSaving; m != nil && *m != "" {
		if w.prices == nil {
			return o, fmt.Errorf("minimumSaving needs the price of every machine, and %s has none: declare a MachineType", w.noPrice)
		}
		a, err := money.Parse(string(*m))
		if err != nil {
			return o, fmt.Errorf("minimumSaving: %w", err)
		}
		o.MinSaving = int64(a)
	}
	return o, nil
}

// plan finds the moves that are to come and writes them into the status, after those
// that were made. Nothing may be under way.
func (w *world) plan(p *v1alpha1.RepackPlan, now time.Time) error {
	opts, err := w.options(p)
	if err != nil {
		return err
	}
	var q *question
	var plan gpu.Plan
	stay := map[string]string{}
	for try := range repairs + 1 {
		q = w.ask(p, stay)
		if plan, err = gpu.Repack(&q.Situation, goals[p.Spec.Goal], opts); err != nil {
			return err
		}
		if !w.repair(q, &plan, stay, try == repairs-1) {
			break
		}
		if try == repairs {
			return errors.New("the pods may not go where there would be room for them, by their node selectors, affinities and tolerations")
		}
	}
	w.write(p, q, &plan, stay, now)
	return nil
}

// repair finds the pods that may not go where the plan has them and adds them to
// those that stay; with all also every other one that not all machines would take.
// It reports whether there was one.
func (w *world) repair(q *question, plan *gpu.Plan, stay map[string]string, all bool) bool {
	found := false
	check := func(t *tenant, machine int) {
		if node := w.book.Node(machine); !allows(t.Pod.Pod, w.nodes[node]) {
			found = true
			stay[t.Namespace+"/"+t.Name] = fmt.Sprintf("there is room on machine %s, which its node selector, affinity or tolerations exclude", node)
		}
	}
	for _, m := range plan.Moves {
		check(q.tenants[m.Tenant], m.To.Machine)
	}
	for _, a := range plan.Places {
		check(q.pending[a.Pending], a.Spot.Machine)
	}
	if found && all {
		for _, t := range slices.Concat(q.tenants, q.pending) {
			for _, node := range w.book.Nodes() {
				if !allows(t.Pod.Pod, node) {
					stay[t.Namespace+"/"+t.Name] = "not every machine takes it"
				}
			}
		}
	}
	return found
}

// write puts a plan into the status.
func (w *world) write(p *v1alpha1.RepackPlan, q *question, plan *gpu.Plan, stay map[string]string, now time.Time) {
	s := &p.Status
	s.Moves = slices.DeleteFunc(s.Moves, func(m v1alpha1.RepackMove) bool { return m.StartedAt == nil })
	base := len(s.Moves)
	is := make([]string, len(q.tenants)) // what each tenant is called, for it is another pod after a move
	for _, m := range plan.Moves {
		t := q.tenants[m.Tenant]
		d := t.Demands[m.Demand]
		to := v1alpha1.RepackMove{
			Pod: cmp.Or(is[m.Tenant], t.Namespace+"/"+t.Name), Service: t.service,
			From: w.spot(m.From), To: w.spot(m.To), Milli: d.Milli, MemoryMiB: d.DeviceMemory,
			LoadSeconds: m.Seconds, After: int32(base + m.After), Evict: t.set == "", State: v1alpha1.MovePending,
		}
		if is[m.Tenant] == "" {
			to.UID = string(t.UID)
		}
		if w.prices != nil {
			to.Cost = amount(m.Cost)
		}
		if !to.Evict {
			to.SurgePod = surgeName(t.set, p.UID, int(s.Replans), to.Pod)
			is[m.Tenant] = t.Namespace + "/" + to.SurgePod
		}
		s.Moves = append(s.Moves, to)
	}
	s.Places = nil
	for _, a := range plan.Places {
		t := q.pending[a.Pending]
		d, at := t.Demands[a.Demand], w.spot(a.Spot)
		s.Places = append(s.Places, v1alpha1.RepackHold{Pod: t.Namespace + "/" + t.Name, Machine: at.Machine, Devices: at.Devices, Milli: d.Milli, MemoryMiB: d.DeviceMemory})
	}
	s.Left = q.left
	for _, i := range plan.Refused {
		s.Left = append(s.Left, v1alpha1.RepackLeft{Pod: q.pending[i].Namespace + "/" + q.pending[i].Name, Reason: "there is no place for it, " + stopped[plan.Stopped]})
	}
	for _, i := range plan.Left {
		t := q.tenants[i]
		s.Left = append(s.Left, v1alpha1.RepackLeft{Pod: t.Namespace + "/" + t.Name, Reason: cmp.Or(t.fixed, stay[t.Namespace+"/"+t.Name], "there is no other place for it, or its disruption budget does not let it go")})
	}
	s.Left = s.Left[:min(len(s.Left), 1024)]

	peak := level(plan.Peak)
	if s.Before == nil {
		s.Before = level(plan.Before)
	}
	if was := s.Peak; was != nil { // that of the moves already made
		peak.GPUs, peak.Machines = max(peak.GPUs, was.GPUs), max(peak.Machines, was.Machines)
	}
	s.Peak, s.After = peak, level(plan.After)
	s.Freed = w.freed(p, q, plan)
	s.Gap = w.gap(plan.After)
	s.PlannedAt = &metav1.Time{Time: now}
	s.Planned = int32(len(s.Moves))
	s.Further = stopped[plan.Stopped]
	s.Reason = fmt.Sprintf("%d moves are to come; %s", len(plan.Moves), s.Further)
}

// stopped says why a plan has no more moves.
var stopped = map[gpu.Stop]string{
	gpu.Done:      "the goal is reached with these moves",
	gpu.NoMore:    "nothing further was found",
	gpu.NotWorth:  "what is further costs more than it gains",
	gpu.MoveLimit: "more moves are not allowed",
	gpu.StepLimit: "the search was ended before it was complete",
}

// freed is what a plan gives back, with what it gave back already.
func (w *world) freed(p *v1alpha1.RepackPlan, q *question, plan *gpu.Plan) *v1alpha1.RepackFreed {
	out := &v1alpha1.RepackFreed{}
	machines := slices.Clone(plan.Freed)
	saved, cost := plan.Gain, plan.Cost // an emptied machine may have been paid for by opening another
	if p.Spec.Goal != v1alpha1.RepackEmpty {
		saved = 0
		for _, i := range machines {
			saved += w.price(i)
		}
	}
	if was := p.Status.Freed; was != nil {
		for _, name := range was.Names {
			if i, ok := w.book.Machine(name); ok && q.Fleet.Machine(i).Pods == 0 {
				machines = append(machines, i)
				saved += w.price(i)
			}
		}
	}
	for i := range p.Status.Moves {
		if m := &p.Status.Moves[i]; m.StartedAt != nil {
			a, _ := money.Parse(string(m.Cost)) // ours, or absent
			cost += int64(a)
		}
	}
	for _, i := range machines {
		out.Names = append(out.Names, w.book.Node(i))
		out.GPUs += int32(q.Fleet.Has(i).GPUs)
	}
	slices.Sort(out.Names)
	out.Machines = int32(len(out.Names))
	if w.prices != nil {
		out.PerHour, out.Cost = amount(saved), amount(cost)
	}
	return out
}

// rest holds what is left of a plan against the world as it is now. The error says
// why it works no more.
func (w *world) rest(p *v1alpha1.RepackPlan) error {
	opts, err := w.options(p)
	if err != nil {
		return err
	}
	opts.MaxMoves = 0 // those under way have begun
	q := w.ask(p, nil)
	for i := range q.Tenants {
		q.Tenants[i].Groups = nil // budgets are asked as each move begins, and as each pod goes
	}
	byName := map[string]int{}
	for i, t := range q.tenants {
		byName[t.Namespace+"/"+t.Name] = i
	}
	var moves []gpu.Move
	ahead := make([]int, len(p.Status.Moves)+1) // how many of the first are still to come
	for i := range p.Status.Moves {
		m := &p.Status.Moves[i]
		ahead[i+1] = ahead[i]
		if w.over(m) {
			continue
		}
		ahead[i+1]++
		t, ok := byName[m.Pod]
		if !ok {
			return fmt.Errorf("pod %s is gone", m.Pod)
		}
		if m.StartedAt == nil && m.UID != "" && m.UID != string(q.tenants[t].UID) {
			return fmt.Errorf("pod %s is another one now", m.Pod)
		}
		to, ok := w.book.Spot(m.To.Machine, m.To.Devices...)
		if !ok {
			return fmt.Errorf("the place of pod %s on machine %s is gone", m.Pod, m.To.Machine)
		}
		from := q.Tenants[t].Spot
		for k := range moves { // it may move twice
			if moves[k].Tenant == t {
				from = moves[k].To
			}
		}
		if at, ok := w.book.Spot(m.From.Machine, m.From.Devices...); !ok || at != from {
			return fmt.Errorf("pod %s is not on machine %s any more", m.Pod, m.From.Machine)
		}
		demand := demandFor(q.tenants[t].Demands, m, q.Fleet.Has(to.Machine), to)
		if demand < 0 {
			return fmt.Errorf("pod %s does not ask for what it did", m.Pod)
		}
		if !allows(q.tenants[t].Pod.Pod, w.nodes[m.To.Machine]) {
			return fmt.Errorf("machine %s does not take pod %s any more", m.To.Machine, m.Pod)
		}
		q.Tenants[t].Fixed = q.Tenants[t].Fixed && m.StartedAt == nil
		moves = append(moves, gpu.Move{Tenant: t, From: from, To: to, Demand: demand, After: ahead[min(int(m.After), i)]})
		if !m.Evict {
			byName[podKey(m.Pod).Namespace+"/"+m.SurgePod] = t
		}
	}
	var places []gpu.Place
	for i, t := range q.pending {
		for _, h := range p.Status.Places {
			s, ok := w.book.Spot(h.Machine, h.Devices...)
			if h.Pod != t.Namespace+"/"+t.Name || !ok {
				continue
			}
			hold := v1alpha1.RepackMove{Milli: h.Milli, MemoryMiB: h.MemoryMiB}
			if d := demandFor(t.Demands, &hold, q.Fleet.Has(s.Machine), s); d >= 0 {
				places = append(places, gpu.Place{Pending: i, Demand: d, Spot: s, After: len(moves)})
			}
		}
	}
	left, err := gpu.Resume(&q.Situation, goals[p.Spec.Goal], opts, moves, places)
	if err != nil {
		return err
	}
	for _, i := range left.Left {
		t := q.tenants[i]
		name := t.Namespace + "/" + t.Name
		if t.fixed == "" && !slices.ContainsFunc(p.Status.Left, func(l v1alpha1.RepackLeft) bool { return l.Pod == name }) {
			return fmt.Errorf("pod %s has come to what is to be left", name)
		}
	}
	if p.Spec.Goal != v1alpha1.RepackEmpty || p.Status.Freed == nil {
		return nil
	}
	for _, name := range p.Status.Freed.Names {
		i, ok := w.book.Machine(name)
		if ok && q.Fleet.Machine(i).Pods > 0 && !slices.Contains(left.Freed, i) {
			return fmt.Errorf("machine %s would not be empty any more", name)
		}
	}
	return nil
}

// refuses returns the disruption budget that lets no pod go now that a move is of,
// "" if there is none.
func (w *world) refuses(m *v1alpha1.RepackMove) string {
	least := 0
	if m.Evict {
		least = 1
	}
	for i := range w.tenants {
		if t := &w.tenants[i]; t.Namespace+"/"+t.Name == m.Pod {
			for _, k := range t.groups {
				if w.groups[k].Slack < least {
					return w.budgets[k]
				}
			}
		}
	}
	return ""
}

// demandFor returns which of the demands a move is with, −1 if none.
func demandFor(all []gpu.Demand, m *v1alpha1.RepackMove, has *gpu.Machine, to gpu.Spot) int {
	return slices.IndexFunc(all, func(d gpu.Demand) bool {
		if d.Milli != m.Milli || d.DeviceMemory != m.MemoryMiB || d.Devices != to.Devices.Len() {
			return false
		}
		for rest := to.Devices; rest != 0; rest &= rest - 1 {
			if !d.Models.Accepts(has.Model[rest.First()]) {
				return false
			}
		}
		return true
	})
}

// spot is a place by the names that people know it by.
func (w *world) spot(s gpu.Spot) v1alpha1.RepackSpot {
	a := w.book.Allocation(gpu.Demand{}, s)
	out := v1alpha1.RepackSpot{Machine: a.Node}
	for _, d := range a.Devices {
		out.Devices = append(out.Devices, d.UUID)
	}
	return out
}

func level(l gpu.Level) *v1alpha1.RepackLevel {
	return &v1alpha1.RepackLevel{GPUs: int32(l.GPUs), Machines: int32(l.Machines)}
}

func amount(nano int64) v1alpha1.Money {
	return v1alpha1.Money(convert.Money(money.Amount(max(0, nano))))
}
