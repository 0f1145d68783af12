package warden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
)

const class = cgroup.Group("/kubepods/besteffort")

// A bench is a node of 8 cores and 16 GiB with a kubelet's groups and a warden.
type bench struct {
	*Warden
	t       *testing.T
	fake    *cgroup.Fake
	tree    *cgroup.Tree
	dir     string
	pods    []*corev1.Pod
	policy  *v1alpha1.ColocationPolicy
	events  []string
	evicted chan string
	before  map[string]string // of files of the class
	free    int64             // MiB
}

func newBench(t *testing.T, version cgroup.Version) *bench {
	t.Helper()
	b := &bench{t: t, fake: cgroup.NewFake(version), dir: t.TempDir(), evicted: make(chan string, 100), free: 8192}
	b.tree = b.fake.Tree()
	for _, g := range []cgroup.Group{class, "/kubepods/burstable"} {
		if err := b.tree.Make(g); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.tree.Set(class, cgroup.Weight, 2); err != nil { // as the kubelet does
		t.Fatal(err)
	}
	b.policy = &v1alpha1.ColocationPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "night"},
		Spec: v1alpha1.ColocationPolicySpec{
			Mode: v1alpha1.ModeAuto, CPUPercent: 80, MemoryPercent: 80,
			Ladder:    v1alpha1.ColocationLadder{Idle: v1alpha1.IdleAuto, Quota: true, Memory: true, Freeze: true, Evict: true},
			Evictions: v1alpha1.ColocationEvictions{PerHour: 2},
		},
	}
	b.Warden = b.warden()
	b.before = b.files()
	return b
}

func (b *bench) warden() *Warden {
	api := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		SubResourceCreate: func(_ context.Context, _ client.Client, _ string, o, _ client.Object, _ ...client.SubResourceCreateOption) error {
			b.evicted <- o.GetName()
			return nil
		},
	}).Build()
	event := func(p *corev1.Pod, reason, _ string) { b.events = append(b.events, p.Name+" "+reason) }
	w := New(Options{
		Tree: b.tree, Dir: b.dir, Event: event, Every: 5 * time.Millisecond, Proc: b.t.TempDir(),
		Evictor: &evictor.Evictor{Client: api, Event: func(*corev1.Pod, string, string) {}},
	})
	b.t.Cleanup(func() { w.Close() })
	return w
}

// files are all files of the class and of its pods that a warden may write.
func (b *bench) files() map[string]string {
	out := map[string]string{}
	groups := []cgroup.Group{class}
	for _, p := range b.pods {
		groups = append(groups, class.Child("pod"+string(p.UID)))
	}
	for _, g := range groups {
		for _, file := range []string{"cpu.idle", "cpu.shares", "cpu.weight", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max", "memory.limit_in_bytes", "memory.max", "memory.high", "cgroup.freeze", "freezer.state"} {
			if text, err := b.fake.Read(g, file); err == nil {
				out[string(g)+" "+file] = text
			}
		}
	}
	return out
}

// pod adds a pod and its group.
func (b *bench) pod(name string, batch bool, change func(*corev1.Pod)) *corev1.Pod {
	b.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, Phase: corev1.PodRunning},
	}
	if batch {
		p.Labels[v1alpha1.LabelClass] = v1alpha1.ClassBatch
		p.Status.QOSClass = corev1.PodQOSBestEffort
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
			v1alpha1.ResourceBatchCPU: resource.MustParse("2000"), v1alpha1.ResourceBatchMemory: resource.MustParse("1Gi"),
		}
	}
	if change != nil {
		change(p)
	}
	if p.Status.QOSClass == corev1.PodQOSBestEffort {
		if err := b.tree.Make(class.Child("pod" + string(p.UID))); err != nil {
			b.t.Fatal(err)
		}
	}
	b.pods = append(b.pods, p)
	return p
}

