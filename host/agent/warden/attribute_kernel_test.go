//go:build linux

package warden_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/agent/slackwatcher"
	"github.com/neap-dev/neap/host/agent/warden"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/runqueue"
)

// pace is how often the warden looks here: more often than it does as an agent, and
// as often as its attribution takes for a look.
const pace = 600 * time.Millisecond

// TestMain makes the test binary its own load, too.
func TestMain(m *testing.M) {
	if role := os.Getenv("NEAP_WARDEN_LOAD"); role != "" {
		load(role)
	}
	os.Exit(m.Run())
}

// load is a process of a pod, from when it is told that it is in its group. All of
// them share one CPU, so that who competes with whom is up to their groups.
func load(role string) {
	if _, err := os.Stdin.Read(make([]byte, 1)); err != nil {
		os.Exit(1)
	}
	var may, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		os.Exit(1)
	}
	for cpu := 1023; cpu >= 0; cpu-- {
		if may.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	threads, _ := os.ReadDir("/proc/self/task")
	for _, t := range threads { // those that come later inherit it
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(tid, &one) // a thread that has ended needs none
		}
	}
	runtime.GOMAXPROCS(8) // a thread each, however few CPUs there are
	for range 2 {
		go func() {
			runtime.LockOSThread()
			for {
				switch role {
				case "serve": // wakes and works: more than a half of the CPU
					_ = unix.Nanosleep(&unix.Timespec{Nsec: 400_000}, nil) // woken early it works early
					spin(300 * time.Microsecond)
				case "burn":
					spin(time.Hour)
				case "doze":
					_ = unix.Nanosleep(&unix.Timespec{Nsec: 50_000_000}, nil)
				}
			}
		}()
	}
	select {}
}

// spin uses so much CPU, however long that takes.
func spin(d time.Duration) {
	used := func() int64 {
		var t unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
			os.Exit(1)
		}
		return t.Nano()
	}
	for end := used() + d.Nanoseconds(); used() < end; {
	}
}

// A stage is this machine's kernel with the groups of a kubelet that is not there, and
// pods whose processes are there.
type stage struct {
	*testing.T
	tree   *cgroup.Tree
	top    cgroup.Group
	layout cgroup.Layout
	dir    string
	queue  *runqueue.Meter
	policy *v1alpha1.ColocationPolicy
	pods   []*corev1.Pod
	events []string
	told   map[string]int // in how many looks who was to stand still
	stood  map[string]int // and did; who is starved of CPU has none to freeze by, and runs as little
	v1     bool           // processes are in v1 hierarchies only, where there are any
}

func newStage(t *testing.T) *stage {
	t.Helper()
	if testing.Short() {
		t.Skip("a search takes minutes")
	}
	cannot := func(err error) {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if os.Geteuid() != 0 {
		cannot(errors.New("cgroups belong to root"))
	}
	tree, err := cgroup.Open("")
	if err != nil {
		cannot(err)
	}
	sweep(tree)
	s := &stage{T: t, tree: tree, top: cgroup.Group(fmt.Sprintf("/neap-warden-%d", os.Getpid())), dir: t.TempDir(), told: map[string]int{}, stood: map[string]int{}}
	s.layout = cgroup.Layout{Parent: s.top}
	t.Cleanup(func() {
		s.eventually("the groups are removed", func() error { return tree.Remove(s.top) })
	})
	for _, g := range []cgroup.Group{s.layout.Class(cgroup.BestEffort), s.layout.Class(cgroup.Burstable), s.top.Child("system")} {
		if err := tree.Make(g); err != nil {
			cannot(err)
		}
	}
	// What else runs on this machine shall not decide what online feels.
	s.weigh(s.top, 16*1024)
	if s.queue, err = runqueue.Open(runqueue.Options{}); err != nil {
		cannot(err)
	}
	t.Cleanup(func() {
		if err := s.queue.Close(); err != nil {
			t.Error(err)
		}
	})
	source, why := s.queue.Source()
	t.Logf("cgroup %v, waits by %s %s", tree.Version(), source, why)
	s.policy = &v1alpha1.ColocationPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "night"},
		Spec: v1alpha1.ColocationPolicySpec{
			Mode: v1alpha1.ModeAuto, CPUPercent: 90, MemoryPercent: 100,
			Slack:  v1alpha1.ColocationSlack{RunQueueTargetMicroseconds: 1000, CoolDown: "0s"},
			Ladder: v1alpha1.ColocationLadder{Idle: v1alpha1.IdleAuto, Quota: true, Freeze: true, Attribute: true},
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan error, 1)
	go func() {
		watched <- deadman.Watch(ctx, deadman.Options{Tree: tree, Dir: s.dir, Silence: time.Hour, Kill: func(int) error { return nil }})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-watched; err != nil {
			t.Error(err)
		}
	})
	s.eventually("the deadman listens", func() error {
		line, err := deadman.Dial(s.dir)
		if err == nil {
			err = line.Close()
		}
		return err
	})
	return s
}

