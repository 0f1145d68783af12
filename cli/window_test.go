package cli

import (
	"strings"
	"testing"
	"time"
)

func TestParseWindow(t *testing.T) {
	now := time.Date(2026, 3, 4, 15, 30, 0, 0, time.UTC)
	at := func(s string) time.Time {
		v, err := time.Parse("2006-01-02T15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	cases := map[string]struct{ from, to string }{
		"yesterday":                         {"2026-03-03T00:00", "2026-03-04T00:00"},
		"today":                             {"2026-03-04T00:00", "2026-03-04T15:30"},
		"2026-02-28":                        {"2026-02-28T00:00", "2026-03-01T00:00"},
		"2026-02":                           {"2026-02-01T00:00", "2026-03-01T00:00"},
		"-24h":                              {"2026-03-03T15:30", "2026-03-04T15:30"},
		"-48h/24h":                          {"2026-03-02T15:30", "2026-03-03T15:30"},
		"-2d/-1d":                           {"2026-03-02T15:30", "2026-03-03T15:30"},
		"-1w/now":                           {"2026-02-25T15:30", "2026-03-04T15:30"},
		"2026-03-02/7d":                     {"2026-03-02T00:00", "2026-03-09T00:00"},
		"2026-03-02T18:00/2026-03-02T22:00": {"2026-03-02T18:00", "2026-03-02T22:00"},
		"2026-03-02T18:00Z/4h":              {"2026-03-02T18:00", "2026-03-02T22:00"},
		"2026-03-02T18:00:00+08:00/4h":      {"2026-03-02T10:00", "2026-03-02T14:00"},
		"yesterday/today":                   {"2026-03-03T00:00", "2026-03-04T00:00"},
	}
	for in, want := range cases {
		t.Run(in, func(t *testing.T) {
			got, err := parseWindow(in, now)
			if err != nil {
				t.Fatal(err)
			}
			if !got.From.Equal(at(want.from)) || !got.To.Equal(at(want.to)) {
				t.Errorf("got %s to %s, want %s to %s", stamp(got.From), stamp(got.To), want.from, want.to)
			}
		})
	}

	for in, want := range map[string]string{
		"":                      "not a window",
		"last week":             "not a window",
		"24h":                   "not a window",
		"2026-03-02/2026-03-02": "not after its start",
		"now/-24h":              "not after its start",
		"monday/24h":            `"monday" is not a time`,
		"2026-03-02/soon":       `"soon" is not a time`,
		"-99999999999w/1h":      "is not a time",
	} {
		t.Run("refuses "+in, func(t *testing.T) {
			if w, err := parseWindow(in, now); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, %v, want an error with %q", w, err, want)
			}
		})
	}
}

func FuzzParseWindow(f *testing.F) {
	now := time.Date(2026, 3, 4, 15, 30, 0, 0, time.UTC)
	for _, s := range []string{"yesterday", "-48h/24h", "2026-03-02/7d", "2026-03-02T18:00:00+08:00/now", "/", "-1w", "9223372036854775807d"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if w, err := parseWindow(s, now); err == nil && !w.From.Before(w.To) {
			t.Errorf("%q is the empty window %v", s, w)
		}
	})
}