// round says what the cluster says, and has a round made.
func (b *bench) round() Report {
	b.t.Helper()
	info := fmt.Sprintf("MemTotal: %d kB\nMemAvailable:    %d kB\n", 16384<<10, b.free<<10)
	if err := os.WriteFile(filepath.Join(b.opts.Proc, "meminfo"), []byte(info), 0o644); err != nil {
		b.t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"),
	}}}
	var policies []*v1alpha1.ColocationPolicy
	if b.policy != nil {
		policies = append(policies, b.policy)
	}
	b.Tell(Look(node, b.pods, policies, nil))
	b.Round(b.t.Context())
	return b.Report()
}

func (b *bench) want(reason string, ok bool) Report {
	b.t.Helper()
	r := b.round()
	if r.Reason != reason || r.OK != ok {
		b.t.Fatalf("the report is %+v, want %s, %v", r, reason, ok)
	}
	if r.Message == "" {
		b.t.Errorf("%s comes without a word", reason)
	}
	return r
}

func (b *bench) knob(g cgroup.Group, k cgroup.Knob) int64 {
	b.t.Helper()
	v, err := b.tree.Get(g, k)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not so after 20 s: %s", what)
		}
	}
}

// deadman runs one until the test ends.
func (b *bench) deadman() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		deadman.Watch(ctx, deadman.Options{Tree: b.tree, Dir: b.dir, Silence: time.Hour, Kill: func(int) error { return nil }})
	}()
	b.t.Cleanup(func() {
		b.Close() // else the deadman waits for that
		cancel()
		<-done
	})
	b.eventually("the deadman listens", func() bool {
		line, err := deadman.Dial(b.dir)
		if err == nil {
			line.Close()
		}
		return err == nil
	})
}

func TestBatchIsHeldBackAndEverythingGivenBack(t *testing.T) {
	for _, version := range []cgroup.Version{cgroup.V1, cgroup.V2} {
		t.Run(version.String(), func(t *testing.T) {
			b := newBench(t, version)
			b.deadman()
			b.pod("web", false, nil)
			b.want(ReasonIdling, true)
			job := b.pod("job", true, nil)
			untouched := b.files()
			group := class.Child("podjob")
			r := b.want(ReasonWorking, true)
			if r.Colocation.Avoidance != "idle" || b.knob(class, cgroup.Idle) != 1 {
				t.Errorf("idle is not in force: %+v", r)
			}
			if got := b.knob(group, cgroup.Weight); got < 1900 || got > 2200 {
				t.Errorf("the job's weight is %d, want about 2048", got)
			}
			if got := b.knob(group, cgroup.MemoryMax); got != 1<<30 {
				t.Errorf("the job may use %d bytes", got)
			}
			b.eventually("a ceiling of 80 % less the noise is written", func() bool {
				q := b.knob(class, cgroup.Quota)
				return q > 6000 && q <= 6400
			})
			job.DeletionTimestamp = &metav1.Time{}
			b.want(ReasonWorking, true)
			b.pods = b.pods[:1]
			b.want(ReasonIdling, true)
			b.pods = append(b.pods, job)
			if after := b.files(); !mapsEqual(untouched, after) {
				t.Errorf("the files are %v, were %v", after, untouched)
			}
			b.want(ReasonWorking, true)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			if after := b.files(); !mapsEqual(untouched, after) {
				t.Errorf("after the end the files are %v, were %v", after, untouched)
			}
		})
	}
}

