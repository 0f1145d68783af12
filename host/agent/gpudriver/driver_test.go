package gpudriver

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
)

// A bench is a driver on a machine with two GPUs of 16 GiB, and the kubelet's end of
// its sockets.
type bench struct {
	*Driver
	client *fake.Clientset
	cdi    cdi.Folder
	dir    string
	found  []device.Device
	dra    drapb.DRAPluginClient
	health drahealth.DRAResourceHealthClient
}

func start(t *testing.T, limit func([]Piece) (map[string]string, []cdi.Mount, error)) *bench {
	t.Helper()
	// Paths of sockets are short.
	dir, err := os.MkdirTemp("", "dra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{
		client: fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "n1-uid"}}),
		dir:    dir,
		cdi:    cdi.Folder{Dir: filepath.Join(dir, "cdi"), Root: dir, Kind: kind},
	}
	for i := range 2 {
		b.found = append(b.found, device.Device{Index: i, Minor: -1, UUID: "GPU-" + string(rune('a'+i)), Model: "T4", Memory: 16384, Healthy: true})
	}
	b.open(t, limit)
	return b
}

// open starts the driver, as after a restart.
func (b *bench) open(t *testing.T, limit func([]Piece) (map[string]string, []cdi.Mount, error)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d, err := Start(ctx, Options{Node: "n1", Client: b.client, Kubelet: b.dir, CDI: cdi.Folder{Dir: b.cdi.Dir, Root: b.dir}, Limit: limit})
	if err != nil {
		t.Fatal(err)
	}
	b.Driver = d
	conn := dial(t, filepath.Join(b.dir, "plugins", v1alpha1.GPUDriver, "dra.sock"))
	b.dra, b.health = drapb.NewDRAPluginClient(conn), drahealth.NewDRAResourceHealthClient(conn)
	t.Cleanup(func() { cancel(); d.Stop() })
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+path, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", addr)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// claim makes a claim that was allocated milli and MiB of devices.
func (b *bench) claim(t *testing.T, name string, milli, memoryMiB int64, devices ...string) *drapb.Claim {
	t.Helper()
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}}
	c.Status.Allocation = new(resourceapi.AllocationResult)
	for _, d := range devices {
		share := types.UID("share-" + name + d)
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourceapi.DeviceRequestAllocationResult{
			Request: "gpu", Driver: v1alpha1.GPUDriver, Pool: "n1", Device: d, ShareID: &share,
			ConsumedCapacity: map[resourceapi.QualifiedName]apiresource.Quantity{
				"milli":  *apiresource.NewQuantity(milli, apiresource.DecimalSI),
				"memory": *apiresource.NewQuantity(memoryMiB<<20, apiresource.BinarySI),
			},
		})
	}
	if _, err := b.client.ResourceV1().ResourceClaims("default").Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return &drapb.Claim{Namespace: "default", Name: name, Uid: string(c.UID)}
}

// prepare asks as the kubelet does, and returns the devices or the claim's error.
func (b *bench) prepare(t *testing.T, c *drapb.Claim) ([]*drapb.Device, string) {
	t.Helper()
	r, err := b.dra.NodePrepareResources(t.Context(), &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{c}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Claims[c.Uid].GetDevices(), r.Claims[c.Uid].GetError()
}

func (b *bench) unprepare(t *testing.T, c *drapb.Claim) {
	t.Helper()
	r, err := b.dra.NodeUnprepareResources(t.Context(), &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{c}})
	if err != nil || r.Claims[c.Uid].GetError() != "" {
		t.Fatal(err, r)
	}
}

