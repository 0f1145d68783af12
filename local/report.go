package local

import (
	"context"
	"fmt"
	"time"

	"github.com/neap-dev/neap/core/bill"
)

// A Report is what a day brought so far.
type Report struct {
	Scenario   string    `json:"scenario"`
	Simulated  bool      `json:"simulated"` // always true: no real machine is behind the figures
	RealSeries bool      `json:"realSeries"`
	Speed      float64   `json:"speed"`
	From       time.Time `json:"from"`
	To         time.Time `json:"to"`

	Bill      bill.Report  `json:"bill"`
	Hours     []ReportHour `json:"hours"` // oldest first; the last may be shorter
	Decisions int          `json:"decisions"`
	Quality   Quality      `json:"quality"`

	StartupSeconds float64 `json:"startupSeconds"` // wall time until the day began to pass
	WallSeconds    float64 `json:"wallSeconds"`
	// BehindSeconds is how much of the day the physics had not done at the end.
	BehindSeconds float64 `json:"behindSeconds"`
}

// A ReportHour is the bill of one hour.
type ReportHour struct {
	From      time.Time `json:"from"`
	To        time.Time `json:"to"`
	BillNano  int64     `json:"billNano"`
	Machines  int       `json:"machines"` // serverless pods among them
	Pods      int       `json:"pods"`
	Estimated bool      `json:"estimated"` // use of some pods was not measured all the time
}

// A Quality counts modules by whether they kept their targets in every hour.
type Quality struct {
	Met     int `json:"met"`
	Broken  int `json:"broken"`
	Unknown int `json:"unknown"`
}

// report sums up the day from its first moment to now, or to its end. What is not
// closed yet of it is closed provisionally.
func (u *up) report() (*Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	from, to := u.day.Start(), u.day.Now()
	if end := u.live.until; !end.IsZero() && to.After(end) {
		to = end
	}
	r := &Report{
		Scenario: u.o.Scenario.Name, Simulated: true, RealSeries: u.o.Scenario.RealSeries, Speed: u.o.Speed,
		From: from, To: to, StartupSeconds: u.startup, BehindSeconds: u.fleet.Behind().Seconds(),
	}
	facts, err := u.store.Facts(ctx, from.Truncate(time.Hour), to)
	if err != nil {
		return nil, err
	}
	closed := from
	if n := len(facts); n > 0 {
		closed = facts[n-1].To
	}
	if closed.Before(to) {
		last, err := u.control.Biller.Between(ctx, closed, to)
		if err != nil {
			return nil, fmt.Errorf("close the last hour: %w", err)
		}
		facts = append(facts, last...)
	}
	features, err := u.store.Features(ctx)
	if err != nil {
		return nil, err
	}
	if r.Bill, err = bill.Summarise(facts, bill.ByModule, features); err != nil {
		return nil, err
	}
	for i := range facts {
		f := &facts[i]
		h := ReportHour{From: f.From, To: f.To, Machines: len(f.Machines), Pods: len(f.Pods)}
		for j := range f.Machines {
			h.BillNano += int64(f.Machines[j].Bill.Sum())
		}
		for j := range f.Pods {
			h.Estimated = h.Estimated || f.Pods[j].EstimatedMillis > 100
		}
		r.Hours = append(r.Hours, h)
	}
	decisions, err := u.store.Decisions(ctx, from, to)
	if err != nil {
		return nil, err
	}
	r.Decisions = len(decisions)
	for _, l := range r.Bill.Lines {
		switch l.Quality {
		case "met":
			r.Quality.Met++
		case "broken":
			r.Quality.Broken++
		default:
			r.Quality.Unknown++
		}
	}
	return r, nil
}
