// Package gpudriver is Neap's driver for dynamic resource allocation, gpu.neap.dev:
// it offers a machine's GPUs as devices that claims share, and hands the runtime
// what a claim was allocated.
//
// [Driver.Publish] writes the machine's ResourceSlice: one device for each GPU, with
// consumable capacity milli and memory, tainted while it is sick. Before a pod starts
// the kubelet calls [Driver.PrepareResourceClaims]; each claim becomes one CDI device
// with all its GPUs, named by the claim's uid. The CDI files are also the driver's
// memory: after a restart, or when the kubelet asks twice, they say what is prepared.
//
// The driver is the last to see a mistake before two pods meet on one GPU: a claim
// that would take more than a GPU has left, whoever allocated it, is refused with a
// sentence that the pod shows. A GPU that gets sick is reported to the kubelet, which
// shows it in the status of the pods on it; they keep running until a plan moves them.
//
// Not here: which GPU a claim gets, which kube/scheduler/gpufit decides, and looking
// for GPUs, which host/device does.
package gpudriver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"
	"k8s.io/klog/v2"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

// kind is the vendor and class of the driver's CDI devices.
const kind = v1alpha1.GPUDriver + "/claim"

// noteClaim is the note of a CDI device that holds its claim as JSON.
const noteClaim = "neap.dev/claim"

// Options say where a driver runs.
type Options struct {
	Node    string               // required: the machine's name in the cluster
	NodeUID types.UID            // looked up if empty
	Client  kubernetes.Interface // required: reads claims and its Node, writes ResourceSlices
	Kubelet string               // the kubelet's folder; /var/lib/kubelet if empty. The path is the kubelet's own
	CDI     cdi.Folder           // where the runtime looks; its Kind is the driver's
	// Limit says how a container that gets a piece of GPUs is held to it, such as by
	// the variables of MPS; nil for nothing but the devices.
	Limit func(pieces []Piece) (env map[string]string, mounts []cdi.Mount, err error)
}

// A Piece is what a claim has of one GPU.
type Piece struct {
	Device    device.Device
	Milli     int64 // 0 with administrative access
	MemoryMiB int64
}

// A Driver serves one machine. Its methods may be called from several goroutines.
type Driver struct {
	opts   Options
	helper *kubeletplugin.Helper
	over   <-chan struct{} // closed when it stops
	cancel context.CancelFunc

	mu      sync.Mutex
	devices map[int]device.Device // by index
	changed chan struct{}         // closed at the next change of devices
	// fault is what was last wrong in the background, nil if nothing.
	fault error

	drahealth.UnimplementedDRAResourceHealthServer
}

var (
	_ kubeletplugin.DRAPlugin           = (*Driver)(nil)
	_ drahealth.DRAResourceHealthServer = (*Driver)(nil)
)

// Start registers a driver with the kubelet and serves it until ctx ends or
// [Driver.Stop] is called. No GPU is offered before [Driver.Publish].
func Start(ctx context.Context, opts Options) (*Driver, error) {
	if opts.Kubelet == "" {
		opts.Kubelet = "/var/lib/kubelet"
	}
	opts.CDI.Kind = kind
	d := &Driver{opts: opts, changed: make(chan struct{})}
	data := filepath.Join(opts.Kubelet, "plugins", v1alpha1.GPUDriver)
	registry := filepath.Join(opts.Kubelet, "plugins_registry")
	for _, dir := range []string{data, registry} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("make the folder for the kubelet: %w", err)
		}
	}
	ctx, d.cancel = context.WithCancel(ctx)
	d.over = ctx.Done()
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.DriverName(v1alpha1.GPUDriver),
		kubeletplugin.NodeName(opts.Node),
		kubeletplugin.NodeUID(opts.NodeUID),
		kubeletplugin.KubeClient(opts.Client),
		kubeletplugin.PluginDataDirectoryPath(data),
		kubeletplugin.RegistrarDirectoryPath(registry),
	)
	if err != nil {
		d.cancel()
		return nil, fmt.Errorf("offer %s to the kubelet at %s: %w", v1alpha1.GPUDriver, opts.Kubelet, err)
	}
	d.helper = helper
	return d, nil
}

// Stop ends the driver and waits for it. What is prepared stays so.
func (d *Driver) Stop() {
	d.cancel()
	d.helper.Stop()
}