func TestTheDriverRegisters(t *testing.T) {
	b := start(t, nil)
	client := registration.NewRegistrationClient(dial(t, filepath.Join(b.dir, "plugins_registry", v1alpha1.GPUDriver+"-reg.sock")))
	info, err := client.GetInfo(t.Context(), &registration.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.Type != registration.DRAPlugin || info.Name != v1alpha1.GPUDriver {
		t.Errorf("registers as %s %s", info.Type, info.Name)
	}
	if !strings.Contains(strings.Join(info.SupportedVersions, " "), "v1alpha1.DRAResourceHealth") {
		t.Errorf("does not say that it knows health: %v", info.SupportedVersions)
	}
}

func TestGPUsAreOfferedAsTheyAre(t *testing.T) {
	b := start(t, nil)
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	slice := b.slice(t, func(s *resourceapi.ResourceSlice) bool { return len(s.Spec.Devices) == 2 })
	d := slice.Spec.Devices[1]
	if d.Name != "gpu-1" || *d.Attributes["uuid"].StringValue != "GPU-b" || *d.Attributes["model"].StringValue != "T4" || *d.Attributes["index"].IntValue != 1 || !*d.AllowMultipleAllocations {
		t.Errorf("device is %+v", d)
	}
	if milli, memory := d.Capacity["milli"].Value, d.Capacity["memory"].Value; milli.Value() != 1000 || memory.Value() != 16384<<20 {
		t.Errorf("capacity is %v and %v", milli, memory)
	}

	b.found[1].Healthy, b.found[1].Reason = false, "XID 79"
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	slice = b.slice(t, func(s *resourceapi.ResourceSlice) bool {
		return len(s.Spec.Devices) == 2 && len(s.Spec.Devices[1].Taints) > 0
	})
	if taint := slice.Spec.Devices[1].Taints[0]; taint.Key != v1alpha1.TaintGPUUnhealthy || taint.Effect != resourceapi.DeviceTaintEffectNoSchedule {
		t.Errorf("taint is %+v", taint)
	}
	if len(slice.Spec.Devices[0].Taints) > 0 {
		t.Error("the other GPU is tainted, too")
	}
}

// slice waits for the machine's slice to be as wanted.
func (b *bench) slice(t *testing.T, want func(*resourceapi.ResourceSlice) bool) *resourceapi.ResourceSlice {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		list, err := b.client.ResourceV1().ResourceSlices().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			if want(&list.Items[i]) {
				return &list.Items[i]
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("no such slice: %+v", list.Items)
		}
	}
}

func TestTwoGPUsWithOneIndexAreRefused(t *testing.T) {
	b := start(t, nil)
	b.found[1].Index = 0
	if err := b.Publish(t.Context(), b.found); err == nil || !strings.Contains(err.Error(), "both have index 0") {
		t.Errorf("got %v", err)
	}
}

