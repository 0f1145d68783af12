package scaler

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/quality"
)

func TestReturnTrip(t *testing.T) {
	now := time.Date(2026, 9, 16, 22, 0, 0, 0, time.UTC)
	// Forty replicas, ten of them serverless at three times the price; the machines
	// have had room for six for an hour.
	base := func() (*observation, *verdict) {
		seen := &observation{
			Now: now, Policy: &v1alpha1.ElasticPolicy{}, Current: 40, Ready: 40,
			Pools: []elastic.Pool{
				{Name: "owned", Price: 20_000_000, Max: elastic.None, Pods: 30, Room: 6, Start: time.Minute},
				{Name: "sls", Price: 60_000_000, Max: elastic.None, Pods: 10, Room: elastic.None, Serverless: true, Start: time.Minute},
			},
			roomSince: map[string]time.Time{"owned": now.Add(-time.Hour)},
		}
		return seen, &verdict{Decision: elastic.Decision{Desired: 40, Reason: "why"}, Decides: true, Acts: true}
	}
	under := func(seen *observation) {
		seen.Policy.Status.Returning = &v1alpha1.ReturningStatus{Replicas: 2, From: "sls", To: "owned", Since: metav1.NewTime(now.Add(-time.Minute))}
		seen.Current, seen.Pools[0].Pods, seen.Pools[0].Room = 42, 32, 4
	}
	cases := map[string]struct {
		change              func(*observation, *verdict)
		wantDesired, wantUp int // Up: replicas of a move under way
		wantMoved           int
	}{
		"room that has lasted is moved to, a part of the replicas at once": {func(*observation, *verdict) {}, 42, 2, 0},
		"no more than there is room for":                                   {func(s *observation, _ *verdict) { s.Pools[0].Room = 1 }, 41, 1, 0},
		"room that has just come may go again":                             {func(s *observation, _ *verdict) { s.roomSince["owned"] = now.Add(-time.Minute) }, 40, 0, 0},
		"room for the next class is not taken":                             {func(s *observation, _ *verdict) { s.Class.Next = now.Add(5 * time.Minute) }, 40, 0, 0},
		"without prices nothing moves":                                     {func(s *observation, _ *verdict) { s.Pools[1].Price = 0 }, 40, 0, 0},
		"when replicas come or go nothing moves":                           {func(_ *observation, v *verdict) { v.Desired = 38 }, 38, 0, 0},
		"during a rollout neither":                                         {func(s *observation, _ *verdict) { s.Rollout = true }, 40, 0, 0},
		"nor when a gate holds":                                            {func(_ *observation, v *verdict) { v.Gate = elastic.GateSoon }, 40, 0, 0},
		"nor in mode Preview":                                              {func(_ *observation, v *verdict) { v.Acts = false }, 40, 0, 0},
		"nor where the policy says no":                                     {func(s *observation, _ *verdict) { s.Policy.Spec.ScaleIn = &v1alpha1.ScaleIn{Return: ptr.To(false)} }, 40, 0, 0},
		"what was started is waited for":                                   {func(s *observation, _ *verdict) { under(s); s.Ready = 41 }, 42, 2, 0},
		"when it is ready as many leave":                                   {func(s *observation, _ *verdict) { under(s); s.Ready = 42 }, 40, 0, 2},
		"but not while the guard is broken":                                {func(s *observation, _ *verdict) { under(s); s.Ready, s.Guard = 42, quality.Broken }, 42, 2, 0},
		"nor while it cannot be asked":                                     {func(s *observation, _ *verdict) { under(s); s.Ready, s.GuardErr = 42, errors.New("gone") }, 42, 2, 0},
		"what never becomes ready is taken back":                           {func(s *observation, _ *verdict) { under(s); s.Policy.Status.Returning.Since.Time = now.Add(-time.Hour) }, 40, 0, 0},
		"and so it is when the layers want a change":                       {func(s *observation, v *verdict) { under(s); s.Ready, v.Desired = 42, 45 }, 45, 0, 0},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			seen, said := base()
			tc.change(seen, said)
			returnTrip(seen, said)
			up := 0
			if said.Returning != nil {
				up = int(said.Returning.Replicas)
			}
			if said.Desired != tc.wantDesired || up != tc.wantUp || said.Moved != tc.wantMoved {
				t.Errorf("desired %d, %d on their way, %d moved; want %d, %d, %d (%s)", said.Desired, up, said.Moved, tc.wantDesired, tc.wantUp, tc.wantMoved, said.Reason)
			}
			if (up > 0 || said.Moved > 0) != strings.Contains(said.Reason, "from sls to owned") {
				t.Errorf("the reason is %q", said.Reason)
			}
		})
	}
}
