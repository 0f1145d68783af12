package convert

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// Type returns the machine type that t declares. The error names the type.
func Type(t *v1alpha1.MachineType) (machine.Type, error) {
	out, err := machineType(t)
	if err != nil {
		return machine.Type{}, fmt.Errorf("machine type %q: %w", t.Name, err)
	}
	if err := out.Validate(); err != nil { // names the type itself
		return machine.Type{}, err
	}
	return out, nil
}

func machineType(t *v1alpha1.MachineType) (machine.Type, error) {
	out := machine.Type{Name: t.Name, Currency: cmp.Or(t.Spec.Price.Currency, "USD")}
	if c := t.Spec.Capacity; c != nil {
		out.Capacity = amounts(c.Amounts)
	}
	var err error
	if out.List, err = price(t.Spec.Price.List); err != nil {
		return out, err
	}
	if u := t.Spec.Price.Units; u != nil {
		for k, m := range map[resource.Kind]*v1alpha1.Money{resource.CPU: u.CPU, resource.Memory: u.Memory, resource.GPU: u.GPU} {
			if out.UnitList[k], err = price(m); err != nil {
				return out, err
			}
		}
	}
	if d := t.Spec.Price.DiscountPercent; d != nil {
		if out.DiscountMillis, err = decimal(d.String(), 10); err != nil {
			return out, fmt.Errorf("discountPercent: %w", err)
		}
	}
	if r := t.Spec.Rating; r != nil {
		out.RatingSource = r.Source
		if out.RatingMillis, err = decimal(string(r.NCUPerCore), 1000); err != nil {
			return out, fmt.Errorf("rating: %w", err)
		}
		out.RatingLow, out.RatingHigh = out.RatingMillis, out.RatingMillis
		if r.Low != nil {
			if out.RatingLow, err = decimal(string(*r.Low), 1000); err != nil {
				return out, fmt.Errorf("rating: low: %w", err)
			}
		}
		if r.High != nil {
			if out.RatingHigh, err = decimal(string(*r.High), 1000); err != nil {
				return out, fmt.Errorf("rating: high: %w", err)
			}
		}
	}
	return out, nil
}

// A Module is what a user declares about one workload.
type Module struct {
	Name     string       // of the object that declares it
	Key      workload.Key // of the workload
	Features []workload.Feature

	// The queries are PromQL with $window; "" where none is declared.
	LoadQuery    string
	SuccessQuery string // yields 0 to 1
	P99Query     string // yields seconds

	SuccessMicros int64         // least millionths of the requests that succeed
	P99           time.Duration // highest 99th percentile
}

// Guarded reports whether the module declares any quality target.
func (m Module) Guarded() bool { return m.SuccessQuery != "" || m.P99Query != "" }

// DeclaredModule returns what m declares. The error names the module.
func DeclaredModule(m *v1alpha1.Module) (Module, error) {
	out := Module{Name: m.Name, Key: TargetKey(m)}
	sum := int64(0)
	for _, f := range m.Spec.Features {
		out.Features = append(out.Features, workload.Feature{Name: f.Name, ShareMillis: int64(f.Share)})
		sum += int64(f.Share)
	}
	if len(out.Features) > 0 && sum != 1000 {
		return out, fmt.Errorf("module %s/%s: the shares of its features add up to %d, not 1000", m.Namespace, m.Name, sum)
	}
	if l := m.Spec.Load; l != nil {
		out.LoadQuery = string(l.Query)
	}
	if q := m.Spec.Quality; q != nil && q.Success != nil {
		percent, ok := strings.CutSuffix(q.Success.Target, "%")
		micros, err := decimal(percent, 10_000)
		if !ok || err != nil || micros < 0 || micros > 1_000_000 {
			return out, fmt.Errorf("module %s/%s: success target %q is not a percentage such as 99.95%%", m.Namespace, m.Name, q.Success.Target)
		}
		out.SuccessQuery, out.SuccessMicros = string(q.Success.Query), micros
	}
	if q := m.Spec.Quality; q != nil && q.P99 != nil {
		d, err := positive("p99 target", q.P99.Target)
		if err != nil {
			return out, fmt.Errorf("module %s/%s: %w", m.Namespace, m.Name, err)
		}
		out.P99Query, out.P99 = string(q.P99.Query), d
	}
	return out, nil
}

// TargetKey returns the key of the workload that m names.
func TargetKey(m *v1alpha1.Module) workload.Key {
	return workload.Key{Namespace: m.Namespace, Kind: cmp.Or(m.Spec.TargetRef.Kind, "Deployment"), Name: m.Spec.TargetRef.Name}
}

// A Pool is one declared pool.
type Pool struct {
	Name  string
	Kind  v1alpha1.PoolKind
	Type  string // of a Serverless pool's prices
	Order int32

	selector labels.Selector
	spec     v1alpha1.ResourcePoolSpec
}

// Pools finds the pool that a node belongs to. The nil *Pools knows none.
type Pools struct {
	list   []Pool // in the order they are asked
	byName map[string]*Pool
}

