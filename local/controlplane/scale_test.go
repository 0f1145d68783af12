package controlplane_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// BenchmarkPodsBound is how fast Deployments become pods that have a machine:
// 500 machines, 10,000 pods. Nothing runs the pods.
func BenchmarkPodsBound(b *testing.B) {
	const machines, deployments, replicas = 500, 100, 100
	for b.Loop() {
		c := clustertest.Own(b, controlplane.Options{})
		if _, err := c.StartScheduler(b.Context()); err != nil {
			b.Fatal(err)
		}
		cfg, err := c.RESTConfig()
		if err != nil {
			b.Fatal(err)
		}
		cfg.QPS = -1
		cfg.ContentType = "application/vnd.kubernetes.protobuf"
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			b.Fatal(err)
		}
		capacity := corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}
		for i := range machines {
			if _, err := client.CoreV1().Nodes().Create(b.Context(), &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("machine-%03d", i)},
				Status: corev1.NodeStatus{Capacity: capacity, Allocatable: capacity, Conditions: []corev1.NodeCondition{{
					Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Benchmark",
				}}},
			}, metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		var mu sync.Mutex
		bound, all := map[string]bool{}, make(chan struct{})
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"))
		note := func(o any) {
			if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				mu.Lock()
				defer mu.Unlock()
				if !bound[pod.Name] {
					if bound[pod.Name] = true; len(bound) == deployments*replicas {
						close(all)
					}
				}
			}
		}
		if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    note,
			UpdateFunc: func(_, o any) { note(o) },
		}); err != nil {
			b.Fatal(err)
		}
		factory.Start(b.Context().Done())
		began := time.Now()
		for i := range deployments {
			if _, err := client.AppsV1().Deployments("default").Create(b.Context(), deployment(fmt.Sprintf("d%d", i), replicas), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		select {
		case <-all:
		case <-time.After(5 * clustertest.Patience):
			mu.Lock()
			b.Fatalf("only %d pods have a machine", len(bound))
		}
		b.ReportMetric(deployments*replicas/time.Since(began).Seconds(), "pods/s")
		mib, err := c.ResidentMiB()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(mib, "MiB")
		b.ReportMetric(cpuSeconds(b, c.PID()), "cpu-s")
	}
}

// cpuSeconds is what a process has used, which other programs on the machine
// change less than the time on the wall.
func cpuSeconds(b *testing.B, pid int) float64 {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Fatal(err)
	}
	const user, system, ticksASecond = 11, 12, 100
	_, after, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(after)
	var ticks float64
	for _, i := range []int{user, system} {
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return ticks / ticksASecond
}
