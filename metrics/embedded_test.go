package metrics_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/metrics/metricstest"
)

func open(t *testing.T, dir string, opts metrics.EmbeddedOptions) *metrics.Embedded {
	t.Helper()
	e, err := metrics.Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func filled(t *testing.T) *metrics.Embedded {
	t.Helper()
	e := open(t, t.TempDir(), metrics.EmbeddedOptions{Lookback: time.Minute})
	metricstest.Fill(t, e)
	return e
}

func TestEmbeddedIsASource(t *testing.T) { metricstest.Run(t, filled(t)) }

func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error is not one line: %q", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func up(v float64) []metrics.Sample {
	return []metrics.Sample{{Labels: map[string]string{"__name__": "up"}, V: v}}
}

func count(t *testing.T, s metrics.Source, query string, at time.Time) int {
	t.Helper()
	got, err := s.Instant(t.Context(), query, at)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, s := range got {
		n += len(s.Points)
	}
	return n
}

func TestAppend(t *testing.T) {
	t0 := metricstest.Start
	t.Run("a late sample within the window is taken", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		for _, d := range []time.Duration{0, 30 * time.Minute, 10 * time.Minute, 20 * time.Minute} {
			if err := e.Append(t.Context(), t0.Add(d), up(1)); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(t, e, `up[1h]`, t0.Add(31*time.Minute)); n != 4 {
			t.Errorf("got %d points, want 4", n)
		}
	})
	t.Run("a clock that steps back by more is named, and nothing recorded is lost", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{OutOfOrder: time.Minute})
		if err := e.Append(t.Context(), t0, up(1)); err != nil {
			t.Fatal(err)
		}
		err := e.Append(t.Context(), t0.Add(-3*time.Hour), up(1))
		wantError(t, err, "1 samples at 2026-03-04 14:00:00Z", "up to 2026-03-04 17:00:00Z", "clock stepped back", "gap")
		var refused *metrics.RefusedError
		if !errors.As(err, &refused) || refused.Count != 1 {
			t.Errorf("error is %#v", err)
		}
		if err := e.Append(t.Context(), t0.Add(time.Minute), up(1)); err != nil {
			t.Errorf("after the clock caught up: %v", err)
		}
		if n := count(t, e, `up[1h]`, t0.Add(time.Minute)); n != 2 {
			t.Errorf("got %d points, want 2", n)
		}
	})
	t.Run("another value for a recorded time is named", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		if err := e.Append(t.Context(), t0, up(1)); err != nil {
			t.Fatal(err)
		}
		if err := e.Append(t.Context(), t0, up(1)); err != nil {
			t.Errorf("the same value twice: %v", err)
		}
		wantError(t, e.Append(t.Context(), t0, up(2)), "other values are recorded")
	})
	t.Run("a series without a name is refused whole", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		wantError(t, e.Append(t.Context(), t0, append(up(1), metrics.Sample{Labels: map[string]string{"a": "b"}})), "has no name")
		if n := count(t, e, `up`, t0); n != 0 {
			t.Errorf("got %d points, want none", n)
		}
	})
	t.Run("a series that ended is not seen any more", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		h := metrics.NewHandle(map[string]string{"__name__": "up"})
		if err := e.Append(t.Context(), t0, []metrics.Sample{{Handle: h, V: 1}}); err != nil {
			t.Fatal(err)
		}
		if err := e.End(t.Context(), t0.Add(time.Second), []*metrics.Handle{h}); err != nil {
			t.Fatal(err)
		}
		if n := count(t, e, `up`, t0.Add(2*time.Second)); n != 0 {
			t.Errorf("got %d points, want none", n)
		}
	})
	t.Run("a closed one says so", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		wantError(t, e.Append(t.Context(), t0, up(1)), "closed")
	})
}

func TestAppendText(t *testing.T) {
	t0 := metricstest.Start
	const text = `# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{namespace="school",module="api",code="200"} 1027 1395066363000
http_requests_total{namespace="school",module="api",code="500"} 3
# TYPE http_request_duration_seconds histogram
http_request_duration_seconds_bucket{le="0.1"} 5
http_request_duration_seconds_bucket{le="+Inf"} 8
http_request_duration_seconds_sum 2.5
http_request_duration_seconds_count 8
`
	t.Run("lines are recorded at the caller's time with the extra labels", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		if err := e.AppendText(t.Context(), t0, strings.NewReader(text), map[string]string{"node": "n1"}); err != nil {
			t.Fatal(err)
		}
		if n := count(t, e, `{node="n1"}`, t0); n != 6 {
			t.Errorf("got %d series, want 6", n)
		}
		if n := count(t, e, `http_requests_total{code="200"} == 1027`, t0); n != 1 {
			t.Errorf("the value is not there")
		}
	})
	t.Run("a series that the target no longer shows ends", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		for i, s := range []string{"a 1\nb 1\n", "a 2\n", "a 3\nb 3\n"} {
			if err := e.AppendText(t.Context(), t0.Add(time.Duration(i)*time.Second), strings.NewReader(s), nil); err != nil {
				t.Fatal(err)
			}
		}
		for i, want := range []int{1, 0, 1} {
			if n := count(t, e, `b`, t0.Add(time.Duration(i)*time.Second)); n != want {
				t.Errorf("second %d: got %d points, want %d", i, n, want)
			}
		}
	})
	t.Run("nonsense is refused whole", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		err := e.AppendText(t.Context(), t0, strings.NewReader("good 1\n<html>not metrics</html>\n"), nil)
		wantError(t, err, "not in Prometheus' text format", "nothing of it was recorded")
		if n := count(t, e, `good`, t0); n != 0 {
			t.Errorf("got %d points, want none", n)
		}
	})
}