// NewPools prepares declared pools. A pool whose selector makes no sense is left
// out and named in the error; the others can be used all the same.
func NewPools(declared []*v1alpha1.ResourcePool) (*Pools, error) {
	p := &Pools{byName: map[string]*Pool{}}
	var errs []error
	for _, d := range declared {
		pool := Pool{
			Name: d.Name, Kind: cmp.Or(d.Spec.Kind, v1alpha1.PoolMachines), Type: d.Spec.MachineType,
			Order: d.Spec.Order, spec: d.Spec,
			selector: labels.SelectorFromSet(labels.Set{v1alpha1.LabelPool: d.Name}),
		}
		if d.Spec.Selector != nil {
			s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
			if err != nil {
				errs = append(errs, fmt.Errorf("resource pool %q: selector: %w", d.Name, err))
				continue
			}
			pool.selector = s
		}
		p.list = append(p.list, pool)
	}
	slices.SortFunc(p.list, func(a, b Pool) int {
		return cmp.Or(cmp.Compare(a.Order, b.Order), strings.Compare(a.Name, b.Name))
	})
	for i := range p.list {
		p.byName[p.list[i].Name] = &p.list[i]
	}
	return p, errors.Join(errs...)
}

// Get returns the declared pool called name.
func (p *Pools) Get(name string) (Pool, bool) {
	if p == nil || p.byName[name] == nil {
		return Pool{}, false
	}
	return *p.byName[name], true
}

// poolLabels are where clouds and autoscalers write the group of a node, for
// clusters in which nobody has declared pools.
var poolLabels = []string{
	v1alpha1.LabelPool,
	"karpenter.sh/nodepool",
	"eks.amazonaws.com/nodegroup",
	"cloud.google.com/gke-nodepool",
	"kubernetes.azure.com/agentpool",
	"alibabacloud.com/nodepool-id",
}

// Of returns the pool of a node: the first declared pool that selects it, else
// the group that its labels name, which then has no Kind. The zero Pool means none.
func (p *Pools) Of(node *corev1.Node) Pool {
	set := labels.Set(node.Labels)
	if p != nil {
		for i := range p.list {
			if p.list[i].selector.Matches(set) {
				return p.list[i]
			}
		}
	}
	for _, l := range poolLabels {
		if v := node.Labels[l]; v != "" {
			return Pool{Name: v}
		}
	}
	return Pool{}
}

// SetSpare writes the spare that pools declare into the machines of one hour.
// A total is divided so that over the hour the pool's machines hold it together;
// no machine holds more than pods could use of it.
func (p *Pools) SetSpare(h *bill.Hour) {
	if p == nil {
		return
	}
	span := h.To.Sub(h.From)
	for _, pool := range p.list {
		s := pool.spec.Spare
		if s == nil || span <= 0 {
			continue
		}
		var mine []*bill.Machine
		for i := range h.Machines {
			if m := &h.Machines[i]; m.Pool == pool.Name && !m.Serverless {
				mine = append(mine, m)
			}
		}
		switch {
		case s.PerMachine != nil:
			for _, m := range mine {
				m.Spare = amounts(*s.PerMachine).Min(m.Allocatable)
			}
		case s.Total != nil:
			total := amounts(*s.Total)
			for _, k := range resource.All {
				// Weights are capacity; a machine that lived half the hour holds its
				// share only for that half, so the others hold more.
				var held money.Amount // Σ allocatable · life
				for _, m := range mine {
					held += money.Amount(m.Allocatable[k]).Scale(int64(m.To.Sub(m.From)), int64(span))
				}
				if held <= 0 {
					continue
				}
				for _, m := range mine {
					share := money.Amount(total[k]).Scale(m.Allocatable[k], int64(held))
					m.Spare[k] = min(int64(share), m.Allocatable[k])
				}
			}
		}
	}
}

// Guard returns what of each GPU machine of the pool is kept for one GPU.
func (p Pool) Guard() resource.Vector {
	g := p.spec.Guard
	if g == nil {
		return resource.Vector{}
	}
	return amounts(v1alpha1.Amounts{CPU: g.CPUPerGPU, Memory: g.MemoryPerGPU})
}

// MaxPod returns the largest pod that the pool's provider takes; an amount is 0
// where it says nothing about it.
func (p Pool) MaxPod() resource.Vector {
	if l := p.spec.Serverless; l != nil && l.MaxPod != nil {
		return amounts(*l.MaxPod)
	}
	return resource.Vector{}
}

// Limit returns the declared limit of the pool, and whether there is one;
// machines is −1 and an amount 0 where nothing is said about it.
func (p Pool) Limit() (machines int64, total resource.Vector, ok bool) {
	l := p.spec.Limit
	if l == nil {
		return -1, resource.Vector{}, false
	}
	machines = -1
	if l.Machines != nil {
		machines = int64(*l.Machines)
	}
	return machines, amounts(l.Amounts), true
}
