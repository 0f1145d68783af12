package gpubook

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/kube/convert"
)

// machineWith returns a node with T4s of 16 GiB.
func machineWith(name string, gpus int) *v1.Node {
	var devices []v1alpha1.GPUDevice
	for i := range gpus {
		devices = append(devices, v1alpha1.GPUDevice{Index: int32(i), UUID: fmt.Sprintf("%s-%d", name, i), Model: "T4", MemoryMiB: 16384, Healthy: true})
	}
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: convert.WriteGPUDevices(devices)}},
		Status:     v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: apiresource.MustParse("64"), v1.ResourceMemory: apiresource.MustParse("256Gi")}},
	}
}

// claimOn returns a claim that holds pieces of GPUs for a pod.
func claimOn(name, node, pod string, milli, memoryMiB int64, devices ...string) *resourceapi.ResourceClaim {
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("claim-" + name)}}
	c.Status.ReservedFor = []resourceapi.ResourceClaimConsumerReference{{Resource: "pods", Name: pod, UID: types.UID("pod-" + pod)}}
	c.Status.Allocation = new(resourceapi.AllocationResult)
	for _, d := range devices {
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourceapi.DeviceRequestAllocationResult{
			Request: "gpu", Driver: v1alpha1.GPUDriver, Pool: node, Device: d,
			ConsumedCapacity: map[resourceapi.QualifiedName]apiresource.Quantity{
				"milli": *apiresource.NewQuantity(milli, apiresource.DecimalSI), "memory": *apiresource.NewQuantity(memoryMiB<<20, apiresource.BinarySI),
			},
		})
	}
	return c
}

func podOn(name, node string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("pod-" + name)},
		Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: apiresource.MustParse("2")},
		}}}},
	}
}

func TestClaimsHoldWhatTheyWereAllocated(t *testing.T) {
	// The order in which things become known does not matter.
	orders := map[string][]func(*Book){}
	node := func(b *Book) {
		if err := b.SetNode(machineWith("n1", 2)); err != nil {
			t.Fatal(err)
		}
	}
	claim := func(b *Book) {
		if err := b.SetClaim(claimOn("c", "n1", "p", 300, 4096, "gpu-1")); err != nil {
			t.Fatal(err)
		}
	}
	pod := func(b *Book) { b.SetPod(podOn("p", "n1")) }
	orders["node, claim, pod"] = []func(*Book){node, claim, pod}
	orders["pod, claim, node"] = []func(*Book){pod, claim, node}
	orders["claim twice"] = []func(*Book){claim, pod, node, claim}
	for name, order := range orders {
		t.Run(name, func(t *testing.T) {
			b := New(nil)
			for _, do := range order {
				do(b)
			}
			devices := b.Devices("n1")
			if len(devices) != 2 || devices[0].IdleMilli != 1000 || devices[1].IdleMilli != 700 || devices[1].IdleMemoryMiB != 12288 {
				t.Fatalf("devices are %+v", devices)
			}
			if h := devices[1].Holders; len(h) != 1 || h[0].Pod == nil || h[0].For != "default/p" {
				t.Errorf("holders are %+v", h)
			}
			i, _ := b.Machine("n1")
			if m := b.Fleet().Machine(i); m.Idle[1] != 700 || m.IdleMemory[1] != 12288 || m.CPU != 62000 {
				t.Errorf("the fleet has %+v", m)
			}
			pods := b.Pods()
			if len(pods) != 1 || pods[0].Now != 0 || pods[0].Demands[0].Milli != 300 || pods[0].Demands[0].CPU != 2000 || pods[0].Spot != (gpu.Spot{Machine: i, Devices: 2}) || pods[0].Has.Devices[0].UUID != "n1-1" {
				t.Errorf("pods are %+v", pods)
			}
			if c := b.Conflicts(); len(c) != 0 {
				t.Errorf("conflicts %+v", c)
			}
			_, shares := b.Basis()
			if len(shares) != 1 || shares[0].Demand.Milli != 300 || shares[0].Count != 1 {
				t.Errorf("the mix is %+v", shares)
			}

			free := claimOn("c", "n1", "p", 300, 4096)
			free.Status.Allocation = nil
			if err := b.SetClaim(free); err != nil {
				t.Fatal(err)
			}
			if d := b.Devices("n1"); d[1].IdleMilli != 1000 || len(b.Pods()) != 0 {
				t.Errorf("what was given back is held: %+v", d)
			}
		})
	}
}

