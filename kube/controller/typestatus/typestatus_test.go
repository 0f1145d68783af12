package typestatus

import (
	"errors"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func TestDecide(t *testing.T) {
	cases := map[string]struct {
		seen                Observation
		wantPrice, wantWhat string
	}{
		"a machine has the price after its discount": {Observation{Machines: 3, Price: 268_800_000}, "0.2688", "True Priced"},
		"capacity bought by the unit has none":       {Observation{ByUnit: true}, "", "True Priced"},
		"a price that cannot be used is explained":   {Observation{Invalid: errors.New("no rate of CNY to USD")}, "", "False Invalid"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.seen.Now = time.Date(2026, 3, 2, 11, 0, 0, 0, time.UTC)
			got := Decide(&v1alpha1.MachineType{ObjectMeta: metav1.ObjectMeta{Generation: 4}, Status: v1alpha1.MachineTypeStatus{EffectivePrice: "9"}}, tc.seen)
			c := meta.FindStatusCondition(got.Conditions, v1alpha1.ConditionReady)
			if c == nil || string(c.Status)+" "+c.Reason != tc.wantWhat || got.EffectivePrice != tc.wantPrice || int(got.Machines) != tc.seen.Machines || got.ObservedGeneration != 4 {
				t.Errorf("got %+v", got)
			}
		})
	}
}
