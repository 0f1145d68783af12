// Package v1alpha1 holds what users declare to Neap: machine types and their
// prices ([MachineType]), the pools that machines belong to ([ResourcePool])
// and what a workload is to the bill ([Module]).
//
// It is data and markers, no logic: the rules are CEL in the markers, so the
// API server itself refuses what is wrong, and kube/convert translates into the
// values of core. State that is large or fast (facts, series, decisions) is not
// here but in Neap's store.
//
// Money is a decimal string with at most nine decimals, never a float.
// The generated files beside this one and in deploy/chart/neap/crds come from
// hack/generate.sh.
//
// +kubebuilder:object:generate=true
// +groupName=neap.dev
package v1alpha1

//go:generate ../../hack/generate.sh
