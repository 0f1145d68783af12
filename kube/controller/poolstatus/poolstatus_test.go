package poolstatus

import (
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/resource"
)

var now = time.Date(2026, 3, 2, 11, 2, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	four := resource.Vector{4000, 16 * resource.GiB, 0}
	cases := map[string]struct {
		seen    Observation
		want    map[string]string
		wantSay string
	}{
		"all is well": {
			seen: Observation{Machines: 1, Capacity: four, LimitMachines: -1, Hour: &Hour{Met: 3}},
			want: map[string]string{"Ready": "True Complete", "PriceKnown": "True Priced", "WithinLimit": "True NoLimit", "GuardMet": "True Met"},
		},
		"it holds more machines than it should": {
			seen:    Observation{Machines: 3, Capacity: four, Limited: true, LimitMachines: 2},
			want:    map[string]string{"WithinLimit": "False Beyond", "GuardMet": "Unknown NoHour"},
			wantSay: "3 machines, the limit is 2",
		},
		"it holds more cores than it should": {
			seen:    Observation{Machines: 3, Capacity: four, Limited: true, LimitMachines: -1, LimitTotal: resource.Vector{2500, 0, 0}},
			want:    map[string]string{"WithinLimit": "False Beyond"},
			wantSay: "4 cpu, the limit is 2500m",
		},
		"a limit that is just reached is kept": {
			seen: Observation{Machines: 2, Capacity: four, Limited: true, LimitMachines: 2, LimitTotal: four},
			want: map[string]string{"WithinLimit": "True Within"},
		},
		"modules missed their targets": {
			seen:    Observation{LimitMachines: -1, Hour: &Hour{Met: 1, Broken: []string{"a/b", "c/d", "e/f", "g/h"}}},
			want:    map[string]string{"GuardMet": "False Broken", "Ready": "True Complete"},
			wantSay: "4 of 5 guarded modules missed a target: a/b, c/d, e/f, …",
		},
		"no module has a target": {
			seen: Observation{LimitMachines: -1, Hour: &Hour{}},
			want: map[string]string{"GuardMet": "Unknown NotMeasured"},
		},
		"a machine type has no price": {
			seen: Observation{LimitMachines: -1, Unpriced: []string{"x9"}},
			want: map[string]string{"PriceKnown": "False NoPrice", "Ready": "False Incomplete"},
		},
		"the selector makes no sense": {
			seen: Observation{LimitMachines: -1, Invalid: errors.New("no")},
			want: map[string]string{"Ready": "False Invalid"},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := &v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: "general", Generation: 2}}
			tc.seen.Now = now
			got := Decide(p, tc.seen)
			said := ""
			for _, c := range got.Conditions {
				said += c.Message + "\n"
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
			p.Status = got
			tc.seen.Now = now.Add(time.Hour)
			if again := Decide(p, tc.seen); !equality.Semantic.DeepEqual(got, again) {
				t.Errorf("deciding again changed the status")
			}
		})
	}
}
