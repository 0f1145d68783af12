// Package announcer writes on a machine's Node what GPUs it has: the annotation
// neap.dev/gpu-devices, the label neap.dev/gpu-model, the extended resource
// neap.dev/gpu-memory, and two conditions, [HealthyCondition] and
// [EnforcedCondition].
//
// Each [Announcer.Announce] reads the Node and writes what differs, so that what
// others take away or change comes back. The resource neap.dev/gpu-milli is the
// device plugin's.
package announcer

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

const (
	// HealthyCondition is True while every GPU of the node is healthy.
	HealthyCondition corev1.NodeConditionType = "GPUsHealthy"
	// EnforcedCondition is True while something stronger than watching can keep pods
	// within their pieces; its message says for every way whether it is in force.
	EnforcedCondition corev1.NodeConditionType = "GPUSharingEnforced"
)

// An Announcer writes one machine's Node.
type Announcer struct {
	Node   string
	Client client.Client    // get and patch nodes, patch nodes/status
	Now    func() time.Time // for conditions
}

// Remembered returns the devices that the Node tells of, such as before the program
// started anew; none if it cannot be told.
func (a *Announcer) Remembered(ctx context.Context) ([]device.Device, error) {
	node := new(corev1.Node)
	if err := a.Client.Get(ctx, client.ObjectKey{Name: a.Node}, node); err != nil {
		return nil, fmt.Errorf("read node %s: %w", a.Node, err)
	}
	if _, ours := node.Annotations[v1alpha1.AnnotationGPUDevices]; !ours {
		return nil, nil
	}
	known, err := convert.GPUDevices(node)
	if err != nil {
		return nil, err
	}
	var out []device.Device
	for _, d := range known {
		out = append(out, device.Device{Index: int(d.Index), UUID: d.UUID, Model: d.Model, Memory: d.MemoryMiB, Minor: -1})
	}
	return out, nil
}

// A Report is what is to be said of a machine.
type Report struct {
	Devices  []device.Device                    // by index; those beyond what a machine can have are left out, and counted
	Held     map[string]int64                   // MiB that pods hold of each GPU, by UUID
	Fault    error                              // why the last look failed, nil if it did not
	Enforced map[v1alpha1.GPUEnforcement]string // empty if in force, else why not
	Default  v1alpha1.GPUEnforcement            // for pods without a class
}

