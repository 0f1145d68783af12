package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// each runs a test on both fakes and on this machine.
func each(t *testing.T, test func(t *testing.T, tree *Tree, scope Group)) {
	for _, v := range []Version{V1, V2} {
		t.Run("the fake of "+v.String(), func(t *testing.T) {
			tree := NewFake(v).Tree()
			if err := tree.Make("/kubepods"); err != nil {
				t.Fatal(err)
			}
			test(t, tree, "/kubepods")
		})
	}
	t.Run("this machine", func(t *testing.T) {
		tree, scope := machineTree(t)
		test(t, tree, scope)
	})
}

func open(t *testing.T, tree *Tree, scope Group, dir string) *Ledger {
	t.Helper()
	l, err := OpenLedger(tree, Options{Scope: scope, Dir: dir, Every: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func makeAll(t *testing.T, tree *Tree, groups ...Group) {
	t.Helper()
	for _, g := range groups {
		if err := tree.Make(g); err != nil {
			t.Fatal(err)
		}
	}
}

// state reads what a test compares: every knob that the groups have. What an
// idle group's weight is cannot be read beside a guard.
func state(tree *Tree, groups ...Group) string {
	var text strings.Builder
	for _, g := range groups {
		for _, k := range Knobs {
			if v, err := tree.Get(g, k); err == nil {
				fmt.Fprintf(&text, "%s %s %d\n", g.Name(), k, v)
			}
		}
	}
	return text.String()
}

// wants are one of each kind that both versions have.
func wants(batch, pod Group) []Want {
	return []Want{
		{batch, Idle, 1, "lowest"}, {batch, Quota, 1500, "what online leaves"}, {batch, Burst, 0, "none"},
		{pod, Weight, 512, "half a core asked for"}, {pod, Period, 50000, "short"}, {pod, Quota, 700, "its limit"},
		{pod, Burst, 20000, "saved"}, {pod, MemoryMax, 1 << 30, "its memory"}, {pod, Freeze, 1, "paused"},
	}
}

// disturb sets a group up so that what is found is not the default.
func disturb(t *testing.T, tree *Tree, batch, pod Group) {
	t.Helper()
	makeAll(t, tree, pod)
	for _, w := range []Want{{Group: batch, Knob: Weight, Value: 2}, {Group: batch, Knob: Quota, Value: 1800}, {Group: batch, Knob: Burst, Value: 5000},
		{Group: pod, Knob: Weight, Value: 300}, {Group: pod, Knob: Period, Value: 20000}, {Group: pod, Knob: Quota, Value: 1700},
		{Group: pod, Knob: Burst, Value: 30000}, {Group: pod, Knob: MemoryMax, Value: 2 << 30}} {
		if err := tree.Set(w.Group, w.Knob, w.Value); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFilesAreLeftAsTheyWereFound(t *testing.T) {
	each(t, func(t *testing.T, tree *Tree, scope Group) {
		batch := scope.Child("besteffort")
		pod := batch.Child("pod1")
		disturb(t, tree, batch, pod)
		before, dir := state(tree, batch, pod), t.TempDir()
		ends := map[string]func(l *Ledger) error{
			"closed":   (*Ledger).Close,
			"released": func(l *Ledger) error { return l.Release(batch) },
			"left, then restored": func(l *Ledger) error {
				if err := l.Leave(); err != nil {
					return err
				}
				if v, err := tree.Get(pod, Quota); v != 700 || err != nil {
					t.Errorf("after Leave the quota is %d, %v", v, err)
				}
				if v, err := tree.Get(batch, Idle); v != 0 || err != nil {
					t.Errorf("after Leave idle is %d, %v", v, err)
				}
				return Restore(tree, scope, dir)
			},
			"left, then owned again": func(l *Ledger) error {
				return errors.Join(l.Leave(), open(t, tree, scope, dir).Leave())
			},
		}
		for name, end := range ends {
			l := open(t, tree, scope, dir)
			if err := l.Set(wants(batch, pod)...); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, w := range l.Table() {
				if w.Knob == Weight && w.Group == batch {
					continue
				}
				if got, err := tree.Get(w.Group, w.Knob); err != nil || !tree.same(w.Knob, w.Value, got) {
					t.Errorf("%s: %s of %s is %d, %v; wanted %d", name, w.Knob, w.Group, got, err, w.Value)
				}
			}
			if err := end(l); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			l.Close()
			if after := state(tree, batch, pod); after != before {
				t.Errorf("%s: the files hold\n%s\nthey were found as\n%s", name, after, before)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s: %s is left on disk", name, left[0].Name())
			}
		}
	})
}

// TestAnOwnerThatIsKilledIsUndone kills the owner's process where it stands.
func TestAnOwnerThatIsKilledIsUndone(t *testing.T) {
	tree, scope := machineTree(t)
	batch := scope.Child("besteffort")
	pod := batch.Child("pod1")
	disturb(t, tree, batch, pod)
	before, dir := state(tree, batch, pod), t.TempDir()
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), "NEAP_TEST_OWNER="+dir, "NEAP_TEST_SCOPE="+string(scope))
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	if said := bufio.NewScanner(out); !said.Scan() || said.Text() != "set" {
		t.Fatalf("the owner says %q", said.Text())
	}
	if _, err := OpenLedger(tree, Options{Scope: scope, Dir: t.TempDir()}); !errors.Is(err, ErrOwned) {
		t.Errorf("a second owner: %v", err)
	}
	if err := Restore(tree, scope, dir); !errors.Is(err, ErrOwned) {
		t.Errorf("restore beside a living owner: %v", err)
	}
	owner.Process.Kill()
	owner.Wait()
	if v, err := tree.Get(batch, Idle); v != 1 || err != nil {
		t.Errorf("idle is %d, %v; a dead owner cannot have ended it", v, err)
	}
	if err := Restore(tree, scope, dir); err != nil {
		t.Error(err)
	}
	if after := state(tree, batch, pod); after != before {
		t.Errorf("the files hold\n%s\nthey were found as\n%s", after, before)
	}
}

// owner is the main of the process that is killed.
func owner(dir string, scope Group) {
	tree, err := Open("")
	if err == nil {
		var l *Ledger
		if l, err = OpenLedger(tree, Options{Scope: scope, Dir: dir}); err == nil {
			batch := scope.Child("besteffort")
			err = l.Set(wants(batch, batch.Child("pod1"))...)
		}
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("set")
	select {}
}

func TestWhatOthersWriteIsUndoneAndCounted(t *testing.T) {
	each(t, func(t *testing.T, tree *Tree, scope Group) {
		batch, slice := scope.Child("besteffort"), scope.Child("kubepods-besteffort.slice")
		makeAll(t, tree, batch, slice)
		var mu sync.Mutex
		var told []Foreign
		l, err := OpenLedger(tree, Options{Scope: scope, Dir: t.TempDir(), Foreign: func(f Foreign) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, f)
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if err := l.Set(Want{batch, Quota, 1000, "a core"}, Want{batch, Idle, 1, "lowest"}, Want{slice, Idle, 1, "lowest"}); err != nil {
			t.Fatal(err)
		}
		is := func(g Group, k Knob, want int64) func() bool {
			return func() bool { v, err := tree.Get(g, k); return err == nil && v == want }
		}
		for name, foreign := range map[string]func() error{
			"a quota":                     func() error { return tree.Set(batch, Quota, 400) },
			"a period":                    func() error { return tree.Set(batch, Period, 200000) },
			"idle":                        func() error { return tree.Set(batch, Idle, 0) },
			"systemd's idle and weight":   func() error { return errors.Join(tree.Set(slice, Idle, 0), tree.Set(slice, Weight, 2)) },
			"a quota that is what it was": func() error { return tree.Set(batch, Quota, 1000) },
			"idle that is what it was":    func() error { return tree.Set(slice, Idle, 1) },
			"what is not in the table":    func() error { return tree.Set(slice, Quota, 300) },
		} {
			if err := foreign(); err != nil && !(name == "systemd's idle and weight" && errors.Is(err, ErrRefused)) {
				t.Errorf("%s: %v", name, err) // the ledger may be quicker than systemd's second write
			}
			until(t, name+" is undone", func() bool {
				return is(batch, Quota, 1000)() && is(batch, Idle, 1)() && is(slice, Idle, 1)()
			})
		}
		if !is(slice, Quota, 300)() {
			t.Error("what is nobody's was touched")
		}
		mu.Lock()
		defer mu.Unlock()
		counted := l.ForeignWrites()
		if counted[Quota] < 1 || counted[Idle] < 2 || int64(len(told)) != counted[Quota]+counted[Idle] {
			t.Errorf("counted %v, told %v", counted, told)
		}
	})
}

// TestAnyChangeOfCeilingsIsTaken walks a machine with three levels of groups from
// one valid table of ceilings to another: the order of writes meets no rule.
func TestAnyChangeOfCeilingsIsTaken(t *testing.T) {
	each(t, func(t *testing.T, tree *Tree, scope Group) {
		dice := rand.New(rand.NewPCG(1, 2))
		groups := []Group{scope.Child("a"), scope.Child("a/b"), scope.Child("a/c"), scope.Child("a/b/d")}
		makeAll(t, tree, groups...)
		l := open(t, tree, scope, t.TempDir())
		steps := 400
		if tree.root != "" {
			steps = 60
		}
		for i := range steps {
			limit, all := map[Group]int64{}, []Want{}
			for _, g := range groups {
				most, ok := limit[g.Parent()]
				if !ok {
					most = 4000
				}
				quota := 200 + dice.Int64N(most-199)
				limit[g] = quota
				period := []int64{20000, 50000, 100000}[dice.IntN(3)]
				all = append(all, Want{g, Quota, quota, ""}, Want{g, Burst, dice.Int64N(quota * period / 1000), ""})
				if dice.IntN(2) == 0 {
					all = append(all, Want{g, Period, period, ""})
				} else {
					all[len(all)-1].Value = 0
				}
			}
			dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
			if err := l.Set(all...); err != nil {
				t.Fatalf("change %d: %v: %v", i, all, err)
			}
		}
	})
}

func TestFaults(t *testing.T) {
	batch := Group("/kubepods/besteffort")
	pod := batch.Child("pod1")
	for name, test := range map[string]func(t *testing.T, f *Fake, l *Ledger, dir string){
		"a filesystem mounted read-only is named": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			f.SetReadOnly(true)
			if err := l.Set(Want{batch, Quota, 500, ""}); !errors.Is(err, ErrReadOnly) {
				t.Error(err)
			}
			f.SetReadOnly(false)
		},
		"a kernel without idle is named, and the rest is written": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			f.Without("cpu.idle")
			if err := l.Set(Want{batch, Idle, 1, ""}, Want{batch, Quota, 500, ""}); !errors.Is(err, ErrAbsent) {
				t.Error(err)
			}
			if v, _ := f.Tree().Get(batch, Quota); v != 500 {
				t.Errorf("the quota is %d", v)
			}
		},
		"a kernel without leases is not made idle": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := f.Tree().MayIdle(batch); err != nil {
				t.Errorf("before it may be idle: %v", err)
			}
			f.NoLeases()
			if err := f.Tree().MayIdle(batch); !errors.Is(err, ErrAbsent) {
				t.Errorf("a probe says %v", err)
			}
			if err := l.Set(Want{batch, Idle, 1, ""}); !errors.Is(err, ErrAbsent) {
				t.Error(err)
			}
			if v, _ := f.Tree().Get(batch, Idle); v != 0 {
				t.Error("the group is idle, and nothing keeps a kubelet's write from it")
			}
		},
		"a pod that vanishes is named, and the rest is written": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := l.Set(Want{pod, Weight, 100, ""}, Want{pod, Idle, 1, ""}); err != nil {
				t.Error(err)
			}
			if err := f.Tree().Remove(pod); err != nil {
				t.Error(err)
			}
			if err := l.Set(Want{pod, Weight, 200, ""}, Want{pod, Quota, 300, ""}, Want{batch, Quota, 500, ""}); !errors.Is(err, ErrGone) {
				t.Error(err)
			}
			l.sweep()
			if table := l.Table(); len(table) != 1 || table[0].Group != batch {
				t.Errorf("the table is %v", table)
			}
			if l.yielding() || len(l.guards) > 0 || len(l.names) > 1 {
				t.Errorf("of a pod that is gone the guards %v and the files %v are left", l.guards, l.names)
			}
		},
		"a pod of the same name later is another": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			tree := f.Tree()
			if err := l.Set(Want{pod, Weight, 100, ""}); err != nil {
				t.Error(err)
			}
			if err := errors.Join(tree.Remove(pod), tree.Make(pod), tree.Set(pod, Weight, 50), l.Close()); err != nil {
				t.Error(err)
			}
			if v, _ := tree.Get(pod, Weight); !tree.same(Weight, 50, v) {
				t.Errorf("the new pod's weight is %d", v)
			}
		},
		"a full disk writes nothing that could not be put back": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := l.Set(Want{batch, Quota, 500, ""}); err != nil {
				t.Error(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := l.Set(Want{pod, Quota, 300, ""}, Want{batch, Quota, 400, ""}); !errors.Is(err, ErrDisk) {
				t.Error(err)
			}
			pods, _ := f.Tree().Get(pod, Quota)
			batches, _ := f.Tree().Get(batch, Quota)
			if pods != Unlimited || batches != 400 {
				t.Errorf("the pod has %d, batch has %d; what is on disk already may be written", pods, batches)
			}
		},
		"a frozen pod of another boot is forgotten": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := errors.Join(l.Set(Want{pod, Freeze, 1, ""}), l.Leave()); err != nil {
				t.Error(err)
			}
			f.Reboot()
			tree := f.Tree()
			if err := errors.Join(tree.Make(pod), Restore(tree, "/kubepods", dir)); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s is left", left[0].Name())
			}
		},
		"two owners are refused, whatever their directories": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if _, err := OpenLedger(f.Tree(), Options{Scope: "/kubepods", Dir: t.TempDir()}); !errors.Is(err, ErrOwned) {
				t.Error(err)
			}
		},
		"a group outside the scope is refused": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := l.Set(Want{"/system", Quota, 500, ""}); err == nil {
				t.Error("it was written")
			}
		},
		"a record that is torn is named": func(t *testing.T, f *Fake, l *Ledger, dir string) {
			if err := errors.Join(l.Set(Want{pod, Quota, 300, ""}), l.Leave()); err != nil {
				t.Error(err)
			}
			name := filepath.Join(dir, "cgroups.json")
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
			if err := os.Truncate(name, 20); err != nil {
				t.Error(err)
			}
			if _, err := OpenLedger(f.Tree(), Options{Scope: "/kubepods", Dir: dir}); err == nil || !strings.Contains(err.Error(), name) {
				t.Error(err)
			}
		},
	} {
		for _, v := range []Version{V1, V2} {
			t.Run(name+", "+v.String(), func(t *testing.T) {
				f := NewFake(v)
				makeAll(t, f.Tree(), pod)
				dir := filepath.Join(t.TempDir(), "ledger")
				test(t, f, open(t, f.Tree(), "/kubepods", dir), dir)
			})
		}
	}
}

