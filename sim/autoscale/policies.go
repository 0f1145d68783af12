package autoscale

import (
	"fmt"
	"slices"
	"strings"
)

// policies lists the policies by name, in the order in which they are explained.
var policies = []struct {
	name, what string
	make       func(w *Workload, start int) Policy
}{
	{"neap", "this product: core/forecast and core/elastic", func(*Workload, int) Policy { return &Neap{} }},
	{"hpa", "HPA v2 with its defaults, on use measured at the pods", func(*Workload, int) Policy { return NewHPA() }},
	{"hpa-tolerance-0", "the same with tolerance 0", func(*Workload, int) Policy { return &HPA{} }},
	{"hpa-requests", "HPA v2 with its defaults, on demand counted before the pods", func(*Workload, int) Policy { return &HPA{Tolerance: 0.1, Requests: true} }},
	{"ehpa", "Crane's EHPA: HPA and the highest DSP forecast of the next hour", func(w *Workload, _ int) Policy { return NewEHPA(w.Scale) }},
	{"seasonal", "HPA and the median of the same time in the last seven days", func(*Workload, int) Policy { return NewSeasonal(0.5) }},
	{"seasonal-q90", "the same with the 90 % quantile", func(*Workload, int) Policy { return NewSeasonal(0.9) }},
	{"seasonal-q95", "the same with the 95 % quantile", func(*Workload, int) Policy { return NewSeasonal(0.95) }},
	{"oracle", "knows the future until a pod asked for now is ready", func(w *Workload, _ int) Policy { return &Oracle{Demand: w.Demand} }},
	{"fixed", "as many pods as the highest demand needs", func(w *Workload, _ int) Policy { return Fixed(ideal(Percentile(w.Demand, 1))) }},
}

// PolicyNames lists the names that [NewPolicy] takes, with what each is.
func PolicyNames() (names, what []string) {
	for _, p := range policies {
		names, what = append(names, p.name), append(what, p.what)
	}
	return names, what
}

// NewPolicy makes the policy of that name to be replayed over w with pods that
// need start minutes.
func NewPolicy(name string, w *Workload, start int) (Policy, error) {
	for _, p := range policies {
		if p.name == name {
			return p.make(w, start), nil
		}
	}
	names, _ := PolicyNames()
	return nil, fmt.Errorf("there is no policy %q; take %s", name, strings.Join(slices.Concat(names[:len(names)-1], []string{"or " + names[len(names)-1]}), ", "))
}
