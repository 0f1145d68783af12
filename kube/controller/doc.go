// Package controller runs everything that Neap does in a cluster beside
// scheduling: it watches, bills and writes statuses. It is wiring: cmd/neap-controller
// runs it in a pod, `neap up` in its own process.
//
// Where to enter: [New], then [Controller.Run]. What it needs to be allowed is
// [Permissions]; [Controller.Run] tries it first and says in one sentence what
// is missing.
package controller
