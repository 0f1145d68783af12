// Package realnode tests Neap on this machine as a real node of a cluster: a real
// kubelet, real containers, real cgroups. It needs root, containerd, runc and the CNI
// plugins, and is skipped without, except in CI. -short skips it.
package realnode
