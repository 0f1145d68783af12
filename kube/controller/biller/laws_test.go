package biller

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/controller/biller/billertest"
)

// A day is what happens to a small cluster, made by dice.
type day struct {
	nodes map[string]*corev1.Node
	pods  map[string]*corev1.Pod
}

// step does one random thing to the cluster and tells w of it. Equal dice do
// equal things. It reports whether something was deleted, of which a biller that
// was away learns only that it is gone.
func (d *day) step(w *world, dice *rand.Rand, n int) (deleted bool) {
	now := w.clock.Now()
	names := sortedKeys(d.pods)
	switch c := dice.IntN(10); {
	case c < 5 || len(names) == 0: // a pod is bound
		name := fmt.Sprint("p", n)
		p := pod(name, fmt.Sprint("n", dice.IntN(2)), now.Truncate(time.Second))
		d.pods[name] = p
		w.Pod(p)
	case c < 7: // a pod finishes, or finishes again: later times of it do not count
		p := finished(d.pods[names[dice.IntN(len(names))]], now.Truncate(time.Second))
		if old := d.pods[p.Name]; old.Status.Phase == corev1.PodSucceeded {
			p = old
		}
		d.pods[p.Name] = p
		w.Pod(p)
	case c < 8: // a pod is deleted
		name := names[dice.IntN(len(names))]
		w.PodGone(d.pods[name])
		delete(d.pods, name)
		return true
	case c < 9: // a pod is resized
		p := d.pods[names[dice.IntN(len(names))]].DeepCopy()
		if p.Status.Phase == corev1.PodRunning {
			p.Spec.Containers[0].Resources.Requests["cpu"] = *p.Spec.Containers[0].Resources.Requests.Cpu()
			q := p.Spec.Containers[0].Resources.Requests["cpu"]
			q.Add(q)
			p.Spec.Containers[0].Resources.Requests["cpu"] = q
			d.pods[p.Name] = p
			w.Pod(p)
		}
	default: // a node is cordoned or not
		n := d.nodes[fmt.Sprint("n", dice.IntN(2))].DeepCopy()
		n.Spec.Unschedulable = !n.Spec.Unschedulable
		d.nodes[n.Name] = n
		w.Node(n)
	}
	return false
}

// tellAll is what informers do at a start, in an order of their own.
func (d *day) tellAll(w *world, dice *rand.Rand) {
	w.MachineType(machineType("m", "0.40"))
	podsFirst := dice.IntN(2) == 0
	tellPods := func() {
		names := sortedKeys(d.pods)
		dice.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			w.Pod(d.pods[name])
		}
	}
	if podsFirst {
		tellPods()
	}
	for _, name := range sortedKeys(d.nodes) {
		w.Node(d.nodes[name])
	}
	if !podsFirst {
		tellPods()
	}
	w.Synced()
}

// FuzzRestart holds the biller to its promise: whenever it is killed and started
// again, the bill is the same to the last unit.
func FuzzRestart(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed*31)
	}
	f.Fuzz(func(t *testing.T, seed, kills uint64) {
		play := func(restarts bool) []bill.Facts {
			w := newWorld(t, API, nil)
			d := &day{nodes: map[string]*corev1.Node{}, pods: map[string]*corev1.Pod{}}
			for i := range 2 {
				n := node(fmt.Sprint("n", i), "m", at(-60))
				d.nodes[n.Name] = n
			}
			dice, killer := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(kills, 2))
			d.tellAll(w, killer)
			minute := 0.0
			for n := range 60 {
				minute += dice.Float64() * 6
				w.to(at(minute))
				deleted := d.step(w, dice, n)
				killed, early := killer.IntN(4) == 0, killer.IntN(2) == 0
				if !killed || !restarts {
					continue
				}
				if deleted || !early { // or it dies before anything of the step is recorded
					if err := w.turn(); err != nil {
						t.Fatal(err)
					}
				}
				w.restart()
				d.tellAll(w, killer)
			}
			w.to(at(minute).Add(3 * time.Hour).Truncate(time.Hour).Add(5 * time.Minute))
			return w.facts()
		}
		if d := cmp.Diff(play(false), play(true)); d != "" {
			t.Errorf("a restart changed the bill:\n%s", d)
		}
	})
}

// Informers tell from several goroutines while the page asks and Run works.
func TestManyTellAndAskAtOnce(t *testing.T) {
	store := &billertest.Memory{}
	b, err := New(Options{Store: store, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { done <- b.Run(ctx) }()
	now := time.Now().Add(-time.Minute)
	b.MachineType(machineType("m", "0.40"))
	b.Node(node("n0", "m", now))
	b.Synced()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 50 {
				p := pod(fmt.Sprintf("p%d-%d", g, i), "n0", now)
				b.Pod(p)
				b.Owner(&metav1.ObjectMeta{UID: "rs", OwnerReferences: []metav1.OwnerReference{}})
				if i%3 == 0 {
					b.PodGone(finished(p, now.Add(time.Second)))
				}
				if _, err := b.Provisional(ctx); err != nil {
					t.Error(err)
				}
				b.PodsOf(workload.Key{Namespace: "shop", Kind: "Deployment", Name: "cart"})
				b.Hour(now, now.Add(time.Hour))
				b.PoolNow("general")
				b.StartTime("general")
				b.Last()
				b.Problem()
			}
		})
	}
	wg.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	events, err := store.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range events {
		if e.Kind == bill.PodSeen {
			seen[e.Pod.UID] = true
		}
	}
	if len(seen) != 200 {
		t.Errorf("%d pods are recorded, want 200", len(seen))
	}
}