// sweep removes the groups of tests that were killed.
func sweep(tree *cgroup.Tree) {
	top, err := tree.Children("/")
	if err != nil {
		return
	}
	for _, g := range top {
		pid, ours := strings.CutPrefix(g.Name(), "neap-warden-")
		if n, err := strconv.Atoi(pid); !ours || err != nil || !errors.Is(syscall.Kill(n, 0), syscall.ESRCH) {
			continue
		}
		for _, class := range []cgroup.QoS{cgroup.BestEffort, cgroup.Burstable} {
			pods, _ := tree.Children(cgroup.Layout{Parent: g}.Class(class))
			for _, p := range pods {
				_ = tree.Set(p, cgroup.Freeze, 0) // who stands still does not end
			}
		}
		_ = tree.Remove(g) // the next test tries again
	}
}

func (s *stage) eventually(what string, ok func() error) {
	s.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("not so after a minute: %s: %v", what, err)
		}
	}
}

func (s *stage) weigh(g cgroup.Group, weight int64) {
	s.Helper()
	if err := s.tree.Set(g, cgroup.Weight, weight); err != nil {
		s.Fatal(err)
	}
}

// group returns a pod's group.
func (s *stage) group(p *corev1.Pod) cgroup.Group {
	class := cgroup.Burstable
	if p.Status.QOSClass == corev1.PodQOSBestEffort {
		class = cgroup.BestEffort
	}
	return s.layout.Pod(class, string(p.UID))
}

// pod makes a pod with a process.
func (s *stage) pod(name string, batch bool, role string) {
	s.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Labels: map[string]string{}, Annotations: map[string]string{}},
		Spec:       corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c"}}},
		Status:     corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, Phase: corev1.PodRunning},
	}
	if batch {
		p.Status.QOSClass = corev1.PodQOSBestEffort
		p.Labels[v1alpha1.LabelClass] = v1alpha1.ClassBatch
		p.Annotations[v1alpha1.AnnotationBatchFreeze] = "10m"
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{v1alpha1.ResourceBatchCPU: resource.MustParse("1000")}
	}
	g := s.group(p).Child("c")
	if err := s.tree.Make(g); err != nil {
		s.Fatal(err)
	}
	s.pods = append(s.pods, p)
	s.start(role, g)
}

// start starts a process in a group.
func (s *stage) start(role string, g cgroup.Group) {
	s.Helper()
	self, err := os.Executable()
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "NEAP_WARDEN_LOAD="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = s.tree.Set(g.Parent(), cgroup.Freeze, 0) // who stands still does not end; mostly nobody does
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // which says that it was killed
	})
	if err := s.tree.Move(g, cmd.Process.Pid); err != nil {
		s.Fatal(err)
	}
	if s.v1 && s.tree.Version() == cgroup.V1 && s.tree.Unified() {
		procs := filepath.Join(s.tree.Dir("/"), "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
			s.Fatal(err)
		}
	}
	if _, err := in.Write([]byte{1}); err != nil {
		s.Fatal(err)
	}
}

