package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/neap-dev/neap/core/bill"
)

// A span is a window of whole hours, from inclusive, to exclusive.
type span struct {
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
}

func (w span) hours() int { return int(w.To.Sub(w.From) / time.Hour) }

// maxDetail is the longest window that pages made of single hours show: above
// it an answer has more cells than a screen has pixels.
const maxDetail = 8 * 24 * time.Hour

// known returns the window of all closed hours, or a refusal if there is none.
func (s *Server) known(ctx context.Context) (span, error) {
	hours, err := s.opts.Store.Hours(ctx, time.Time{}, time.Time{})
	if err != nil {
		return span{}, err
	}
	if len(hours) == 0 {
		return span{}, refuse(http.StatusNotFound, "No hour is closed yet; the first figures appear when the current hour ends.")
	}
	return span{hours[0].UTC(), hours[len(hours)-1].UTC().Add(time.Hour)}, nil
}

// window reads the query's from and to; without them it is the last day known.
func (s *Server) window(r *http.Request) (span, error) {
	all, err := s.known(r.Context())
	if err != nil {
		return span{}, err
	}
	to, err := hourParam(r, "to", all.To)
	if err != nil {
		return span{}, err
	}
	from, err := hourParam(r, "from", later(all.From, to.Add(-24*time.Hour)))
	if err != nil {
		return span{}, err
	}
	return span{from, to}, span{from, to}.check("from", "to")
}

func (w span) check(from, to string) error {
	if !w.From.Before(w.To) {
		return refuse(http.StatusBadRequest, "The window is empty: %s (%s) must be before %s (%s).", from, w.From.Format(time.RFC3339), to, w.To.Format(time.RFC3339))
	}
	return nil
}

// windows reads the two windows of a comparison. Without any they are the last
// day and the day before, or the two halves of what is known.
func (s *Server) windows(r *http.Request) (before, after span, err error) {
	all, err := s.known(r.Context())
	if err != nil {
		return before, after, err
	}
	before, after, ok := halves(all)
	q := r.URL.Query()
	given := q.Has("beforeFrom") || q.Has("beforeTo") || q.Has("afterFrom") || q.Has("afterTo")
	if !ok && !given {
		return before, after, refuse(http.StatusNotFound, "Only one hour is closed; a bridge needs two windows of at least an hour each.")
	}
	for name, t := range map[string]*time.Time{"beforeFrom": &before.From, "beforeTo": &before.To, "afterFrom": &after.From, "afterTo": &after.To} {
		if *t, err = hourParam(r, name, *t); err != nil {
			return before, after, err
		}
	}
	if err := before.check("beforeFrom", "beforeTo"); err != nil {
		return before, after, err
	}
	return before, after, after.check("afterFrom", "afterTo")
}

// halves returns the two windows that a bridge is drawn between by default:
// two whole days if there are, else the longest two that adjoin.
func halves(all span) (before, after span, ok bool) {
	n := min(24, all.hours()/2)
	mid := all.To.Add(-time.Duration(n) * time.Hour)
	return span{mid.Add(-time.Duration(n) * time.Hour), mid}, span{mid, all.To}, n > 0
}

func hourParam(r *http.Request, name string, otherwise time.Time) (time.Time, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil || !t.Equal(t.Truncate(time.Hour)) {
		return time.Time{}, refuse(http.StatusBadRequest, "%s is %q; it must be a full hour of UTC such as 2026-03-02T18:00:00Z.", name, v)
	}
	return t.UTC(), nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// each gives the closed hours of a window that is short enough to show hour by
// hour, one at a time, for the facts of a whole day may not fit into memory.
func (s *Server) each(ctx context.Context, w span, do func(i int, f bill.Facts)) error {
	if w.To.Sub(w.From) > maxDetail {
		return refuse(http.StatusBadRequest, "The window has %d hours; this page shows at most %d, so choose a shorter one.", w.hours(), int(maxDetail/time.Hour))
	}
	hours, err := s.opts.Store.Hours(ctx, w.From, w.To)
	if err != nil {
		return err
	}
	if len(hours) == 0 {
		return refuse(http.StatusNotFound, "No hour is closed between %s and %s; choose a window within what is recorded.", w.From.Format(time.RFC3339), w.To.Format(time.RFC3339))
	}
	i := 0
	for _, h := range hours {
		facts, err := s.opts.Store.Facts(ctx, h, h.Add(time.Hour))
		if err != nil {
			return err
		}
		for _, f := range facts {
			do(i, f)
			i++
		}
	}
	return nil
}

// A guard says how the modules' quality guards stood over a window.
type guard struct {
	Met     int          `json:"met"`
	Broken  int          `json:"broken"`
	Unknown int          `json:"unknown"`
	Modules []guardState `json:"modules"` // the broken ones first, then the unknown
}

type guardState struct {
	Module     string `json:"module"`
	State      string `json:"state"` // met, broken or unknown
	MetHours   int    `json:"metHours"`
	KnownHours int    `json:"knownHours"`
}

func guardOf(loads []bill.LoadRow) guard {
	g := guard{Modules: []guardState{}}
	var unknown []guardState
	for _, l := range loads {
		st := guardState{l.Module.String(), "unknown", l.HoursMet, l.HoursGuarded}
		switch {
		case l.HoursGuarded == 0:
			g.Unknown++
			unknown = append(unknown, st)
		case l.HoursMet == l.HoursGuarded:
			g.Met++
		default:
			g.Broken++
			st.State = "broken"
			g.Modules = append(g.Modules, st)
		}
	}
	g.Modules = append(g.Modules, unknown...)
	return g
}

// sum returns the roll-up of a window.
func (s *Server) sum(ctx context.Context, w span) (bill.Window, error) {
	sum, err := s.opts.Store.Window(ctx, w.From, w.To)
	if err != nil {
		return bill.Window{}, err
	}
	if len(sum.Boxes) == 0 && len(sum.Rows) == 0 {
		return bill.Window{}, refuse(http.StatusNotFound, "No hour is closed between %s and %s; choose a window within what is recorded.", w.From.Format(time.RFC3339), w.To.Format(time.RFC3339))
	}
	return sum, nil
}

// guard returns the guards' state over the window.
func (s *Server) guard(ctx context.Context, w span) (guard, error) {
	sum, err := s.opts.Store.Window(ctx, w.From, w.To)
	if err != nil {
		return guard{}, fmt.Errorf("read the guards: %w", err)
	}
	return guardOf(sum.Loads), nil
}