// Publish offers devices from now on, all of those that the machine has or had: a
// GPU that is not healthy, or not there any more, is tainted while it is named here.
// It returns at once; what goes wrong later is in [Driver.Fault].
func (d *Driver) Publish(ctx context.Context, devices []device.Device) error {
	byIndex := make(map[int]device.Device, len(devices))
	var slice resourceslice.Slice
	for _, dev := range devices {
		if dev.Index < 0 || dev.Index >= gpu.MaxDevices {
			return fmt.Errorf("GPU %s has index %d: a machine has GPUs 0 to %d", dev.UUID, dev.Index, gpu.MaxDevices-1)
		}
		if was, twice := byIndex[dev.Index]; twice {
			return fmt.Errorf("GPUs %s and %s both have index %d", was.UUID, dev.UUID, dev.Index)
		}
		byIndex[dev.Index] = dev
		slice.Devices = append(slice.Devices, convert.PublishedGPU(v1alpha1.GPUDevice{
			Index: int32(dev.Index), UUID: dev.UUID, Model: dev.Model, MemoryMiB: dev.Memory, Healthy: dev.Healthy, Reason: dev.Reason,
		}))
	}
	d.mu.Lock()
	same := d.devices != nil && maps.Equal(d.devices, byIndex)
	if !same {
		d.devices = byIndex
		close(d.changed)
		d.changed = make(chan struct{})
	}
	d.mu.Unlock()
	if same {
		return nil
	}
	return d.helper.PublishResources(ctx, resourceslice.DriverResources{
		Pools: map[string]resourceslice.Pool{d.opts.Node: {Slices: []resourceslice.Slice{slice}}},
	})
}

// HandleError implements [kubeletplugin.DRAPlugin].
func (d *Driver) HandleError(ctx context.Context, err error, msg string) {
	var dropped *resourceslice.DroppedFieldsError
	if errors.As(err, &dropped) {
		err = fmt.Errorf("the API server does not keep %v: GPUs can only be shared by claims where those features are on, as they are from Kubernetes 1.36: %w", dropped.DisabledFeatures(), err)
	}
	klog.FromContext(ctx).Error(err, msg)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fmt.Errorf("%s: %w", msg, err)
}

// Fault returns what was last wrong in the background since the last call, nil if
// nothing was.
func (d *Driver) Fault() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.fault
	d.fault = nil
	return err
}

// A grant is what the driver remembers of a claim it prepared.
type grant struct {
	Namespace string  `json:"namespace"`
	Name      string  `json:"name"`
	Pieces    []share `json:"pieces"`
}

type share struct {
	UUID      string `json:"uuid"`
	Milli     int64  `json:"milli"`
	MemoryMiB int64  `json:"memoryMiB"`
}

