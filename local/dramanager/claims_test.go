package dramanager

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	kubeletconfig "k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/gpudriver"
	"github.com/neap-dev/neap/host/cdi"
	hostdevice "github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// A world is machines with GPUs and Neap's driver in a real cluster, and a namespace
// to use them from.
type world struct {
	*testing.T
	cluster *controlplane.Cluster
	client  kubernetes.Interface
	ns      string
}

// A machine is one node and the agent on it, with GPUs that are not there.
type machine struct {
	w      *world
	name   string
	dir    string
	found  []hostdevice.Device
	driver *gpudriver.Driver
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, cluster: clustertest.Scheduler(t)}
	w.client = clustertest.Client(t, w.cluster)
	w.ns = clustertest.Namespace(t, w.cluster)
	if _, err := w.client.ResourceV1().DeviceClasses().Create(t.Context(), convert.GPUDeviceClass(), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	t.Cleanup(func() { // pods that are left over would go to the next test's machines
		ctx := context.Background()
		now := int64(0)
		_ = w.client.CoreV1().Pods(w.ns).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{})
	})
	return w
}

// machine makes a node with GPUs of one model, and starts the driver there.
func (w *world) machine(name, model string, gpus int, memoryMiB int64) *machine {
	w.Helper()
	m := &machine{w: w, name: name + "-" + w.ns}
	for i := range gpus {
		m.found = append(m.found, hostdevice.Device{Index: i, Minor: -1, UUID: fmt.Sprintf("GPU-%s-%d", m.name, i), Model: model, Memory: memoryMiB, Healthy: true})
	}
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name, Labels: map[string]string{"test": w.ns}}}
	node, err := w.client.CoreV1().Nodes().Create(w.Context(), node, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = w.client.CoreV1().Nodes().Delete(context.Background(), m.name, metav1.DeleteOptions{}) })
	capacity := v1.ResourceList{
		v1.ResourceCPU: apiresource.MustParse("64"), v1.ResourceMemory: apiresource.MustParse("256Gi"), v1.ResourcePods: apiresource.MustParse("250"),
		v1alpha1.ResourceGPUMilli: *apiresource.NewQuantity(int64(gpus)*1000, apiresource.DecimalSI), v1alpha1.ResourceGPUMemory: *apiresource.NewQuantity(int64(gpus)*memoryMiB, apiresource.DecimalSI),
	}
	if err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if node, err = w.client.CoreV1().Nodes().Get(w.Context(), m.name, metav1.GetOptions{}); err != nil {
			return err
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady"}}
		_, err = w.client.CoreV1().Nodes().UpdateStatus(w.Context(), node, metav1.UpdateOptions{})
		return err
	}); err != nil {
		w.Fatal(err)
	}
	if m.dir, err = os.MkdirTemp("", "dra"); err != nil { // paths of sockets are short
		w.Fatal(err)
	}
	w.Cleanup(func() { os.RemoveAll(m.dir) })
	ctx, cancel := context.WithCancel(context.Background())
	if m.driver, err = gpudriver.Start(ctx, gpudriver.Options{Node: m.name, Client: w.client, Kubelet: m.dir, CDI: cdi.Folder{Dir: filepath.Join(m.dir, "cdi"), Root: m.dir}}); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { cancel(); m.driver.Stop() })
	m.say()
	return m
}

// say tells the cluster how the GPUs are, as the agent does, and waits until the API
// server has it.
func (m *machine) say() {
	m.w.Helper()
	if err := m.driver.Publish(m.w.Context(), m.found); err != nil {
		m.w.Fatal(err)
	}
	var devices []v1alpha1.GPUDevice
	for _, d := range m.found {
		devices = append(devices, v1alpha1.GPUDevice{Index: int32(d.Index), UUID: d.UUID, Model: d.Model, MemoryMiB: d.Memory, Healthy: d.Healthy, Reason: d.Reason})
	}
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationGPUDevices, convert.WriteGPUDevices(devices))
	if _, err := m.w.client.CoreV1().Nodes().Patch(m.w.Context(), m.name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		m.w.Fatal(err)
	}
	clustertest.Eventually(m.w, "the slice of "+m.name, func() error {
		list, err := m.w.client.ResourceV1().ResourceSlices().List(m.w.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.name})
		if err != nil {
			return err
		}
		if fault := m.driver.Fault(); fault != nil {
			return fault
		}
		for _, s := range list.Items {
			if len(s.Spec.Devices) != len(m.found) {
				continue
			}
			for i, d := range s.Spec.Devices {
				switch {
				case d.AllowMultipleAllocations == nil || !*d.AllowMultipleAllocations || d.Capacity["milli"].RequestPolicy == nil:
					m.w.Fatalf("the API server dropped what makes GPUs shareable: %+v", d)
				case m.found[i].Healthy != (len(d.Taints) == 0):
					return fmt.Errorf("%s has taints %v", d.Name, d.Taints)
				}
			}
			return nil
		}
		return errors.New("it is not there")
	})
}

