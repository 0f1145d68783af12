// Package fakekubelet is the kubelet's side of the device plugin protocol on a
// machine that is not there: registration, the plugin's list of devices, allocation
// at admission, PreStartContainer before every start, and the PodResources API that
// says who holds what.
//
// It does what the device manager of Kubernetes 1.36 does where a plugin can tell
// the difference: devices are given in no order, init containers leave theirs to the
// containers after them, devices and answers outlive a restart, and a plugin that is
// gone leaves its devices unhealthy. local/devicemanager holds a plugin to the real
// one.
//
// Not here: running containers, cgroups, volumes, and the API server.
package fakekubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	deviceplugin "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// A Kubelet serves one machine. Its methods may be called from several goroutines.
type Kubelet struct {
	dir string

	mu      sync.Mutex
	changed chan struct{} // closed when the lists of devices change
	servers []*grpc.Server
	plugins map[string]*plugin // by resource
	pods    map[types.UID]*pod // outlive a restart, as the kubelet's checkpoint does
}

type plugin struct {
	conn     *grpc.ClientConn
	client   deviceplugin.DevicePluginClient
	prestart bool
	devices  map[string]bool // whether healthy, by id
	stop     context.CancelFunc
}

type pod struct {
	namespace, name string
	containers      []container
}

type container struct {
	name     string
	listed   bool // by PodResources, which leaves plain init containers out
	devices  map[string][]string
	response map[string]*deviceplugin.ContainerAllocateResponse
}

// Start runs a kubelet whose folder is dir, in the place of /var/lib/kubelet. The
// path must be short: below it there are sockets.
func Start(dir string) (*Kubelet, error) {
	k := &Kubelet{dir: dir, changed: make(chan struct{}), plugins: map[string]*plugin{}, pods: map[types.UID]*pod{}}
	return k, k.Resume()
}

// Resume starts a kubelet again that was stopped. What plugins left in its folder
// is removed, and they must register anew; pods keep what they were given.
func (k *Kubelet) Resume() error {
	plugins := filepath.Dir(k.PluginSocket())
	for _, dir := range []string{plugins, filepath.Dir(k.PodResourcesSocket())} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return err
		}
	}
	registration, resources := grpc.NewServer(), grpc.NewServer()
	deviceplugin.RegisterRegistrationServer(registration, registrar{Kubelet: k})
	podresources.RegisterPodResourcesListerServer(resources, lister{Kubelet: k})
	for path, server := range map[string]*grpc.Server{k.PluginSocket(): registration, k.PodResourcesSocket(): resources} {
		l, err := net.Listen("unix", path)
		if err != nil {
			k.Stop()
			return err
		}
		k.mu.Lock()
		k.servers = append(k.servers, server)
		k.mu.Unlock()
		go server.Serve(l) //nolint:errcheck // it ends with Stop
	}
	return nil
}

// Stop ends the kubelet; [Kubelet.Resume] starts it again.
func (k *Kubelet) Stop() {
	k.mu.Lock()
	servers, plugins := k.servers, k.plugins
	k.servers, k.plugins = nil, map[string]*plugin{}
	k.tell()
	k.mu.Unlock()
	for _, p := range plugins {
		p.stop()
		p.conn.Close()
	}
	for _, s := range servers {
		s.Stop()
	}
}

// PluginSocket is where plugins register.
func (k *Kubelet) PluginSocket() string {
	return filepath.Join(k.dir, "device-plugins", "kubelet.sock")
}

// PodResourcesSocket is where agents ask who holds what.
func (k *Kubelet) PodResourcesSocket() string {
	return filepath.Join(k.dir, "pod-resources", "kubelet.sock")
}

// Capacity returns how many devices of a resource the machine has, and how many of
// them are healthy: capacity and allocatable of the node's status.
func (k *Kubelet) Capacity(resource string) (all, healthy int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.plugins[resource]
	if p == nil {
		return 0, 0
	}
	for _, ok := range p.devices {
		if ok {
			healthy++
		}
	}
	return len(p.devices), healthy
}

