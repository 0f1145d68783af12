package announcer

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

func TestTheNodeSaysWhatThereIs(t *testing.T) {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "m", Labels: map[string]string{"zone": "a"}},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	api := fake.NewClientBuilder().WithObjects(node).WithStatusSubresource(node).Build()
	now := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	a := &Announcer{Node: "m", Client: api, Now: func() time.Time { return now }}
	machine := device.NewFake("m", "Tesla T4", 15360, 15360)
	found, err := machine.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := Report{Devices: found.Devices, Default: v1alpha1.GPUWatchOnly, Enforced: map[v1alpha1.GPUEnforcement]string{v1alpha1.GPUMPS: ""}}
	announce := func(model string, memory int64, healthy, enforced string) *corev1.Node {
		t.Helper()
		if err := a.Announce(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		got := new(corev1.Node)
		if err := api.Get(t.Context(), client.ObjectKey{Name: "m"}, got); err != nil {
			t.Fatal(err)
		}
		q := got.Status.Allocatable[v1alpha1.ResourceGPUMemory]
		c := got.Status.Capacity[v1alpha1.ResourceGPUMemory]
		if got.Labels[v1alpha1.LabelGPUModel] != model || got.Labels["zone"] != "a" || q.Value() != memory || c.Value() != memory {
			t.Errorf("the labels are %v and the memory %v of %v, want %q and %d", got.Labels, q.Value(), c.Value(), model, memory)
		}
		says := map[corev1.NodeConditionType]string{}
		for _, c := range got.Status.Conditions {
			says[c.Type] = string(c.Status) + " " + c.Reason + " " + c.Message
		}
		if !strings.HasPrefix(says[HealthyCondition], healthy) || !strings.HasPrefix(says[EnforcedCondition], enforced) || !strings.HasPrefix(says[corev1.NodeReady], "True") {
			t.Errorf("the conditions are %q, want %q and %q", says, healthy, enforced)
		}
		return got
	}
	first := announce("Tesla-T4", 30720, "True AllHealthy 2 GPUs", "True MPS NativeLimits is not in force")
	if d, err := convert.GPUDevices(first); err != nil || len(d) != 2 || d[1].UUID != "GPU-m-1" || !d[1].Healthy {
		t.Errorf("the node's GPUs are %v, %v", d, err)
	}
	if again := announce("Tesla-T4", 30720, "True", "True"); again.ResourceVersion != first.ResourceVersion {
		t.Error("nothing changed, and the node was written")
	}

	// One gets sick while pods hold 5000 MiB of it, and the other is another model.
	now = now.Add(time.Hour)
	r.Devices[0].Healthy, r.Devices[0].Reason, r.Devices[1].Model = false, "Xid error 79", "A10"
	r.Held, r.Enforced = map[string]int64{"GPU-m-0": 5000}, nil
	sick := announce("", 20360, "False Sick GPU 0 (GPU-m-0): Xid error 79", "False WatchOnly")
	for _, c := range sick.Status.Conditions {
		if c.Type == HealthyCondition && !c.LastTransitionTime.Time.Equal(now) {
			t.Errorf("it got sick at %v", c.LastTransitionTime)
		}
	}
	if known, err := a.Remembered(t.Context()); err != nil || len(known) != 2 || known[0].UUID != "GPU-m-0" || known[0].Memory != 15360 {
		t.Errorf("it remembers %v, %v", known, err)
	}

	// Somebody takes the resource and the annotation away.
	broken := sick.DeepCopy()
	broken.Annotations = nil
	if err := api.Patch(t.Context(), broken, client.MergeFrom(sick)); err != nil {
		t.Fatal(err)
	}
	broken.Status.Capacity, broken.Status.Allocatable = nil, nil
	if err := api.Status().Update(t.Context(), broken); err != nil {
		t.Fatal(err)
	}
	if known, err := a.Remembered(t.Context()); err != nil || len(known) != 0 {
		t.Errorf("without the annotation it remembers %v, %v", known, err)
	}
	announce("", 20360, "False", "False")

	// The driver is gone, and the machine starts anew without its GPUs.
	r = Report{Fault: errors.New("no NVIDIA driver"), Default: v1alpha1.GPUWatchOnly}
	if n := announce("", 0, "Unknown NotSeen no NVIDIA driver", "False"); n.Annotations[v1alpha1.AnnotationGPUDevices] != "" {
		t.Errorf("without a GPU the annotations are %v", n.Annotations)
	}

	// More GPUs than a machine can have.
	r = Report{Default: v1alpha1.GPUWatchOnly}
	for i := range 18 {
		r.Devices = append(r.Devices, device.Device{Index: i, UUID: "MIG-" + string(rune('a'+i)), Model: "m", Memory: 1, Healthy: true})
	}
	announce("m", 16, "True AllHealthy 16 GPUs; 2 more are left out, for a machine can have 16", "False")
}

func TestANodeThatIsNotThereIsSaid(t *testing.T) {
	a := &Announcer{Node: "m", Client: fake.NewClientBuilder().Build(), Now: time.Now}
	if err := a.Announce(t.Context(), Report{}); err == nil || !strings.Contains(err.Error(), "read node m") {
		t.Errorf("the error is %v", err)
	}
	if _, err := a.Remembered(t.Context()); err == nil {
		t.Error("a node that is not there is remembered")
	}
}