// files are all files of the groups that a warden may write.
func (s *stage) files() map[string]string {
	s.Helper()
	groups := []cgroup.Group{s.top, s.layout.Pods(), s.layout.Class(cgroup.BestEffort), s.layout.Class(cgroup.Burstable)}
	for _, p := range s.pods {
		groups = append(groups, s.group(p), s.group(p).Child("c"))
	}
	out := map[string]string{}
	for _, g := range groups {
		for hierarchy, files := range map[string][]string{
			"cpu":     {"cpu.idle", "cpu.shares", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us"},
			"memory":  {"memory.limit_in_bytes"},
			"freezer": {"freezer.state"},
			"unified": {"cgroup.freeze"},
			"":        {"cpu.idle", "cpu.weight", "cpu.max", "cpu.max.burst", "memory.max", "memory.high", "cgroup.freeze"},
		} {
			for _, f := range files {
				name := filepath.Join(cgroup.Mount, hierarchy, string(g), f)
				if text, err := os.ReadFile(name); err == nil {
					out[name] = strings.TrimSpace(string(text))
				}
			}
		}
	}
	return out
}

// frozen are the batch pods that are to stand still.
func (s *stage) frozen() []string {
	s.Helper()
	var out []string
	for _, p := range s.pods {
		v, err := s.tree.Get(s.group(p), cgroup.Freeze)
		if err != nil {
			s.Fatal(err)
		}
		if v == 1 {
			out = append(out, p.Name)
		}
	}
	return out
}

// stands tells whether a pod's processes really stand still.
func (s *stage) stands(p *corev1.Pod) bool {
	for _, name := range []string{
		filepath.Join(cgroup.Mount, "freezer", string(s.group(p)), "freezer.state"),
		filepath.Join(s.tree.Dir(s.group(p)), "cgroup.events"),
	} {
		if text, err := os.ReadFile(name); err == nil && (strings.HasPrefix(string(text), "FROZEN") || strings.Contains(string(text), "frozen 1")) {
			return true
		}
	}
	return false
}

// warden returns one that has found nothing yet, and what ends it.
func (s *stage) warden() (w *warden.Warden, end func()) {
	s.Helper()
	feel := slackwatcher.New(slackwatcher.Options{Tree: s.tree, Queue: s.queue})
	w = warden.New(warden.Options{
		Tree: s.tree, Dir: s.dir, Parent: s.top, Signals: feel.Look,
		Evictor: &evictor.Evictor{Client: fake.NewClientBuilder().Build(), Event: func(*corev1.Pod, string, string) {}},
		Event: func(p *corev1.Pod, reason, message string) {
			s.Logf("%s %s: %s", p.Name, reason, message)
			s.events = append(s.events, p.Name+" "+reason)
		},
	})
	end = func() {
		if err := w.Close(); err != nil {
			s.Error(err)
		}
		feel.Close()
	}
	s.Cleanup(end)
	return w, end
}

// rounds has the warden make its rounds until it is done, but no more than most, and
// tells whether it was. In each of them may says who stands still as it should be.
func (s *stage) rounds(w *warden.Warden, most int, may func(frozen []string) bool, done func() bool) bool {
	s.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewQuantity(int64(runtime.NumCPU()), resource.DecimalSI), corev1.ResourceMemory: resource.MustParse("64Gi"),
	}}}
	w.Tell(warden.Look(node, s.pods, []*v1alpha1.ColocationPolicy{s.policy}, nil))
	for range most {
		for _, p := range s.pods {
			if s.stands(p) {
				s.stood[p.Name]++
			}
		}
		w.Round(s.Context())
		frozen := s.frozen()
		if !may(frozen) {
			s.Fatalf("%q stand still", frozen)
		}
		for _, name := range frozen {
			s.told[name]++
		}
		if done() {
			return true
		}
		select {
		case <-s.Context().Done():
			return false
		case <-time.After(pace):
		}
	}
	s.Logf("not after %d rounds; the last report: %+v", most, w.Report())
	return false
}

// found is how often a warden has come to which finding.
func (s *stage) found(w *warden.Warden) map[string]int {
	s.Helper()
	metrics := prometheus.NewPedanticRegistry()
	metrics.MustRegister(w)
	families, err := metrics.Gather()
	if err != nil {
		s.Fatal(err)
	}
	out := map[string]int{}
	for _, f := range families {
		if f.GetName() != "neap_colocation_attributions_total" {
			continue
		}
		for _, m := range f.Metric {
			if n := int(m.GetCounter().GetValue()); n > 0 {
				out[m.Label[0].GetValue()] = n
			}
		}
	}
	return out
}

// asFound fails the test unless all files are as they were and everybody runs.
func (s *stage) asFound(files map[string]string) {
	s.Helper()
	if diff := cmp.Diff(files, s.files()); diff != "" {
		s.Errorf("the files are not as they were found:\n%s", diff)
	}
	for _, p := range s.pods {
		meter, err := s.tree.Meter(s.group(p))
		if err != nil {
			s.Fatal(err)
		}
		before, err := meter.ReadCPU()
		if err != nil {
			s.Fatal(err)
		}
		s.eventually(p.Name+" runs", func() error {
			now, err := meter.ReadCPU()
			if err == nil && now.CPU <= before.CPU {
				err = fmt.Errorf("it has used %v of CPU in its life", now.CPU)
			}
			return err
		})
		if err := meter.Close(); err != nil {
			s.Error(err)
		}
	}
}

