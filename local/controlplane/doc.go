// Package controlplane starts and stops a real Kubernetes control plane on
// this machine, as child processes that end with this one.
//
// [Start] runs neap-cluster (etcd, kube-apiserver and kube-controller-manager
// in one process) on a data directory and returns once pods can be created.
// [Cluster.StartScheduler] adds neap-scheduler. [Cluster.ConfigFor] speaks to
// the API server as any user; what that user may do is RBAC's business.
//
// Nothing of k8s.io/kubernetes is linked in here: the two binaries are built
// on their own, once.
package controlplane