func mapsEqual(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

func TestNothingIsWrittenUnlessThePolicySaysSo(t *testing.T) {
	cases := map[string]struct {
		change func(*bench)
		reason string
		ok     bool
	}{
		"no policy": {func(b *bench) { b.policy = nil }, ReasonNoPolicy, false},
		"another's nodes": {func(b *bench) {
			b.policy.Spec.NodeSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, ReasonNoPolicy, false},
		"mode Observe": {func(b *bench) { b.policy.Spec.Mode = v1alpha1.ModeObserve }, ReasonWatching, true},
		"mode Preview": {func(b *bench) { b.policy.Spec.Mode = v1alpha1.ModePreview }, ReasonWatching, true},
		"Koordinator": {func(b *bench) {
			b.pod("koordlet-x", false, func(p *corev1.Pod) { p.Labels["koord-app"] = "koordlet" })
		}, ReasonRival, false},
		"Volcano": {func(b *bench) {
			b.pod("volcano-agent-x", false, func(p *corev1.Pod) { p.Labels["name"] = "volcano-agent" })
		}, ReasonRival, false},
		"another agent": {func(b *bench) {
			l, err := cgroup.OpenLedger(b.tree, cgroup.Options{Scope: "/kubepods", Dir: b.t.TempDir()})
			if err != nil {
				b.t.Fatal(err)
			}
			b.t.Cleanup(func() { l.Close() })
		}, ReasonOwned, false},
		"no kubelet": {func(b *bench) { b.fake.Reboot() }, ReasonNoGroups, false},
		"a disk that is full": {func(b *bench) {
			b.opts.Dir = filepath.Join(b.dir, "file", "below")
			if err := os.WriteFile(filepath.Join(b.dir, "file"), nil, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}, ReasonNoGroups, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, cgroup.V1)
			b.pod("job", true, nil)
			before := b.files()
			tc.change(b)
			if name == "no kubelet" {
				before = b.files()
			}
			for range 3 {
				b.want(tc.reason, tc.ok)
			}
			if after := b.files(); !mapsEqual(before, after) {
				t.Errorf("the files are %v, were %v", after, before)
			}
		})
	}
}

func TestARivalThatComesGetsTheFilesAsTheyWere(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.pod("job", true, nil)
	before := b.files()
	b.want(ReasonWorking, true)
	b.pod("koordlet-x", false, func(p *corev1.Pod) { p.Labels["koord-app"] = "koordlet" })
	b.want(ReasonRival, false)
	if after := b.files(); !mapsEqual(before, after) {
		t.Errorf("the files are %v, were %v", after, before)
	}
}

func TestWhatTheKernelLacksIsSaid(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.fake.Without("cpu.idle")
	b.pod("job", true, nil)
	if r := b.want(ReasonWorking, true); r.Colocation.Avoidance != "weight+quota" {
		t.Errorf("avoidance is %s", r.Colocation.Avoidance)
	}
	b.policy.Spec.Ladder.Idle = v1alpha1.IdleAlways
	if r := b.want(ReasonPartly, false); !strings.Contains(r.Message, "idle") {
		t.Errorf("the message is %q", r.Message)
	}
	b.policy.Spec.Ladder.Idle = v1alpha1.IdleNever
	b.policy.Spec.Ladder.Quota = false
	b.policy.Spec.Ladder.Freeze = false
	if r := b.round(); r.Colocation.Avoidance != "none" {
		t.Errorf("avoidance is %s", r.Colocation.Avoidance)
	}
}

func TestReadOnlyCgroupsAreSaid(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.pod("job", true, nil)
	b.fake.SetReadOnly(true)
	if r := b.want(ReasonPartly, false); !strings.Contains(r.Message, "read-write") {
		t.Errorf("the message is %q", r.Message)
	}
	b.fake.SetReadOnly(false)
	b.want(ReasonWorking, true)
}

func TestAPolicyThatCannotBeCarriedOutPutsBatchAtItsFloor(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.pod("job", true, nil)
	b.policy.Spec.Capacity.DefaultRunTime = "soon"
	r := b.want(ReasonBroken, false)
	if !strings.Contains(r.Message, "soon") {
		t.Errorf("the message is %q", r.Message)
	}
	b.eventually("batch is at its floor", func() bool { return b.knob(class, cgroup.Quota) == 10 })
}

func TestInAWindowBatchIsAtItsFloor(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	now := time.Date(2026, 11, 11, 19, 0, 0, 0, time.UTC)
	b.opts.Now = func() time.Time { return now }
	b.pod("job", true, nil)
	b.policy.Spec.Windows = []v1alpha1.ColocationWindow{{Name: "evening", From: "18:00", To: "22:30", TimeZone: "UTC"}}
	if r := b.want(ReasonWorking, true); !strings.Contains(r.Colocation.Why, "evening") {
		t.Errorf("why: %q", r.Colocation.Why)
	}
	b.eventually("batch is at its floor", func() bool { return b.knob(class, cgroup.Quota) == 10 })
}

func TestOnlinePodsOfTheClassComeFirst(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.pod("job", true, nil)
	b.pod("proxy", false, func(p *corev1.Pod) { p.Status.QOSClass = corev1.PodQOSBestEffort })
	b.want(ReasonWorking, true)
	if b.knob(class.Child("podjob"), cgroup.Idle) != 1 || b.knob(class.Child("podproxy"), cgroup.Idle) != 0 {
		t.Error("the batch pod does not make way for the online pod beside it")
	}
	if got := b.knob(class.Child("podproxy"), cgroup.Weight); got != 1024 {
		t.Errorf("the online pod's weight is %d: it is not ours", got)
	}
	b.pods = b.pods[:1] // the online pod goes
	b.want(ReasonWorking, true)
	if b.knob(class.Child("podjob"), cgroup.Idle) != 0 || b.knob(class.Child("podjob"), cgroup.Weight) != 2048 {
		t.Error("the batch pod has no weight among its like")
	}
	b.pods[0].Labels = nil // it is batch no longer
	b.want(ReasonIdling, true)
	if got := b.knob(class.Child("podjob"), cgroup.Weight); got != 1024 {
		t.Errorf("the weight of what was a batch pod is %d", got)
	}
}

func TestTheLadderIsClimbed(t *testing.T) {
	b := newBench(t, cgroup.V2)
	b.deadman()
	b.pod("web", false, nil)
	b.pod("job", true, func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationBatchFreeze] = "1h" })
	b.policy.Spec.Slack.CoolDown = "0s"
	b.pod("stiff", true, nil)
	felt := int64(100)
	b.opts.Signals = func(context.Context, v1alpha1.ColocationSlack, []Feeler) []colocate.Signal {
		return []colocate.Signal{{Workload: "default/Deployment/web", Kind: "p99", Value: felt, Target: 1000}}
	}
	step := func() string {
		b.began = b.began.Add(-lookEach)
		return b.round().Colocation.Step
	}
	if got := step(); got != "Idle" {
		t.Errorf("all is well, and the step is %s", got)
	}
	b.eventually("a ceiling", func() bool { return b.knob(class, cgroup.Quota) > 6000 })
	felt = 3000
	if got := step(); got != "Quota" {
		t.Errorf("a target is missed, and the step is %s", got)
	}
	felt = 2000 // it helps, and not enough
	b.eventually("batch is at its floor", func() bool { step(); return b.knob(class, cgroup.Quota) == 20 })
	b.eventually("it freezes who allows it", func() bool { step(); return b.knob(class.Child("podjob"), cgroup.Freeze) == 1 })
	if b.knob(class.Child("podstiff"), cgroup.Freeze) != 0 {
		t.Error("it freezes a pod that does not allow it")
	}
	b.eventually("it evicts", func() bool { step(); return len(b.evicted) > 0 })
	felt = 10
	b.eventually("what is frozen goes on", func() bool { step(); return b.knob(class.Child("podjob"), cgroup.Freeze) == 0 })
	b.eventually("everything is as it was", func() bool { return step() == "Idle" })
	if !slices.Contains(b.events, "job BatchFrozen") || !slices.Contains(b.events, "job BatchThawed") {
		t.Errorf("the events are %q", b.events)
	}
}

