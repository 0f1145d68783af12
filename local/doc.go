// Package local runs a whole cluster on this machine for a simulated day: a real
// Kubernetes control plane and scheduler, a simulated fleet under a scenario's
// load, Neap's controllers, and the dashboard.
//
//	store, metrics, clock ┐
//	control plane ────────┴→ nouns, scheduler → fleet → player → the day passes
//
// [Up] is the whole package. It owns one directory; what runs in it can be
// killed at any moment and started again, and the day goes on.
//
// Not here: the parts themselves, each a package below this one or a ring
// further in.
package local