// Await returns when so many devices of a resource are there and healthy.
func (k *Kubelet) Await(ctx context.Context, resource string, all, healthy int) error {
	for {
		k.mu.Lock()
		changed := k.changed
		k.mu.Unlock()
		a, h := k.Capacity(resource)
		if a == all && h == healthy {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %d devices, %d of them healthy; waited for %d and %d: %w", resource, a, h, all, healthy, ctx.Err())
		}
	}
}

// Admit gives every container of a pod the devices that its limits ask for, as the
// kubelet does before it starts anything. A pod that is refused holds nothing.
func (k *Kubelet) Admit(ctx context.Context, p *v1.Pod) error {
	admitted := &pod{namespace: p.Namespace, name: p.Name}
	k.mu.Lock()
	k.pods[p.UID] = admitted
	k.mu.Unlock()
	reusable := map[string][]string{}
	give := func(c *v1.Container, plainInit bool) error {
		given := container{name: c.Name, listed: !plainInit, devices: map[string][]string{}, response: map[string]*deviceplugin.ContainerAllocateResponse{}}
		for name, quantity := range c.Resources.Limits {
			resource, n := string(name), int(quantity.Value())
			client, ids, err := k.pick(p.UID, resource, n, reusable[resource])
			if err != nil {
				return fmt.Errorf("container %s: %w", c.Name, err)
			}
			if client == nil || n == 0 {
				continue
			}
			// Held while the plugin is asked, so that no other pod gets them.
			k.mu.Lock()
			admitted.containers = append(admitted.containers, container{devices: map[string][]string{resource: ids}})
			k.mu.Unlock()
			answer, err := client.Allocate(ctx, &deviceplugin.AllocateRequest{ContainerRequests: []*deviceplugin.ContainerAllocateRequest{{DevicesIds: ids}}})
			k.mu.Lock()
			admitted.containers = admitted.containers[:len(admitted.containers)-1]
			k.mu.Unlock()
			if err != nil {
				return fmt.Errorf("container %s: allocate %s: %w", c.Name, resource, err)
			}
			if len(answer.ContainerResponses) != 1 {
				return fmt.Errorf("container %s: the plugin of %s gives %d answers for one container", c.Name, resource, len(answer.ContainerResponses))
			}
			given.devices[resource], given.response[resource] = ids, answer.ContainerResponses[0]
			if plainInit {
				reusable[resource] = ids
			} else {
				reusable[resource] = slices.DeleteFunc(slices.Clone(reusable[resource]), func(id string) bool { return slices.Contains(ids, id) })
			}
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		admitted.containers = append(admitted.containers, given)
		return nil
	}
	var err error
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		err = errors.Join(err, give(c, !sidecar))
	}
	for i := range p.Spec.Containers {
		if err == nil {
			err = give(&p.Spec.Containers[i], false)
		}
	}
	if err != nil {
		k.Remove(p.UID)
	}
	return err
}

// pick chooses n devices that no other pod holds, those of earlier init containers
// first. The client is nil for a resource without a plugin, which is none of the
// kubelet's business.
func (k *Kubelet) pick(uid types.UID, resource string, n int, reusable []string) (deviceplugin.DevicePluginClient, []string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.plugins[resource]
	if p == nil {
		return nil, nil, nil
	}
	held := map[string]bool{}
	for _, other := range k.pods {
		for _, c := range other.containers {
			for _, id := range c.devices[resource] {
				held[id] = true
			}
		}
	}
	ids := slices.Clone(reusable[:min(n, len(reusable))])
	for id, healthy := range p.devices { // in no order, like the kubelet's sets
		if len(ids) == n {
			break
		}
		if healthy && !held[id] {
			ids = append(ids, id)
		}
	}
	if len(ids) < n {
		return nil, nil, fmt.Errorf("pod %s: %d devices of %s are asked for, and %d are free", uid, n, resource, len(ids))
	}
	return p.client, ids, nil
}

