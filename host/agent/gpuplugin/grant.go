package gpuplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

// noteGrant is the note of a CDI device that holds its [Grant] as JSON.
const noteGrant = "neap.dev/grant"

// A Grant is what one container was given.
type Grant struct {
	Namespace string                 `json:"namespace"`
	Pod       string                 `json:"pod"`
	UID       types.UID              `json:"uid"`
	Container string                 `json:"container"`
	Given     v1alpha1.GPUAllocation `json:"given"` // to the whole pod
}

func readGrant(note map[string]string) (Grant, error) {
	var g Grant
	err := json.Unmarshal([]byte(note[noteGrant]), &g)
	if err == nil && (g.UID == "" || len(g.Given.Devices) == 0) {
		err = errors.New("it names no pod or no GPU")
	}
	return g, err
}

// Grants returns what containers hold by the names of their CDI devices.
func (p *Plugin) Grants() map[string]Grant {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[string]Grant, len(p.grants))
	for name, g := range p.grants {
		out[name] = g
	}
	return out
}

// Held returns what pods hold of every GPU, pod by pod and without order.
func (p *Plugin) Held() []v1alpha1.GPUShare {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := map[types.UID]bool{}
	var out []v1alpha1.GPUShare
	for _, g := range p.grants {
		if !seen[g.UID] {
			seen[g.UID] = true // its other containers share with it
			out = append(out, g.Given.Devices...)
		}
	}
	return out
}

type amount struct{ milli, memory int64 }

// held returns what pods hold of every GPU, except one pod. The caller holds mu.
func (p *Plugin) held(except types.UID) map[string]amount {
	out := map[string]amount{}
	seen := map[types.UID]bool{except: true}
	for _, g := range p.grants {
		if seen[g.UID] {
			continue
		}
		seen[g.UID] = true // its other containers share with it
		for _, d := range g.Given.Devices {
			a := out[d.UUID]
			out[d.UUID] = amount{a.milli + d.Milli, a.memory + d.MemoryMiB}
		}
	}
	return out
}

