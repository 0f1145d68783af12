// Package workload names what runs: modules, the features they serve, and the
// classes that the bill and the levers tell apart.
package workload

import "strings"

// A Key names one module: a Deployment, a StatefulSet, a family of Jobs, or
// anything with a scale. Pods that no Module names fall under their top owner.
type Key struct {
	Namespace string
	Kind      string // of the workload, such as "Deployment", "CronJob", "Pod"
	Name      string
}

// String returns "namespace/kind/name".
func (k Key) String() string { return k.Namespace + "/" + k.Kind + "/" + k.Name }

// ParseKey reads what [Key.String] wrote.
func ParseKey(s string) (Key, bool) {
	ns, rest, ok := strings.Cut(s, "/")
	kind, name, ok2 := strings.Cut(rest, "/")
	return Key{Namespace: ns, Kind: kind, Name: name}, ok && ok2
}

// Compare orders keys by namespace, kind and name.
func (k Key) Compare(o Key) int {
	if c := strings.Compare(k.Namespace, o.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(k.Kind, o.Kind); c != 0 {
		return c
	}
	return strings.Compare(k.Name, o.Name)
}

// A Feature is a product feature and the share of a module that serves it.
type Feature struct {
	Name        string
	ShareMillis int64 // thousandths of the module; a module's shares sum to 1000
}
