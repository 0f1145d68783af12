// Package gpuplugin is Neap's device plugin: it hands pods the pieces of GPUs that
// the scheduler wrote down for them, and never guesses which those are.
//
// The kubelet counts thousandths of GPUs, [v1alpha1.ResourceGPUMilli], as devices of
// which any is as good as any other, and the plugin's Allocate learns nothing of the
// pod. So the devices are mere tokens, numbers from 0; Allocate answers with the name
// of a CDI device that derives from the tokens; and what that device is, is settled
// when the kubelet calls PreStartContainer right before it has the runtime create the
// container:
//
//	tokens → (PodResources API) container → (API server) pod → its annotation
//	neap.dev/gpu-allocation → checked against this machine's GPUs and against
//	what other pods hold of them → CDI specification, whole or not at all
//
// Any doubt on this way is an error that names it, for the kubelet to try again, and
// an event on the pod. The CDI files are also the plugin's memory: after a restart
// they say who holds what, and those that are missing are written again.
//
// Not here: which GPU a pod gets, which the scheduler decides; what keeps it within
// its piece, which host/agent/limiter knows; claims, which host/agent/gpudriver serves.
package gpuplugin

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
)

// Kind is the vendor and class of the plugin's CDI devices.
const Kind = "neap.dev/gpu"

// ReasonNotGranted is the reason of events on pods that do not get their GPU.
const ReasonNotGranted = "GPUNotGranted"

// endpoint is the name of the plugin's socket.
const endpoint = "neap.dev-gpu-milli.sock"

// poll is how often the plugin looks whether the kubelet is a new one. The kubelet
// removes all sockets when it starts, and polling sees that on any file system.
const poll = time.Second

// Options say where a plugin runs.
type Options struct {
	Node    string        // required: the machine's name in the cluster
	Client  client.Reader // required: reads pods from the API server itself, not from a cache
	Kubelet string        // the kubelet's folder; /var/lib/kubelet if empty
	CDI     cdi.Folder    // where the runtime looks; its Kind is the plugin's
	// Limit says how a container of a pod is held to its pieces; nil for nothing but
	// the devices.
	Limit func(ctx context.Context, pod *corev1.Pod, pieces []limiter.Piece) (map[string]string, []cdi.Mount, error)
	// Event tells the pod why it does not get its GPU; nil tells nobody.
	Event func(ctx context.Context, pod *corev1.Pod, reason, message string)
	Log   *slog.Logger // nil logs nothing
}

// A Plugin serves one machine. Its methods may be called from several goroutines.
type Plugin struct {
	opts Options

	mu      sync.Mutex
	devices []device.Device // by index
	changed chan struct{}   // closed at the next change of devices
	grants  map[string]Grant

	deviceplugin.UnimplementedDevicePluginServer
}

var _ deviceplugin.DevicePluginServer = (*Plugin)(nil)

// New returns a plugin that remembers what the CDI folder says it granted.
func New(opts Options) (*Plugin, error) {
	opts.Kubelet = cmp.Or(opts.Kubelet, "/var/lib/kubelet")
	opts.CDI.Kind = Kind
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	notes, err := opts.CDI.Grants()
	if err != nil {
		return nil, err
	}
	p := &Plugin{opts: opts, changed: make(chan struct{}), grants: map[string]Grant{}}
	for name, note := range notes {
		if g, err := readGrant(note); err == nil {
			p.grants[name] = g
		} else {
			opts.Log.Warn("a CDI file of the plugin cannot be read; it is written again when its container is seen", "device", name, "error", err)
		}
	}
	return p, nil
}

// Run serves the kubelet until ctx ends, and registers again whenever there is a
// new kubelet. An error means that the machine's folders cannot be used.
func (p *Plugin) Run(ctx context.Context) error {
	dir := filepath.Join(p.opts.Kubelet, "device-plugins")
	own, kubelet := filepath.Join(dir, endpoint), filepath.Join(dir, "kubelet.sock")
	for ctx.Err() == nil {
		registered, err := os.Stat(kubelet)
		if err != nil {
			wait(ctx, poll) // no kubelet yet
			continue
		}
		if err := p.serve(ctx, own, func() bool {
			mine, err1 := os.Lstat(own)
			now, err2 := os.Stat(kubelet)
			return err1 == nil && mine.Mode()&os.ModeSocket != 0 && err2 == nil &&
				os.SameFile(registered, now) && registered.ModTime().Equal(now.ModTime())
		}); err != nil {
			return err
		}
	}
	return nil
}

