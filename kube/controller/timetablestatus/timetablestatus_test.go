package timetablestatus

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func TestDecide(t *testing.T) {
	monday := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	table := &v1alpha1.Timetable{ObjectMeta: metav1.ObjectMeta{Name: "autumn", Namespace: "live"}, Spec: v1alpha1.TimetableSpec{Sessions: []v1alpha1.Session{
		{ID: "b", Course: "B", Start: metav1.NewTime(monday.Add(48 * time.Hour)), Minutes: 60},
		{ID: "a", Course: "A", Start: metav1.NewTime(monday), Minutes: 60},
	}}}
	cases := map[string]struct {
		now  time.Time
		zone string
		next time.Time
		want string // of the condition's message
	}{
		"before the term":       {monday.Add(-time.Hour), "", monday, "2 classes"},
		"within it":             {monday, "", monday.Add(48 * time.Hour), "2 classes"},
		"after it":              {monday.Add(100 * time.Hour), "", time.Time{}, "2 classes"},
		"a zone that is no one": {monday, "Mars/Olympus", time.Time{}, "is no IANA zone"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			x := table.DeepCopy()
			x.Spec.TimeZone = tc.zone
			got := Decide(x, tc.now)
			if c := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady); c == nil || !strings.Contains(c.Message, tc.want) || (c.Status == metav1.ConditionTrue) != (tc.zone == "") {
				t.Errorf("condition %+v, want …%s…", c, tc.want)
			}
			if got.Next == nil != tc.next.IsZero() || got.Next != nil && !got.Next.Time.Equal(tc.next) {
				t.Errorf("next %v, want %v", got.Next, tc.next)
			}
		})
	}
}
