package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// windowHelp is the part of a help text that explains windows.
const windowHelp = `Windows and times:
  2026-03-02T18:00:00Z   an instant; without Z or an offset it is UTC
  2026-03-02             the start of a day (UTC); as a window, that whole day
  2026-03                as a window, that whole month (UTC)
  -48h, -2d, -1w         so long before now
  now, today, yesterday  days are UTC; as windows, today ends now
  START/END              a window from one instant to another
  START/DURATION         a window that long, such as -48h/24h or 2026-03-02/7d

On a store, "now" is the end of its last closed hour, and windows are whole
hours, for that is what it keeps.`

// A span is a window of time, From included, To not.
type span struct{ From, To time.Time }

// parseWindow reads a window as windowHelp describes it. now is the present,
// for relative times.
func parseWindow(s string, now time.Time) (span, error) {
	text := strings.TrimSpace(s)
	start, end, both := strings.Cut(text, "/")
	if !both {
		w, ok := wholeWindow(text, now)
		if !ok {
			return span{}, fmt.Errorf("%q is not a window; give START/END, START/DURATION, yesterday, or a day such as 2026-03-02", s)
		}
		return checkSpan(s, w)
	}
	from, err := parseInstant(start, now)
	if err != nil {
		return span{}, fmt.Errorf("window %q: %w", s, err)
	}
	if d, ok := parseDuration(end); ok && !strings.HasPrefix(end, "-") {
		return checkSpan(s, span{from, from.Add(d)})
	}
	to, err := parseInstant(end, now)
	if err != nil {
		return span{}, fmt.Errorf("window %q: %w", s, err)
	}
	return checkSpan(s, span{from, to})
}

func checkSpan(s string, w span) (span, error) {
	if !w.From.Before(w.To) {
		return span{}, fmt.Errorf("window %q ends at %s, which is not after its start %s", s, stamp(w.To), stamp(w.From))
	}
	return w, nil
}

// wholeWindow reads a window that is one word.
func wholeWindow(s string, now time.Time) (span, bool) {
	day := now.UTC().Truncate(24 * time.Hour)
	switch s {
	case "today":
		return span{day, now}, true
	case "yesterday":
		return span{day.AddDate(0, 0, -1), day}, true
	}
	if t, err := time.ParseInLocation("2006-01-02", s, time.UTC); err == nil {
		return span{t, t.AddDate(0, 0, 1)}, true
	}
	if t, err := time.ParseInLocation("2006-01", s, time.UTC); err == nil {
		return span{t, t.AddDate(0, 1, 0)}, true
	}
	if d, ok := parseDuration(s); ok && d < 0 {
		return span{now.Add(d), now}, true
	}
	return span{}, false
}

// parseInstant reads one end of a window.
func parseInstant(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	day := now.UTC().Truncate(24 * time.Hour)
	switch s {
	case "now":
		return now, nil
	case "today":
		return day, nil
	case "yesterday":
		return day.AddDate(0, 0, -1), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02", "2006-01"} {
		if t, err := time.ParseInLocation(layout, s, time.UTC); err == nil {
			return t.UTC(), nil
		}
	}
	if d, ok := parseDuration(s); ok && d < 0 {
		return now.Add(d), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time; give one such as 2026-03-02T18:00Z, 2026-03-02, -48h, yesterday or now", s)
}

// parseDuration reads Go's durations, and whole days and weeks as 2d and 1w.
func parseDuration(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if digits, ok := strings.CutSuffix(s, suffix); ok {
			n, err := strconv.ParseInt(digits, 10, 32)
			if err == nil && time.Duration(n)*unit/unit == time.Duration(n) {
				return time.Duration(n) * unit, true
			}
		}
	}
	d, err := time.ParseDuration(s)
	return d, err == nil
}

// stamp writes an instant as people read it, in UTC.
func stamp(t time.Time) string {
	t = t.UTC()
	if t.Second() == 0 && t.Nanosecond() == 0 {
		return t.Format("2006-01-02 15:04")
	}
	return t.Format("2006-01-02 15:04:05")
}