func TestMemoryThatIsShortIsTakenFromBatch(t *testing.T) {
	for _, version := range []cgroup.Version{cgroup.V1, cgroup.V2} {
		t.Run(version.String(), func(t *testing.T) {
			b := newBench(t, version)
			b.deadman()
			b.pod("job", true, func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationBatchFreeze] = "1h" })
			b.fake.SetUse(class, cgroup.Use{Memory: 3 << 30, Working: 2 << 30})
			b.free = 16384 * 18 / 100 // 2 % over
			step := func() string {
				b.began = b.began.Add(-lookEach)
				return b.round().Colocation.Step
			}
			if got := step(); got != "Memory" {
				t.Fatalf("the step is %s", got)
			}
			knob, most := cgroup.MemoryHigh, int64(2<<30)
			if version == cgroup.V1 {
				knob, most = cgroup.MemoryMax, 3<<30
			}
			if got := b.knob(class, knob); got < 64<<20 || got > most {
				t.Errorf("batch is braked at %d bytes", got)
			}
			for range 5 {
				step()
			}
			if len(b.evicted) != 0 {
				t.Error("it evicts for a little")
			}
			b.free = 16384 * 5 / 100
			b.eventually("it evicts", func() bool { step(); return len(b.evicted) > 0 })
			if b.knob(class.Child("podjob"), cgroup.Freeze) != 0 {
				t.Error("it froze a pod for want of memory")
			}
			b.free = 8192
			b.eventually("the brake is off", func() bool { step(); return b.knob(class, knob) == cgroup.Unlimited })
		})
	}
}

