package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/metrics"
)

// history is a source that has one value a minute, and remembers what it was
// asked for.
type history struct {
	series int
	warn   bool
	asked  [][2]time.Time
}

func (h *history) Instant(context.Context, string, time.Time) ([]metrics.Series, error) {
	return nil, errors.New("a replay asks for ranges")
}

func (h *history) Range(_ context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	h.asked = append(h.asked, [2]time.Time{from, to})
	out := make([]metrics.Series, h.series)
	for t := from; !t.After(to); t = t.Add(step) {
		for i := range out {
			out[i].Points = append(out[i].Points, metrics.Point{T: t, V: float64(t.Unix())})
		}
	}
	if h.warn {
		return out, &metrics.PartialError{Source: "here", Query: query, Warnings: []string{"a shard is silent"}}
	}
	return out, nil
}

func TestHistoryIsReadByTheDay(t *testing.T) {
	from := time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC)
	w := span{from, from.Add(60 * time.Hour)}
	h := &history{series: 1, warn: true}
	var said bytes.Buffer
	s, err := historyByDay(t.Context(), h, "load", w, &said)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.asked) != 3 {
		t.Errorf("asked %d times: %v", len(h.asked), h.asked)
	}
	// Both ends are included, and no minute is missing or there twice.
	if len(s.Value) != 60*60+1 || len(s.Notes) != 0 || !s.From.Equal(from) {
		t.Errorf("%d minutes from %v, notes %q", len(s.Value), s.From, s.Notes)
	}
	for i, v := range s.Value {
		if want := float64(from.Unix()) + 60*float64(i); v != want {
			t.Fatalf("minute %d is %v, want %v", i, v, want)
		}
	}
	if strings.Count(said.String(), "a shard is silent") != 1 || !strings.Contains(said.String(), "neap: read 3 of 3 days") {
		t.Errorf("said %q", said.String())
	}

	if _, err := historyByDay(t.Context(), &history{series: 2}, "load", w, &said); err == nil || !strings.Contains(err.Error(), `query "load" gives 2 series on 2026-03-02; a replay is of one, so add them up: sum(…)`) {
		t.Error(err)
	}
	if _, err := historyByDay(t.Context(), &history{}, "load", w, &said); err == nil || !strings.Contains(err.Error(), `query "load" has no points from 2026-03-02 09:30 to 2026-03-04 21:30`) {
		t.Error(err)
	}
}
