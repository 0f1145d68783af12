package interference

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/suppressor"
	"github.com/neap-dev/neap/host/cgroup"
)

// The slower loop looks at what the service feels so often, and holds batch back for
// so long at most, as the agent's do unless a policy says otherwise.
const (
	lookEvery = 5 * time.Second
	coolDown  = 5 * time.Minute
)

// neap holds batch back as the agent does and with its code: idle and the fast
// budget, and the slack of the service's own p99 when it promises one. percent is
// how much of the machine online and batch may use together.
func neap(ctx context.Context, s *Stage, percent int) (func() string, error) {
	dir, err := os.MkdirTemp("", groupPrefix+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	pods := s.Batch.Parent()
	ledger, err := cgroup.OpenLedger(s.Tree, cgroup.Options{Scope: pods, Dir: dir})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	give := func() {
		_ = ledger.Close()
		_ = os.RemoveAll(dir)
	}
	if err := ledger.Set(cgroup.Want{Group: s.Batch, Knob: cgroup.Idle, Value: 1, Reason: "batch runs where online leaves CPU"}); err != nil {
		give()
		return nil, err
	}
	capacity := int64(1000 * s.Cores)
	// As the agent's, a hundredth of the machine is batch's whatever happens.
	rule := colocate.BudgetRule{CapacityMilli: capacity, Percent: int64(percent), FloorMilli: capacity / 100}
	loop := suppressor.New(suppressor.Options{Tree: s.Tree, Hand: ledger, InForce: -1,
		Plan: suppressor.Plan{Pods: pods, Batch: s.Batch, Rule: rule, Write: true}})

	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() {
		s.wait(ctx)
		loop.Run(ctx, suppressor.Every)
	})
	looks, missed, why := 0, 0, ""
	if s.TargetMs > 0 {
		work.Go(func() {
			slack := colocate.NewSlack(colocate.SlackRule{CapacityMilli: capacity, FloorMilli: rule.FloorMilli, CoolDown: coolDown})
			s.wait(ctx)
			began := time.Now()
			tick := time.NewTicker(lookEvery)
			defer tick.Stop()
			_, _, _ = s.P99Ms(ctx) // from here on
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				ms, n, err := s.P99Ms(ctx)
				var felt []colocate.Signal
				if err == nil && n > 0 {
					felt = []colocate.Signal{{Workload: "online", Kind: "p99", Value: int64(ms * 1e6), Target: int64(s.TargetMs * 1e6)}}
				}
				v := slack.Look(time.Since(began), felt, loop.State().Ceiling.Milli)
				loop.Follow(func(p *suppressor.Plan) { p.Restraint = v.Restraint })
				looks++
				if v.Missed {
					missed++
				}
				if v.Why != "" {
					why = v.Why
				}
			}
		})
	}
	return func() string {
		cancel()
		work.Wait()
		st := loop.State()
		loop.Close()
		give()
		said := fmt.Sprintf("ceiling %.2f cores at the end, %d writes in %d ticks", float64(st.Ceiling.Milli)/1000, st.Writes, st.Ticks)
		if st.Err != nil {
			said += "; " + st.Err.Error()
		}
		if looks > 0 {
			said += fmt.Sprintf("; promise missed in %d of %d looks", missed, looks)
		}
		if why != "" {
			said += "; " + why
		}
		return said
	}, nil
}
