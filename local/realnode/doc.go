// Package realnode makes the machine that it runs on a node of a local cluster:
// a real kubelet, containerd and runc, real cgroups, real processes.
//
// [Start] does it, [Node.Stop] undoes it. There is one such node on a machine at a
// time. What it makes lies in few places, all named neap-node: a folder in /run with
// sockets and a record, the folder of [Options] with images and logs, one cgroup in
// every hierarchy with everything below it, a bridge with two addresses. Whatever
// ends the program, the next Start, or [Sweep], removes what it left, and sets back
// what the kubelet sets in /proc/sys.
//
// Pods have addresses of a network of their own, which this machine alone reaches.
// The API server, which listens on the loopback interface, answers them at its
// service address by a relay; there are no other services, and no names.
//
// Images come from programs ([Image]); nothing is pulled.
//
// Not here: the control plane (local/controlplane); machines that are played
// (local/fleet).
package realnode
