package runqueue

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
)

// TestIdleGroupsAreNudgedAside has an online thread beside one of an idle group on one
// CPU. It weighs less than the kernel has idle groups weigh, so that it is often the
// other's turn, and waits until the tick ends it; but not where it is nudged.
func TestIdleGroupsAreNudgedAside(t *testing.T) {
	m := open(t, Traced)
	tree, err := cgroup.Open("")
	need(t, "cgroups", err)
	top := cgroup.Group("/" + filepath.Base(group(t)))
	batch, online := top.Child("batch"), top.Child("online")
	for _, g := range []cgroup.Group{batch, online} {
		if err := tree.Make(g.Child("c")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := tree.Remove(g); err != nil {
				t.Error(err)
			}
		})
	}
	dir := filepath.Dir(tree.File(top, cgroup.Weight))
	need(t, "cpu.idle (Linux 5.15)", tree.Set(batch, cgroup.Idle, 1))
	if err := tree.Set(online, cgroup.Weight, 2); err != nil {
		t.Fatal(err)
	}
	if err := m.Watch(filepath.Join(dir, "online")); err != nil {
		t.Fatal(err)
	}
	child(t, filepath.Join(dir, "batch"), "burn")
	child(t, filepath.Join(dir, "online"), "burn")

	wait := func() time.Duration {
		var before, h Histogram
		for end := time.Now().Add(time.Minute); h.Waits < 200; time.Sleep(20 * time.Millisecond) {
			var now Histogram
			if err := m.Read(filepath.Join(dir, "online"), &now); err != nil {
				t.Fatal(err)
			}
			if before.Waits == 0 {
				before = now
			}
			h = now.Since(&before)
			if time.Now().After(end) {
				t.Fatalf("in a minute it waited %d times", h.Waits)
			}
		}
		return h.Mean()
	}
	files := openFiles(t)
	for try := 1; ; try++ { // again where this machine had other things to do
		without := wait()
		n, err := Nudge()
		need(t, "a nudger", err)
		with := wait()
		count := n.Count()
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("it waits %v, and %v with %d nudges", without, with, count)
		if count > 0 && with <= without/2 {
			break
		}
		if try == 10 {
			t.Fatal("ten times it waited as long with nudges")
		}
	}
	if left := openFiles(t); left != files {
		t.Errorf("%d files are open after it, %d before", left, files)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	f, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(f)
}
