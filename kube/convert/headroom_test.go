package convert

import (
	"strings"
	"testing"

	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
)

func TestHeadroom(t *testing.T) {
	cases := map[string]struct {
		declared *v1alpha1.Headroom
		want     elastic.Headroom
		wantErr  string
	}{
		"a share and a bound":          {&v1alpha1.Headroom{Percent: "12.5%", Max: ptr.To[int32](40)}, elastic.Headroom{Share: 0.125, Max: 40}, ""},
		"a tenth, without saying more": {&v1alpha1.Headroom{}, elastic.Headroom{Share: 0.1, Max: elastic.None}, ""},
		"not a percentage":             {&v1alpha1.Headroom{Percent: "12"}, elastic.Headroom{}, `headroom.percent: "12" is not a percentage`},
		"more than makes sense":        {&v1alpha1.Headroom{Percent: "5000%"}, elastic.Headroom{Share: 50, Max: elastic.None}, "must be between 0 and 10"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, ok, err := Headroom(policy(func(s *v1alpha1.ElasticPolicySpec) { s.Headroom = tc.declared }))
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Errorf("got %v, want %q", err, tc.wantErr)
				}
				return
			}
			if got != tc.want || !ok || err != nil {
				t.Errorf("got %+v, %v, %v, want %+v", got, ok, err, tc.want)
			}
		})
	}
	if _, ok, err := Headroom(policy(func(*v1alpha1.ElasticPolicySpec) {})); ok || err != nil {
		t.Errorf("none is declared: got %v, %v", ok, err)
	}
}
