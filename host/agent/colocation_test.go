//go:build linux

package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubefake "k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/cgroup"
)

// A node is this machine's kernel with the groups of a kubelet that is not there, and
// a cluster in memory.
type node struct {
	testing.TB
	tree   *cgroup.Tree
	layout cgroup.Layout
	kube   *kubefake.Clientset
	api    client.Client
	dir    string
	ended  chan error
	end    context.CancelFunc
}

func newNode(t testing.TB) *node {
	t.Helper()
	missing := func(err error) {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	tree, err := cgroup.Open("")
	if err != nil {
		missing(err)
	}
	sweep(tree)
	n := &node{TB: t, tree: tree, layout: cgroup.Layout{Parent: cgroup.Group(fmt.Sprintf("/neap-agent-%d", os.Getpid()))}, dir: t.TempDir(), ended: make(chan error, 1)}
	t.Cleanup(func() {
		if err := tree.Remove(n.layout.Parent); err != nil {
			t.Error(err)
		}
	})
	for _, g := range []cgroup.Group{n.layout.Class(cgroup.BestEffort), n.layout.Class(cgroup.Burstable)} {
		if err := tree.Make(g); err != nil {
			missing(err)
		}
	}
	if err := tree.Set(n.layout.Class(cgroup.BestEffort), cgroup.Weight, 2); err != nil {
		missing(err)
	}
	n.kube = kubefake.NewClientset()
	n.api = fake.NewClientBuilder().WithScheme(Scheme()).WithStatusSubresource(new(corev1.Node)).WithObjects(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
			corev1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("64Gi"),
		}}},
		&v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: v1alpha1.ColocationPolicySpec{
			Mode: v1alpha1.ModeAuto, CPUPercent: 90, MemoryPercent: 100,
			Ladder: v1alpha1.ColocationLadder{Idle: v1alpha1.IdleAuto, Quota: true, Memory: true, Freeze: true},
			Slack:  v1alpha1.ColocationSlack{RunQueueTargetMicroseconds: 5000, PressurePermille: 100},
		}},
	).Build()
	return n
}

// sweep removes the groups of tests that were killed.
func sweep(tree *cgroup.Tree) {
	top, err := tree.Children("/")
	if err != nil {
		return
	}
	for _, g := range top {
		pid, ours := strings.CutPrefix(g.Name(), "neap-agent-")
		if n, err := strconv.Atoi(pid); ours && err == nil && errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			_ = tree.Remove(g) // the next test tries again
		}
	}
}

// start runs the agent's colocation and a deadman until stop.
func (n *node) start() *Colocation {
	n.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.end = cancel
	watched := make(chan error, 1)
	go func() {
		watched <- deadman.Watch(ctx, deadman.Options{Tree: n.tree, Dir: n.dir, Kill: func(int) error { return nil }})
	}()
	c := NewColocation(ColocationOptions{Node: "n", Namespace: "neap-system", Client: n.api, Kube: n.kube, Tree: n.tree, Parent: n.layout.Parent, StateDir: n.dir})
	go func() { n.ended <- errors.Join(c.Run(ctx), <-watched) }()
	return c
}

func (n *node) stop() {
	n.Helper()
	n.end()
	if err := <-n.ended; err != nil {
		n.Error(err)
	}
}

// pod makes a pod and its group; every third is batch.
func (n *node) pod(i int) {
	n.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("p", i), UID: types.UID(fmt.Sprintf("uid-%d", i)), Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, Phase: corev1.PodRunning},
	}
	class := cgroup.Burstable
	if i%3 == 0 {
		class, p.Status.QOSClass = cgroup.BestEffort, corev1.PodQOSBestEffort
		p.Labels[v1alpha1.LabelClass] = v1alpha1.ClassBatch
		p.Annotations[v1alpha1.AnnotationBatchFreeze] = "1m"
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			v1alpha1.ResourceBatchCPU: *resource.NewQuantity(100+int64(i), resource.DecimalSI), v1alpha1.ResourceBatchMemory: resource.MustParse("128Mi"),
		}
	}
	if err := n.tree.Make(n.layout.Pod(class, string(p.UID))); err != nil {
		n.Fatal(err)
	}
	if _, err := n.kube.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
}

// gone removes a pod and its group.
func (n *node) gone(i int) {
	n.Helper()
	class := cgroup.Burstable
	if i%3 == 0 {
		class = cgroup.BestEffort
	}
	if err := n.tree.Remove(n.layout.Pod(class, fmt.Sprintf("uid-%d", i))); err != nil {
		n.Fatal(err)
	}
	if err := n.kube.CoreV1().Pods("default").Delete(context.Background(), fmt.Sprint("p", i), metav1.DeleteOptions{}); err != nil {
		n.Fatal(err)
	}
}

