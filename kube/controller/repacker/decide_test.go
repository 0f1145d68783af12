package repacker

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// Whatever is seen, in every combination, no step loses a pod.
func TestNoStepLosesAPod(t *testing.T) {
	for bits := range 1 << 15 {
		i := 0
		bit := func() bool { i++; return bits>>(i-1)&1 == 1 }
		seen := Seen{
			Now: monday, Deadline: monday.Add(time.Hour), Abort: bit(),
			Old:   OldPod{There: bit(), Leaving: bit()},
			Surge: SurgePod{There: bit(), Leaving: bit(), Over: bit(), Ready: bit(), Placed: bit(), Counts: bit(), Handed: bit(), Adopted: bit()},
			Set:   Set{There: bit(), Outdated: bit(), Unsteady: bit()},
		}
		if bit() {
			seen.Deadline = monday.Add(-time.Hour)
		}
		v := Next(seen)
		old, surge, set := seen.Old, seen.Surge, seen.Set
		stays := old.There && !old.Leaving
		bad := ""
		switch v.Step {
		case StepCreate:
			if surge.There || !stays || !set.There || seen.Abort {
				bad = "a replacement is made for nobody"
			}
		case StepCount, StepHand:
			if !surge.There || !surge.Ready || !surge.Placed || surge.Over || surge.Leaving || !stays || !set.There || set.Unsteady || seen.Abort || surge.Handed {
				bad = "a service is given a pod that does not serve, or too late"
			}
			if v.Step == StepHand && !surge.Counts {
				bad = "the budget is asked before the replacement counts"
			}
		case StepEvict:
			if !surge.There || !surge.Handed || !stays {
				bad = "the old pod is evicted before there is another"
			}
		case StepEnd:
			if v.State == v1alpha1.MoveDone && (old.There || !surge.Adopted || !surge.There) {
				bad = "a move is done while the old pod is there, or nobody has the new one"
			}
		case StepUndo:
			if !v.State.Over() || v.State == v1alpha1.MoveDone {
				bad = "what is taken back is not over"
			}
		case StepWait:
			if v.State.Over() || v.Message == "" {
				bad = "nobody says what is waited for"
			}
		}
		if bad != "" {
			t.Fatalf("%s: %+v gives %+v", bad, seen, v)
		}
	}
}

func TestMayStart(t *testing.T) {
	at := func(ago time.Duration) *metav1.Time { return &metav1.Time{Time: monday.Add(-ago)} }
	made := []v1alpha1.RepackMove{
		{Service: "a", StartedAt: at(50 * time.Minute), EndedAt: at(45 * time.Minute), State: v1alpha1.MoveDone},
		{Service: "b", StartedAt: at(20 * time.Minute), EndedAt: at(10 * time.Minute), State: v1alpha1.MoveDone},
		{Service: "c", StartedAt: at(5 * time.Minute), State: v1alpha1.MoveSurging},
		{Service: "d", StartedAt: at(5 * time.Minute), EndedAt: at(time.Minute), State: v1alpha1.MoveSkipped},
		{Service: "e"},
	}
	for name, tc := range map[string]struct {
		service  string
		perHour  int
		cooldown time.Duration
		want     time.Time // zero: now
	}{
		"a service that has rested":                     {"a", 10, 30 * time.Minute, time.Time{}},
		"one that was moved ten minutes ago":            {"b", 10, 30 * time.Minute, monday.Add(20 * time.Minute)},
		"one that is under way":                         {"c", 10, 30 * time.Minute, monday.Add(30 * time.Minute)},
		"without a cooling one under way is no reason":  {"c", 10, 0, time.Time{}},
		"one whose move came to nothing":                {"d", 10, 30 * time.Minute, time.Time{}},
		"one that was never moved":                      {"e", 10, 30 * time.Minute, time.Time{}},
		"the hour is full until the oldest has left it": {"e", 4, 30 * time.Minute, monday.Add(10 * time.Minute)},
		"and with a smaller limit until more have":      {"e", 3, 30 * time.Minute, monday.Add(40 * time.Minute)},
	} {
		t.Run(name, func(t *testing.T) {
			got := MayStart(monday, tc.service, made, tc.perHour, tc.cooldown)
			if got.OK != tc.want.IsZero() || !got.Until.Equal(tc.want) || !got.OK && got.Why == "" {
				t.Errorf("got %+v, want %v", got, tc.want)
			}
		})
	}
}
