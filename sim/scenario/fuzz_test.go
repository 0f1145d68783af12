package scenario

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// FuzzParse: whatever is in a file, reading it ends with a scenario that can be
// played, or with errors of one line each that name the file.
func FuzzParse(f *testing.F) {
	// The built-in scenarios are too long for a fuzzer to change well.
	f.Add("name: x\nstart: 2026-03-02\npools: [{name: a, kind: Machines, machineType: m5.2xlarge, count: 1}]\nmodules: [{name: b, namespace: c, kind: batch, requests: {cpu: 1, memory: 1Gi}, runTime: 5m, jobs: [{at: \"01:00\", jobs: 3}]}]\nevents: [{at: 1h, machines: {pool: a, count: 0}}]\n")
	f.Add("a: &a [*a]")
	f.Add("name: &x {y: *x}")
	f.Add("- 1")
	f.Add("name: x\nseries: [{name: s, shape: [0]}]\nclasses: {c: 5}\nmodules: [5, {class: c}]")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse([]byte(text), "x.yaml", Options{})
		if err != nil {
			var wrong Errors
			if !errors.As(err, &wrong) || len(wrong) == 0 {
				t.Fatalf("not Errors: %v", err)
			}
			for _, e := range wrong {
				if e.File == "" || e.Text == "" {
					t.Fatalf("an empty error: %+v", e)
				}
			}
			return
		}
		if len(s.Modules) == 0 || len(s.Pools) == 0 || s.Location == nil || strings.TrimSpace(s.Name) == "" {
			t.Fatalf("an unplayable scenario: %+v", s)
		}
		at := s.Start.Add(s.Length / 2)
		Desired(s, at)
		c, err := NewCalendar(s)
		if err != nil {
			t.Fatal(err)
		}
		if n := c.After(at); !n.After(at) || n.Sub(at) > time.Hour {
			t.Fatalf("the change after %v is at %v", at, n)
		}
		for i := range s.Modules {
			if rps, _ := s.Requests(&s.Modules[i], at); rps < 0 {
				t.Fatalf("a load of %v", rps)
			}
		}
	})
}