func (n *node) eventually(what string, ok func() bool) {
	n.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			n.Fatalf("not so after a minute: %s", what)
		}
	}
}

func (n *node) knob(k cgroup.Knob) int64 {
	v, err := n.tree.Get(n.layout.Class(cgroup.BestEffort), k)
	if err != nil {
		n.Fatal(err)
	}
	return v
}

// A holding is what a process holds.
type holding struct {
	files, goroutines int
	heap              uint64
}

func held(t testing.TB) holding {
	t.Helper()
	debug.FreeOSMemory()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return holding{len(fds), runtime.NumGoroutine(), m.HeapAlloc}
}

// TestPodsComeAndGo has pods made and deleted without a pause, for NEAP_AGENT_SOAK:
// nothing may be held any more than in the beginning, and in the end every file is as
// it was.
func TestPodsComeAndGo(t *testing.T) {
	soak, pace := 3*time.Second, 20*time.Millisecond
	if s := os.Getenv("NEAP_AGENT_SOAK"); s != "" {
		var err error
		if soak, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
		pace = time.Second / 4
	}
	n := newNode(t)
	quota := n.knob(cgroup.Quota)
	const standing = 12
	i := 0
	for ; i < standing; i++ {
		n.pod(i)
	}
	n.start()
	n.eventually("batch is held", func() bool { return n.knob(cgroup.Idle) == 1 && n.knob(cgroup.Quota) != quota })
	turn := func(until time.Duration) {
		for began := time.Now(); time.Since(began) < until; time.Sleep(pace) {
			n.pod(i)
			n.gone(i - standing)
			n.kube.ClearActions() // which it remembers all of
			i++
		}
	}
	turn(soak / 3)
	before := held(t)
	turn(soak - soak/3)
	after := held(t)
	t.Logf("%d pods came and went; before %+v, after %+v", i-standing, before, after)
	if after.files > before.files+20 || after.goroutines > before.goroutines+20 || after.heap > before.heap+16<<20 {
		t.Errorf("it holds %+v, and held %+v before %d pods came and went", after, before, i-standing)
	}
	n.stop()
	if n.knob(cgroup.Idle) != 0 || n.knob(cgroup.Quota) != quota || n.knob(cgroup.Weight) != 2 {
		t.Errorf("the files are not as they were: idle %d, quota %d, weight %d", n.knob(cgroup.Idle), n.knob(cgroup.Quota), n.knob(cgroup.Weight))
	}
	if left, err := os.ReadDir(n.dir); err != nil || len(left) > 1 { // the lock of the record may stay
		t.Errorf("in its folder it left %v, %v", left, err)
	}
	node := new(corev1.Node)
	if err := n.api.Get(t.Context(), client.ObjectKey{Name: "n"}, node); err != nil {
		t.Fatal(err)
	}
	if said := node.Annotations[v1alpha1.AnnotationColocation]; said != "" {
		t.Errorf("the node still says %s", said)
	}
}

// BenchmarkColocation217 runs everything at 217 pods, as in an issue of another
// agent that took two cores for it, for NEAP_BENCH_SECONDS (10), and tells the cores
// and the memory of the process, its cluster in memory included.
func BenchmarkColocation217(b *testing.B) {
	seconds := 10
	if s := os.Getenv("NEAP_BENCH_SECONDS"); s != "" {
		var err error
		if seconds, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	n := newNode(b)
	for i := range 217 {
		n.pod(i)
	}
	n.start()
	n.eventually("batch is held", func() bool { return n.knob(cgroup.Idle) == 1 && n.knob(cgroup.Quota) > 0 })
	time.Sleep(time.Second)
	before := cpuTime(b)
	began := time.Now()
	for b.Loop() {
		time.Sleep(time.Until(began.Add(time.Duration(seconds) * time.Second)))
	}
	b.ReportMetric((cpuTime(b)-before).Seconds()/time.Since(began).Seconds(), "cores")
	b.ReportMetric(float64(resident(b))/(1<<20), "MiB")
	n.stop()
	for i := range 217 {
		n.gone(i)
	}
}

func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// resident returns the bytes of the process that are in memory.
func resident(t testing.TB) int64 {
	t.Helper()
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatal("/proc/self/status tells no VmRSS")
	return 0
}
