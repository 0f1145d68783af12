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
	{"neap", "this product: core/forecast and core/elastic, on use measured at the pods", func(*Workload) Policy { return &Neap{} }},
	{"neap-without-forecast", "the same with what is measured alone", func(*Workload) Policy { return &Neap{Blind: true} }},
	{"neap-without-return", "the same, but scale-in always waits out its 300 s", func(*Workload) Policy { return &Neap{Waits: true} }},
	{"neap-requests", "the same, on demand counted before the pods", func(*Workload) Policy { return &Neap{Requests: true} }},
	{"neap-refit-12h", "the same, fitted every twelve hours", func(*Workload) Policy { return &Neap{RefitMinutes: 720} }},
	{"neap-under-3", "the same, a pod short costs three of one too many, not ten", func(*Workload) Policy { return &Neap{UnderCost: 3} }},
	{"neap-under-30", "the same, a pod short costs thirty", func(*Workload) Policy { return &Neap{UnderCost: 30} }},
	{"hpa", "HPA v2 with its defaults, on the same", func(*Workload) Policy { return NewHPA() }},
	{"hpa-tolerance-0", "HPA v2 with tolerance 0", func(*Workload) Policy { return &HPA{} }},
	{"hpa-requests", "HPA v2, on demand counted before the pods", func(*Workload) Policy { return &HPA{Tolerance: 0.1, Requests: true} }},
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