// pod makes a pod with a claim for so much of each of count GPUs. Amounts of 0 are
// left out.
func (w *world) pod(name string, count int64, milli, memoryMiB int64, selectors ...string) *v1.Pod {
	w.Helper()
	r := &resourceapi.ExactDeviceRequest{DeviceClassName: v1alpha1.GPUDriver, Count: count, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Capacity: amounts(milli, memoryMiB)}
	for _, s := range selectors {
		r.Selectors = append(r.Selectors, resourceapi.DeviceSelector{CEL: &resourceapi.CELDeviceSelector{Expression: s}})
	}
	return w.podWith(name, resourceapi.DeviceRequest{Name: "gpu", Exactly: r})
}

func amounts(milli, memoryMiB int64) *resourceapi.CapacityRequirements {
	out := &resourceapi.CapacityRequirements{Requests: map[resourceapi.QualifiedName]apiresource.Quantity{}}
	if milli > 0 {
		out.Requests["milli"] = *apiresource.NewQuantity(milli, apiresource.DecimalSI)
	}
	if memoryMiB > 0 {
		out.Requests["memory"] = *apiresource.NewQuantity(memoryMiB<<20, apiresource.BinarySI)
	}
	if len(out.Requests) == 0 {
		return nil
	}
	return out
}

func (w *world) podWith(name string, requests ...resourceapi.DeviceRequest) *v1.Pod {
	w.Helper()
	t := &resourceapi.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: name}}
	t.Spec.Spec.Devices.Requests = requests
	if _, err := w.client.ResourceV1().ResourceClaimTemplates(w.ns).Create(w.Context(), t, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	p := w.plain(name)
	p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: &name}}
	p.Spec.Containers[0].Resources.Claims = []v1.ResourceClaim{{Name: "gpu"}}
	return w.create(p)
}

func (w *world) plain(name string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			// Nobody beats the machines' hearts: on a slow day they are called unreachable.
			Tolerations: []v1.Toleration{
				{Key: v1.TaintNodeUnreachable, Operator: v1.TolerationOpExists}, {Key: v1.TaintNodeNotReady, Operator: v1.TolerationOpExists},
			},
			Containers:   []v1.Container{{Name: "c", Image: "none", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: apiresource.MustParse("100m")}}}},
			NodeSelector: map[string]string{"test": w.ns},
		},
	}
}