// Announce makes the Node say what the report says.
func (a *Announcer) Announce(ctx context.Context, r Report) error {
	node := new(corev1.Node)
	if err := a.Client.Get(ctx, client.ObjectKey{Name: a.Node}, node); err != nil {
		return fmt.Errorf("read node %s: %w", a.Node, err)
	}
	var devices []v1alpha1.GPUDevice
	var memory int64
	model := ""
	for _, d := range r.Devices {
		if d.Index >= gpu.MaxDevices {
			continue
		}
		devices = append(devices, v1alpha1.GPUDevice{
			Index: int32(d.Index), UUID: d.UUID, Model: d.Model, MemoryMiB: d.Memory, Healthy: d.Healthy, Reason: d.Reason,
		})
		if len(devices) == 1 {
			model = d.Model
		} else if model != d.Model {
			model = ""
		}
		if d.Healthy {
			memory += d.Memory
		} else {
			// What pods hold of a sick GPU counts against the node; it must not be
			// taken from what healthy GPUs have.
			memory += min(r.Held[d.UUID], d.Memory)
		}
	}

	before := node.DeepCopy()
	set(&node.Annotations, v1alpha1.AnnotationGPUDevices, convert.WriteGPUDevices(devices))
	if len(devices) == 0 {
		delete(node.Annotations, v1alpha1.AnnotationGPUDevices)
	}
	set(&node.Labels, v1alpha1.LabelGPUModel, model)
	if model == "" {
		delete(node.Labels, v1alpha1.LabelGPUModel)
	}
	if changed(before.Annotations, node.Annotations, v1alpha1.AnnotationGPUDevices) || changed(before.Labels, node.Labels, v1alpha1.LabelGPUModel) {
		if err := a.Client.Patch(ctx, node, client.MergeFrom(before)); err != nil {
			return fmt.Errorf("write the GPUs on node %s: %w", a.Node, err)
		}
	}

	before = node.DeepCopy()
	// The kubelet copies capacity to allocatable; where none runs, both are needed.
	total := *resource.NewQuantity(memory, resource.DecimalSI)
	for _, list := range []*corev1.ResourceList{&node.Status.Capacity, &node.Status.Allocatable} {
		if was, ok := (*list)[v1alpha1.ResourceGPUMemory]; !ok && memory == 0 || ok && was.Cmp(total) == 0 {
			continue
		}
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[v1alpha1.ResourceGPUMemory] = total
	}
	a.condition(node, healthy(r, len(devices)))
	a.condition(node, enforced(r))
	patch := client.StrategicMergeFrom(before)
	if raw, err := patch.Data(node); err != nil || string(raw) == "{}" {
		return err
	}
	if err := a.Client.Status().Patch(ctx, node, patch); err != nil {
		return fmt.Errorf("write the GPUs in the status of node %s: %w", a.Node, err)
	}
	return nil
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func changed(before, after map[string]string, key string) bool {
	a, was := before[key]
	b, is := after[key]
	return was != is || a != b
}

func healthy(r Report, announced int) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: HealthyCondition, Status: corev1.ConditionTrue, Reason: "AllHealthy", Message: fmt.Sprintf("%d GPUs", announced)}
	var sick []string
	for _, d := range r.Devices {
		if !d.Healthy {
			sick = append(sick, fmt.Sprintf("GPU %d (%s): %s", d.Index, d.UUID, d.Reason))
		}
	}
	switch {
	case len(sick) > 0:
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "Sick", strings.Join(sick, "; ")
	case r.Fault != nil:
		c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NotSeen", r.Fault.Error()
	case announced == 0:
		c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NoGPU", "the driver finds no GPU"
	}
	if n := len(r.Devices) - announced; n > 0 {
		c.Message += fmt.Sprintf("; %d more are left out, for a machine can have %d", n, gpu.MaxDevices)
	}
	return c
}

func enforced(r Report) corev1.NodeCondition {
	c := corev1.NodeCondition{Type: EnforcedCondition, Status: corev1.ConditionFalse, Reason: string(v1alpha1.GPUWatchOnly)}
	var say []string
	for _, how := range []v1alpha1.GPUEnforcement{v1alpha1.GPUNativeLimits, v1alpha1.GPUMPS, v1alpha1.GPUMIG} {
		why, known := r.Enforced[how]
		if !known || why != "" {
			say = append(say, fmt.Sprintf("%s is not in force: %s", how, why))
			continue
		}
		if c.Status == corev1.ConditionFalse {
			c.Status, c.Reason = corev1.ConditionTrue, string(how)
		}
		say = append(say, fmt.Sprintf("%s is there for classes that name it", how))
	}
	say = append(say, "memory is watched", fmt.Sprintf("pods without a class: %s", r.Default))
	c.Message = strings.Join(say, "; ")
	return c
}

// condition sets a condition; its time changes with its status.
func (a *Announcer) condition(node *corev1.Node, c corev1.NodeCondition) {
	now := metav1.NewTime(a.Now())
	for i := range node.Status.Conditions {
		old := &node.Status.Conditions[i]
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
			return
		}
		c.LastTransitionTime = old.LastTransitionTime
		if old.Status != c.Status {
			c.LastTransitionTime = now
		}
		c.LastHeartbeatTime = now
		*old = c
		return
	}
	c.LastHeartbeatTime, c.LastTransitionTime = now, now
	node.Status.Conditions = append(node.Status.Conditions, c)
}
