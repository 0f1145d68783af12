//go:build linux

package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
)

// TestMain is also the main of a kubelet and of an owner: the test runs itself as one.
func TestMain(m *testing.M) {
	if root := os.Getenv("NEAP_TEST_KUBELET"); root != "" {
		kubelet(root, os.Stdin)
		return
	}
	if dir := os.Getenv("NEAP_TEST_OWNER"); dir != "" {
		owner(dir, Group(os.Getenv("NEAP_TEST_SCOPE")))
		return
	}
	os.Exit(m.Run())
}

// kubelet does to the groups of the classes what the kubelet v1.36 does with the
// cgroupfs driver, by the same library (pkg/kubelet/cm/qos_container_manager_linux.go
// and cgroup_manager_linux.go): Start updates the classes and exits with the first
// error; then, for every line it is given, UpdateCgroups as each minute, over a Go
// map, ending at the first error.
func kubelet(root string, minutes io.Reader) {
	// MilliCPUToShares of 100m requested, and one more with each minute.
	const minShares = 2
	burstableShares := uint64(100 * 1024 / 1000)
	update := func(group string, shares uint64) error {
		resources := &cgroups.Resources{SkipDevices: true, SkipFreezeOnSet: true}
		if cgroups.IsCgroup2UnifiedMode() {
			if shares != 0 {
				resources.CpuWeight = uint64(Linear.weight(int64(shares)))
			}
		} else {
			resources.CpuShares = shares
		}
		m, err := manager.New(&cgroups.Cgroup{Path: group, Resources: resources})
		if err != nil {
			return fmt.Errorf("failed to create cgroup manager: %v", err)
		}
		return m.Set(resources)
	}
	each := func(shares map[string]uint64) error {
		for group, s := range shares {
			if err := update(group, s); err != nil {
				return fmt.Errorf("%s: %w", group, err)
			}
		}
		return nil
	}
	burstable, besteffort := root+"/burstable", root+"/besteffort"
	if err := each(map[string]uint64{burstable: 0, besteffort: minShares}); err != nil {
		fmt.Println("exit 1: failed to update top level QOS cgroup:", err)
		return
	}
	fmt.Println("started")
	for lines := bufio.NewScanner(minutes); lines.Scan(); {
		burstableShares++
		if err := each(map[string]uint64{root: 0, burstable: burstableShares, besteffort: minShares}); err != nil {
			fmt.Println("Failed to update QoS cgroup configuration:", err)
			continue
		}
		fmt.Println("updated", burstableShares)
	}
}

// A run is a kubelet's process.
type run struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	said  *bufio.Scanner
}

func startKubelet(t *testing.T, root Group) *run {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "NEAP_TEST_KUBELET="+string(root))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &run{cmd, in, bufio.NewScanner(out)}
}

func (r *run) line() string {
	if !r.said.Scan() {
		return "ended"
	}
	return r.said.Text()
}

func (r *run) minute() string {
	fmt.Fprintln(r.stdin, "minute")
	return r.line()
}

func (r *run) stop() {
	r.stdin.Close()
	r.cmd.Process.Kill()
	r.cmd.Wait()
}

// kubepods makes the kubelet's groups as it leaves them.
func kubepods(t *testing.T, tree *Tree, root Group) (burstable, besteffort Group) {
	t.Helper()
	burstable, besteffort = root.Child("burstable"), root.Child("besteffort")
	for _, g := range []Group{burstable, besteffort} {
		if err := tree.Make(g); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Set(besteffort, Weight, 2); err != nil {
		t.Fatal(err)
	}
	return burstable, besteffort
}

func TestAKubeletFailsOnAnIdleGroupWithoutAnOwner(t *testing.T) {
	tree, scope := machineTree(t)
	root := scope.Child("kubepods")
	_, besteffort := kubepods(t, tree, root)
	if err := tree.Set(besteffort, Idle, 1); err != nil {
		cannot(t, err)
	}
	k := startKubelet(t, root)
	defer k.stop()
	if said := k.line(); !strings.HasPrefix(said, "exit 1") || !strings.Contains(said, "invalid argument") {
		t.Errorf("the kubelet says %q; the trap that this package is about is not there", said)
	}
}

// TestAKubeletLivesWithAnIdleGroup is the bar: 100 restarts and 100 minutes with
// idle on, no failed write of the kubelet's, no lost weight. All the while
// somebody reads the file, as cAdvisor does.
func TestAKubeletLivesWithAnIdleGroup(t *testing.T) {
	tree, scope := machineTree(t)
	root := scope.Child("kubepods")
	burstable, besteffort := kubepods(t, tree, root)
	l, err := OpenLedger(tree, Options{Scope: root, Dir: t.TempDir()})
	if err != nil {
		cannot(t, err)
	}
	defer l.Close()
	if err := l.Set(Want{besteffort, Idle, 1, "batch runs where online leaves CPU"}, Want{besteffort, Quota, 1500, "what online leaves"}); err != nil {
		cannot(t, err)
	}
	idle := func() bool { v, err := tree.Get(besteffort, Idle); return err == nil && v == 1 }
	stop, reads := make(chan struct{}), 0
	defer func() { close(stop); t.Logf("%d reads beside", reads) }()
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
				tree.Get(besteffort, Weight)
				reads++
			}
		}
	}()
	const times = 100
	for i := range times {
		until(t, "idle is on before the kubelet starts", idle)
		k := startKubelet(t, root)
		said, then := k.line(), k.minute()
		k.stop()
		if said != "started" || then != "updated 103" {
			t.Fatalf("restart %d: the kubelet says %q, %q", i, said, then)
		}
	}
	k := startKubelet(t, root)
	defer k.stop()
	if said := k.line(); said != "started" {
		t.Fatalf("the kubelet says %q", said)
	}
	for i := range times {
		until(t, "idle is on before the kubelet's minute", idle)
		want := uint64(103 + i)
		if said := k.minute(); said != "updated "+strconv.FormatUint(want, 10) {
			t.Fatalf("minute %d: the kubelet says %q", i, said)
		}
		if got, err := tree.Get(burstable, Weight); err != nil || !tree.same(Weight, int64(want), got) {
			t.Fatalf("minute %d: burstable has weight %d, %v; the kubelet wrote %d", i, got, err, want)
		}
	}
	until(t, "idle is on at the end", idle)
	if quota, err := tree.Get(besteffort, Quota); err != nil || quota != 1500 {
		t.Errorf("the quota is %d, %v", quota, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	for k, want := range map[Knob]int64{Idle: 0, Weight: 2, Quota: Unlimited} {
		if got, err := tree.Get(besteffort, k); err != nil || !tree.same(k, want, got) {
			t.Errorf("after the end %s is %d, %v; it was found as %d", k, got, err, want)
		}
	}
}