func (w *world) create(p *v1.Pod) *v1.Pod {
	w.Helper()
	p, err := w.client.CoreV1().Pods(w.ns).Create(w.Context(), p, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// placed waits until all pods of the test are bound, but those named.
func (w *world) placed(but ...string) []v1.Pod {
	w.Helper()
	var pods []v1.Pod
	clustertest.Eventually(w, "all pods to be placed", func() error {
		list, err := w.client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		var wait []string
		for _, p := range list.Items {
			if p.Spec.NodeName == "" && !slices.Contains(but, p.Name) {
				wait = append(wait, p.Name+": "+condition(&p))
			}
		}
		if pods = list.Items; len(wait) > 0 {
			return fmt.Errorf("%d wait: %s", len(wait), strings.Join(wait[:min(3, len(wait))], "; "))
		}
		return nil
	})
	return pods
}

func condition(p *v1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodScheduled {
			return c.Message
		}
	}
	return ""
}

// waits waits until the scheduler has said of a pod what is wanted.
func (w *world) waits(name, want string) {
	w.Helper()
	clustertest.Eventually(w, "the scheduler to say of "+name+" "+want, func() error {
		p, err := w.client.CoreV1().Pods(w.ns).Get(w.Context(), name, metav1.GetOptions{})
		switch {
		case err != nil:
			return err
		case p.Spec.NodeName != "":
			w.Fatalf("%s is on %s", name, p.Spec.NodeName)
		case !strings.Contains(condition(p), want):
			return fmt.Errorf("it said %q", condition(p))
		}
		return nil
	})
}

func (w *world) delete(name string) {
	w.Helper()
	now := int64(0)
	if err := w.client.CoreV1().Pods(w.ns).Delete(w.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		w.Fatal(err)
	}
}

// claims returns the claims of the test by the name of their pod.
func (w *world) claims() map[string]*resourceapi.ResourceClaim {
	w.Helper()
	list, err := w.client.ResourceV1().ResourceClaims(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	out := map[string]*resourceapi.ResourceClaim{}
	for i := range list.Items {
		if o := metav1.GetControllerOf(&list.Items[i]); o != nil {
			out[o.Name] = &list.Items[i]
		}
	}
	return out
}

// audit adds up what is given of every GPU, in another way than the books do, and
// fails if that is more than there is.
func (w *world) audit(machines ...*machine) (milli map[string]int64) {
	w.Helper()
	milli = map[string]int64{}
	memory, has := map[string]int64{}, map[string]int64{}
	for _, m := range machines {
		for _, d := range m.found {
			has[d.UUID] = d.Memory
		}
	}
	give := func(uuid string, m, mib int64, who string) {
		if _, ok := has[uuid]; !ok {
			w.Errorf("%s has GPU %s, which is nowhere", who, uuid)
		}
		milli[uuid] += m
		memory[uuid] += mib
	}
	for pod, c := range w.claims() {
		if c.Status.Allocation == nil {
			continue
		}
		for _, r := range c.Status.Allocation.Devices.Results {
			if r.ShareID == nil {
				w.Errorf("claim of %s has no share of %s", pod, r.Device)
			}
			m, mib := r.ConsumedCapacity["milli"], r.ConsumedCapacity["memory"]
			give("GPU-"+r.Pool+"-"+strings.TrimPrefix(r.Device, "gpu-"), m.Value(), mib.Value()>>20, pod)
		}
	}
	list, err := w.client.CoreV1().Pods(w.ns).List(w.Context(), metav1.ListOptions{})
	if err != nil {
		w.Fatal(err)
	}
	for _, p := range list.Items {
		a, err := convert.GPUAllocation(&p)
		if err != nil {
			w.Error(err)
		}
		if a == nil || p.Spec.NodeName == "" {
			continue
		}
		for _, d := range a.Devices {
			give(d.UUID, d.Milli, d.MemoryMiB, p.Name)
		}
	}
	for uuid := range milli {
		if milli[uuid] > 1000 || memory[uuid] > has[uuid] {
			w.Errorf("GPU %s is given away twice: %d thousandths and %d MiB of %d", uuid, milli[uuid], memory[uuid], has[uuid])
		}
	}
	return milli
}

// TestTheClaimGetsTheGPUThatWasChosen places what first-fit strands: it puts 300
// beside 500, where the next 500 should go, and not beside 700.
func TestTheClaimGetsTheGPUThatWasChosen(t *testing.T) {
	w := newWorld(t)
	m := w.machine("two", "T4", 2, 16384)
	w.pod("p0", 1, 500, 1024)
	w.placed()
	w.pod("p1", 1, 700, 1024)
	w.placed()
	// The scheduler learns which demands there are within seconds. Until then any
	// GPU may seem as good as the other.
	n := 0
	clustertest.Eventually(t, "300 to be beside 700", func() error {
		if n > 0 {
			w.delete(fmt.Sprintf("q%d", n))
			time.Sleep(time.Second)
		}
		n++
		name := fmt.Sprintf("q%d", n)
		w.pod(name, 1, 300, 1024)
		w.placed()
		if c := w.claims(); device(c[name]) != device(c["p1"]) {
			return fmt.Errorf("it is on %s", device(c[name]))
		}
		return nil
	})
	w.pod("p3", 1, 500, 1024)
	w.placed()
	for uuid, milli := range w.audit(m) {
		if milli != 1000 {
			t.Errorf("GPU %s has given %d", uuid, milli)
		}
	}
	w.pod("late", 1, 100, 1024)
	w.waits("late", "have too little left")
	w.delete("p3")
	w.placed()
	w.audit(m)
}

// device returns the first device of a claim.
func device(c *resourceapi.ResourceClaim) string {
	return c.Status.Allocation.Devices.Results[0].Device
}

// TestManyClaims places more than two hundred pods, by claims and by resources, on
// the same GPUs, with the scheduler killed in the middle.
func TestManyClaims(t *testing.T) {
	w := newWorld(t)
	var machines []*machine
	for i := range 12 {
		machines = append(machines, w.machine(fmt.Sprintf("m%d", i), []string{"T4", "G3", "A10"}[i%3], 4, []int64{16384, 32768, 24576}[i%3]))
	}
	dice := rand.New(rand.NewPCG(4, 2))
	n := 0
	batch := func(size int) {
		for range size {
			n++
			name := fmt.Sprintf("p%d", n)
			milli := []int64{50, 100, 150, 200, 250, 300}[dice.IntN(6)]
			switch n % 8 {
			case 0:
				p := w.plain(name)
				p.Spec.Containers[0].Resources.Limits = v1.ResourceList{
					v1alpha1.ResourceGPUMilli: *apiresource.NewQuantity(milli, apiresource.DecimalSI), v1alpha1.ResourceGPUMemory: apiresource.MustParse("1024"),
				}
				w.create(p)
			case 1:
				w.pod(name, 2, milli, 1024)
			case 2:
				w.pod(name, 1, milli, 0, "device.attributes['gpu.neap.dev'].model in ['T4', 'A10']")
			case 3:
				w.podWith(name, resourceapi.DeviceRequest{Name: "gpu", FirstAvailable: []resourceapi.DeviceSubRequest{
					{Name: "t4", DeviceClassName: v1alpha1.GPUDriver, Capacity: amounts(milli, 2048), Selectors: []resourceapi.DeviceSelector{{CEL: &resourceapi.CELDeviceSelector{Expression: "device.attributes['gpu.neap.dev'].model == 'T4'"}}}},
					{Name: "other", DeviceClassName: v1alpha1.GPUDriver, Capacity: amounts(milli/2, 2048)},
				}})
			default:
				w.pod(name, 1, milli, 1024)
			}
		}
	}
	batch(80)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = syscall.Kill(w.cluster.SchedulerPID(), syscall.SIGKILL)
	}()
	batch(80)
	<-done
	if _, err := w.cluster.StartScheduler(context.Background()); err != nil {
		t.Fatal(err)
	}
	batch(60)
	pods := w.placed()
	w.audit(machines...)
	if len(pods) < 200 {
		t.Errorf("%d pods", len(pods))
	}
	claims := w.claims()
	models := map[string]string{}
	for _, m := range machines {
		models[m.name] = m.found[0].Model
	}
	for _, p := range pods {
		c := claims[p.Name]
		if len(p.Spec.ResourceClaims) == 0 {
			continue
		}
		if c == nil || c.Status.Allocation == nil {
			t.Errorf("%s is on %s without its claim", p.Name, p.Spec.NodeName)
			continue
		}
		if !slices.Contains(c.Finalizers, resourceapi.Finalizer) || len(c.Status.ReservedFor) != 1 || c.Status.ReservedFor[0].UID != p.UID {
			t.Errorf("the claim of %s is not protected: %v %v", p.Name, c.Finalizers, c.Status.ReservedFor)
		}
		var number int
		fmt.Sscanf(p.Name, "p%d", &number)
		used := sets.New[string]()
		for _, r := range c.Status.Allocation.Devices.Results {
			used.Insert(r.Device)
			milli, memory := r.ConsumedCapacity["milli"], r.ConsumedCapacity["memory"]
			switch {
			case r.Pool != p.Spec.NodeName:
				t.Errorf("%s is on %s, and its GPU on %s", p.Name, p.Spec.NodeName, r.Pool)
			case number%8 == 2 && (models[r.Pool] == "G3" || memory.Value()>>20 != milli.Value()*map[string]int64{"T4": 16384, "A10": 24576}[models[r.Pool]]/1000):
				t.Errorf("%s has %d thousandths and %d bytes of a %s", p.Name, milli.Value(), memory.Value(), models[r.Pool])
			case number%8 == 3 && (r.Request == "gpu/t4") != (models[r.Pool] == "T4"):
				t.Errorf("%s has a %s by %s", p.Name, models[r.Pool], r.Request)
			}
		}
		if number%8 == 1 && len(used) != 2 {
			t.Errorf("%s has %v", p.Name, used)
		}
	}

	// What goes is free for what comes.
	for i := 1; i <= n; i += 2 {
		w.delete(fmt.Sprintf("p%d", i))
	}
	n = 1000
	batch(100)
	w.placed()
	w.audit(machines...)
}

// TestASickGPU takes one out of service while it is used.
func TestASickGPU(t *testing.T) {
	w := newWorld(t)
	m := w.machine("one", "T4", 2, 16384)
	first := w.pod("first", 1, 600, 8192)
	w.placed()
	on := 0
	if device(w.claims()["first"]) == "gpu-1" {
		on = 1
	}
	k := m.kubelet(w)
	k.prepare(first)
	m.found[on].Healthy, m.found[on].Reason = false, "XID 79"
	m.say()
	// The kubelet shows it in the status of the pod that is there, which runs on.
	clustertest.Eventually(t, "the kubelet to hear of it", func() error {
		status := v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "c"}}}
		k.UpdateAllocatedResourcesStatus(k.pod(first), &status)
		if s := fmt.Sprint(status.ContainerStatuses[0].AllocatedResourcesStatus); !strings.Contains(s, "Unhealthy") {
			return errors.New(s)
		}
		return nil
	})
	// Nothing new comes there, though there is room.
	w.pod("second", 1, 300, 1024)
	w.placed()
	if d := device(w.claims()["second"]); d == fmt.Sprintf("gpu-%d", on) {
		t.Errorf("second is on %s, which is sick", d)
	}
	w.pod("third", 1, 800, 1024)
	w.waits("third", "have too little left")
	m.found[on].Healthy, m.found[on].Reason = true, ""
	w.delete("first")
	m.say()
	w.placed()
	w.audit(m)
}

