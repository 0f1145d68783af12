// Package allinone runs etcd, kube-apiserver and kube-controller-manager in
// this process, on one data directory.
//
// [Run] is the whole package, and cmd/neap-cluster its only user outside
// tests: linking it takes a minute, so nothing else imports it. Everybody else
// starts the binary through local/controlplane.
//
// What listens: the API server on one loopback port, with client certificates
// or service-account tokens and RBAC, anonymous requests off; etcd on a Unix
// socket in the private data directory, because anything on a loopback port
// can be reached by every user of the machine. kube-controller-manager serves
// nothing.
//
// etcd syncs every write to the disk before it acknowledges it. Making it
// faster by not doing so is the one thing that is not tuned here.
package allinone
