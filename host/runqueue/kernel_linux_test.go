package runqueue

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The test binary is its own load: as a child it burns one CPU or sleeps and wakes.
func TestMain(m *testing.M) {
	switch os.Getenv("NEAP_RUNQUEUE_CHILD") {
	case "burn":
		die()
		pin()
		for busy := 1; busy != 0; busy |= 1 {
		}
	case "wake":
		die()
		pin()
		for {
			time.Sleep(time.Millisecond)
		}
	}
	os.Exit(m.Run())
}

// die ends this process with its parent.
func die() { unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0) }

// pin keeps this process' threads on the last CPU it may use: threads that come later inherit it.
func pin() {
	var may, one unix.CPUSet
	unix.SchedGetaffinity(0, &may)
	for cpu := 1023; cpu >= 0; cpu-- {
		if may.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		tid, _ := strconv.Atoi(t.Name())
		unix.SchedSetaffinity(tid, &one)
	}
	runtime.GOMAXPROCS(1)
}

// need ends a test that needs something this machine lacks, which CI has.
func need(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: %v", what, err)
	}
	t.Skipf("%s: %v", what, err)
}

// group makes a group of the hierarchy that schedules CPUs, and sweeps those that
// tests left behind which were killed.
func group(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cpu", "tasks")); err == nil {
		root = filepath.Join(root, "cpu")
	}
	left, _ := filepath.Glob(filepath.Join(root, "neap-runqueue-*"))
	for _, dir := range left {
		pid, _ := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[2])
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			os.Remove(filepath.Join(dir, "c"))
			os.Remove(dir)
		}
	}
	dir := filepath.Join(root, fmt.Sprintf("neap-runqueue-%d", os.Getpid()))
	need(t, "a group of its own (needs root)", os.MkdirAll(filepath.Join(dir, "c"), 0o755))
	t.Cleanup(func() {
		for _, d := range []string{filepath.Join(dir, "c"), dir} {
			for range 1000 { // until the kernel has reaped its threads
				if err := os.Remove(d); err == nil || errors.Is(err, os.ErrNotExist) {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	return dir
}

// child starts the test binary as a load inside the container of a group.
func child(t *testing.T, dir, role string) *exec.Cmd {
	t.Helper()
	// The shell puts itself into the group before it becomes the load: no thread of
	// it was ever elsewhere.
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0" && exec "$1"`, filepath.Join(dir, "c", "cgroup.procs"), os.Args[0])
	cmd.Env = append(os.Environ(), "NEAP_RUNQUEUE_CHILD="+role)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func open(t testing.TB, s Source) *Meter {
	t.Helper()
	m, err := Open(Options{Source: s})
	if err != nil {
		if t, ok := t.(*testing.T); ok {
			need(t, "a meter", err)
		}
		t.Skip(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func TestThreadsThatShareOneCPUWait(t *testing.T) {
	for _, source := range []Source{Traced, Sampled} {
		t.Run(string(source), func(t *testing.T) {
			dir, m := group(t), open(t, source)
			if err := m.Watch(dir); err != nil {
				t.Fatal(err)
			}
			child(t, dir, "burn")
			child(t, dir, "burn")
			child(t, dir, "wake")
			var h Histogram
			for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
				if err := m.Read(dir, &h); err != nil {
					t.Fatal(err)
				}
				if h.Waits > 200 && h.Waited > 200*time.Millisecond {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("in a minute three processes on one CPU waited %d times, %v in all", h.Waits, h.Waited)
				}
			}
			t.Logf("%d waits, mean %v, p50 %v, p99 %v", h.Waits, h.Mean(), h.Quantile(0.5), h.Quantile(0.99))
			if h.Quantile(0.99) < 500*time.Microsecond {
				t.Errorf("p99 is %v: less than any slice", h.Quantile(0.99))
			}
		})
	}
}

func TestTracedWaitsAddUpToTheKernels(t *testing.T) {
	dir, m := group(t), open(t, Traced)
	if err := m.Watch(dir); err != nil {
		t.Fatal(err)
	}
	loads := []*exec.Cmd{child(t, dir, "burn"), child(t, dir, "burn")}
	// Threads that are stopped do not change: both ways of counting see the same, once
	// the last has left its CPU.
	look := func() (h Histogram, waited time.Duration, runs uint64) {
		for _, c := range loads {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.Process.Pid))
			for _, file := range tasks {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				s, err := parse(data)
				if err != nil {
					t.Fatal(err)
				}
				waited += time.Duration(s.waited)
				runs += s.runs
			}
		}
		if err := m.Read(dir, &h); err != nil {
			t.Fatal(err)
		}
		return h, waited, runs
	}
	stop := func() (Histogram, time.Duration, uint64) {
		for _, c := range loads {
			c.Process.Signal(syscall.SIGSTOP)
		}
		h, waited, runs := look()
		for same := 0; same < 20; same++ {
			time.Sleep(10 * time.Millisecond)
			again, w, r := look()
			if again != h || w != waited || r != runs {
				same = 0
			}
			h, waited, runs = again, w, r
		}
		return h, waited, runs
	}
	wait := func(atLeast time.Duration) {
		var h Histogram
		for end := time.Now().Add(time.Minute); h.Waited < atLeast; time.Sleep(20 * time.Millisecond) {
			if err := m.Read(dir, &h); err != nil {
				t.Fatal(err)
			}
			if time.Now().After(end) {
				t.Fatalf("in a minute two processes on one CPU waited %v", h.Waited)
			}
		}
	}
	wait(100 * time.Millisecond)
	before, kernelBefore, runsBefore := stop()
	for _, c := range loads {
		c.Process.Signal(syscall.SIGCONT)
	}
	wait(before.Waited + 300*time.Millisecond)
	after, kernel, runs := stop()
	h := after.Since(&before)
	var counted uint64
	for _, n := range h.Count {
		counted += n
	}
	if h.Waited != kernel-kernelBefore || h.Waits != runs-runsBefore || counted != h.Waits {
		t.Errorf("the program counted %v in %d waits (%d in buckets), the kernel %v in %d", h.Waited, h.Waits, counted, kernel-kernelBefore, runs-runsBefore)
	}
}

func TestWatchingIsBoundedAndForgets(t *testing.T) {
	dir := group(t)
	m, err := Open(Options{Source: Traced, Groups: 1})
	need(t, "a meter", err)
	defer m.Close()
	if err := m.Watch(dir); err != nil {
		t.Fatal(err)
	}
	inner := filepath.Join(dir, "c")
	if err := m.Watch(inner); !errors.Is(err, ErrFull) {
		t.Errorf("a second group of one gives %v", err)
	}
	m.Forget(dir)
	if err := m.Watch(inner); err != nil {
		t.Errorf("after another was forgotten: %v", err)
	}
	var h Histogram
	os.Remove(inner)
	os.Mkdir(inner, 0o755)
	if err := m.Read(inner, &h); !errors.Is(err, ErrGone) {
		t.Errorf("a group of the same name gives %v", err)
	}
	if err := m.Watch(inner); err != nil {
		t.Error(err)
	}
	if err := m.Read(inner, &h); err != nil {
		t.Error(err)
	}
}

// BenchmarkSwitch has two threads of a watched group on one CPU wake each other:
// what a switch costs with the program and without, and what the kernel says of it.
func BenchmarkSwitch(b *testing.B) {
	for _, how := range []string{"without", "others", "watched"} {
		b.Run(how, func(b *testing.B) {
			var m *Meter
			if how != "without" {
				m = open(b, Traced)
				stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
				if err != nil {
					b.Fatal(err)
				}
				defer stats.Close()
			}
			if how == "watched" {
				own, err := os.ReadFile("/proc/self/cgroup")
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Watch(ownGroup(string(own))); err != nil {
					b.Fatal(err)
				}
			}
			pingPong(b)
			if m != nil {
				runs, took, err := m.reader.(*tracer).cost()
				if err != nil || runs == 0 {
					b.Fatal(err)
				}
				b.ReportMetric(float64(took.Nanoseconds())/float64(runs), "ns/run")
			}
		})
	}
}

// ownGroup returns the directory of the CPU group that /proc/self/cgroup tells.
func ownGroup(lines string) string {
	for line := range strings.Lines(lines) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[1] == "cpu" || f[1] == "cpu,cpuacct" {
			return "/sys/fs/cgroup/" + f[1] + f[2]
		}
	}
	return "/sys/fs/cgroup" + strings.TrimPrefix(strings.TrimSpace(lines), "0::")
}

func pingPong(b *testing.B) {
	var ab, ba [2]int
	unix.Pipe(ab[:])
	unix.Pipe(ba[:])
	var may, one unix.CPUSet
	unix.SchedGetaffinity(0, &may)
	for cpu := range 1024 {
		if may.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	done := make(chan struct{})
	go func() { // the thread ends with its affinity
		defer close(done)
		runtime.LockOSThread()
		unix.SchedSetaffinity(0, &one)
		var c [1]byte
		for range b.N {
			unix.Read(ab[0], c[:])
			unix.Write(ba[1], c[:])
		}
	}()
	b.ResetTimer()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		runtime.LockOSThread()
		unix.SchedSetaffinity(0, &one)
		var c [1]byte
		for range b.N {
			unix.Write(ab[1], c[:])
			unix.Read(ba[0], c[:])
		}
	}()
	<-finished
	<-done
	b.StopTimer()
	for _, fd := range []int{ab[0], ab[1], ba[0], ba[1]} {
		unix.Close(fd)
	}
}
