package colocator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/moduleload"
)

// judgeEvery is over how long a service's quality is judged, and how often.
const judgeEvery = 5 * time.Minute

// A breach is a service beside batch that misses its quality.
type breach struct {
	module workload.Key    // zero: the policy's own guard
	nodes  map[string]bool // on which it and batch run; nil means all of the policy
	why    string
	cost   money.Amount // an hour of what its pods there ask for
}

// judge asks how the services do that have batch beside them, and puts down on every
// machine which of them misses its quality.
func (c *Colocator) judge(ctx context.Context, w *world) {
	if c.o.Metrics == nil {
		return
	}
	for _, p := range w.policies {
		st := c.policies[p.UID]
		if p.Spec.Mode != v1alpha1.ModeAuto {
			st.broken, st.unknown = nil, nil
			continue
		}
		if st.judged.IsZero() || w.now.Sub(st.judged) >= judgeEvery {
			st.judged = w.now
			st.broken, st.unknown = c.breaches(ctx, w, p)
		}
		for _, m := range w.machines {
			for _, b := range st.broken {
				if m.policy == p && m.breach == "" && (b.nodes == nil || b.nodes[m.node.Name]) {
					m.breach = b.why
				}
			}
		}
	}
}

// breaches returns what misses its quality beside the batch pods of a policy. The
// error says what could not be judged.
func (c *Colocator) breaches(ctx context.Context, w *world, p *v1alpha1.ColocationPolicy) ([]breach, error) {
	// 1. Which services run beside batch pods, and where.
	type beside struct {
		nodes map[string]bool
		asks  map[string]resource.Vector // by node
	}
	all := map[workload.Key]*beside{}
	busy := false
	for _, m := range w.machines {
		if m.policy != p || len(m.batch) == 0 {
			continue
		}
		busy = true
		for _, pod := range m.online {
			key := c.runs.of(pod)
			b := all[key]
			if b == nil {
				b = &beside{map[string]bool{}, map[string]resource.Vector{}}
				all[key] = b
			}
			b.nodes[m.node.Name] = true
			b.asks[m.node.Name] = b.asks[m.node.Name].Add(convert.Request(pod))
		}
	}
	if !busy {
		return nil, nil
	}
	// 2. What is asked of each.
	type question struct {
		convert.Module
		breach
	}
	var questions []question
	var errs []error
	add := func(m *v1alpha1.Module, b breach) {
		declared, err := convert.DeclaredModule(m)
		switch {
		case err != nil:
			errs = append(errs, err)
		case declared.Guarded():
			questions = append(questions, question{declared, b})
		}
	}
	if p.Spec.Guard != nil {
		own := &v1alpha1.Module{}
		own.Name, own.Spec.Quality = p.Name, p.Spec.Guard
		add(own, breach{why: "the guard of the policy is not met"})
	}
	for _, m := range w.modules {
		key := convert.TargetKey(m)
		on := all[key]
		if on == nil {
			continue
		}
		b := breach{module: key, nodes: on.nodes, why: fmt.Sprintf("%s/%s, which has pods there, misses its quality", m.Namespace, m.Name)}
		for _, s := range w.machines {
			if v, ok := on.asks[s.node.Name]; ok {
				b.cost += c.priceOf(w, s.node).of(room(v))
			}
		}
		add(m, b)
	}
	// 3. The answers.
	var mu sync.Mutex
	var broken []breach
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, q := range questions {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			l, err := moduleload.Ask(ctx, c.o.Metrics, q.Module, w.now.Add(-judgeEvery), w.now)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case l.Known && !l.Met:
				broken = append(broken, q.breach)
			case !l.Known && err != nil:
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	slices.SortFunc(broken, func(a, b breach) int { return strings.Compare(a.why, b.why) })
	return broken, errors.Join(errs...)
}