func TestAClaimBecomesOneCDIDevice(t *testing.T) {
	b := start(t, func(pieces []Piece) (map[string]string, []cdi.Mount, error) {
		if len(pieces) != 2 || pieces[1].Device.UUID != "GPU-b" || pieces[1].Milli != 300 || pieces[1].MemoryMiB != 4096 {
			t.Errorf("pieces are %+v", pieces)
		}
		return map[string]string{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30"}, nil, nil
	})
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	c := b.claim(t, "two", 300, 4096, "gpu-0", "gpu-1")
	devices, fault := b.prepare(t, c)
	if fault != "" || len(devices) != 2 {
		t.Fatal(fault, devices)
	}
	if d := devices[0]; d.PoolName != "n1" || d.DeviceName != "gpu-0" || d.RequestNames[0] != "gpu" || *d.ShareId != "share-twogpu-0" ||
		len(d.CdiDeviceIds) != 1 || d.CdiDeviceIds[0] != "gpu.neap.dev/claim=uid-two" {
		t.Errorf("first device is %+v", d)
	}
	if len(devices[1].CdiDeviceIds) != 0 {
		t.Errorf("the CDI device is there twice: %+v", devices[1])
	}
	raw, err := os.ReadFile(filepath.Join(b.cdi.Dir, "gpu.neap.dev-claim-uid-two.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NVIDIA_VISIBLE_DEVICES=GPU-a,GPU-b", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=30"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
	b.unprepare(t, c)
	b.unprepare(t, c) // the kubelet may ask again
	if left, err := b.cdi.Grants(); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

func TestWhatCannotBePreparedSaysWhy(t *testing.T) {
	cases := map[string]struct {
		milli, memory int64
		devices       []string
		before        func(*testing.T, *bench)
		want          string
	}{
		"before the GPUs were looked at": {300, 1024, []string{"gpu-0"}, func(_ *testing.T, b *bench) { b.found = nil }, "have not been looked at yet"},
		"a GPU that is not there":        {300, 1024, []string{"gpu-7"}, nil, "there is no gpu-7"},
		"a name that is no GPU's":        {300, 1024, []string{"gpu-07"}, nil, `"gpu-07" is no device`},
		"a GPU that is sick": {300, 1024, []string{"gpu-1"}, func(_ *testing.T, b *bench) {
			b.found[1].Healthy, b.found[1].Reason = false, "XID 79"
		}, "gpu-1 (GPU-b) is sick: XID 79"},
		"more compute than is left": {600, 1024, []string{"gpu-0"}, func(t *testing.T, b *bench) {
			if _, fault := b.prepare(t, b.claim(t, "first", 500, 1024, "gpu-0")); fault != "" {
				t.Fatal(fault)
			}
		}, "with the claims [default/first] it would have to give 1100 and 2048"},
		"more memory than is left": {100, 16384, []string{"gpu-0"}, func(t *testing.T, b *bench) {
			if _, fault := b.prepare(t, b.claim(t, "first", 500, 1024, "gpu-0")); fault != "" {
				t.Fatal(fault)
			}
		}, "allocated twice"},
		"the same GPU twice in one claim": {600, 1024, []string{"gpu-0", "gpu-0"}, nil, "allocated twice"},
		"nothing consumed":                {0, 1024, []string{"gpu-0"}, nil, "0 of milli is consumed"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := start(t, nil)
			found := b.found
			if tc.before != nil && strings.Contains(tc.want, "looked at") {
				found = nil
			}
			if found != nil {
				if err := b.Publish(t.Context(), found); err != nil {
					t.Fatal(err)
				}
			}
			if tc.before != nil {
				tc.before(t, b)
				if b.found != nil {
					if err := b.Publish(t.Context(), b.found); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, fault := b.prepare(t, b.claim(t, "c", tc.milli, tc.memory, tc.devices...)); !strings.Contains(fault, tc.want) {
				t.Errorf("got %q, want %q", fault, tc.want)
			}
		})
	}
}

func TestARestartForgetsNothing(t *testing.T) {
	b := start(t, nil)
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	first := b.claim(t, "first", 500, 8192, "gpu-0")
	if _, fault := b.prepare(t, first); fault != "" {
		t.Fatal(fault)
	}
	b.Stop()
	b.open(t, nil)
	b.found[0].Healthy, b.found[0].Reason = false, "XID 79"
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	if devices, fault := b.prepare(t, first); fault != "" || len(devices) != 1 {
		t.Errorf("a pod that ran before the restart cannot go on: %q", fault)
	}
	b.found[0].Healthy = true
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	if _, fault := b.prepare(t, b.claim(t, "second", 600, 1024, "gpu-0")); !strings.Contains(fault, "allocated twice") {
		t.Errorf("the first claim is forgotten: %q", fault)
	}
	b.unprepare(t, first)
	if _, fault := b.prepare(t, b.claim(t, "third", 600, 1024, "gpu-0")); fault != "" {
		t.Errorf("what was given back is not there: %q", fault)
	}

	b.found[0].UUID = "GPU-c" // another was put in its place
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	if _, fault := b.prepare(t, &drapb.Claim{Namespace: "default", Name: "third", Uid: "uid-third"}); !strings.Contains(fault, "was GPU GPU-a when the claim was prepared, and is GPU-c now") {
		t.Errorf("another GPU is taken for the first: %q", fault)
	}
}

func TestTheKubeletHearsOfASickGPU(t *testing.T) {
	b := start(t, nil)
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	stream, err := b.health.NodeWatchResources(t.Context(), &drahealth.NodeWatchResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Devices) != 2 || r.Devices[0].Health != drahealth.HealthStatus_HEALTHY || r.Devices[0].Device.DeviceName != "gpu-0" {
		t.Errorf("at first: %v", r)
	}
	b.found[0].Healthy, b.found[0].Reason = false, "XID 79"
	if err := b.Publish(t.Context(), b.found); err != nil {
		t.Fatal(err)
	}
	if r, err = stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if r.Devices[0].Health != drahealth.HealthStatus_UNHEALTHY || r.Devices[0].Message != "XID 79" || r.Devices[1].Health != drahealth.HealthStatus_HEALTHY {
		t.Errorf("after: %v", r)
	}
}
