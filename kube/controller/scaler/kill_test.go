package scaler

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"

	"github.com/neap-dev/neap/core/bill"
)

// A doom kills a process after a number of steps: before an operation, when
// nothing has happened, or right after it, when nobody learns that it did. Who is
// dead does nothing any more.
type doom struct {
	left int // −1: never
	dead bool
}

var errKilled = errors.New("killed")

func (d *doom) spare() { d.left, d.dead = -1, false }

func (d *doom) step() error {
	if d.left == 0 {
		d.dead = true
	}
	if d.dead {
		return errKilled
	}
	d.left--
	return nil
}

func (d *doom) around(do func() error) error {
	if err := d.step(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return d.step()
}

type mortalScales struct {
	scale.ScalesGetter
	d *doom
}

type mortalScale struct {
	scale.ScaleInterface
	d *doom
}

func (m mortalScales) Scales(ns string) scale.ScaleInterface {
	return mortalScale{m.ScalesGetter.Scales(ns), m.d}
}

func (m mortalScale) Get(ctx context.Context, r schema.GroupResource, name string, o metav1.GetOptions) (out *autoscalingv1.Scale, err error) {
	err = m.d.around(func() error { out, err = m.ScaleInterface.Get(ctx, r, name, o); return err })
	return out, err
}

func (m mortalScale) Update(ctx context.Context, r schema.GroupResource, s *autoscalingv1.Scale, o metav1.UpdateOptions) (out *autoscalingv1.Scale, err error) {
	err = m.d.around(func() error { out, err = m.ScaleInterface.Update(ctx, r, s, o); return err })
	return out, err
}

type mortalLedger struct {
	Ledger
	d *doom
}

func (m mortalLedger) AppendDecision(ctx context.Context, d bill.Decision) error {
	return m.d.around(func() error { return m.Ledger.AppendDecision(ctx, d) })
}

// busy is an hour with a class, a burst and a lull, then a quarter of an hour in
// which everything comes to rest.
func busy(t time.Time) float64 {
	switch m := t.Sub(monday).Minutes(); {
	case m < 10:
		return 20
	case m < 25:
		return 20 + 12*(m-10)
	case m < 40:
		return 200 + 40*math.Sin(m)
	case m < 50:
		return 60
	default:
		return 95
	}
}

const busySpec = `{targetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}, mode: Auto, min: 2, max: 45, load: {query: "load[$window]", perReplica: "10", target: "50%"},
	reactive: {stabilization: 5m}, cron: [{name: class, start: "10:20", duration: 20m, floor: 12}], manual: [{name: exam, floor: 15, from: "2026-03-02T10:45:00Z", until: "2026-03-02T10:55:00Z", reason: exam}],
	scaleIn: {watch: 2m, step: "50%", holdIfNeededWithin: 0s}}`

// live plays the busy hour. kill says after how many operations of a minute the
// process dies, −1 for never; it is started again at once.
func live(t *testing.T, kill func(minute int) int) (replicas []int, x *town) {
	x = settle(t, busySpec)
	x.source.set("load", busy)
	for minute := range 85 {
		for k := kill(minute); ; k = -1 {
			x.doom.left = k
			err := x.scaler.Minute(t.Context())
			if !x.doom.dead {
				if err != nil {
					t.Fatal(err)
				}
				break
			}
			x.restart()
		}
		got := x.replicas()
		replicas = append(replicas, got)
		x.pods(got)
		x.clock.Step(time.Minute)
	}
	return replicas, x
}

func TestKilledAtAnyPointTheEndIsTheSame(t *testing.T) {
	want, whole := live(t, func(int) int { return -1 })
	end := whole.status()
	if want[len(want)-1] != 19 || end.Desired != 19 {
		t.Fatalf("the undisturbed hour ends with %d replicas, %d desired; want 19", want[len(want)-1], end.Desired)
	}
	runs := 25
	if testing.Short() {
		runs = 5
	}
	for seed := range runs {
		dice := rand.New(rand.NewPCG(uint64(seed), 7))
		kills := 0
		got, x := live(t, func(minute int) int {
			if minute >= 65 || dice.IntN(3) > 0 {
				return -1
			}
			kills++
			return dice.IntN(30)
		})
		st := x.status()
		if diff := cmp.Diff(want[len(want)-1], got[len(got)-1]); diff != "" {
			t.Fatalf("run %d, %d kills: the end is another one: %s", seed, kills, diff)
		}
		if st.Desired != end.Desired || st.Winner != end.Winner || st.Reason != end.Reason || (st.Leaving == nil) != (end.Leaving == nil) || st.Current != end.Current {
			t.Fatalf("run %d, %d kills: status %+v, want %+v", seed, kills, st, end)
		}
		// What a kill loses is patience: replicas stay longer, and never go sooner.
		for m := range want {
			if got[m] < want[m] {
				t.Fatalf("run %d, %d kills: %d replicas in minute %d, undisturbed %d", seed, kills, got[m], m, want[m])
			}
		}
		if last := x.book.rows[len(x.book.rows)-1]; last.Inputs["desired"] != "19" {
			t.Fatalf("run %d: the ledger ends with %+v", seed, last)
		}
	}
}
