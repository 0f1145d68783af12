package warden

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/cgroup"
)

// searching makes the bench one of a workload that feels what noisy says of the pods
// that stand still, and where the policy wants a culprit named.
func (b *bench) searching(noisy func(still []string) int64) {
	b.policy.Spec.Slack.CoolDown = "0s"
	b.policy.Spec.Ladder.Attribute = true
	b.pod("web", false, nil)
	for _, name := range []string{"one", "two", "three"} {
		b.pod(name, true, func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationBatchFreeze] = "1h" })
	}
	b.pod("stiff", true, nil)
	b.opts.Signals = func(context.Context, v1alpha1.ColocationSlack, []Feeler) []colocate.Signal {
		return []colocate.Signal{{Workload: "default/Deployment/web", Kind: "runqueue", Value: noisy(b.still()), Target: 1000}}
	}
}

// still are the batch pods that stand still.
func (b *bench) still() []string {
	var out []string
	for _, p := range b.pods {
		if g := class.Child("pod" + p.Name); b.tree.Exists(g) && b.knob(g, cgroup.Freeze) == 1 {
			out = append(out, p.Name)
		}
	}
	return out
}

// second lets a second go by.
func (b *bench) second() Report {
	b.began = b.began.Add(-time.Second)
	return b.round()
}

