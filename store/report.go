package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// compactDays rolls up days that are over, from their hours.
func (s *Store) compactDays(ctx context.Context) error {
	type day struct{ day, hours int64 }
	days, err := collect(ctx, s.w, func(scan func(...any) error) (d day, err error) {
		return d, scan(&d.day, &d.hours)
	}, `SELECT h.hour / 86400 AS utc_day, count(*) AS n FROM hours h LEFT JOIN day_rollups d ON d.day = h.hour / 86400
		WHERE d.day IS NULL GROUP BY utc_day
		HAVING n = 24 OR utc_day < (SELECT max(hour) / 86400 FROM hours) ORDER BY utc_day LIMIT 3`)
	if err != nil {
		return err
	}
	for _, d := range days {
		blobs, err := collect(ctx, s.w, func(scan func(...any) error) (b []byte, err error) {
			return b, scan(&b)
		}, `SELECT data FROM hour_rollups WHERE hour >= ? AND hour < ? ORDER BY hour`, d.day*86400, (d.day+1)*86400)
		if err != nil {
			return err
		}
		w, err := mergeBlobs(blobs)
		if err != nil {
			return err
		}
		blob, err := encodeRollup(&w)
		if err != nil {
			return err
		}
		if err := s.write(ctx, func(tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO day_rollups (day, hours, data) VALUES (?,?,?)`, d.day, d.hours, blob)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// mergeBlobs reads roll-ups, several at a time, and adds them up.
func mergeBlobs(blobs [][]byte) (bill.Window, error) {
	windows := make([]bill.Window, len(blobs))
	workers := min(runtime.GOMAXPROCS(0), 4, len(blobs))
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for n := range workers {
		wg.Go(func() {
			same := interner{}
			for i := n; i < len(blobs) && errs[n] == nil; i += workers {
				windows[i], errs[n] = decodeRollup(blobs[i], same)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return bill.Window{}, fmt.Errorf("%s is %w: %w", dbName, ErrDamaged, err)
	}
	return bill.Merge(windows...)
}

// Window returns the roll-up of the closed hours that start in [from, to); a
// zero time leaves that side open. Its notes name gaps between closed hours,
// with what they may have cost, estimated, and damaged hours.
func (s *Store) Window(ctx context.Context, from, to time.Time) (bill.Window, error) {
	w, err := s.window(ctx, from, to)
	if err != nil {
		return w, s.explain("read the roll-ups", err)
	}
	return w, nil
}

func (s *Store) window(ctx context.Context, from, to time.Time) (w bill.Window, err error) {
	// 1. One transaction sees one state of everything.
	tx, err := s.r.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return w, err
	}
	defer func() {
		if rErr := tx.Rollback(); rErr != nil && !errors.Is(rErr, sql.ErrTxDone) {
			err = errors.Join(err, rErr)
		}
	}()
	hs, err := rows(ctx, tx, from, to)
	if err != nil || len(hs) == 0 {
		return w, err
	}
	notes, err := s.gapNotes(ctx, tx, hs, from, to)
	if err != nil {
		return w, err
	}

	// 2. Days that lie wholly in the window come rolled up, the rest by hours.
	type whole struct {
		hours int
		data  []byte
	}
	first, last := hs[0].hour.Unix()/86400, hs[len(hs)-1].hour.Unix()/86400
	days := map[int64]whole{}
	rs, err := tx.QueryContext(ctx, `SELECT day, hours, data FROM day_rollups WHERE day BETWEEN ? AND ?`, first, last)
	if err != nil {
		return w, err
	}
	for rs.Next() {
		var day int64
		var d whole
		if err := rs.Scan(&day, &d.hours, &d.data); err != nil {
			return w, errors.Join(err, rs.Close())
		}
		days[day] = d
	}
	if err := errors.Join(rs.Err(), rs.Close()); err != nil {
		return w, err
	}
	var blobs [][]byte
	for i := 0; i < len(hs); {
		day := dayOf(hs[i].hour)
		n := i
		for n < len(hs) && dayOf(hs[n].hour) == day {
			n++
		}
		if d, ok := days[day]; ok && d.hours == n-i {
			blobs = append(blobs, d.data)
			i = n
			continue
		}
		for ; i < n; i++ {
			var b []byte
			if err := tx.QueryRowContext(ctx, `SELECT data FROM hour_rollups WHERE hour = ?`, hs[i].hour.Unix()).Scan(&b); err != nil {
				return w, fmt.Errorf("the roll-up of hour %s: %w", hs[i].hour.Format("2006-01-02T15Z"), err)
			}
			blobs = append(blobs, b)
		}
	}

	// 3. Add up.
	if w, err = mergeBlobs(blobs); err != nil {
		return w, err
	}
	w.Notes = append(slices.Clip(w.Notes), notes...)
	return w, nil
}

const maxGapNotes = 10

// gapNotes names the gaps in [from, to) between closed hours and the damaged hours.
func (s *Store) gapNotes(ctx context.Context, q querier, hs []hourRow, from, to time.Time) ([]string, error) {
	// The neighbours outside the window: a gap may reach over its ends.
	var all []hourRow
	beside, err := collect(ctx, q, func(scan func(...any) error) (hourRow, error) { return scanHour(scan) },
		`SELECT * FROM (SELECT `+hourColumns+` FROM hours WHERE hour < ? ORDER BY hour DESC LIMIT 1)
		UNION ALL SELECT * FROM (SELECT `+hourColumns+` FROM hours WHERE hour > ? ORDER BY hour LIMIT 1)`,
		hs[0].hour.Unix(), hs[len(hs)-1].hour.Unix())
	if err != nil {
		return nil, err
	}
	for _, b := range beside {
		if b.hour.Before(hs[0].hour) {
			all = append(all, b)
		}
	}
	all = append(all, hs...)
	for _, b := range beside {
		if b.hour.After(hs[0].hour) {
			all = append(all, b)
		}
	}
	var notes []string
	more := 0
	note := func(text string) {
		if len(notes) == maxGapNotes {
			more++
			return
		}
		notes = append(notes, text)
	}
	for i := range all {
		h := &all[i]
		if i > 0 {
			prev := &all[i-1]
			lo, hi := prev.to, h.from
			if !from.IsZero() && lo.Before(from) {
				lo = from
			}
			if !to.IsZero() && hi.After(to) {
				hi = to
			}
			if lo.Before(hi) {
				note(gapNote(lo, hi, prev, h))
			}
		}
		if h.state == damaged && !h.hour.Before(hs[0].hour) && !h.hour.After(hs[len(hs)-1].hour) {
			note(damageNote(h, h.reason))
		}
	}
	if more > 0 {
		notes = append(notes, fmt.Sprintf("There are %d more gaps.", more))
	}
	return notes, nil
}

func gapNote(lo, hi time.Time, prev, next *hourRow) string {
	const stamp = "2006-01-02 15:04Z"
	text := fmt.Sprintf("Nothing was recorded from %s to %s: a gap, whose cost is not in these figures", lo.Format(stamp), hi.Format(stamp))
	span := prev.to.Sub(prev.from) + next.to.Sub(next.from)
	if prev.currency != next.currency || span <= 0 {
		return text + "."
	}
	about := money.Amount((float64(prev.bill) + float64(next.bill)) / float64(span) * float64(hi.Sub(lo)))
	return fmt.Sprintf("%s; at the rate of the hours beside it, it cost about %.2f %s (estimated).", text, about.Float(), prev.currency)
}

// Report is the bill of the closed hours that start in [from, to), grouped by
// module, namespace, pool, machineType, feature or label:KEY. All but the last
// come from the roll-ups and are equal to bill.Summarise of the facts.
func (s *Store) Report(ctx context.Context, from, to time.Time, by string) (bill.Report, error) {
	if err := bill.CheckBy(by); err != nil {
		return bill.Report{}, err
	}
	w, err := s.Window(ctx, from, to)
	if err != nil {
		return bill.Report{}, err
	}
	if strings.HasPrefix(by, bill.ByLabel) {
		return s.byLabel(ctx, w, from, to, by)
	}
	features, err := s.Features(ctx)
	if err != nil {
		return bill.Report{}, err
	}
	return bill.SummariseWindow(w, by, features)
}

// FactsLost is the key of the line that carries the bill of damaged hours in a
// report by label.
const FactsLost = "(facts damaged)"

// byLabel sums the facts up hour by hour, for roll-ups keep no labels. Totals
// and notes come from the roll-up w.
func (s *Store) byLabel(ctx context.Context, w bill.Window, from, to time.Time, by string) (bill.Report, error) {
	sum, err := bill.SummariseWindow(w, bill.ByPool, nil)
	if err != nil {
		return sum, err
	}
	sum.By, sum.Lines = by, nil
	span := w.To.Sub(w.From)
	lines, ratios := map[string]*bill.Line{}, factors{}
	label := strings.TrimPrefix(by, bill.ByLabel)
	lost := bill.Line{Key: FactsLost, Requests: -1, Quality: "unknown"}
	err = s.EachHour(ctx, from, to, func(f bill.Facts) error {
		if len(f.Machines) == 0 && len(f.Pods) == 0 && len(f.Notes) > 0 {
			hour, err := s.window(ctx, f.From, f.To)
			if err != nil {
				return s.explain("read the roll-ups", err)
			}
			r, err := bill.SummariseWindow(hour, bill.ByPool, nil)
			if err != nil {
				return err
			}
			for _, l := range r.Lines {
				addLine(&lost, &l, f.To.Sub(f.From), span)
			}
			sum.EstimatedNano += r.BillNano - r.EstimatedNano
			return nil
		}
		r, err := bill.Summarise([]bill.Facts{f}, by, nil)
		if err != nil {
			return err
		}
		for i := range r.Lines {
			l := &r.Lines[i]
			have := lines[l.Key]
			if have == nil {
				have = &bill.Line{Key: l.Key, Requests: l.Requests, Quality: l.Quality}
				lines[l.Key] = have
			}
			addLine(have, l, f.To.Sub(f.From), span)
		}
		ratios.addHour(&f, r.Lines, label)
		return nil
	})
	if err != nil {
		return bill.Report{}, err
	}
	if lost.CostNano != 0 {
		lines[FactsLost] = &lost
	}
	for _, l := range lines {
		if l.Key != FactsLost {
			l.Factors = ratios.of(l.Key)
		}
		sum.Lines = append(sum.Lines, *l)
	}
	slices.SortFunc(sum.Lines, func(a, b bill.Line) int {
		if a.CostNano != b.CostNano {
			if a.CostNano > b.CostNano {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Key, b.Key)
	})
	return sum, nil
}

// addLine adds a line of a part of the window to the line of the whole; the
// factors are made of their parts at the end.
func addLine(sum, l *bill.Line, part, span time.Duration) {
	sum.UsedNano += l.UsedNano
	sum.SlackNano += l.SlackNano
	sum.SharedNano += l.SharedNano
	sum.CostNano += l.CostNano
	sum.OpenCostNano += l.OpenCostNano
	if span > 0 {
		sum.Pods += l.Pods * float64(part) / float64(span)
	}
}

// parts are the amounts that a line's factors of one resource are ratios of, in
// NCU-hours, GiB-hours and GPU-hours. They are for showing, so they are floats.
type parts struct {
	use, held, bought float64
	cost              money.Amount
}

// factors are the parts of every label value and resource.
type factors map[string]*[resource.Kinds]parts

func (f factors) at(key string) *[resource.Kinds]parts {
	p := f[key]
	if p == nil {
		p = new([resource.Kinds]parts)
		f[key] = p
	}
	return p
}

// addHour adds what an hour's pods used and held, and what was bought for the
// money of its lines.
func (f factors) addHour(facts *bill.Facts, lines []bill.Line, label string) {
	ratings := make(map[string]float64, len(facts.Machines))
	for i := range facts.Machines {
		m := &facts.Machines[i]
		ratings[m.Name+"\x00"+m.Type] = float64(m.RatingMillis) / 1000
	}
	for i := range facts.Pods {
		p := &facts.Pods[i]
		if p.IsHeadroom {
			continue
		}
		value, ok := p.Labels[label]
		if !ok {
			value = bill.NoLabel
		}
		at := f.at(value)
		for k := range at {
			unit := 3600e3
			switch resource.Kind(k) {
			case resource.CPU:
				if r := ratings[p.Machine+"\x00"+p.Type]; r > 0 {
					unit /= r
				}
			case resource.Memory:
				unit = 3600 * 1024
			}
			at[k].use += float64(p.UseSeconds[k]) / unit
			at[k].held += float64(p.HeldSeconds[k]) / unit
		}
	}
	for i := range lines {
		at := f.at(lines[i].Key)
		for k := range at {
			l := lines[i].Factors[resource.Kind(k).String()]
			at[k].cost += l.CostNano
			if l.Price > 0 {
				at[k].bought += l.CostNano.Float() / l.Price
			}
		}
	}
}

// of returns the factors of one line.
func (f factors) of(key string) map[string]bill.Factors {
	var out map[string]bill.Factors
	for k, p := range f.at(key) {
		if p.cost == 0 && p.held == 0 {
			continue
		}
		n := bill.Factors{Load: -1, Need: p.use, CostNano: p.cost}
		if p.use > 0 {
			n.Slack = p.held / p.use
		}
		if p.held > 0 {
			n.Match = p.bought / p.held
		}
		if p.bought > 0 {
			n.Price = p.cost.Float() / p.bought
		}
		if out == nil {
			out = map[string]bill.Factors{}
		}
		out[resource.Kind(k).String()] = n
	}
	return out
}
