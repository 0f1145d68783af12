package autoscale

import (
	"context"
	"math"
	"path/filepath"
	"strings"
	"sync"

	"github.com/neap-dev/neap/core/money"
)

// A Row is how one policy did on one series with one start time. Figures that do
// not exist, such as the coverage of a policy without a forecast, are null.
type Row struct {
	Series       string   `json:"series"`
	Policy       string   `json:"policy"`
	StartMinutes int      `json:"startMinutes"`
	UnderPercent float64  `json:"underPercent"`        // of the minutes
	UnmetPercent float64  `json:"unmetPercent"`        // of the demand
	CostRatio    float64  `json:"costRatio"`           // pod-minutes ÷ ideal
	Coverage90   *float64 `json:"coverage90"`          // share of forecasts whose 90 % band held the demand, 0 to 1
	Pinball      *float64 `json:"pinball"`             // mean pinball loss ÷ mean demand
	Periodic     bool     `json:"periodic"`            // ever called so
	CostNano     *int64   `json:"costNano,omitempty"`  // of the test's minutes, where a price is given
	IdealNano    *int64   `json:"idealNano,omitempty"` // likewise, of the ideal
	Minutes      int      `json:"-"`                   // of the test whose demand is known
}

// A Matrix is every policy on every workload with every start time.
type Matrix struct {
	Workloads []*Workload
	Starts    []int // minutes
	Policies  []string
	Price     money.Amount // of a pod for an hour; 0: none
	Workers   int          // runs at once; at least 1
	// Done, if set, is called after each row, one call at a time.
	Done func(done, of int, r Row)
}

// Run replays the matrix. Rows come by workload, start and policy.
func (x *Matrix) Run(ctx context.Context) ([]Row, error) {
	type job struct {
		w      *Workload
		start  int
		policy string
	}
	var jobs []job
	for _, w := range x.Workloads {
		for _, s := range x.Starts {
			for _, p := range x.Policies {
				jobs = append(jobs, job{w, s, p})
			}
		}
	}
	var (
		rows  = make([]Row, len(jobs))
		errs  = make([]error, len(jobs))
		next  = make(chan int)
		wg    sync.WaitGroup
		mu    sync.Mutex
		ready = 0
	)
	for range max(x.Workers, 1) {
		wg.Go(func() {
			for i := range next {
				j := jobs[i]
				p, err := NewPolicy(j.policy, j.w)
				if err == nil {
					var r Result
					r, err = Replay(ctx, j.w, p, Options{StartMinutes: j.start})
					rows[i] = NewRow(j.w.Name, j.policy, j.start, r, x.Price)
				}
				if errs[i] = err; err == nil && x.Done != nil {
					mu.Lock()
					ready++
					x.Done(ready, len(jobs), rows[i])
					mu.Unlock()
				}
			}
		})
	}
	for i := range jobs {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// NewRow is the row of a result; price is of a pod for an hour, or 0.
func NewRow(series, policy string, start int, r Result, price money.Amount) Row {
	row := Row{Series: series, Policy: policy, StartMinutes: start, UnderPercent: r.UnderPercent, UnmetPercent: r.UnmetPercent,
		CostRatio: r.CostRatio, Periodic: r.Periodic, Minutes: r.Minutes}
	if r.Forecasts > 0 {
		covered := r.Coverage90 / 100
		row.Coverage90, row.Pinball = &covered, &r.Pinball
	}
	if price > 0 {
		cost, ideal := int64(math.Round(r.PodMinutes*float64(price)/60)), int64(math.Round(r.IdealMinutes*float64(price)/60))
		row.CostNano, row.IdealNano = &cost, &ideal
	}
	return row
}

// Names calls the series of several files by the files' names without folder and
// ending where these differ, and by their paths otherwise.
func Names(paths []string) []string {
	names, seen := make([]string, len(paths)), map[string]int{}
	for i, p := range paths {
		base := filepath.Base(p)
		names[i] = strings.TrimSuffix(base, filepath.Ext(base))
		seen[names[i]]++
	}
	for i, n := range names {
		if seen[n] > 1 {
			names[i] = paths[i]
		}
	}
	return names
}

// Means returns the mean over the series for each start and policy, in the order
// of the rows, where there are several series. Coverage and pinball are the means
// of the rows that have them.
func Means(rows []Row) []Row {
	type key struct {
		policy string
		start  int
	}
	var order []key
	of := map[key][]Row{}
	for _, r := range rows {
		k := key{r.Policy, r.StartMinutes}
		if of[k] == nil {
			order = append(order, k)
		}
		of[k] = append(of[k], r)
	}
	var means []Row
	for _, k := range order {
		group := of[k]
		if len(group) < 2 {
			continue
		}
		n := float64(len(group))
		m := Row{Series: "mean", Policy: k.policy, StartMinutes: k.start}
		var coverage, pinball, judged float64
		var cost, ideal int64
		for _, r := range group {
			m.UnderPercent += r.UnderPercent / n
			m.UnmetPercent += r.UnmetPercent / n
			m.CostRatio += r.CostRatio / n
			m.Minutes += r.Minutes / len(group)
			if r.Coverage90 != nil {
				coverage, pinball, judged = coverage+*r.Coverage90, pinball+*r.Pinball, judged+1
			}
			if r.CostNano != nil {
				cost, ideal = cost+*r.CostNano/int64(len(group)), ideal+*r.IdealNano/int64(len(group))
			}
		}
		if judged > 0 {
			coverage, pinball = coverage/judged, pinball/judged
			m.Coverage90, m.Pinball = &coverage, &pinball
		}
		if group[0].CostNano != nil {
			m.CostNano, m.IdealNano = &cost, &ideal
		}
		means = append(means, m)
	}
	return means
}