// count returns the value of a metric's series.
func (b *bench) count(name, label string) float64 {
	b.t.Helper()
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(b.Warden)
	families, err := metrics.Gather()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && len(m.Label) == 1 && m.Label[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	b.t.Fatalf("%s of %s is not told", name, label)
	return 0
}

func TestWhoOnlineSuffersFromIsFoundAndFrozenFirst(t *testing.T) {
	for _, version := range []cgroup.Version{cgroup.V1, cgroup.V2} {
		t.Run(version.String(), func(t *testing.T) {
			b := newBench(t, version)
			b.deadman()
			b.searching(func(still []string) int64 {
				if slices.Contains(still, "two") {
					return 500
				}
				return 2000
			})
			var why string
			for s := 0; b.count("neap_colocation_attributions_total", "culprit") == 0; s++ {
				r := b.second()
				if still := b.still(); len(still) > 1 || slices.Contains(still, "stiff") {
					t.Fatalf("%q stand still", still)
				}
				if step := r.Colocation.Step; step != "None" && step != "Idle" && step != "Quota" {
					t.Fatalf("the step is %s while a culprit is looked for", step)
				}
				if len(b.still()) > 0 {
					why = r.Colocation.Why
				}
				if s > 600 {
					t.Fatal("no culprit in ten minutes")
				}
			}
			if !strings.Contains(why, "stands still for a second now and then") {
				t.Errorf("why is %q", why)
			}
			for s := 0; !slices.Equal(b.still(), []string{"two"}); s++ {
				if b.second(); s > 60 || len(b.still()) > 1 {
					t.Fatalf("after %d s %q are frozen", s, b.still())
				}
			}
			for range 40 { // and stays so: that all is well is because of it
				b.second()
			}
			if !slices.Equal(b.still(), []string{"two"}) || len(b.evicted) > 0 {
				t.Errorf("%q are frozen, %d evicted", b.still(), len(b.evicted))
			}
			if r := b.second(); !strings.Contains(r.Colocation.Why, "default/two is what default/Deployment/web suffers from") {
				t.Errorf("why is %q", r.Colocation.Why)
			}
			if !slices.Contains(b.events, "two BatchCulprit") || !slices.Contains(b.events, "two BatchPaused") || !slices.Contains(b.events, "two BatchFrozen") ||
				slices.Contains(b.events, "one BatchFrozen") || slices.Contains(b.events, "one BatchCulprit") {
				t.Errorf("the events are %q", b.events)
			}
			b.policy.Spec.Ladder.Freeze, b.policy.Spec.Ladder.Attribute = false, false
			for range 6 {
				b.second()
			}
			if got := b.still(); got != nil {
				t.Errorf("freezing is no longer allowed, and %q are frozen", got)
			}
		})
	}
}

func TestACulpritIsEvictedInsteadOfWhoLosesLeast(t *testing.T) {
	b := newBench(t, cgroup.V2)
	b.deadman()
	b.searching(func(still []string) int64 {
		if slices.Contains(still, "two") {
			return 1500 // it helps, and not enough
		}
		return 2000
	})
	for s := 0; len(b.evicted) == 0; s++ {
		if b.second(); s > 600 {
			t.Fatal("nobody is evicted in ten minutes")
		}
		time.Sleep(time.Millisecond) // evictions go beside the rounds
	}
	if got := <-b.evicted; got != "two" {
		t.Errorf("%s is evicted", got)
	}
	b.pods[2].DeletionTimestamp = &metav1.Time{} // it ends
	for range 30 {
		b.second()
	}
	if len(b.evicted) > 0 || b.still() != nil {
		t.Errorf("while the culprit ends %d others are evicted and %q frozen", len(b.evicted), b.still())
	}
}

func TestWithoutACulpritTheLadderGoesOn(t *testing.T) {
	b := newBench(t, cgroup.V2)
	b.deadman()
	felt := int64(4000)
	b.searching(func([]string) int64 { return felt })
	for range 10 {
		b.second()
	}
	felt = 2000 // less CPU for batch helped, and not enough
	for s := 0; b.count("neap_colocation_attributions_total", "cleared") < 3; s++ {
		if b.second(); s > 300 || len(b.still()) > 1 {
			t.Fatalf("after %d s %q stand still", s, b.still())
		}
	}
	for s := 0; len(b.evicted) == 0; s++ {
		if b.second(); s > 120 {
			t.Fatal("the ladder is not climbed")
		}
		time.Sleep(time.Millisecond)
	}
	if b.count("neap_colocation_attributions_total", "culprit") != 0 || slices.Contains(b.events, "one BatchCulprit") {
		t.Errorf("the events are %q", b.events)
	}
}

func TestNobodyStandsStillUnasked(t *testing.T) {
	b := newBench(t, cgroup.V2)
	b.deadman()
	b.searching(func([]string) int64 { return 2000 })
	b.policy.Spec.Ladder.Attribute = false
	for range 40 {
		b.second()
	}
	if slices.Contains(b.events, "one BatchPaused") || b.count("neap_colocation_attributions_total", "cleared") != 0 {
		t.Errorf("the events are %q", b.events)
	}
}

// TestNobodyIsLeftStandingStill: whatever ends a pause in its middle.
func TestNobodyIsLeftStandingStill(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"the agent ends": func(b *bench) {
			if err := b.Close(); err != nil {
				b.t.Error(err)
			}
		},
		"it is killed, and the deadman is there": func(b *bench) { // whom the loss of the line tells
			b.disown()
			b.ledger.Leave()
			b.line.Close()
		},
		"it is killed, and restored": func(b *bench) {
			b.disown()
			b.ledger.Leave()
			b.line.Send(deadman.Orders{Bye: true})
			b.line.Close()
			if len(b.still()) != 1 {
				b.t.Error("its death let it go")
			}
			if err := cgroup.Restore(b.tree, "/kubepods", b.dir); err != nil {
				b.t.Error(err)
			}
		},
		"it is killed, and starts again": func(b *bench) {
			b.disown()
			b.ledger.Leave()
			b.line.Send(deadman.Orders{Bye: true})
			b.line.Close()
			b.Warden = b.warden()
			b.want(ReasonWorking, true)
		},
		"a second": func(b *bench) { b.second() },
		"its pod is deleted": func(b *bench) {
			for _, p := range b.pods {
				p.DeletionTimestamp = &metav1.Time{}
			}
			b.second()
		},
		"it is no longer allowed by the pod": func(b *bench) {
			for _, p := range b.pods {
				delete(p.Annotations, v1alpha1.AnnotationBatchFreeze)
			}
			b.second()
		},
		"it is no longer batch": func(b *bench) {
			for _, p := range b.pods {
				p.Labels = nil
			}
			b.second()
		},
		"the policy goes":  func(b *bench) { b.policy = nil; b.second() },
		"nothing is to be": func(b *bench) { b.policy.Spec.Mode = v1alpha1.ModePreview; b.second() },
		"nothing is felt":  func(b *bench) { b.opts.Signals = nil; b.second() },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, cgroup.V1)
			b.deadman()
			b.searching(func([]string) int64 { return 2000 })
			for s := 0; b.still() == nil; s++ {
				if b.second(); s > 60 {
					t.Fatal("nobody stands still")
				}
			}
			end(b)
			b.eventually("everybody goes on", func() bool { return b.still() == nil })
		})
	}
}
