package runqueue

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// machine is a made /proc and a made group with a container below it.
type machine struct {
	t           *testing.T
	proc, group string
}

func made(t *testing.T) machine {
	m := machine{t, t.TempDir(), filepath.Join(t.TempDir(), "pod1")}
	m.write(filepath.Join(m.proc, "self", "schedstat"), "1 2 3\n")
	m.write(filepath.Join(m.group, "tasks"), "")
	m.write(filepath.Join(m.group, "c1", "tasks"), "7\n8\n")
	return m
}

func (m machine) write(path, text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

func (m machine) thread(tid, schedstat string) {
	m.write(filepath.Join(m.proc, tid, "schedstat"), schedstat)
}

func TestSampledWaitsAreThoseSinceWatching(t *testing.T) {
	m := made(t)
	m.thread("7", "100 5000000 10\n")
	m.thread("8", "0 0 0\n")
	meter, err := Open(Options{Source: Sampled, Proc: m.proc})
	if err != nil {
		t.Fatal(err)
	}
	defer meter.Close()
	if err := meter.Watch(m.group); err != nil {
		t.Fatal(err)
	}
	m.thread("7", "100 7000000 12\n")                           // two waits of 1 ms
	m.write(filepath.Join(m.group, "c1", "tasks"), "7\n8\n9\n") // 9 came, 8 ended
	m.thread("9", "0 300000 1\n")
	os.RemoveAll(filepath.Join(m.proc, "8"))
	var h Histogram
	if err := meter.Read(m.group, &h); err != nil {
		t.Fatal(err)
	}
	if h.Waits != 3 || h.Waited != 2300*time.Microsecond {
		t.Errorf("read %d waits, %v in all; want 3, 2.3 ms", h.Waits, h.Waited)
	}
	m.thread("7", "0 40000 1\n") // another thread has its number
	if err := meter.Read(m.group, &h); err != nil {
		t.Fatal(err)
	}
	if h.Waits != 4 || h.Waited != 2340*time.Microsecond {
		t.Errorf("read %d waits, %v in all; want 4, 2.34 ms", h.Waits, h.Waited)
	}
}

func TestGroupsThatAreNotThereAreSaidSo(t *testing.T) {
	m := made(t)
	meter, err := Open(Options{Source: Sampled, Proc: m.proc})
	if err != nil {
		t.Fatal(err)
	}
	defer meter.Close()
	var h Histogram
	if err := meter.Read(m.group, &h); !errors.Is(err, ErrUnwatched) {
		t.Errorf("reading an unwatched group gives %v", err)
	}
	if err := meter.Watch(filepath.Join(m.group, "none")); !errors.Is(err, ErrGone) {
		t.Errorf("watching no group gives %v", err)
	}
	if err := meter.Watch(m.group); err != nil {
		t.Fatal(err)
	}
	os.RemoveAll(m.group)
	if err := meter.Read(m.group, &h); !errors.Is(err, ErrGone) {
		t.Errorf("reading a group that went gives %v", err)
	}
	meter.Forget(m.group)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("1 2 3\n"))
	f.Add([]byte("-1 18446744073709551616"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parse(data); err != nil && s != (schedstat{}) {
			t.Errorf("%q gives both %+v and %v", data, s, err)
		}
	})
}