// prepare finds whom tokens belong to and describes his CDI device.
func (p *Plugin) prepare(ctx context.Context, ids []string) error {
	holders, err := p.containers(ctx)
	if err != nil {
		return err
	}
	p.release(ctx, holders)
	pod, err := p.owner(ctx, holders, ids)
	if err != nil {
		return err
	}
	if err := p.grant(ctx, pod, holders, ids); err != nil {
		if p.opts.Event != nil {
			p.opts.Event(ctx, pod, ReasonNotGranted, err.Error())
		}
		return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// owner returns the pod whose tokens these are. A plain init container is not in
// the kubelet's list, but the containers after it have tokens of its.
func (p *Plugin) owner(ctx context.Context, holders []holder, ids []string) (*corev1.Pod, error) {
	asked := map[string]bool{}
	for _, id := range ids {
		asked[id] = true
	}
	var found *holder
	for i := range holders {
		h := &holders[i]
		if !slices.ContainsFunc(h.ids, func(id string) bool { return asked[id] }) {
			continue
		}
		if found != nil && (found.namespace != h.namespace || found.pod != h.pod) {
			return nil, fmt.Errorf("the kubelet says that pods %s/%s and %s/%s hold the same thousandths of GPUs", found.namespace, found.pod, h.namespace, h.pod)
		}
		found = h
	}
	if found == nil {
		return nil, fmt.Errorf("the kubelet starts a container with %d thousandths of GPUs and names no pod that holds them: the pod is gone, or only an init container of it asks for %s, which one of its other containers must ask for, too",
			len(ids), v1alpha1.ResourceGPUMilli)
	}
	pod := new(corev1.Pod)
	switch err := p.opts.Client.Get(ctx, client.ObjectKey{Namespace: found.namespace, Name: found.pod}, pod); {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("pod %s/%s is gone from the API server", found.namespace, found.pod)
	case err != nil:
		return nil, fmt.Errorf("read what pod %s/%s may use: %w", found.namespace, found.pod, err)
	case pod.Spec.NodeName != p.opts.Node:
		// Another has its name by now.
		return nil, fmt.Errorf("pod %s/%s runs here, and the API server knows one of that name on node %q", found.namespace, found.pod, pod.Spec.NodeName)
	}
	return pod, nil
}

// grant describes the CDI device of a container's tokens.
func (p *Plugin) grant(ctx context.Context, pod *corev1.Pod, holders []holder, ids []string) error {
	given, err := p.given(pod)
	if err != nil {
		return err
	}
	container, err := starting(pod, holders, ids)
	if err != nil {
		return err
	}
	pieces, err := p.pieces(pod, container, given)
	if err != nil {
		return err
	}
	var env map[string]string
	var mounts []cdi.Mount
	if p.opts.Limit != nil {
		if env, mounts, err = p.opts.Limit(ctx, pod, pieces); err != nil {
			return fmt.Errorf("container %s: %w", container, err)
		}
	}
	g := Grant{Namespace: pod.Namespace, Pod: pod.Name, UID: pod.UID, Container: container, Given: *given}
	note, err := json.Marshal(g)
	if err != nil {
		return err
	}
	devices := make([]device.Device, len(pieces))
	for i := range pieces {
		devices[i] = pieces[i].Device
	}
	name := name(ids)

	// Two pods that start at once must not both find room.
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.room(pod, given, devices); err != nil {
		return err
	}
	if err := p.opts.CDI.Write(cdi.Grant{Name: name, Devices: devices, Env: env, Mounts: mounts, Note: map[string]string{noteGrant: string(note)}}); err != nil {
		return err
	}
	p.grants[name] = g
	p.tell() // what a sick GPU has left may be less now
	return nil
}

// given returns what the scheduler gave a pod, the same as at its first start.
func (p *Plugin) given(pod *corev1.Pod) (*v1alpha1.GPUAllocation, error) {
	given, err := convert.GPUAllocation(pod)
	switch {
	case err != nil:
		return nil, err
	case given == nil:
		return nil, fmt.Errorf("no scheduler of Neap gave it a GPU: it has no annotation %s; set spec.schedulerName to neap-scheduler", v1alpha1.AnnotationGPUAllocation)
	case given.Node != p.opts.Node:
		return nil, fmt.Errorf("annotation %s gives it GPUs of node %s, and it runs on %s", v1alpha1.AnnotationGPUAllocation, given.Node, p.opts.Node)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.grants {
		if g.UID == pod.UID && !slices.Equal(g.Given.Devices, given.Devices) {
			return nil, fmt.Errorf("annotation %s was changed since its first container started: delete the pod to move it", v1alpha1.AnnotationGPUAllocation)
		}
	}
	return given, nil
}

// starting returns the name of the container that is about to start with these
// tokens. The kubelet does not say; it starts plain init containers first.
func starting(pod *corev1.Pod, holders []holder, ids []string) (string, error) {
	asks := func(c *corev1.Container) bool {
		q := c.Resources.Limits[v1alpha1.ResourceGPUMilli]
		return q.Value() == int64(len(ids))
	}
	done := map[string]bool{}
	for _, s := range pod.Status.InitContainerStatuses {
		done[s.Name] = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		if !sidecar && !done[c.Name] && asks(c) {
			return c.Name, nil
		}
	}
	this := name(ids)
	for _, h := range holders {
		if h.namespace != pod.Namespace || h.pod != pod.Name || name(h.ids) != this {
			continue
		}
		for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
			if c.Name == h.container && asks(&c) {
				return c.Name, nil
			}
		}
	}
	return "", fmt.Errorf("the kubelet starts a container with %d thousandths of GPUs, and none of the pod's asks for so many", len(ids))
}

// pieces returns what a container may use of each GPU that its pod was given.
func (p *Plugin) pieces(pod *corev1.Pod, container string, given *v1alpha1.GPUAllocation) ([]limiter.Piece, error) {
	p.mu.Lock()
	devices := p.devices
	p.mu.Unlock()
	var out []limiter.Piece
	for _, share := range given.Devices {
		i := slices.IndexFunc(devices, func(d device.Device) bool { return d.UUID == share.UUID })
		if i < 0 {
			return nil, fmt.Errorf("it was given GPU %s, which node %s does not have", share.UUID, p.opts.Node)
		}
		if d := devices[i]; !d.Healthy {
			return nil, fmt.Errorf("it was given GPU %s, which is sick: %s", share.UUID, d.Reason)
		}
		parts, err := convert.GPUParts(pod, share, devices[i].Memory)
		if err != nil {
			return nil, err
		}
		j := slices.IndexFunc(parts, func(part convert.GPUPart) bool { return part.Container == container })
		if j < 0 {
			return nil, fmt.Errorf("container %s asks for no part of GPU %s", container, share.UUID)
		}
		out = append(out, limiter.Piece{Device: devices[i], Milli: parts[j].Milli, MemoryMiB: parts[j].MemoryMiB})
	}
	return out, nil
}

// room fails if a pod and those that are here already would hold more than there is
// of a GPU. The caller holds mu.
func (p *Plugin) room(pod *corev1.Pod, given *v1alpha1.GPUAllocation, devices []device.Device) error {
	held := p.held(pod.UID)
	for i, d := range given.Devices {
		others := held[d.UUID]
		if others.milli+d.Milli > gpu.Whole || others.memory+d.MemoryMiB > devices[i].Memory {
			return fmt.Errorf("it was given %d thousandths and %d MiB of GPU %s, of whose %d and %d others hold %d and %d: %s",
				d.Milli, d.MemoryMiB, d.UUID, gpu.Whole, devices[i].Memory, others.milli, others.memory, strings.Join(p.on(d.UUID, pod.UID), ", "))
		}
	}
	return nil
}

// on names the pods on a GPU, except one. The caller holds mu.
func (p *Plugin) on(uuid string, except types.UID) []string {
	var out []string
	for _, g := range p.grants {
		if g.UID != except && slices.ContainsFunc(g.Given.Devices, func(d v1alpha1.GPUShare) bool { return d.UUID == uuid }) {
			out = append(out, g.Namespace+"/"+g.Pod)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// release takes away the grants of pods that are gone: that the kubelet does not
// name, which it does not right after its start, and that the API server says are
// not here any more. If it cannot be asked, they stay.
func (p *Plugin) release(ctx context.Context, holders []holder) {
	alive := map[string]bool{}
	for _, h := range holders {
		alive[h.namespace+"/"+h.pod] = true
	}
	for name, g := range p.Grants() {
		if alive[g.Namespace+"/"+g.Pod] || !p.gone(ctx, g) {
			continue
		}
		p.mu.Lock()
		if err := p.opts.CDI.Remove(name); err != nil {
			p.opts.Log.Warn("the CDI file of a pod that is gone stays", "error", err)
		}
		delete(p.grants, name)
		p.tell()
		p.mu.Unlock()
	}
}

func (p *Plugin) gone(ctx context.Context, g Grant) bool {
	pod := new(corev1.Pod)
	if err := p.opts.Client.Get(ctx, client.ObjectKey{Namespace: g.Namespace, Name: g.Pod}, pod); err != nil {
		return apierrors.IsNotFound(err)
	}
	return pod.UID != g.UID || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Sweep takes away what belongs to pods that are gone, and writes again the CDI
// files of running containers that are missing, such as after somebody emptied the
// folder. It returns what could not be written.
func (p *Plugin) Sweep(ctx context.Context) error {
	holders, err := p.containers(ctx)
	if err != nil {
		return err
	}
	p.release(ctx, holders)
	there, err := p.opts.CDI.Grants()
	if err != nil {
		return err
	}
	p.mu.Lock()
	for device, note := range there {
		if _, known := p.grants[device]; !known && note == nil {
			// Torn, and of nobody here; its container's start writes it again.
			err = errors.Join(err, p.opts.CDI.Remove(device))
		}
	}
	p.mu.Unlock()
	for _, h := range holders {
		if there[name(h.ids)] != nil || !p.ready() {
			continue
		}
		pod, missing := p.owner(ctx, holders, h.ids)
		if missing == nil {
			missing = p.grant(ctx, pod, holders, h.ids)
		}
		// A container that has had none yet hears of it when it starts.
		if _, had := p.Grants()[name(h.ids)]; had && missing != nil {
			err = errors.Join(err, fmt.Errorf("container %s of pod %s/%s: %w", h.container, h.namespace, h.pod, missing))
		}
	}
	return err
}