func TestOpen(t *testing.T) {
	t0 := metricstest.Start
	t.Run("what was recorded is there again", func(t *testing.T) {
		dir := t.TempDir()
		e := open(t, dir, metrics.EmbeddedOptions{})
		if err := e.Append(t.Context(), t0, up(1)); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		e = open(t, dir, metrics.EmbeddedOptions{})
		if n := count(t, e, `up`, t0); n != 1 {
			t.Errorf("got %d points, want 1", n)
		}
		if got, ok := e.Newest(); !ok || !got.Equal(t0) {
			t.Errorf("newest is %v, want %v", got, t0)
		}
	})
	t.Run("a second writer is told about the first", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir, metrics.EmbeddedOptions{})
		_, err := metrics.Open(dir, metrics.EmbeddedOptions{})
		wantError(t, err, dir, "another process has it open", "use another directory")
		if !errors.Is(err, metrics.ErrLocked) {
			t.Errorf("error is not ErrLocked: %v", err)
		}
	})
	t.Run("a torn log is cut off at the last whole record", func(t *testing.T) {
		dir := t.TempDir()
		e := open(t, dir, metrics.EmbeddedOptions{})
		for i := range 100 {
			if err := e.Append(t.Context(), t0.Add(time.Duration(i)*time.Second), up(float64(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		segment := filepath.Join(dir, "wal", "00000000")
		b, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		for i := len(b) / 2; i < len(b)/2+64; i++ {
			b[i] ^= 0xff
		}
		if err := os.WriteFile(segment, b, 0o600); err != nil {
			t.Fatal(err)
		}
		e = open(t, dir, metrics.EmbeddedOptions{})
		if n := count(t, e, `up[2m]`, t0.Add(100*time.Second)); n == 0 || n > 100 {
			t.Errorf("got %d points, want those before the tear", n)
		}
		if err := e.Append(t.Context(), t0.Add(200*time.Second), up(1)); err != nil {
			t.Errorf("recording does not go on: %v", err)
		}
	})
	t.Run("a block that cannot be read is set aside and named", func(t *testing.T) {
		dir := t.TempDir()
		e := open(t, dir, metrics.EmbeddedOptions{})
		for d := time.Duration(0); d <= 7*time.Hour; d += time.Minute {
			if err := e.Append(t.Context(), t0.Add(d), up(1)); err != nil {
				t.Fatal(err)
			}
		}
		deadline := time.Now().Add(time.Minute)
		var blocks []string
		for len(blocks) == 0 {
			if time.Now().After(deadline) {
				t.Fatal("no block was written")
			}
			blocks, _ = filepath.Glob(filepath.Join(dir, "01"+strings.Repeat("?", 24), "index"))
			time.Sleep(20 * time.Millisecond)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		blocks, _ = filepath.Glob(filepath.Join(dir, "01"+strings.Repeat("?", 24), "index"))
		if err := os.WriteFile(blocks[0], []byte("torn"), 0o600); err != nil {
			t.Fatal(err)
		}
		e = open(t, dir, metrics.EmbeddedOptions{})
		if len(e.Damaged()) != 1 {
			t.Errorf("damaged: %v, want one", e.Damaged())
		}
		if n := count(t, e, `up`, t0.Add(7*time.Hour)); n != 1 {
			t.Errorf("the rest is not there")
		}
	})
	t.Run("a path that cannot be a directory is named", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := metrics.Open(filepath.Join(file, "metrics"), metrics.EmbeddedOptions{})
		wantError(t, err, "file", "give a directory")
	})
	t.Run("a disk without room is named before anything breaks", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{MinFree: 1})
		if err := e.Append(t.Context(), t0, up(1)); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		_, err := metrics.Open(dir, metrics.EmbeddedOptions{MinFree: 1 << 60})
		wantError(t, err, dir, "no space left on device", "free some space")
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("error is not ENOSPC: %v", err)
		}
	})
}

// TestKill kills a process while it records, and finds everything there that it
// had said was recorded.
func TestKill(t *testing.T) {
	if dir := os.Getenv("NEAP_TEST_RECORD"); dir != "" {
		record(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
	cmd.Env = append(os.Environ(), "NEAP_TEST_RECORD="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := -1
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if _, err := fmt.Sscanf(lines.Text(), "recorded %d", &said); err == nil && said >= 300 {
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed: its status says so
	if said < 300 {
		t.Fatalf("the process ended at %d", said)
	}
	e := open(t, dir, metrics.EmbeddedOptions{})
	if n := count(t, e, `up[24h]`, metricstest.Start.Add(23*time.Hour)); n < said+1 {
		t.Errorf("found %d points, but %d were recorded", n, said+1)
	}
}

func record(t *testing.T, dir string) {
	e, err := metrics.Open(dir, metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 80_000; i++ {
		if err := e.Append(t.Context(), metricstest.Start.Add(time.Duration(i)*time.Second), up(float64(i))); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("recorded %d\n", i)
	}
}
