package suppressor

import (
	"testing"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/cgroup"
)

// absent is a hand on a kernel without burst.
type absent struct{ Hand }

func (h absent) Set(wants ...cgroup.Want) error {
	for _, w := range wants {
		if w.Knob == cgroup.Burst {
			return cgroup.ErrAbsent
		}
	}
	return h.Hand.Set(wants...)
}

// TestTheBurstFollowsTheQuota holds that batch may make up for what it was kept from
// beside idle, that the kernel never refuses a quota for its burst, and that nothing of
// it is left when idle goes, when the ceiling does, and where the kernel has none.
func TestTheBurstFollowsTheQuota(t *testing.T) {
	for _, version := range []cgroup.Version{cgroup.V1, cgroup.V2} {
		for _, has := range []bool{true, false} {
			fake := cgroup.NewFake(version)
			tree := fake.Tree()
			const pods, batch = cgroup.Group("/pods"), cgroup.Group("/pods/batch")
			if err := tree.Make(batch); err != nil {
				t.Fatal(err)
			}
			ledger, err := cgroup.OpenLedger(tree, cgroup.Options{Scope: pods, Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			var hand Hand = ledger
			if !has {
				hand = absent{ledger}
			}
			rule := colocate.BudgetRule{CapacityMilli: 2000, Percent: 80, FloorMilli: 20}
			s := New(Options{Tree: tree, Hand: hand, InForce: -1, Plan: Plan{Pods: pods, Batch: batch, Rule: rule, Write: true}})
			tick := func(quota, burst int64, change func(*Plan)) {
				t.Helper()
				s.Follow(change)
				if st := s.Tick(); st.Err != nil {
					t.Fatalf("v%v, has %v: %v", version, has, st.Err)
				}
				gotQuota, err := tree.Get(batch, cgroup.Quota)
				if err != nil {
					t.Fatal(err)
				}
				gotBurst, err := tree.Get(batch, cgroup.Burst)
				if err != nil {
					t.Fatal(err)
				}
				if !has {
					burst = 0
				}
				if gotQuota != quota || gotBurst != burst {
					t.Fatalf("%v, has %v: quota %d, burst %d; want %d, %d", version, has, gotQuota, gotBurst, quota, burst)
				}
			}
			s.Tick() // rates take two looks
			tick(1600, 160_000, func(*Plan) {})
			tick(500, 50_000, func(p *Plan) { p.Restraint = colocate.Restraint{Capped: true, CapMilli: 500} })
			tick(500, 0, func(p *Plan) { p.Rule.Exposed = true })
			tick(20, 2000, func(p *Plan) { p.Rule.Exposed, p.Rule.Percent = false, 0 })
			tick(cgroup.Unlimited, 0, func(p *Plan) { p.Write = false })
			s.Close()
			if err := ledger.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