// TestClaimsThatWereAllocatedWrongly: what a pod that does not run yet can never start
// on is taken back, and the pod is placed anew.
func TestClaimsThatWereAllocatedWrongly(t *testing.T) {
	w := newWorld(t)
	m := w.machine("one", "T4", 2, 16384)
	pid := w.cluster.SchedulerPID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	defer resume()
	wrong := map[string]resourceapi.DeviceRequestAllocationResult{
		"gone":  {Pool: m.name, Device: "gpu-7"},
		"twice": {Pool: m.name, Device: "gpu-0"},
		"again": {Pool: m.name, Device: "gpu-0"},
		"away":  {Pool: "nowhere", Device: "gpu-0"},
	}
	for name, r := range wrong {
		w.pod(name, 1, 300, 4096)
		clustertest.Eventually(t, "the claim of "+name, func() error {
			c := w.claims()[name]
			if c == nil {
				return errors.New("it is not there")
			}
			return retry.RetryOnConflict(retry.DefaultRetry, func() error {
				share := types.UID("6b9f5a8c-0d7c-4f6c-9c7e-0a1b2c3d4e5f")
				r.Request, r.Driver, r.ShareID = "gpu", v1alpha1.GPUDriver, &share
				r.ConsumedCapacity = map[resourceapi.QualifiedName]apiresource.Quantity{"milli": apiresource.MustParse("600"), "memory": apiresource.MustParse("4Gi")}
				c.Finalizers = []string{resourceapi.Finalizer}
				c, err := w.client.ResourceV1().ResourceClaims(w.ns).Update(t.Context(), c, metav1.UpdateOptions{})
				if err != nil {
					return err
				}
				now := metav1.Now() // Kubernetes' plugin cannot go on without
				c.Status.Allocation = &resourceapi.AllocationResult{
					AllocationTimestamp: &now,
					Devices:             resourceapi.DeviceAllocationResult{Results: []resourceapi.DeviceRequestAllocationResult{r}},
					NodeSelector: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{
						{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{r.Pool}},
					}}}},
				}
				_, err = w.client.ResourceV1().ResourceClaims(w.ns).UpdateStatus(t.Context(), c, metav1.UpdateOptions{})
				return err
			})
		})
	}
	resume()
	w.placed()
	w.audit(m)
}

