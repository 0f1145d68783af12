package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kube "sigs.k8s.io/controller-runtime/pkg/client"
	runtimecdi "tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/host/agent/gpuplugin"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fakekubelet"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/test/gpuaudit"
)

// sharedGPUs are ten machines of three models; a GPU is sick for an hour.
const sharedGPUs = `
name: shared-gpus
start: 2026-09-16T20:00
machineTypes:
  - {name: t4-2, cpu: 32, memory: 128Gi, gpu: 2, gpuModel: T4, gpuMemory: 16Gi, pricePerHour: 2}
  - {name: a10-1, cpu: 16, memory: 64Gi, gpu: 1, gpuModel: A10, gpuMemory: 24Gi, pricePerHour: 1.5}
  - {name: g2-4, cpu: 96, memory: 384Gi, gpu: 4, gpuModel: G2, gpuMemory: 32Gi, pricePerHour: 9}
pools:
  - {name: t4, kind: Machines, machineType: t4-2, count: 5}
  - {name: a10, kind: Machines, machineType: a10-1, count: 2}
  - {name: g2, kind: Machines, machineType: g2-4, count: 3}
series: [{name: flat, shape: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]
classes:
  ai: {kind: inference, requests: {cpu: 1, memory: 2Gi}, load: {series: flat, peak: 1, trough: 1}}
modules:
  - {name: ocr, namespace: ai, class: ai, replicas: 6, gpu: {milli: 300, memory: 6Gi, models: {T4: {milli: 650, memory: 8Gi}, G2: {}}}}
  - {name: score, namespace: ai, class: ai, replicas: 8, gpu: {milli: 470, memory: 7Gi}}
  - {name: chat, namespace: ai, class: ai, replicas: 3, gpu: {milli: 1000, memory: 20Gi}}
  - {name: pair, namespace: ai, class: ai, replicas: 1, gpu: {milli: 500, count: 2, memory: 12Gi}}
  - {name: words, namespace: ai, class: ai, replicas: 9, gpu: {milli: 110}}
events:
  - {at: 5m, sick: {pool: g2, machine: 1, gpu: 0, for: 1h}}
  - {at: 10m, scale: {module: ai/words, replicas: 14}}
`