// PrepareResourceClaims implements [kubeletplugin.DRAPlugin].
func (d *Driver) PrepareResourceClaims(ctx context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	granted, err := d.granted(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[types.UID]kubeletplugin.PrepareResult, len(claims))
	for _, claim := range claims {
		devices, g, err := d.prepare(claim, granted)
		if err == nil {
			granted[claim.UID] = g
		}
		out[claim.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return out, nil
}

// granted returns what is prepared on this machine.
func (d *Driver) granted(ctx context.Context) (map[types.UID]grant, error) {
	notes, err := d.opts.CDI.Grants()
	if err != nil {
		return nil, err
	}
	out := make(map[types.UID]grant, len(notes))
	for name, note := range notes {
		var g grant
		if err := json.Unmarshal([]byte(note[noteClaim]), &g); err != nil {
			klog.FromContext(ctx).Error(err, "A prepared claim cannot be read", "claim", name)
		}
		out[types.UID(name)] = g
	}
	return out, nil
}

// prepare makes one claim known to the runtime.
func (d *Driver) prepare(claim *resourceapi.ResourceClaim, granted map[types.UID]grant) ([]kubeletplugin.Device, grant, error) {
	node, shares, err := convert.GPUClaimShares(claim)
	if err != nil {
		return nil, grant{}, err
	}
	if node != d.opts.Node {
		return nil, grant{}, fmt.Errorf("claim %s/%s has GPUs of node %q, and this is %s", claim.Namespace, claim.Name, node, d.opts.Node)
	}
	g := grant{Namespace: claim.Namespace, Name: claim.Name}
	pieces, err := d.pieces(shares, granted[claim.UID])
	if err != nil {
		return nil, grant{}, fmt.Errorf("claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	for _, p := range pieces {
		g.Pieces = append(g.Pieces, share{p.Device.UUID, p.Milli, p.MemoryMiB})
	}
	for _, p := range pieces {
		if err := room(p, claim.UID, g, granted); err != nil {
			return nil, grant{}, fmt.Errorf("claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	if err := d.write(string(claim.UID), g, pieces); err != nil {
		return nil, grant{}, err
	}
	// The one CDI device holds all GPUs of the claim; each request names it once.
	var out []kubeletplugin.Device
	for i, s := range shares {
		dev := kubeletplugin.Device{Requests: []string{s.Request}, PoolName: node, DeviceName: s.Device}
		if s.ShareID != "" {
			id := types.UID(s.ShareID)
			dev.ShareID = &id
		}
		if !slices.ContainsFunc(shares[:i], func(o convert.GPUClaimShare) bool { return o.Request == s.Request }) {
			dev.CDIDeviceIDs = []string{d.opts.CDI.Qualified(string(claim.UID))}
		}
		out = append(out, dev)
	}
	return out, g, nil
}

// pieces finds the GPUs of a claim, which had as before if it was prepared already.
func (d *Driver) pieces(shares []convert.GPUClaimShare, before grant) ([]Piece, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.devices == nil {
		return nil, errors.New("the GPUs of this machine have not been looked at yet")
	}
	var out []Piece
	for i, s := range shares {
		dev, ok := d.devices[s.Index]
		switch again := i < len(before.Pieces); {
		case !ok:
			return nil, fmt.Errorf("there is no %s on this machine", s.Device)
		case again && before.Pieces[i].UUID != dev.UUID:
			return nil, fmt.Errorf("%s was GPU %s when the claim was prepared, and is %s now: delete the pod", s.Device, before.Pieces[i].UUID, dev.UUID)
		case !again && !dev.Healthy: // what runs already may go on
			return nil, fmt.Errorf("%s (%s) is sick: %s", s.Device, dev.UUID, dev.Reason)
		}
		memory := s.MemoryMiB
		if memory == 0 && s.Milli > 0 {
			memory = dev.Memory
		}
		out = append(out, Piece{dev, s.Milli, memory})
	}
	return out, nil
}

// room returns an error if a GPU does not have what all claims have of it together.
func room(p Piece, uid types.UID, g grant, granted map[types.UID]grant) error {
	var milli, memory int64
	var others []string
	add := func(g grant) bool {
		on := false
		for _, s := range g.Pieces {
			if s.UUID == p.Device.UUID {
				on, milli, memory = true, milli+s.Milli, memory+s.MemoryMiB
			}
		}
		return on
	}
	add(g)
	for id, o := range granted {
		if id != uid && add(o) {
			others = append(others, o.Namespace+"/"+o.Name)
		}
	}
	if milli <= gpu.Whole && (memory <= p.Device.Memory || p.Device.Memory == 0) {
		return nil
	}
	slices.Sort(others)
	return fmt.Errorf("GPU %s has %d thousandths and %d MiB, and with the claims %v it would have to give %d and %d: it was allocated twice, delete the pod to have it placed anew",
		p.Device.UUID, gpu.Whole, p.Device.Memory, others, milli, memory)
}

// write makes a grant known to the runtime.
func (d *Driver) write(name string, g grant, pieces []Piece) error {
	note, err := json.Marshal(g)
	if err != nil {
		return err
	}
	c := cdi.Grant{Name: name, Note: map[string]string{noteClaim: string(note)}}
	for _, p := range pieces {
		c.Devices = append(c.Devices, p.Device)
	}
	if d.opts.Limit != nil {
		if c.Env, c.Mounts, err = d.opts.Limit(pieces); err != nil {
			return err
		}
	}
	return d.opts.CDI.Write(c)
}

// UnprepareResourceClaims implements [kubeletplugin.DRAPlugin].
func (d *Driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := make(map[types.UID]error, len(claims))
	for _, claim := range claims {
		out[claim.UID] = d.opts.CDI.Remove(string(claim.UID))
	}
	return out, nil
}

// heartbeat is how often the kubelet is told that nothing changed; it takes the
// health for unknown after thirty seconds.
const heartbeat = 10 * time.Second

// NodeWatchResources implements [drahealth.DRAResourceHealthServer]: it tells the
// kubelet how the GPUs are, at once when that changes.
func (d *Driver) NodeWatchResources(_ *drahealth.NodeWatchResourcesRequest, stream drahealth.DRAResourceHealth_NodeWatchResourcesServer) error {
	for {
		state, changed := d.health()
		if err := stream.Send(state); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-time.After(heartbeat):
		case <-stream.Context().Done():
			return nil
		case <-d.over: // the server waits for its streams
			return nil
		}
	}
}

// health returns how the GPUs are, and what is closed when that changes.
func (d *Driver) health() (*drahealth.NodeWatchResourcesResponse, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := new(drahealth.NodeWatchResourcesResponse)
	for _, i := range slices.Sorted(maps.Keys(d.devices)) {
		dev := d.devices[i]
		h := &drahealth.DeviceHealth{
			Device:          &drahealth.DeviceIdentifier{PoolName: d.opts.Node, DeviceName: convert.GPUDeviceName(i)},
			Health:          drahealth.HealthStatus_HEALTHY,
			LastUpdatedTime: time.Now().Unix(),
			Message:         dev.Reason,
		}
		if !dev.Healthy {
			h.Health = drahealth.HealthStatus_UNHEALTHY
		}
		out.Devices = append(out.Devices, h)
	}
	return out, d.changed
}
