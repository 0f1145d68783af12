// Command neap-scheduler runs kube-scheduler with Neap's plugins.
package main

import (
	_ "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

func main() {}
