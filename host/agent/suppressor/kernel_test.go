//go:build linux

package suppressor

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/cgroup"
)

// TestOnTheKernel holds a burner to what another one leaves, on this machine.
func TestOnTheKernel(t *testing.T) {
	tree, err := cgroup.Open("/sys/fs/cgroup")
	if err != nil {
		t.Skip(err)
	}
	top := cgroup.Group(fmt.Sprintf("/neap-suppressor-%d", os.Getpid()))
	online, batch := top.Child("online"), top.Child("batch")
	for _, g := range []cgroup.Group{online, batch} {
		if err := tree.Make(g); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	t.Cleanup(func() {
		for range 50 {
			if tree.Remove(top) == nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Errorf("%s is left", top)
	})
	ledger, err := cgroup.OpenLedger(tree, cgroup.Options{Scope: top, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ledger.Close(); err != nil {
			t.Error(err)
		}
	})
	rule := colocate.BudgetRule{CapacityMilli: 2000, Percent: 60, FloorMilli: 50}
	s := New(Options{Tree: tree, Hand: ledger, InForce: -1, Plan: Plan{Pods: top, Batch: batch, Rule: rule, Write: true}})
	t.Cleanup(s.Close)
	burn(t, tree, batch)
	ctx := t.Context()
	go s.Run(ctx, Every)
	wait(t, "a ceiling is written", s, func(st State) bool { return st.Writes > 0 && st.BatchMilli > 0 && st.Err == nil })
	burn(t, tree, online)
	wait(t, "online is seen", s, func(st State) bool { return st.Use.OnlineMilli > 0 })
	st := wait(t, "batch gives way", s, func(st State) bool {
		return st.Ceiling.Milli <= max(rule.FloorMilli, 1200-st.Use.OnlineMilli+100)
	})
	quota, err := tree.Get(batch, cgroup.Quota)
	if err != nil || quota <= 0 || quota > 1200 {
		t.Errorf("the quota is %d, %v; the state %+v", quota, err, st)
	}
}

// wait waits until a state is as it should be.
func wait(t *testing.T, what string, s *Suppressor, ok func(State) bool) State {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if st := s.State(); ok(st) {
			return st
		} else if time.Now().After(end) {
			t.Fatalf("not so after 20 s: %s: %+v", what, st)
		}
	}
}

// burn starts a process in a group that uses a core.
func burn(t *testing.T, tree *cgroup.Tree, g cgroup.Group) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "read go; while :; do :; done")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if err := tree.Move(g, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(in, "go")
}