// TestHeldUpAndLetIn has many write and read an idle group's weight at a time.
func TestHeldUpAndLetIn(t *testing.T) {
	each(t, func(t *testing.T, tree *Tree, scope Group) {
		batch := scope.Child("besteffort")
		makeAll(t, tree, batch)
		l := open(t, tree, scope, t.TempDir())
		if err := l.Set(Want{batch, Idle, 1, ""}); err != nil {
			cannot(t, err)
		}
		write, read := func() error { return tree.Set(batch, Weight, 2) }, func() (int64, error) { return tree.Get(batch, Weight) }
		if f, ok := tree.files.(*Fake); ok {
			file := map[Version]string{V1: "cpu.shares", V2: "cpu.weight"}[f.version]
			write = func() error { return f.Write(batch, file, "2") }
			read = func() (int64, error) {
				text, err := f.Read(batch, file)
				if err != nil {
					return 0, err
				}
				return strconv.ParseInt(text, 10, 64)
			}
		}
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for range 10 {
					if err := write(); err != nil {
						t.Error(err)
					}
					if got, err := read(); err != nil || got == 3 || got == 1 {
						t.Errorf("it reads %d, %v", got, err)
					}
				}
			})
		}
		all.Wait()
		until(t, "idle is on again", func() bool { return l.Holds(batch) })
		if v, err := tree.Get(batch, Idle); v != 1 || err != nil {
			t.Errorf("idle is %d, %v", v, err)
		}
	})
}

func TestNothingIsLeftOpen(t *testing.T) {
	tree, scope := machineTree(t)
	batch := scope.Child("besteffort")
	makeAll(t, tree, batch)
	count := func() int { files, _ := os.ReadDir("/proc/self/fd"); return len(files) }
	dir := t.TempDir()
	round := func(i int) {
		pod := batch.Child("pod" + strconv.Itoa(i))
		makeAll(t, tree, pod)
		l := open(t, tree, scope, dir)
		m, err := tree.Meter(pod)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Set(wants(batch, pod)...); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(tree.Remove(pod)); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Read(); !errors.Is(err, ErrGone) {
			t.Errorf("the meter of a pod that is gone: %v", err)
		}
		if err := errors.Join(m.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	round(0)
	before := count()
	for i := range 20 {
		round(i)
	}
	if after := count(); after > before {
		t.Errorf("%d files are open, before there were %d", after, before)
	}
}