// serve listens at a socket, registers, and returns when same does not hold any
// more or ctx ends.
func (p *Plugin) serve(ctx context.Context, socket string, same func() bool) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make room for the plugin's socket: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) { // the kubelet is just making its folder anew
			wait(ctx, poll)
			return nil
		}
		return fmt.Errorf("listen for the kubelet: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	server := grpc.NewServer()
	deviceplugin.RegisterDevicePluginServer(server, served{p, ctx.Done()})
	go server.Serve(l) //nolint:errcheck // it ends with Stop
	defer server.Stop()

	for registered := false; ctx.Err() == nil && same(); wait(ctx, poll) {
		if registered || !p.ready() {
			continue
		}
		if err := p.register(ctx); err != nil {
			p.opts.Log.Warn("the kubelet does not take the plugin; trying again", "error", err)
			continue
		}
		registered = true
		p.opts.Log.Info("registered with the kubelet", "resource", v1alpha1.ResourceGPUMilli)
	}
	return nil
}

// ready reports whether GPUs have been seen. Before, registering would say that the
// machine has none, and the kubelet would fail pods that it is to start again.
func (p *Plugin) ready() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.devices) > 0
}

func (p *Plugin) register(ctx context.Context) error {
	conn, err := dial(filepath.Join(p.opts.Kubelet, "device-plugins", "kubelet.sock"))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = deviceplugin.NewRegistrationClient(conn).Register(ctx, &deviceplugin.RegisterRequest{
		Version: deviceplugin.Version, Endpoint: endpoint, ResourceName: v1alpha1.ResourceGPUMilli,
		Options: &deviceplugin.DevicePluginOptions{PreStartRequired: true},
	})
	return err
}

// dial connects to a socket of the kubelet. Lists of tokens are long.
func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// Update says what devices the machine has or had, by index; the kubelet is told if
// that changes how many thousandths it can give out.
func (p *Plugin) Update(devices []device.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.devices, devices) {
		return
	}
	p.devices = slices.Clone(devices)
	p.tell()
}

// tell wakes those who watch the list. The caller holds mu.
func (p *Plugin) tell() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// served is a plugin at one socket; its streams end with it.
type served struct {
	*Plugin
	done <-chan struct{}
}

// GetDevicePluginOptions implements [deviceplugin.DevicePluginServer].
func (p *Plugin) GetDevicePluginOptions(context.Context, *deviceplugin.Empty) (*deviceplugin.DevicePluginOptions, error) {
	return &deviceplugin.DevicePluginOptions{PreStartRequired: true}, nil
}

