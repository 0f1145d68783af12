// Package observe reads any cluster, installs nothing in it, and returns what
// the bill needs to know of its last hours: machines, pods, their exact
// lifetimes, their requests, their use, their prices.
//
// Where to enter: [Config] finds the cluster, [Cluster] reads it, and
// [Snapshot.EachHour] gives its hours one by one. Everything is a list or a get;
// which rights that takes, a [ForbiddenError] says.
//
// What an API server does not know, nothing here can know: pods and nodes whose
// objects are gone. [Snapshot.Notes] says so, and says what is estimated. Neap's
// controller, which watches, misses nothing (kube/controller).
package observe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// Options say what to read. Config, From and To are required.
type Options struct {
	Config   *rest.Config
	From, To time.Time // To at most the present

	// Metrics answers PromQL about the pods' use; nil asks the kubelets through
	// the API server instead, where that is allowed.
	Metrics metrics.Source
	// Types are priced as they say, whatever the cluster's MachineTypes say.
	Types []machine.Type
	// Currency of the bill; "" takes that of the first type that says one, else USD.
	Currency string
	// Strict refuses a machine type that nobody priced, instead of estimating it.
	Strict bool
	// Now is the present.
	Now time.Time
}

// A Snapshot is what was read. Its hours come from [Snapshot.EachHour].
type Snapshot struct {
	Book     *machine.PriceBook
	Features map[workload.Key][]workload.Feature
	// Notes say, one sentence each, what the reader must know to trust the
	// figures. EachHour adds to them.
	Notes []string

	opts    Options
	journal *bill.Journal
	pools   *convert.Pools
	modules []convert.Module
	running map[podName]running // what kubelets said; nil where metrics are asked
	asked   asked               // of the metrics, so far
}

// Cluster reads a cluster. Errors are one sentence: what, where, what to do.
func Cluster(ctx context.Context, opts Options) (*Snapshot, error) {
	s := &Snapshot{opts: opts}
	if err := s.read(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Snapshot) read(ctx context.Context) error {
	r, err := newReader(s.opts.Config)
	if err != nil {
		return err
	}

	// 1. Read.
	nodes, err := r.nodes(ctx)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return fmt.Errorf("the cluster at %s has no nodes, so it has no bill", r.server)
	}
	pods, err := r.pods(ctx)
	if err != nil {
		return err
	}
	owners, missing, err := r.owners(ctx)
	if err != nil {
		return err
	}
	for _, f := range missing {
		s.note("Pods are grouped by the names of their owners, for %s.", f.Error())
	}
	types, declaredPools, modules, err := r.declared(ctx)
	if err != nil {
		return err
	}

	// 2. Translate.
	s.pools, err = convert.NewPools(pointers(declaredPools))
	if err != nil {
		s.note("A resource pool is left out: %s.", oneLine(err))
	}
	s.Features = map[workload.Key][]workload.Feature{}
	for i := range modules {
		m, err := convert.DeclaredModule(&modules[i])
		if err != nil {
			s.note("A module's declaration is left out: %s.", oneLine(err))
			continue
		}
		s.modules = append(s.modules, m)
		if len(m.Features) > 0 {
			s.Features[m.Key] = m.Features
		}
	}
	virtual := s.lifetimes(nodes, pods, owners)
	if err := s.prices(types, nodes, virtual); err != nil {
		return err
	}
	if s.opts.Metrics == nil {
		return s.askKubelets(ctx, r, nodes)
	}
	return nil
}

// EachHour calls do with every hour of the window, oldest first and cut at full
// hours of UTC, so that only one need be held in memory. It may be called once.
func (s *Snapshot) EachHour(ctx context.Context, do func(bill.Hour) error) error {
	for from := s.opts.From; from.Before(s.opts.To); {
		to := from.UTC().Truncate(time.Hour).Add(time.Hour)
		if to.After(s.opts.To) {
			to = s.opts.To
		}
		h := s.journal.Hour(from, to)
		for i := range h.Machines {
			h.Machines[i].Type = priced(&h.Machines[i])
		}
		s.pools.SetSpare(&h)
		if s.opts.Metrics == nil {
			s.fromKubelets(&h)
		} else if err := s.measure(ctx, &h); err != nil {
			return err
		}
		if err := do(h); err != nil {
			return err
		}
		from = to
	}
	s.noteMetrics()
	return nil
}

