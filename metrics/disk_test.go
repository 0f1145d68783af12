package metrics_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/metrics/metricstest"
)

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting a small disk needs root")
		}
		t.Skip("mounting a small disk needs root")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=80m"); err != nil {
		t.Skipf("this machine lets nobody mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(disk, "metrics")
	e := open(t, dir, metrics.EmbeddedOptions{})
	t0 := metricstest.Start
	if err := e.Append(t.Context(), t0, up(1)); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, e.Append(t.Context(), t0.Add(time.Second), up(2)), "record metrics in "+dir, "no space left on device", "free some space", "gap")
	wantError(t, e.AppendText(t.Context(), t0.Add(time.Second), strings.NewReader("up 2\n"), nil), "no space left on device")
	if n := count(t, e, `up[1h]`, t0.Add(time.Minute)); n != 1 {
		t.Errorf("%d points are there, want the one that was recorded", n)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := e.Append(t.Context(), t0.Add(2*time.Second), up(3)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// BenchmarkAppend records what 10,000 pods show in one scrape.
func BenchmarkAppend(b *testing.B) {
	e, err := metrics.Open(b.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	samples := make([]metrics.Sample, 20_000)
	for i := range samples {
		name := metrics.CPUSeconds
		if i%2 == 1 {
			name = metrics.MemoryBytes
		}
		samples[i].Handle = metrics.NewHandle(map[string]string{"__name__": name, "namespace": fmt.Sprint("ns", i%40),
			"pod": fmt.Sprintf("pod-%05d", i/2), "container": "app", "node": fmt.Sprint("node-", i%500)})
	}
	at := metricstest.Start
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(15 * time.Second)
		for i := range samples {
			samples[i].V++
		}
		if err := e.Append(b.Context(), at, samples); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(samples)), "samples/op")
}

// BenchmarkAppendText does the same from Prometheus' text format.
func BenchmarkAppendText(b *testing.B) {
	e, err := metrics.Open(b.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "%s{namespace=\"ns%d\",pod=\"pod-%05d\",container=\"app\",node=\"node-%d\"} %d.5\n", metrics.CPUSeconds, i%40, i, i%500, i)
	}
	at := metricstest.Start
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(15 * time.Second)
		if err := e.AppendText(b.Context(), at, strings.NewReader(text.String()), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(20_000, "samples/op")
}