// StartContainer does what the kubelet does with plugins right before it has the
// runtime create a container, and returns the CDI devices that it names to it.
func (k *Kubelet) StartContainer(ctx context.Context, uid types.UID, name string) ([]string, error) {
	k.mu.Lock()
	var c *container
	if p := k.pods[uid]; p != nil {
		for i := range p.containers {
			if p.containers[i].name == name {
				c = &p.containers[i]
			}
		}
	}
	if c == nil {
		k.mu.Unlock()
		return nil, fmt.Errorf("pod %s has no container %s here", uid, name)
	}
	devices, responses, plugins := maps.Clone(c.devices), maps.Clone(c.response), maps.Clone(k.plugins)
	k.mu.Unlock()
	var out []string
	for resource, ids := range devices {
		p := plugins[resource]
		if p == nil {
			return nil, fmt.Errorf("container %s: the plugin of %s is not registered", name, resource)
		}
		if p.prestart {
			if _, err := p.client.PreStartContainer(ctx, &deviceplugin.PreStartContainerRequest{DevicesIds: ids}); err != nil {
				return nil, fmt.Errorf("container %s: device plugin PreStartContainer rpc failed with err: %w", name, err)
			}
		}
		for _, d := range responses[resource].GetCdiDevices() {
			out = append(out, d.Name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// Remove forgets a pod; what it held is free.
func (k *Kubelet) Remove(uid types.UID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pods, uid)
}

// tell wakes those who wait for a change. The caller holds mu.
func (k *Kubelet) tell() {
	close(k.changed)
	k.changed = make(chan struct{})
}

type registrar struct {
	*Kubelet
	deviceplugin.UnimplementedRegistrationServer
}

// Register implements the registration of a plugin: it is connected to at once, and
// its list followed until it goes.
func (r registrar) Register(_ context.Context, req *deviceplugin.RegisterRequest) (*deviceplugin.Empty, error) {
	if req.Version != deviceplugin.Version {
		return nil, fmt.Errorf("version %q is not supported", req.Version)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(r.dir, "device-plugins", req.Endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &plugin{conn: conn, client: deviceplugin.NewDevicePluginClient(conn), prestart: req.Options.GetPreStartRequired(), stop: stop, devices: map[string]bool{}}
	stream, err := p.client.ListAndWatch(ctx, &deviceplugin.Empty{})
	if err != nil {
		stop()
		conn.Close()
		return nil, err
	}
	r.mu.Lock()
	if old := r.plugins[req.ResourceName]; old != nil {
		p.devices = old.devices
		old.stop()
		old.conn.Close()
	}
	r.plugins[req.ResourceName] = p
	r.mu.Unlock()
	go func() {
		for {
			list, err := stream.Recv()
			r.mu.Lock()
			if err != nil { // it went: the kubelet keeps its devices, sick
				for id := range p.devices {
					p.devices[id] = false
				}
			} else {
				p.devices = make(map[string]bool, len(list.Devices))
				for _, d := range list.Devices {
					p.devices[d.ID] = d.Health == deviceplugin.Healthy
				}
			}
			r.tell()
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return &deviceplugin.Empty{}, nil
}

type lister struct {
	*Kubelet
	podresources.UnimplementedPodResourcesListerServer
}

// List implements the PodResources API.
func (l lister) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := new(podresources.ListPodResourcesResponse)
	for _, p := range l.pods {
		r := &podresources.PodResources{Namespace: p.namespace, Name: p.name}
		for _, c := range p.containers {
			if !c.listed {
				continue
			}
			cr := &podresources.ContainerResources{Name: c.name}
			for resource, ids := range c.devices {
				for _, id := range ids { // one by one, like the kubelet
					cr.Devices = append(cr.Devices, &podresources.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}})
				}
			}
			r.Containers = append(r.Containers, cr)
		}
		out.PodResources = append(out.PodResources, r)
	}
	return out, nil
}
