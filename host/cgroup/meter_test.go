package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/neap-dev/neap/host/psi"
)

func TestMeters(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		f := NewFake(v)
		tree := f.Tree()
		makeAll(t, tree, "/kubepods")
		want := Use{CPU: 90 * time.Second, Throttled: time.Second, Periods: 700, Exhausted: 3, Memory: 1 << 30, Working: 1 << 29}
		f.SetUse("/kubepods", want)
		m, err := tree.Meter("/kubepods")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := m.Read(); err != nil || got != want {
			t.Errorf("%v: %+v, %v; want %+v", v, got, err, want)
		}
		pressure := psi.Pressure{Some: psi.Line{Avg10: 0.25, Total: time.Minute}}
		f.SetPressure("/kubepods", psi.CPU, pressure)
		if got, err := tree.Pressure("/kubepods", psi.CPU); err != nil || got != pressure {
			t.Errorf("%v: %+v, %v", v, got, err)
		}
		f.Without("cpu.pressure")
		if _, err := tree.Pressure("/kubepods", psi.CPU); !errors.Is(err, psi.ErrDisabled) {
			t.Errorf("%v: without PSI: %v", v, err)
		}
		if _, err := tree.Meter("/none"); !errors.Is(err, ErrGone) {
			t.Errorf("%v: the meter of no group: %v", v, err)
		}
	}
}

// TestMetersOfThisMachine has a process spin in a group of its own.
func TestMetersOfThisMachine(t *testing.T) {
	tree, scope := machineTree(t)
	g := scope.Child("besteffort")
	makeAll(t, tree, g)
	spin := exec.Command("sh", "-c", "while :; do :; done")
	if err := spin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		spin.Process.Kill()
		spin.Wait()
		until(t, "the group is empty", func() bool { pids, _ := tree.Processes(g); return len(pids) == 0 })
	}()
	if err := tree.Move(g, spin.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if pids, err := tree.Processes(g); err != nil || len(pids) != 1 || pids[0] != spin.Process.Pid {
		t.Errorf("the group has %v, %v", pids, err)
	}
	m, err := tree.Meter(scope)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	until(t, "it uses CPU, which its parent counts", func() bool { u, err := m.Read(); return err == nil && u.CPU > 20*time.Millisecond })
	if err := tree.Set(g, Quota, 50); err != nil {
		t.Fatal(err)
	}
	inner, err := tree.Meter(g)
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	until(t, "its quota runs out", func() bool {
		u, err := inner.Read()
		return err == nil && u.Exhausted > 0 && u.Exhausted <= u.Periods && u.Throttled > 0
	})
	if err := tree.Set(g, Freeze, 1); err != nil {
		t.Fatal(err)
	}
	if v, err := tree.Get(g, Freeze); v != 1 || err != nil {
		t.Errorf("frozen it reads %d, %v", v, err)
	}
	if err := tree.Set(g, Freeze, 0); err != nil {
		t.Fatal(err)
	}
	before, _ := m.ReadCPU()
	until(t, "it runs again", func() bool { u, err := m.ReadCPU(); return err == nil && u.CPU > before.CPU })
	if id, err := tree.ID(g); err != nil || id == 0 {
		t.Errorf("its id is %d, %v", id, err)
	}
	if p, err := tree.Pressure(g, psi.CPU); err != nil && !errors.Is(err, psi.ErrDisabled) {
		t.Errorf("its pressure is %+v, %v", p, err)
	}
}

// TestThawingKnowsBothFreezers: a group is frozen while it is empty, and its first
// process comes; and one is frozen whose last process goes.
func TestThawingKnowsBothFreezers(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		f := NewFake(v)
		tree := f.Tree()
		makeAll(t, tree, "/pod", "/elsewhere")
		for _, turn := range [][]Group{{"/pod", "/elsewhere"}, {"/elsewhere", "/pod"}} {
			if err := errors.Join(tree.Move(turn[1], 1), tree.Set("/pod", Freeze, 1), tree.Move(turn[0], 1), tree.Set("/pod", Freeze, 0)); err != nil {
				t.Error(v, err)
			}
			for _, g := range turn {
				if err := tree.Move(g, 1); err != nil {
					t.Error(v, err)
				}
				if is, err := tree.Get("/pod", Freeze); err != nil || is != 0 {
					t.Errorf("%v: with its process in %s the pod's freezer reads %d, %v", v, g, is, err)
				}
			}
		}
	}
}

// TestAFrozenEmptyGroupOfThisMachineIsThawed has a process come into a group that is
// frozen.
func TestAFrozenEmptyGroupOfThisMachineIsThawed(t *testing.T) {
	tree, scope := machineTree(t)
	g := scope.Child("pod")
	makeAll(t, tree, g)
	if err := tree.Set(g, Freeze, 1); err != nil {
		t.Fatal(err)
	}
	spin := exec.Command("sh", "-c", "while :; do :; done")
	if err := spin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		spin.Process.Kill()
		spin.Wait()
		until(t, "the group is empty", func() bool { pids, _ := tree.Processes(g); return len(pids) == 0 })
	}()
	if err := errors.Join(tree.Move(g, spin.Process.Pid), tree.Set(g, Freeze, 0)); err != nil {
		t.Fatal(err)
	}
	m, err := tree.Meter(g)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	before, _ := m.ReadCPU()
	until(t, "it runs", func() bool { u, err := m.ReadCPU(); return err == nil && u.CPU > before.CPU })
}

func TestMetersMakeNoGarbage(t *testing.T) {
	tree, scope := machineTree(t)
	m, err := tree.Meter(scope)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := m.Read(); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("a reading makes %v objects", n)
	}
}

// BenchmarkMeters reads the meters of a full machine once: 217 pods.
func BenchmarkMeters(b *testing.B) {
	tree, err := Open("")
	if err != nil {
		b.Skip(err)
	}
	scope := Group("/neap-cgroup-" + strconv.Itoa(os.Getpid()) + "-bench")
	defer tree.Remove(scope)
	var meters []*Meter
	for i := range 217 {
		g := scope.Child("pod" + strconv.Itoa(i))
		if err := tree.Make(g); err != nil {
			b.Skip(err)
		}
		m, err := tree.Meter(g)
		if err != nil {
			b.Fatal(err)
		}
		defer m.Close()
		meters = append(meters, m)
	}
	for name, read := range map[string]func(*Meter) (Use, error){"cpu": (*Meter).ReadCPU, "all": (*Meter).Read} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				for _, m := range meters {
					if _, err := read(m); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