// TestWhatCannotBeIsSaid: a claim that makes no sense says so on its pod, and stops
// nobody else.
func TestWhatCannotBeIsSaid(t *testing.T) {
	w := newWorld(t)
	m := w.machine("one", "T4", 2, 16384)
	w.pod("large", 1, 500, 200*1024)
	w.pod("none", 1, 500, 1024, "device.attributes['gpu.neap.dev'].model == 'H100'")
	w.pod("told", 1, 500, 1024, "device.attributes['gpu.neap.dev'].uuid == 'GPU-0'")
	exactly := &resourceapi.ExactDeviceRequest{DeviceClassName: v1alpha1.GPUDriver, AllocationMode: resourceapi.DeviceAllocationModeAll}
	w.podWith("all", resourceapi.DeviceRequest{Name: "gpu", Exactly: exactly})
	one := &resourceapi.ExactDeviceRequest{DeviceClassName: v1alpha1.GPUDriver, AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 1, Capacity: amounts(300, 1024)}
	w.podWith("two", resourceapi.DeviceRequest{Name: "a", Exactly: one}, resourceapi.DeviceRequest{Name: "b", Exactly: one})
	w.waits("large", "asks for 204800 MiB of one GPU, and the largest has")
	w.waits("none", "accepts no GPU that there is")
	w.waits("told", "cannot be told for GPUs of model")
	w.waits("all", "give a count")
	w.waits("two", "a pod has one request for GPUs")
	w.pod("good", 1, 500, 1024)
	w.placed("large", "none", "told", "all", "two")
	w.audit(m)
}