// TestTheCulpritIsNamedOnTheKernel: of three batch pods one competes with an online
// service at full weight. By what the service's threads wait for a CPU its name is
// found out, and it is frozen; in the end all is as it was.
func TestTheCulpritIsNamedOnTheKernel(t *testing.T) {
	s := newStage(t)
	// Neither idle nor a quota holds batch back, and its class weighs more than
	// online's: as someone may have set a machine up.
	s.policy.Spec.Ladder.Idle, s.policy.Spec.Ladder.Quota = v1alpha1.IdleNever, false
	s.weigh(s.layout.Class(cgroup.BestEffort), 4096)
	s.pod("web", false, "serve")
	s.pod("asleep", true, "doze")
	s.pod("busy", true, "burn")
	s.pod("calm", true, "doze")
	files := s.files()

	// 1. It is found. The attribution forgives one pause that did not help; a machine
	// on which more go wrong may try again.
	var w *warden.Warden
	var end func()
	for try := 1; ; try++ {
		w, end = s.warden()
		s.rounds(w, 300, func(frozen []string) bool { return len(frozen) <= 1 && !slices.Contains(frozen, "web") }, func() bool {
			found := s.found(w)
			return found["culprit"] > 0 || found["cleared"] == 3 || found["undecided"] > 0
		})
		found := s.found(w)
		t.Logf("try %d: %v; who stood still: %v", try, found, s.stood)
		if found["culprit"] > 0 {
			break
		}
		if end(); try == 3 {
			t.Fatal("the culprit is not found")
		}
		s.asFound(files)
	}
	named := slices.DeleteFunc(slices.Clone(s.events), func(e string) bool { return !strings.HasSuffix(e, " BatchCulprit") })
	if !slices.Equal(named, []string{"busy BatchCulprit"}) {
		t.Errorf("%q", named)
	}
	if s.stood["busy"] == 0 || s.stood["web"] != 0 {
		t.Errorf("who stood still: %v", s.stood)
	}
	if frozen := s.frozen(); len(frozen) > 0 {
		t.Errorf("the search is over, and %q stand still", frozen)
	}

	// 2. The ladder goes on with it alone.
	only := func(frozen []string) bool { return len(frozen) == 0 || slices.Equal(frozen, []string{"busy"}) }
	if !s.rounds(w, 100, only, func() bool { return slices.Contains(s.events, "busy BatchFrozen") }) {
		t.Errorf("it is not frozen; the events are %q", s.events)
	}
	if why := w.Report().Colocation.Why; !strings.Contains(why, "default/busy is what ") {
		t.Errorf("why is %q", why)
	}

	// 3. Everything is given back.
	end()
	s.asFound(files)
}

// TestNobodyIsNamedOnTheKernelForWhatAnotherDoes: an online service suffers from a
// process that is no pod's, and batch, held back as ever, does not matter.
func TestNobodyIsNamedOnTheKernelForWhatAnotherDoes(t *testing.T) {
	s := newStage(t)
	s.v1 = true                                   // so that both ways to freeze are tried, where there are two
	s.weigh(s.layout.Class(cgroup.BestEffort), 2) // as the kubelet does
	s.weigh(s.top.Child("system"), 4096)
	s.start("burn", s.top.Child("system"))
	s.pod("web", false, "serve")
	s.pod("asleep", true, "doze")
	s.pod("busy", true, "burn")
	s.pod("calm", true, "doze")
	files := s.files()

	w, end := s.warden()
	if !s.rounds(w, 500, func(frozen []string) bool { return len(frozen) <= 1 && !slices.Contains(frozen, "web") }, func() bool {
		found := s.found(w)
		return found["culprit"] > 0 || found["cleared"] == 3 || found["undecided"] > 0
	}) {
		t.Error("the search does not end")
	}
	found := s.found(w)
	t.Logf("%v; who was to stand still: %v; who did: %v", found, s.told, s.stood)
	if found["culprit"] > 0 || slices.ContainsFunc(s.events, func(e string) bool { return strings.HasSuffix(e, " BatchCulprit") }) {
		t.Errorf("it was none of them: %q", s.events)
	}
	if len(s.told) == 0 {
		t.Error("nobody was to stand still")
	}
	if frozen := s.frozen(); len(frozen) > 0 {
		t.Errorf("the search is over, and %q stand still", frozen)
	}
	end()
	s.asFound(files)
}