// ListAndWatch implements [deviceplugin.DevicePluginServer].
func (s served) ListAndWatch(_ *deviceplugin.Empty, stream deviceplugin.DevicePlugin_ListAndWatchServer) error {
	var told []*deviceplugin.Device
	for first := true; ; first = false {
		s.mu.Lock()
		changed := s.changed
		all, sick := s.count()
		s.mu.Unlock()
		list := tokens(all, sick, s.inUse(stream.Context(), sick))
		if first || !slices.EqualFunc(list, told, func(a, b *deviceplugin.Device) bool { return a.ID == b.ID && a.Health == b.Health }) {
			if err := stream.Send(&deviceplugin.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
			told = list
		}
		select {
		case <-changed:
		case <-s.done:
			return nil
		case <-stream.Context().Done():
			return nil
		}
	}
}

// count returns how many tokens there are, and how many of them nobody may get: the
// free part of sick GPUs. What pods hold of them they hold in the kubelet's books,
// too, and taking it away twice would shut out pods from healthy GPUs. The caller
// holds mu.
func (p *Plugin) count() (all, sick int) {
	held := p.held("")
	for _, d := range p.devices {
		all += gpu.Whole
		if !d.Healthy {
			sick += max(gpu.Whole-int(held[d.UUID].milli), 0)
		}
	}
	return all, sick
}

// inUse returns the tokens that containers hold, if some are to be made sick: a
// container that is admitted anew with a sick token would fail, wherever its GPU is.
func (p *Plugin) inUse(ctx context.Context, sick int) map[string]bool {
	if sick == 0 {
		return nil
	}
	used := map[string]bool{}
	pods, err := p.containers(ctx)
	if err != nil {
		p.opts.Log.Warn("who holds which token is not known", "error", err)
	}
	for _, c := range pods {
		for _, id := range c.ids {
			used[id] = true
		}
	}
	return used
}

// tokens returns the list for the kubelet: the sick ones are the last that are not
// in use, and if those do not suffice, the last.
func tokens(all, sick int, used map[string]bool) []*deviceplugin.Device {
	list := make([]*deviceplugin.Device, all)
	for i := range list {
		list[i] = &deviceplugin.Device{ID: strconv.Itoa(i), Health: deviceplugin.Healthy}
	}
	for _, spare := range []bool{true, false} {
		for i := all - 1; i >= 0 && sick > 0; i-- {
			if list[i].Health == deviceplugin.Healthy && !(spare && used[list[i].ID]) {
				list[i].Health = deviceplugin.Unhealthy
				sick--
			}
		}
	}
	return list
}

// Allocate implements [deviceplugin.DevicePluginServer]: it names the CDI device that
// PreStartContainer will describe, and settles nothing.
func (p *Plugin) Allocate(_ context.Context, req *deviceplugin.AllocateRequest) (*deviceplugin.AllocateResponse, error) {
	out := new(deviceplugin.AllocateResponse)
	for _, r := range req.ContainerRequests {
		out.ContainerResponses = append(out.ContainerResponses, &deviceplugin.ContainerAllocateResponse{
			CdiDevices: []*deviceplugin.CDIDevice{{Name: p.opts.CDI.Qualified(name(r.DevicesIds))}},
		})
	}
	return out, nil
}

// name returns the name of the CDI device of a set of tokens, in whatever order.
func name(ids []string) string {
	h := sha256.New()
	for _, id := range slices.Sorted(slices.Values(ids)) {
		fmt.Fprintf(h, "%d:%s,", len(id), id)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// PreStartContainer implements [deviceplugin.DevicePluginServer]: when it returns
// without an error, the CDI device of the tokens is what the scheduler gave the
// container, and nothing else.
func (p *Plugin) PreStartContainer(ctx context.Context, req *deviceplugin.PreStartContainerRequest) (*deviceplugin.PreStartContainerResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second) // the kubelet waits 30
	defer cancel()
	if err := p.prepare(ctx, req.DevicesIds); err != nil {
		p.opts.Log.Warn("a container does not get its GPU", "error", err)
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return new(deviceplugin.PreStartContainerResponse), nil
}

// A holder is a container that holds tokens.
type holder struct {
	namespace, pod, container string
	ids                       []string
}

// containers asks the kubelet who holds which tokens.
func (p *Plugin) containers(ctx context.Context) ([]holder, error) {
	conn, err := dial(filepath.Join(p.opts.Kubelet, "pod-resources", "kubelet.sock"))
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet who holds which thousandths: %w", err)
	}
	defer conn.Close()
	list, err := podresources.NewPodResourcesListerClient(conn).List(ctx, new(podresources.ListPodResourcesRequest))
	if err != nil {
		return nil, fmt.Errorf("ask the kubelet who holds which thousandths: %w", err)
	}
	var out []holder
	for _, pod := range list.PodResources {
		for _, c := range pod.Containers {
			h := holder{namespace: pod.Namespace, pod: pod.Name, container: c.Name}
			for _, d := range c.Devices { // one entry for each NUMA node
				if d.ResourceName == v1alpha1.ResourceGPUMilli {
					h.ids = append(h.ids, d.DeviceIds...)
				}
			}
			if len(h.ids) > 0 {
				out = append(out, h)
			}
		}
	}
	return out, nil
}
