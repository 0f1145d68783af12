package psi

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want Pressure
		fail bool
	}{
		"a file of the kernel": {"some avg10=92.04 avg60=88.17 avg300=72.18 total=22986002926\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n",
			Pressure{Line{0.9204, 0.8817, 0.7218, 22986002926 * time.Microsecond}, Line{0, 0, 0.001, 7 * time.Microsecond}}, false},
		"an old kernel has no full line for CPU":  {"some avg10=1.00 avg60=0.00 avg300=0.00 total=1\n", Pressure{Some: Line{Avg10: 0.01, Total: time.Microsecond}}, false},
		"words of a later kernel are passed over": {"some avg10=1.00 avg60=0.00 avg300=0.00 total=1 new=x\nirq a=b\n", Pressure{Some: Line{Avg10: 0.01, Total: time.Microsecond}}, false},
		"nothing":                      {"", Pressure{}, true},
		"a word without a value":       {"some avg10 total=1\n", Pressure{}, true},
		"no percentage":                {"some avg10=x.00 total=1\n", Pressure{}, true},
		"a total beyond every machine": {"some avg10=0.00 total=99999999999999999999\n", Pressure{}, true},
		"a negative total":             {"some avg10=0.00 total=-1\n", Pressure{}, true},
	} {
		got, err := Parse([]byte(tc.text))
		if (err != nil) != tc.fail || (!tc.fail && !near(got, tc.want)) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tc.want)
		}
	}
}

func near(a, b Pressure) bool {
	line := func(a, b Line) bool {
		d := func(x, y float64) bool { return x-y < 1e-9 && y-x < 1e-9 }
		return d(a.Avg10, b.Avg10) && d(a.Avg60, b.Avg60) && d(a.Avg300, b.Avg300) && a.Total == b.Total
	}
	return line(a.Some, b.Some) && line(a.Full, b.Full)
}

// FuzzParse: whatever a file holds, shares are not negative, nor are sums.
func FuzzParse(f *testing.F) {
	f.Add([]byte("some avg10=92.04 avg60=88.17 avg300=72.18 total=22986002926\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n"))
	f.Add([]byte("some avg10=.. total=1"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err == nil && (p.Some.Avg10 < 0 || p.Some.Total < 0 || p.Full.Avg300 < 0 || p.Full.Total < 0) {
			t.Errorf("%q is %+v", text, p)
		}
	})
}

func TestAFileIsReadAgainWithoutGarbage(t *testing.T) {
	name := filepath.Join(t.TempDir(), "cpu.pressure")
	if err := os.WriteFile(name, []byte("some avg10=1.50 avg60=0.00 avg300=0.00 total=5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if n := testing.AllocsPerRun(100, func() {
		if p, err := f.Read(); err != nil || p.Some.Total != 5*time.Microsecond {
			t.Fatal(p, err)
		}
	}); n > 0 {
		t.Errorf("a reading makes %v objects", n)
	}
	if _, err := Open(name + "x"); !errors.Is(err, ErrGone) {
		t.Errorf("a file that is not there: %v", err)
	}
}

// kernel opens this machine's pressure of the CPU, which some kernels do not have.
func kernel(t *testing.T) string {
	t.Helper()
	const name = "/proc/pressure/cpu"
	f, err := Open(name)
	if err == nil {
		defer f.Close()
		_, err = f.Read()
	}
	if err != nil {
		t.Skip(err) // not a missing privilege: the kernel was started without
	}
	return name
}

func TestTriggers(t *testing.T) {
	name := kernel(t)
	tr, err := Arm(name, Threshold{Stall: time.Millisecond, Window: 2 * time.Second})
	if errors.Is(err, os.ErrPermission) && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := tr.Wait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait on a machine that may be quiet: %v", err)
	}

	// More processes than CPUs must wait for one another.
	for range runtime.NumCPU() + 1 {
		spin := exec.Command("sh", "-c", "while :; do :; done")
		if err := spin.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { spin.Process.Kill(); spin.Wait() }()
	}
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := tr.Wait(ctx); err != nil {
		t.Errorf("wait on a busy machine: %v", err)
	}
}

func TestTriggersThatCannotBe(t *testing.T) {
	name := kernel(t)
	if _, err := Arm(name, Threshold{Stall: time.Second, Window: time.Millisecond}); err == nil {
		t.Error("a window of a millisecond was armed")
	}
	if _, err := Arm(filepath.Join(t.TempDir(), "none"), Threshold{Stall: time.Second, Window: 2 * time.Second}); !errors.Is(err, ErrGone) {
		t.Errorf("a file that is not there: %v", err)
	}
}
