package repacker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// scattered is four machines of two GPUs, of which two would do.
func scattered() []client.Object {
	objects := []client.Object{node("a", 2), node("b", 2), node("c", 2), node("d", 2)}
	objects = append(objects, service("chat", "a:0:500", "b:0:500")...)
	objects = append(objects, service("draw", "c:0:300", "d:1:300", "a:0:300")...)
	return append(objects, service("hear", "b:1:600", "c:1:600")...)
}

const together = `{goal: Empty, mode: Execute, limits: {cooldown: 0s, movesPerHour: 100}}`

// end is what a plan came to, as far as it must not depend on when somebody was killed.
func end(y *yard, p *v1alpha1.RepackPlan) string {
	out := []string{string(p.Status.Phase), p.Status.Reason, y.where()}
	for _, m := range p.Status.Moves {
		out = append(out, fmt.Sprintf("%s %s→%s %s", m.Pod, m.From.Machine, m.To.Machine, m.State))
	}
	var ids []string
	for id, d := range y.rows {
		id, _, _ = strings.Cut(id, "/1") // the second that it began
		ids = append(ids, id+" "+d.Action+" "+d.Outcome)
	}
	slices.Sort(ids)
	return strings.Join(append(out, ids...), "\n")
}

// tidy checks that nothing is left of the work.
func tidy(t *testing.T, y *yard) {
	t.Helper()
	count := map[string]int{}
	for _, p := range y.pods() {
		count[p.Labels["app"]]++
		if p.Labels[v1alpha1.LabelRepack] != "" {
			t.Errorf("the replacement %s was left behind", p.Name)
		}
		if len(p.OwnerReferences) != 1 || p.OwnerReferences[0].Kind != "ReplicaSet" {
			t.Errorf("pod %s belongs to %+v", p.Name, p.OwnerReferences)
		}
		if _, marked := p.Annotations[annotationCost]; marked || p.Annotations[corev1.PodDeletionCost] == lowest {
			t.Errorf("pod %s is still marked", p.Name)
		}
	}
	if count["chat"] != 2 || count["draw"] != 3 || count["hear"] != 2 || y.least["chat"] != 2 || y.least["draw"] != 3 || y.least["hear"] != 2 {
		t.Errorf("pods %v, the fewest that served %v; want 2 of chat, 3 of draw, 2 of hear at any time", count, y.least)
	}
}

func TestKilledAtAnyWriteTheEndIsTheSame(t *testing.T) {
	run := func(t *testing.T, kills ...int) (*yard, *v1alpha1.RepackPlan) {
		y := newYard(t, scattered()...)
		y.make("p", together)
		at := 0
		y.until("the plan to be over", func(p *v1alpha1.RepackPlan) bool {
			if y.doom.left < 0 && at < len(kills) { // the next process dies in its turn
				y.doom.left = max(0, kills[at]-y.doom.took)
				at++
			}
			return over(p)
		})
		return y, y.get()
	}
	whole, p := run(t)
	want := end(whole, p)
	tidy(t, whole)
	if p.Status.Phase != v1alpha1.RepackDone || p.Status.Done < 3 || p.Status.Freed.Machines != 2 || p.Status.Freed.PerHour != "4.0000" {
		t.Fatalf("undisturbed: %s\n%+v", want, p.Status)
	}
	steps := whole.doom.took
	t.Logf("%d steps, %d moves:\n%s", steps, p.Status.Done, want)
	every := 1
	if testing.Short() {
		every = 7
	}
	for k := 1; k < steps; k += every {
		t.Run(fmt.Sprint("killed at step ", k), func(t *testing.T) {
			y, p := run(t, k)
			tidy(t, y)
			if got := end(y, p); got != want {
				t.Errorf("another end:\n%s\nwant\n%s", got, want)
			}
		})
	}
	for seed := range 8 {
		t.Run(fmt.Sprint("killed again and again, ", seed), func(t *testing.T) {
			dice := rand.New(rand.NewPCG(uint64(seed), 3))
			var kills []int
			for k := 0; k < 2*steps; k += 1 + dice.IntN(12) {
				kills = append(kills, k)
			}
			y, p := run(t, kills...)
			tidy(t, y)
			if got := end(y, p); got != want {
				t.Errorf("another end:\n%s\nwant\n%s", got, want)
			}
		})
	}
}