func TestAClaimOutlivesItsPod(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(machineWith("n1", 1)); err != nil {
		t.Fatal(err)
	}
	b.SetPod(podOn("p", "n1"))
	if err := b.SetClaim(claimOn("c", "n1", "p", 300, 4096, "gpu-0")); err != nil {
		t.Fatal(err)
	}
	b.DeletePod("pod-p")
	if d := b.Devices("n1"); d[0].IdleMilli != 700 {
		t.Errorf("a GPU is free before its claim gave it back: %+v", d)
	}
	b.DeleteClaim("claim-c")
	b.DeleteClaim("claim-c")
	if d := b.Devices("n1"); d[0].IdleMilli != 1000 || len(b.holds) != 0 || len(b.claims) != 0 || len(b.claimed) != 0 {
		t.Errorf("something is left: %+v", d)
	}
}

func TestClaimsThatMeetAreNamed(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(machineWith("n1", 1)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		b.SetPod(podOn(name, "n1"))
		if err := b.SetClaim(claimOn(name, "n1", name, 600, 1024, "gpu-0")); err != nil {
			t.Fatal(err)
		}
	}
	c := b.Conflicts()
	if len(c) != 1 || c[0].UUID != "n1-0" || len(c[0].Pods) != 2 {
		t.Errorf("conflicts are %+v", c)
	}
}

func TestAWholeGPUByClaimLeavesNothing(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(machineWith("n1", 1)); err != nil {
		t.Fatal(err)
	}
	c := claimOn("c", "n1", "p", 1000, 0, "gpu-0")
	c.Status.Allocation.Devices.Results[0].ConsumedCapacity = nil
	if err := b.SetClaim(c); err != nil {
		t.Fatal(err)
	}
	d := gpu.Demand{Devices: 1, Milli: 1, DeviceMemory: 1}
	if best := b.Fleet().Best([]gpu.Demand{d}, 1, nil); len(best) != 0 {
		t.Errorf("something fits beside a whole GPU: %+v", best)
	}
}

func TestWhatIsKeptForAPodIsNotKeptBesideItsClaim(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(machineWith("n1", 1)); err != nil {
		t.Fatal(err)
	}
	idle := func() int16 { return b.Fleet().Machine(0).Idle[0] }
	b.SetHold("plan", Hold{Pod: "default/p", Node: "n1", Devices: []string{"n1-0"}, Milli: 300, MemoryMiB: 4096})
	if err := b.SetClaim(claimOn("c", "n1", "p", 300, 4096, "gpu-0")); err != nil {
		t.Fatal(err)
	}
	if idle() != 700 {
		t.Errorf("%d is left beside a claim and what was kept for its pod", idle())
	}
	b.DeleteClaim("claim-c")
	if idle() != 700 {
		t.Errorf("%d is left, and the place is still kept", idle())
	}
	b.DeleteHold("plan")
	if idle() != 1000 {
		t.Errorf("%d is left", idle())
	}
}

func TestAClaimIsNotFreeForAPodOfThatName(t *testing.T) {
	b := New(nil)
	if err := b.SetNode(machineWith("n1", 1)); err != nil {
		t.Fatal(err)
	}
	if err := b.SetClaim(claimOn("c", "n1", "p", 300, 4096, "gpu-0")); err != nil {
		t.Fatal(err)
	}
	again := podOn("p", "") // of a StatefulSet; the claim is that of the pod before
	again.UID = "another"
	if idle := b.FleetFor(again).Machine(0).Idle[0]; idle != 700 {
		t.Errorf("%d is left for it", idle)
	}
}
