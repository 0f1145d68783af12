package evictor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/neap-dev/neap/core/colocate"
)

// started is an evictor as a process begins with it: the machine is of a boot and up
// for so long.
func started(file, boot string, up time.Duration, answer func() error) *Evictor {
	return &Evictor{
		File: file, Event: func(*corev1.Pod, string, string) {}, boot: func() (string, time.Duration) { return boot, up },
		Client: fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
			SubResourceCreate: func(context.Context, client.Client, string, client.Object, client.Object, ...client.SubResourceCreateOption) error {
				return answer()
			},
		}).Build(),
	}
}

func fine() error { return nil }

// evict asks for one pod.
func evict(t *testing.T, e *Evictor, at time.Time) error {
	t.Helper()
	_, err := e.Evict(t.Context(), []Candidate{candidate("one", time.Hour)}, colocate.Room{CPUMilli: 1000}, at, 2, time.Second, "it is needed")
	return err
}

func TestARestartForgetsNoEviction(t *testing.T) {
	const up = 40 * time.Hour
	for name, tc := range map[string]struct {
		boot     string
		up       time.Duration // of the machine when the agent starts again
		clock    time.Duration // that has passed by the clock
		wantWait time.Duration // until one more may be evicted
	}{
		"ten minutes later":                        {"a", up + 10*time.Minute, 10 * time.Minute, 50 * time.Minute},
		"an hour later":                            {"a", up + time.Hour, time.Hour, 0},
		"the clock was set forward":                {"a", up + 10*time.Minute, 24 * time.Hour, 50 * time.Minute},
		"the clock was set back":                   {"a", up + 10*time.Minute, -24 * time.Hour, 50 * time.Minute},
		"the machine was booted":                   {"b", time.Minute, 10 * time.Minute, 50 * time.Minute},
		"it was booted an hour later":              {"b", time.Minute, time.Hour, 0},
		"it was booted and its clock was set back": {"b", time.Minute, -24 * time.Hour, time.Hour},
		"nobody tells one boot from another":       {"", 0, 10 * time.Minute, 50 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "neap", "evictions.json")
			before := started(file, "a", up, fine)
			for range 2 {
				if err := evict(t, before, now); err != nil {
					t.Fatal(err)
				}
			}
			after := started(file, tc.boot, tc.up, fine)
			if wait, ok := after.May(now.Add(tc.clock), 2); wait != tc.wantWait || ok != (tc.wantWait == 0) {
				t.Errorf("the next may be in %v (%v), want %v", wait, ok, tc.wantWait)
			}
			st, err := os.Stat(file)
			if err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("the file is %v, %v", st, err)
			}
		})
	}
}

func TestOnDiskIsWhatWasAskedFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "evictions.json")
	left := func() int {
		e, n := started(file, "a", time.Hour, fine), int64(0)
		for n < 3 {
			if _, ok := e.May(now, n+1); ok {
				break
			}
			n++
		}
		return int(n)
	}
	// While the API server is asked, it is on disk: a kill there forgets nothing.
	e := started(file, "a", time.Hour, func() error {
		if n := left(); n != 1 {
			t.Errorf("while the first is asked for, %d are on disk", n)
		}
		return nil
	})
	if err := evict(t, e, now); err != nil {
		t.Fatal(err)
	}
	e.Client = started(file, "a", time.Hour, func() error { return apierrors.NewTooManyRequests("a budget", 1) }).Client
	if err := evict(t, e, now); err == nil {
		t.Error("the refusal is not told")
	}
	if n := left(); n != 1 {
		t.Errorf("with one that was refused, %d are on disk, want 1", n)
	}
}

func TestAFileThatIsNoneIsToldAndForgotten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "evictions.json")
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := started(file, "a", time.Hour, fine)
	if err := evict(t, e, now); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "begins anew") {
		t.Errorf("it is told as %v", err)
	}
	if err := evict(t, e, now); err != nil {
		t.Errorf("and again: %v", err)
	}
	if err := evict(t, started(file, "a", time.Hour, fine), now); err == nil {
		t.Error("the third within the hour was made")
	}
}