// A kubelet is the manager for claims of Kubernetes' kubelet on a machine.
type kubelet struct {
	*dra.Manager
	w *world
}

// kubelet starts it, and waits until it knows the driver.
func (m *machine) kubelet(w *world) *kubelet {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.Cleanup(cancel)
	state := filepath.Join(m.dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		w.Fatal(err)
	}
	manager, err := dra.NewManager(klog.Background(), w.client, state)
	if err != nil {
		w.Fatal(err)
	}
	ready := kubeletconfig.NewSourcesReady(func(sets.Set[string]) bool { return true })
	node := func(ctx context.Context) (*v1.Node, error) {
		return w.client.CoreV1().Nodes().Get(ctx, m.name, metav1.GetOptions{})
	}
	pods := func() []*v1.Pod {
		list, err := w.client.CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + m.name})
		if err != nil {
			return nil
		}
		var out []*v1.Pod
		for i := range list.Items {
			out = append(out, &list.Items[i])
		}
		return out
	}
	if err := manager.Start(ctx, pods, node, ready); err != nil {
		w.Fatal(err)
	}
	plugins := pluginmanager.NewPluginManager(filepath.Join(m.dir, "plugins_registry"), &record.FakeRecorder{})
	plugins.AddHandler(registration.DRAPlugin, manager.GetWatcherHandler())
	go plugins.Run(ctx, ready, ctx.Done())
	return &kubelet{manager, w}
}

// pod reads a pod again, with the names of its claims.
func (k *kubelet) pod(p *v1.Pod) *v1.Pod {
	k.w.Helper()
	p, err := k.w.client.CoreV1().Pods(k.w.ns).Get(k.w.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		k.w.Fatal(err)
	}
	return p
}

// prepare does what the kubelet does before the first container starts, and returns
// the CDI devices of the pod's container.
func (k *kubelet) prepare(p *v1.Pod) []string {
	k.w.Helper()
	p = k.pod(p)
	clustertest.Eventually(k.w, "the claims of "+p.Name+" to be prepared", func() error { return k.PrepareResources(k.w.Context(), p) })
	info, err := k.GetResources(p, &p.Spec.Containers[0])
	if err != nil {
		k.w.Fatal(err)
	}
	var out []string
	for _, d := range info.CDIDevices {
		out = append(out, d.Name)
	}
	return out
}

// TestTheKubeletPreparesClaims hands claims that the scheduler allocated to the
// kubelet's own manager.
func TestTheKubeletPreparesClaims(t *testing.T) {
	w := newWorld(t)
	m := w.machine("one", "T4", 2, 16384)
	single, double := w.pod("single", 1, 300, 2048), w.pod("double", 2, 400, 4096)
	w.placed()
	k := m.kubelet(w)
	claims := w.claims()
	for _, p := range []*v1.Pod{single, double} {
		uid := string(claims[p.Name].UID)
		if got := k.prepare(p); len(got) != 1 || got[0] != "gpu.neap.dev/claim="+uid {
			t.Errorf("%s gets %v", p.Name, got)
		}
		raw, err := os.ReadFile(filepath.Join(m.dir, "cdi", "gpu.neap.dev-claim-"+uid+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range claims[p.Name].Status.Allocation.Devices.Results {
			if uuid := "GPU-" + m.name + "-" + strings.TrimPrefix(r.Device, "gpu-"); !strings.Contains(string(raw), uuid) {
				t.Errorf("the runtime does not hear of %s: %s", uuid, raw)
			}
		}
	}
	if err := k.UnprepareResources(t.Context(), k.pod(single)); err != nil {
		t.Error(err)
	}
	left, err := os.ReadDir(filepath.Join(m.dir, "cdi"))
	if err != nil || len(left) != 1 {
		t.Errorf("the runtime still knows %v (%v)", left, err)
	}
}
