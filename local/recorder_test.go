package local

import (
	"io"
	"testing"
	"time"

	"github.com/neap-dev/neap/metrics"
)

func TestPartsOfTheControllersTellBesideEachOther(t *testing.T) {
	dir := t.TempDir()
	m, err := metrics.Open(dir, metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	begin := time.Date(2026, 9, 16, 0, 0, 0, 0, time.UTC)
	tell := func(r *recorder, minute int, text string) {
		t.Helper()
		err := r.record(begin.Add(time.Duration(minute)*time.Minute), func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return err
		})
		if err != nil {
			t.Errorf("minute %d, %s: %v", minute, r.part, err)
		}
	}
	want := func(minute int, query string, want ...float64) {
		t.Helper()
		found, err := m.Instant(t.Context(), query, begin.Add(time.Duration(minute)*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		var got []float64
		for _, s := range found {
			got = append(got, s.Points[0].V)
		}
		if len(got) != len(want) || len(got) > 0 && got[0] != want[0] {
			t.Errorf("minute %d: %s is %v, want %v", minute, query, got, want)
		}
	}

	// Two parts decide in the same moments, in either order; one has little to tell.
	lends, scales := newRecorder("colocator", m), newRecorder("scaler", m)
	tell(lends, 0, "lent 1\n")
	tell(scales, 0, "scaled 7\n")
	tell(scales, 1, "")
	tell(lends, 1, "lent 2\n")
	want(0, "lent", 1)
	want(1, "lent", 2)
	want(0, "scaled", 7)
	want(1, "scaled") // it ended

	// The day stands still: a moment is told once.
	tell(lends, 1, "lent 3\n")
	want(1, "lent", 2)

	// The day goes on in another process, from the very moment at which it stopped.
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if m, err = metrics.Open(dir, metrics.EmbeddedOptions{}); err != nil {
		t.Fatal(err)
	}
	lends = newRecorder("colocator", m)
	tell(lends, 1, "lent 4\n")
	tell(lends, 2, "lent 5\n")
	want(1, "lent", 2)
	want(2, "lent", 5)
}