// TestAFrozenPodWhoseNodeReboots: the machine comes up again with a record of a boot
// that is over.
func TestAFrozenPodWhoseNodeReboots(t *testing.T) {
	b := newBench(t, cgroup.V1)
	b.deadman()
	b.pod("job", true, func(p *corev1.Pod) { p.Annotations[v1alpha1.AnnotationBatchFreeze] = "1h" })
	b.want(ReasonWorking, true)
	b.freezing = true
	b.round()
	if b.knob(class.Child("podjob"), cgroup.Freeze) != 1 {
		t.Fatal("it is not frozen")
	}
	b.fake.Reboot()
	b.want(ReasonNoGroups, false)
	if err := b.tree.Make(class.Child("podjob")); err != nil {
		t.Fatal(err)
	}
	fresh := b.files()
	b.Warden = b.warden()
	b.want(ReasonWorking, true)
	if b.knob(class.Child("podjob"), cgroup.Freeze) != 0 {
		t.Error("it is frozen after the boot")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if after := b.files(); !mapsEqual(fresh, after) {
		t.Errorf("the files are %v, were %v", after, fresh)
	}
}

// A wire is a network in memory.
type wire struct {
	batch  []string
	steps  int
	closed bool
}

func (n *wire) SetBatch(groups []string) ([]netqos.Blind, error) {
	n.batch = groups
	return nil, nil
}
func (n *wire) Step(time.Duration) (netqos.Use, error) { n.steps++; return netqos.Use{}, nil }
func (n *wire) Close() error                           { n.closed = true; return nil }

func TestTheNetworkIsSharedAsThePolicyWants(t *testing.T) {
	b := newBench(t, cgroup.V2)
	b.deadman()
	n := new(wire)
	b.opts.Shape = func(o netqos.Options) (Shaper, error) {
		if o.Bits != 100e6 || o.Interface != "eth9" || o.ReservePercent != 5 {
			return nil, errors.New("not such a link")
		}
		return n, nil
	}
	b.pod("job", true, nil)
	b.want(ReasonWorking, true)
	b.policy.Spec.Network = &v1alpha1.ColocationNetwork{Interface: "eth8", Megabits: 100, ReservePercent: 5}
	if r := b.want(ReasonPartly, false); !strings.Contains(r.Message, "not such a link") {
		t.Errorf("the message is %q", r.Message)
	}
	b.net.failed = time.Time{}
	b.policy.Spec.Network.Interface = "eth9"
	b.want(ReasonWorking, true)
	if len(n.batch) != 1 || !strings.HasSuffix(n.batch[0], "podjob") || n.steps != 1 {
		t.Errorf("batch is %q after %d steps", n.batch, n.steps)
	}
	b.pods = nil
	b.want(ReasonIdling, true)
	if !n.closed {
		t.Error("the network is not given back")
	}
}
