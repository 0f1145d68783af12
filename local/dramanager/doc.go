// Package dramanager holds what gives out GPUs by claims to the real thing: claims
// are written by the scheduler with Neap's plugins and by kube-controller-manager,
// checked by the API server, and prepared by the manager for dynamic resource
// allocation of the kubelet that we build against, over the sockets of the driver in
// host/agent/gpudriver.
//
// There is nothing here but tests.
package dramanager
