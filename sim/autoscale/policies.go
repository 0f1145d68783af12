package autoscale

import (
	"fmt"
	"strings"
)

// policies lists the policies in the order in which they are explained.
var policies = []struct {
	name, what string
	make       func(w *Workload) Policy
}{
	{"neap", "this product: core/forecast and core/elastic", func(*Workload) Policy { return &Neap{} }},
	{"hpa", "HPA v2 with its defaults, on use measured at the pods", func(*Workload) Policy { return NewHPA() }},
	{"hpa-tolerance-0", "the same with tolerance 0", func(*Workload) Policy { return &HPA{} }},
	{"hpa-requests", "HPA v2 with its defaults, on demand counted before the pods", func(*Workload) Policy { return &HPA{Tolerance: 0.1, Requests: true} }},
	{"ehpa", "Crane's EHPA: HPA, and the highest DSP forecast of the next hour", func(w *Workload) Policy { return NewEHPA(w.Scale) }},
	{"seasonal", "HPA, and the median of the same time in the last seven days", func(*Workload) Policy { return NewSeasonal(0.5) }},
	{"seasonal-q90", "the same with the 90 % quantile", func(*Workload) Policy { return NewSeasonal(0.9) }},
	{"seasonal-q95", "the same with the 95 % quantile", func(*Workload) Policy { return NewSeasonal(0.95) }},
	{"oracle", "knows the demand until a pod asked for now is ready", func(w *Workload) Policy { return &Oracle{Demand: w.Demand} }},
	{"fixed", "as many pods as the highest demand needs", func(w *Workload) Policy { return Fixed(ideal(Percentile(w.Demand, 1))) }},
}

// Policies lists the names that [NewPolicy] takes.
func Policies() []string {
	var names []string
	for _, p := range policies {
		names = append(names, p.name)
	}
	return names
}

// Explain says in a clause what the policy of that name is.
func Explain(name string) string {
	for _, p := range policies {
		if p.name == name {
			return p.what
		}
	}
	return ""
}

// NewPolicy makes the policy of that name, to be replayed once over w.
func NewPolicy(name string, w *Workload) (Policy, error) {
	for _, p := range policies {
		if p.name == name {
			return p.make(w), nil
		}
	}
	return nil, fmt.Errorf("there is no policy %q; take one of %s", name, strings.Join(Policies(), ", "))
}
