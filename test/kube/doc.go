// Package kube tests Neap against a real API server: that it takes Neap's
// definitions and applies their rules, and that the controller bills a cluster
// and writes statuses with no more rights than the chart grants. -short skips it.
package kube
