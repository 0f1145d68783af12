package modulestatus

import (
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
)

var now = time.Date(2026, 3, 2, 11, 2, 0, 0, time.UTC)

func module() *v1alpha1.Module {
	return &v1alpha1.Module{
		ObjectMeta: metav1.ObjectMeta{Name: "cart", Namespace: "shop", Generation: 3},
		Spec: v1alpha1.ModuleSpec{
			TargetRef: v1alpha1.TargetRef{Kind: "Deployment", Name: "cart"},
			Load:      &v1alpha1.Load{Query: "q"},
			Quality: &v1alpha1.Quality{
				Success: &v1alpha1.SuccessTarget{Query: "s", Target: "99.9%"},
				P99:     &v1alpha1.LatencyTarget{Query: "p", Target: "300ms"},
			},
		},
	}
}

func TestDecide(t *testing.T) {
	notFound := apierrors.NewNotFound(schema.GroupResource{Group: "apps", Resource: "deployments"}, "cart")
	hour := func(l *bill.Load) *Hour {
		return &Hour{From: now.Add(-62 * time.Minute), Currency: "USD", Cost: 1_234_567_890, Used: 900_000_000, Load: l}
	}
	good := &bill.Load{Requests: 42, Known: true, SuccessMicros: 999_871, P99: 120 * time.Millisecond, Met: true}
	bad := &bill.Load{Requests: 42, Known: true, SuccessMicros: 990_000, P99: 512 * time.Millisecond}
	cases := map[string]struct {
		seen    Observation
		change  func(*v1alpha1.Module)
		want    map[string]string // condition → "Status Reason"
		wantSay string            // somewhere in a message
	}{
		"all is well": {
			seen: Observation{Pods: 2, Hour: hour(good)},
			want: map[string]string{"Ready": "True Complete", "TargetFound": "True Found", "PriceKnown": "True Priced", "LoadKnown": "True Counted", "GuardMet": "True Met"},
		},
		"the workload does not exist": {
			seen:    Observation{Target: notFound, Hour: hour(good)},
			want:    map[string]string{"Ready": "False Incomplete", "TargetFound": "False NotFound"},
			wantSay: "there is no Deployment cart in namespace shop",
		},
		"the workload may not be read, but its pods are there": {
			seen: Observation{Pods: 1, Target: errors.New("forbidden"), Hour: hour(good)},
			want: map[string]string{"Ready": "True Complete", "TargetFound": "True Found"},
		},
		"the workload may not be read": {
			seen: Observation{Target: errors.New("forbidden"), Hour: hour(good)},
			want: map[string]string{"Ready": "True Complete", "TargetFound": "Unknown NotReadable"},
		},
		"a machine type has no price": {
			seen:    Observation{Pods: 1, Unpriced: []string{"x9"}, Hour: hour(good)},
			want:    map[string]string{"Ready": "False Incomplete", "PriceKnown": "False NoPrice"},
			wantSay: "machine types without a price: x9",
		},
		"the guard was broken": {
			seen:    Observation{Pods: 1, Hour: hour(bad)},
			want:    map[string]string{"Ready": "True Complete", "GuardMet": "False Broken"},
			wantSay: "99.0000% succeeded, the target is 99.9%; the 99th percentile was 512ms, the target is 300ms",
		},
		"the load query gave nothing": {
			seen: Observation{Pods: 1, Hour: hour(&bill.Load{Requests: -1})},
			want: map[string]string{"Ready": "False Incomplete", "LoadKnown": "False NoAnswer", "GuardMet": "Unknown NotMeasured"},
		},
		"no hour is closed yet": {
			seen: Observation{Pods: 1},
			want: map[string]string{"Ready": "True Complete", "LoadKnown": "Unknown NoHour", "GuardMet": "Unknown NoHour"},
		},
		"nothing is declared but the workload": {
			seen:   Observation{Pods: 1, Hour: hour(nil)},
			change: func(m *v1alpha1.Module) { m.Spec.Load, m.Spec.Quality = nil, nil },
			want:   map[string]string{"Ready": "True Complete", "LoadKnown": "Unknown NoQuery", "GuardMet": "Unknown NoGuard"},
		},
		"another Module was first": {
			seen:    Observation{Pods: 1, Rival: "old", Hour: hour(good)},
			want:    map[string]string{"Ready": "False Duplicate"},
			wantSay: "Module old already speaks for Deployment cart",
		},
		"the spec makes no sense": {
			seen: Observation{Invalid: errors.New("module shop/cart: no"), Hour: hour(good)},
			want: map[string]string{"Ready": "False Invalid"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := module()
			if tc.change != nil {
				tc.change(m)
			}
			tc.seen.Now = now
			before := m.DeepCopy()
			got := Decide(m, tc.seen)
			if !equality.Semantic.DeepEqual(before, m) {
				t.Error("Decide changed the Module")
			}
			said := ""
			for _, c := range got.Conditions {
				said += c.Message + "\n"
				if c.ObservedGeneration != 3 || !c.LastTransitionTime.Time.Equal(now) {
					t.Errorf("condition %+v", c)
				}
			}
			for typ, want := range tc.want {
				c := meta.FindStatusCondition(got.Conditions, typ)
				if c == nil || string(c.Status)+" "+c.Reason != want {
					t.Errorf("%s is %+v, want %s", typ, c, want)
				}
			}
			if !strings.Contains(said, tc.wantSay) {
				t.Errorf("it says\n%s, want %q", said, tc.wantSay)
			}
			// Deciding again, later, changes nothing: no status is written twice.
			m.Status = got
			tc.seen.Now = now.Add(time.Hour)
			if again := Decide(m, tc.seen); !equality.Semantic.DeepEqual(got, again) {
				t.Errorf("deciding again changed the status")
			}
		})
	}
}

func TestTheLastHourIsWrittenForPeople(t *testing.T) {
	m := module()
	got := Decide(m, Observation{Now: now, Pods: 1, Hour: &Hour{
		From: now, Currency: "CNY", Cost: 1_234_567_890, Used: 49_999, Estimated: true,
		Load: &bill.Load{Requests: 42, Known: true, SuccessMicros: 999_871, P99: 123_456_789, Met: true},
	}}).LastHour
	if got.Cost != "1.2346" || got.Used != "0.0000" || got.Currency != "CNY" || *got.Requests != 42 || got.Success != "99.9871%" || got.P99.Duration != 123*time.Millisecond || !got.Estimated {
		t.Errorf("got %+v", got)
	}
}
