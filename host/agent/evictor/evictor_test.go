package evictor

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/neap-dev/neap/core/colocate"
)

var now = time.Date(2026, 11, 11, 20, 0, 0, 0, time.UTC)

// candidate is a pod of a core that has run for so long.
func candidate(name string, ran time.Duration) Candidate {
	return Candidate{
		Pod:  &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}},
		Task: colocate.Task{Name: name, Need: colocate.Room{CPUMilli: 1000, MemoryMiB: 100}, Started: now.Add(-ran)},
	}
}

func TestWhoLosesLeastGoesFirst(t *testing.T) {
	answers := map[string]error{
		"guarded": apierrors.NewTooManyRequests("a budget", 1),
		"gone":    apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, "gone"),
	}
	var asked, events []string
	e := &Evictor{
		Client: fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			SubResourceCreate: func(_ context.Context, _ client.Client, what string, o, body client.Object, _ ...client.SubResourceCreateOption) error {
				options := body.(*policyv1.Eviction).DeleteOptions
				if what != "eviction" || *options.GracePeriodSeconds != 30 || *options.Preconditions.UID != o.GetUID() {
					t.Errorf("%s is asked for %s with %+v", o.GetName(), what, options)
				}
				asked = append(asked, o.GetName())
				return answers[o.GetName()]
			},
		}).Build(),
		Event: func(p *corev1.Pod, reason, message string) { events = append(events, p.Name+" "+reason+": "+message) },
	}
	from := []Candidate{candidate("old", time.Hour), candidate("young", time.Minute), candidate("guarded", 10*time.Second), candidate("gone", time.Second)}
	gone, err := e.Evict(t.Context(), from, colocate.Room{MemoryMiB: 300}, now, 2, 30*time.Second, "the machine is short of memory")
	if !slices.Equal(asked, []string{"gone", "guarded", "young"}) || !apierrors.IsTooManyRequests(errors.Unwrap(unjoin(err))) || len(gone) != 1 || gone[0].Name != "young" {
		t.Errorf("asked are %q, gone %v, %v", asked, gone, err)
	}
	if want := []string{"young BatchEvicted: the machine is short of memory; 60 core-seconds of its work are lost"}; !slices.Equal(events, want) {
		t.Errorf("the events are %q, want %q", events, want)
	}
	if e.Lost() != 60 {
		t.Errorf("%v core-seconds are lost", e.Lost())
	}
	answers = nil
	if gone, err := e.Evict(t.Context(), from[:2], colocate.Room{CPUMilli: 2000}, now.Add(time.Minute), 2, 30*time.Second, "again"); len(gone) != 1 || !errors.Is(err, ErrRate) {
		t.Errorf("over the rate: %v, %v", gone, err)
	}
	if _, ok := e.May(now.Add(62*time.Minute), 2); !ok {
		t.Error("an hour later there is still no room")
	}
}

// unjoin returns the only error of a joined one.
func unjoin(err error) error {
	if many, ok := err.(interface{ Unwrap() []error }); ok && len(many.Unwrap()) == 1 {
		return many.Unwrap()[0]
	}
	return err
}