// What the scheduler wrote on a pod of a simulated machine is what its containers
// see: the real device plugin, asked by the kubelet's protocol on ten machines,
// hands out these GPUs and no others. No GPU is given twice meanwhile, and a sick one
// gets nothing new.
func TestPiecesReachTheContainers(t *testing.T) {
	clustertest.Need(t)
	t.Parallel() // it mostly waits, and holds nothing to a figure that a busy machine moves
	s, err := scenario.Parse([]byte(sharedGPUs), "shared-gpus.yaml", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ready, ended := make(chan local.Addresses, 1), make(chan error, 1)
	go func() {
		_, err := local.Up(ctx, local.Options{Scenario: s, Dir: dir, Speed: 60, Listen: "127.0.0.1:0", Out: t.Output(), Ready: func(a local.Addresses) { ready <- a }})
		ended <- err
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	var at local.Addresses
	select {
	case at = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("neap up ended: %v", err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", at.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	auditor := gpuaudit.New()
	if err := auditor.Follow(ctx, cluster); err != nil {
		t.Fatal(err)
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for !holds() {
			select {
			case <-ctx.Done():
				t.Fatalf("%s did not come", what)
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
	bound := func() []corev1.Pod {
		pods, err := cluster.CoreV1().Pods("ai").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!="})
		if err != nil {
			t.Fatal(err)
		}
		return pods.Items
	}
	// The scaling is the last event: pods are bound while a GPU is sick.
	until("a place for every pod", func() bool { return len(bound()) == 6+8+3+1+14 })
	until("the sick GPU on its node", func() bool {
		n, err := cluster.CoreV1().Nodes().Get(ctx, "g2-001", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		devices, err := convert.GPUDevices(n)
		return err == nil && len(devices) == 4 && !devices[0].Healthy && devices[0].Reason != ""
	})

	agents, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "cluster", "identities", "fleet.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	api, err := kube.New(agents, kube.Options{Scheme: agent.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := cluster.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes.Items) != 10 {
		t.Fatalf("there are %d machines, want 10", len(nodes.Items))
	}
	moved := evacuate(t, ctx, cfg, bound())
	until("a place for every pod after the plan", func() bool { return len(bound()) == 6+8+3+1+14 })
	for _, p := range bound() {
		if p.Spec.NodeName == moved {
			t.Errorf("pod %s is on %s, which a plan has emptied", p.Name, moved)
		}
	}
	checked := 0
	for i := range nodes.Items {
		checked += handOut(t, ctx, api, &nodes.Items[i], bound())
	}
	if checked < 32 {
		t.Errorf("%d pods were handed their GPUs, want 32", checked)
	}
	if faults, n := auditor.Faults(); n > 0 {
		t.Errorf("%d faults in what GPUs pods hold, such as %q", n, faults)
	}
}

// evacuate cordons the machine that runs most pods, has a plan move them, and returns
// its name when the plan is done: every pod was where the plan wanted it, put there by
// the real scheduler, before the old one went.
func evacuate(t *testing.T, ctx context.Context, cfg *rest.Config, pods []corev1.Pod) string {
	t.Helper()
	api, err := kube.New(cfg, kube.Options{Scheme: agent.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	count, fullest := map[string]int{}, ""
	for _, p := range pods {
		count[p.Spec.NodeName]++
		if n, most := count[p.Spec.NodeName], count[fullest]; n > most || n == most && p.Spec.NodeName < fullest {
			fullest = p.Spec.NodeName
		}
	}
	cordon := kube.RawPatch(types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`))
	if err := api.Patch(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fullest}}, cordon); err != nil {
		t.Fatal(err)
	}
	plan := &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: "evacuate"}, Spec: v1alpha1.RepackPlanSpec{
		Goal: v1alpha1.RepackEvacuate, Machines: []string{fullest}, Mode: v1alpha1.RepackExecute,
		Limits: v1alpha1.RepackLimits{MovesPerHour: 1000, Parallel: 4, Cooldown: "0s"},
	}}
	if err := api.Create(ctx, plan); err != nil {
		t.Fatal(err)
	}
	for !plan.Status.Phase.Over() {
		select {
		case <-ctx.Done():
			t.Fatalf("the plan for %s does not end: %s, %s, %+v", fullest, plan.Status.Phase, plan.Status.Reason, plan.Status.Moves)
		case <-time.After(time.Second):
		}
		if err := api.Get(ctx, kube.ObjectKeyFromObject(plan), plan); err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
	}
	done := 0
	for _, m := range plan.Status.Moves {
		if m.State == v1alpha1.MoveDone {
			done++
		}
	}
	if plan.Status.Phase != v1alpha1.RepackDone || done < count[fullest] || plan.Status.LostServingSeconds != 0 {
		t.Errorf("the plan for %s ended %s (%s) with %d moves of %d pods, %d s without service: %+v",
			fullest, plan.Status.Phase, plan.Status.Reason, done, count[fullest], plan.Status.LostServingSeconds, plan.Status.Moves)
	}
	return fullest
}

// handOut starts the pods of a node as its kubelet would, and returns how many
// containers see the GPUs that the scheduler wrote down.
func handOut(t *testing.T, ctx context.Context, api kube.Client, node *corev1.Node, pods []corev1.Pod) int {
	t.Helper()
	dir, err := os.MkdirTemp("", "neap") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	kubelet, err := fakekubelet.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer kubelet.Stop()
	announced, err := convert.GPUDevices(node)
	if err != nil {
		t.Fatal(err)
	}
	var memory []int64
	for _, d := range announced {
		memory = append(memory, d.MemoryMiB)
	}
	found, err := device.NewFake(node.Name, announced[0].Model, memory...).Find(ctx)
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "cdi")
	plugin, err := gpuplugin.New(gpuplugin.Options{Node: node.Name, Client: api, Kubelet: dir, CDI: cdi.Folder{Dir: folder, Kind: gpuplugin.Kind}})
	if err != nil {
		t.Fatal(err)
	}
	plugin.Update(found.Devices)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- plugin.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	if err := kubelet.Await(ctx, v1alpha1.ResourceGPUMilli, 1000*len(memory), 1000*len(memory)); err != nil {
		t.Fatal(err)
	}
	checked := 0
	for i := range pods {
		pod := &pods[i]
		if pod.Spec.NodeName != node.Name {
			continue
		}
		given, err := convert.GPUAllocation(pod)
		if err != nil || given == nil {
			t.Errorf("pod %s runs without GPUs: %v", pod.Name, err)
			continue
		}
		if err := kubelet.Admit(ctx, pod); err != nil {
			t.Errorf("pod %s is not admitted: %v", pod.Name, err)
			continue
		}
		names, err := kubelet.StartContainer(ctx, pod.UID, pod.Spec.Containers[0].Name)
		if err != nil {
			t.Errorf("pod %s does not start: %v", pod.Name, err)
			continue
		}
		cache, err := runtimecdi.NewCache(runtimecdi.WithSpecDirs(folder), runtimecdi.WithAutoRefresh(false))
		if err != nil {
			t.Fatal(err)
		}
		container := &oci.Spec{Process: &oci.Process{}}
		if missing, err := cache.InjectDevices(container, names...); err != nil {
			t.Errorf("the runtime finds no devices %q for pod %s: %v", missing, pod.Name, err)
			continue
		}
		var sees, want []string
		for _, env := range container.Process.Env {
			if list, ok := strings.CutPrefix(env, "NVIDIA_VISIBLE_DEVICES="); ok {
				sees = strings.Split(list, ",")
			}
		}
		for _, d := range given.Devices {
			want = append(want, d.UUID)
		}
		slices.Sort(sees)
		slices.Sort(want)
		if !slices.Equal(sees, want) {
			t.Errorf("pod %s sees %q, the scheduler gave it %q", pod.Name, sees, want)
			continue
		}
		checked++
	}
	return checked
}
