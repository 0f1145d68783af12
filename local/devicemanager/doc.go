// Package devicemanager holds Neap's device plugin to the kubelet's own code: the
// device manager and the PodResources API of the Kubernetes that is pinned, in one
// process, without a container. It has tests only; what they do to the real one they
// do to local/fakekubelet, too, which so stays faithful.
package devicemanager
