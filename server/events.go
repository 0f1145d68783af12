package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
)

const (
	heartbeat    = 15 * time.Second // a silent stream says it is there this often
	retryMillis  = 2000             // how soon a page comes back after a break
	writeTimeout = 10 * time.Second // a page that reads nothing for so long is let go

	// Closing the hour so far costs as much as closing one. It is done so often
	// that it takes a tenth of the time at most, and each of so many ticks at most.
	hourShare = 10
	hourTicks = 3
)

// A provisional is the current hour so far.
type provisional struct {
	span
	Currency        string                    `json:"currency"`
	BillNano        money.Amount              `json:"billNano"`
	AllocatedNano   money.Amount              `json:"allocatedNano"`
	IdleNano        map[bill.Box]money.Amount `json:"idleNano"`
	UnexplainedNano money.Amount              `json:"unexplainedNano"`
	EstimatedNano   money.Amount              `json:"estimatedNano"`
	Guard           guard                     `json:"guard"`
}

// news is what the streams tell, made once a tick for all of them.
type news struct {
	mu     sync.Mutex
	at     time.Time
	events []event

	hour     event         // the last "provisional"
	hourAt   time.Time     // when it was made
	hourCost time.Duration // and how long that took
}

type event struct {
	name string
	data []byte
}

// latest returns the current event of each name. Streams that ask within a tick
// of each other share one look at the cluster.
func (s *Server) latest(ctx context.Context) []event {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	if time.Since(s.news.at) < s.opts.Tick*9/10 {
		return s.news.events
	}
	var events []event
	add := func(name string, v any) event {
		data, err := json.Marshal(v)
		if err != nil {
			return event{}
		}
		events = append(events, event{name, data})
		return events[len(events)-1]
	}
	if s.opts.Live != nil {
		add("status", s.opts.Live.Status())
		n := &s.news
		if start := time.Now(); start.Sub(n.hourAt) < max(hourTicks*s.opts.Tick, hourShare*n.hourCost) {
			if n.hour.name != "" {
				events = append(events, n.hour)
			}
		} else if f, err := s.opts.Live.Provisional(ctx); err != nil {
			add("problem", map[string]string{"error": sentence(err) + "."})
		} else if f.To.After(f.From) {
			if p, err := provisionalOf(f); err != nil {
				add("problem", map[string]string{"error": sentence(err) + "."})
			} else {
				n.hour, n.hourAt, n.hourCost = add("provisional", p), time.Now(), time.Since(start)
			}
		}
	}
	if all, err := s.known(ctx); err == nil {
		add("closed", all)
	}
	if ctx.Err() == nil { // a reader that left must not leave half an answer to others
		s.news.at, s.news.events = time.Now(), events
	}
	return events
}

func provisionalOf(f bill.Facts) (provisional, error) {
	w, err := bill.Rollup(f)
	if err != nil {
		return provisional{}, err
	}
	r, err := bill.SummariseWindow(w, bill.ByModule, nil)
	return provisional{span{f.From.UTC(), f.To.UTC()}, f.Currency, r.BillNano, r.AllocatedNano, r.IdleNano, r.UnexplainedNano, r.EstimatedNano, guardOf(w.Loads)}, err
}

// events answers /api/v1/events: "status" where the day stands, "provisional"
// the hour that runs, "closed" the hours that are closed, each when it changes
// and once at the start.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "30")
		writeError(w, refuse(http.StatusServiceUnavailable, "Too many pages are listening (%d); close one, or reload to see new figures.", s.opts.MaxStreams))
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	send := func(b []byte) bool {
		_ = out.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every writer has one
		_, err := w.Write(b)
		return err == nil && out.Flush() == nil
	}
	if !send(fmt.Appendf(nil, "retry: %d\n\n", retryMillis)) {
		return
	}
	tick := time.NewTicker(s.opts.Tick)
	defer tick.Stop()
	told, spoke := map[string][]byte{}, time.Now()
	for {
		var buf []byte
		for _, e := range s.latest(r.Context()) {
			if !bytes.Equal(told[e.name], e.data) {
				told[e.name] = e.data
				buf = fmt.Appendf(buf, "event: %s\ndata: %s\n\n", e.name, e.data)
			}
		}
		if buf == nil && time.Since(spoke) >= heartbeat {
			buf = []byte(": still here\n\n")
		}
		if buf != nil {
			if !send(buf) {
				return
			}
			spoke = time.Now()
		}
		select {
		case <-r.Context().Done():
			return
		case <-s.stop:
			return
		case <-tick.C:
		}
	}
}