func (s *Snapshot) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// lifetimes records when machines and pods were there. It returns the machines
// of pods on virtual nodes beside.
func (s *Snapshot) lifetimes(nodes []corev1.Node, pods []corev1.Pod, owners *convert.Owners) []bill.Machine {
	opts, pools, j := s.opts, s.pools, &bill.Journal{}
	s.journal = j
	var virtual []bill.Machine
	known := make(map[string]*corev1.Node, len(nodes))
	young := 0
	for i := range nodes {
		n := &nodes[i]
		known[n.Name] = n
		if n.CreationTimestamp.After(opts.From) {
			young++
		}
		if convert.Virtual(n, pools) {
			continue
		}
		m := convert.Machine(n, pools)
		j.Apply(bill.Event{At: n.CreationTimestamp.Time, Kind: bill.MachineSeen, Machine: &m})
	}

	if n := simulated(nodes); n > 0 {
		s.note("%s simulated, and their day may pass faster than the wall clock's; this bill is by the wall clock: that of the simulated day is in the store of neap up (--store).", count(n, "machine of this cluster is", "machines of this cluster are"))
	}
	homeless := 0
	for i := range pods {
		p := &pods[i]
		bound, ok := convert.Bound(p)
		if !ok {
			continue
		}
		ended, over := convert.Ended(p)
		over = over && convert.Over(p)
		if over && !ended.After(opts.From) || bound.After(opts.To) {
			continue
		}
		node := known[p.Spec.NodeName]
		if node == nil {
			homeless++
			continue
		}
		if bound.Before(node.CreationTimestamp.Time) { // clocks differ by a second or so
			bound = node.CreationTimestamp.Time
		}
		billed, own := convert.Pod(p, owners.Of(p), node, pools)
		if own != nil {
			virtual = append(virtual, *own)
			j.Apply(bill.Event{At: bound, Kind: bill.MachineSeen, Machine: own})
		}
		j.Apply(bill.Event{At: bound, Kind: bill.PodSeen, Pod: &billed})
		if over {
			j.Apply(bill.Event{At: ended, Kind: bill.PodGone, Name: billed.UID})
			if own != nil {
				j.Apply(bill.Event{At: ended, Kind: bill.MachineGone, Name: own.Name})
			}
		}
	}

	s.note("Pods and nodes that were deleted before now cannot be seen without Neap's controller; what deleted pods used of machines that are still there is in the idle boxes.")
	if homeless > 0 {
		s.note("%s left out, for the nodes they ran on are gone.", count(homeless, "pod is", "pods are"))
	}
	if young > 0 {
		s.note("%s younger than the window; what was there before cannot be seen.", count(young, "node is", "nodes are"))
	}
	return virtual
}

// simulated counts the nodes that exist only in a simulation.
func simulated(nodes []corev1.Node) int {
	n := 0
	for i := range nodes {
		if nodes[i].Labels[v1alpha1.LabelSimulated] == "true" {
			n++
		}
	}
	return n
}

// prices makes the price book: what the caller says, else what the cluster's
// MachineTypes say, else an estimate by shape, which is noted.
func (s *Snapshot) prices(types []v1alpha1.MachineType, nodes []corev1.Node, virtual []bill.Machine) error {
	opts, pools := s.opts, s.pools
	given := map[string]machine.Type{}
	for i := range types {
		t, err := convert.Type(&types[i])
		if err != nil {
			return fmt.Errorf("%s; correct it with kubectl edit machinetype %s", oneLine(err), types[i].Name)
		}
		given[t.Name] = t
	}
	for _, t := range opts.Types {
		given[t.Name] = t
	}
	used := map[string][]bill.Machine{}
	for i := range nodes {
		if !convert.Virtual(&nodes[i], pools) {
			m := convert.Machine(&nodes[i], pools)
			m.Type = priced(&m)
			used[m.Type] = append(used[m.Type], m)
		}
	}
	for _, m := range virtual {
		m.Type = priced(&m)
		used[m.Type] = append(used[m.Type], m)
	}

	currency := opts.Currency
	for _, name := range sortedKeys(used) {
		if t, ok := given[name]; ok && currency == "" {
			currency = t.Currency
		}
	}
	s.Book = machine.NewPriceBook(cmp.Or(currency, "USD"))
	var guessed []string
	for _, name := range sortedKeys(used) {
		t, ok := given[name]
		if !ok {
			if opts.Strict {
				return fmt.Errorf("machine type %q of %s has no price; declare a MachineType of that name, add it to the file of --prices, or leave out --strict to estimate it by its shape",
					name, count(len(used[name]), "machine", "machines"))
			}
			t = estimate(name, used[name][0])
			guessed = append(guessed, fmt.Sprintf("%s (%s)", name, count(len(used[name]), "machine", "machines")))
		}
		if err := s.Book.Set(time.Time{}, t); err != nil {
			if errors.Is(err, machine.ErrNoRate) {
				return fmt.Errorf("machine type %q is priced in %s and the bill is in %s; price every type in use in one currency with --prices", name, t.Currency, s.Book.Currency())
			}
			return err
		}
	}
	if len(guessed) > 0 {
		s.note("Nobody has priced %s: the cost of these machines is estimated by their shape (%s USD a core-hour, %s a GiB-hour, %s a GPU-hour); declare MachineTypes or give --prices.",
			strings.Join(guessed, ", "), short(machine.StandardUnit[resource.CPU]), short(machine.StandardUnit[resource.Memory]), short(machine.StandardUnit[resource.GPU]))
	}
	return nil
}

// priced returns the type that a machine is priced as; one without a type label
// is named after its shape.
func priced(m *bill.Machine) string {
	switch {
	case m.Type != "":
		return m.Type
	case m.Serverless:
		return "serverless"
	}
	name := fmt.Sprintf("%d-cores-%d-GiB", (m.Capacity[resource.CPU]+500)/1000, (m.Capacity[resource.Memory]+resource.GiB/2)/resource.GiB)
	if gpus := m.Capacity[resource.GPU] / 1000; gpus > 0 {
		name += fmt.Sprintf("-%d-GPUs", gpus)
	}
	return name
}

// estimate prices a machine by its shape, at the standard unit prices.
func estimate(name string, m bill.Machine) machine.Type {
	t := machine.Type{Name: name, Currency: "USD"}
	if m.Serverless {
		t.UnitList = machine.StandardUnit
		return t
	}
	t.Capacity = m.Capacity
	per := resource.Vector{1000, resource.GiB, 1000}
	for k, unit := range machine.StandardUnit {
		t.List += money.PerHour(money.Amount(unit).Scale(m.Capacity[k], per[k]))
	}
	return t
}

// short writes a price without the zeros at its end.
func short(p money.PerHour) string {
	return strings.TrimRight(money.Amount(p).String(), "0")
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
