package interference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// A Plan is what [Run] measures.
type Plan struct {
	Cells []Cell
	Arms  []Arm // those that the cells name
	// Retries is how often a rejected row is measured again.
	Retries int
	// Path is the file that rows go to, one a line, as they are measured; "" is none.
	Path string
	// Deadline is when to stop: no row begins that would end later. Zero is never.
	Deadline time.Time
}

// Progress is said after each row.
type Progress struct {
	Row       Row
	Done, All int           // cells that are through, of all
	Left      time.Duration // estimated
	TryAgain  bool          // the row was rejected and is measured once more
}

// ErrDeadline is why [Run] stopped before the end of its plan.
var ErrDeadline = errors.New("the time is over")

// overhead is what a row takes besides warm-up and measurement: a quiet second,
// programs that start and end.
const overhead = 1500 * time.Millisecond

// RowTime is how long a row of an arm takes on a quiet machine.
func (h *Harness) RowTime(a Arm) time.Duration {
	return time.Duration(h.options.Seconds*float64(time.Second)) + max(h.options.WarmUp, a.Settle) + overhead
}

// Time is how long a plan's cells take on a quiet machine.
func (h *Harness) Time(p Plan, cells []Cell) time.Duration {
	var all time.Duration
	for _, c := range cells {
		for _, a := range p.Arms {
			if a.Name == c.Arm {
				all += h.RowTime(a)
			}
		}
	}
	return all
}

// Run measures the cells of a plan that rows does not have yet and returns all
// rows, rejected ones too, with their ratios; also when it ends early with an
// error: [ErrDeadline], ctx's, or what went wrong.
func Run(ctx context.Context, h *Harness, p Plan, rows []Row, say func(Progress)) (_ []Row, err error) {
	defer func() { compare(rows) }()
	arms := map[string]Arm{}
	for _, a := range p.Arms {
		arms[a.Name] = a
	}
	var cells []Cell
	for _, c := range p.Cells {
		if _, ok := arms[c.Arm]; !ok {
			return rows, fmt.Errorf("the plan has arm %q and does not say what it is", c.Arm)
		}
		if !slices.ContainsFunc(rows, func(r Row) bool { return r.OK && r.cell() == c }) {
			cells = append(cells, c)
		}
	}
	h.Known(rows)
	if err := h.Calibrate(ctx); err != nil {
		return rows, err
	}
	keep := func(Row) error { return nil }
	if p.Path != "" {
		f, err := openRows(p.Path, h.Head(), rows)
		if err != nil {
			return rows, err
		}
		defer f.Close()
		enc := json.NewEncoder(f)
		keep = func(r Row) error { return enc.Encode(r) }
	}
	cells = soloFirst(cells, rows)
	for i, c := range cells {
		for try := 0; ; try++ {
			if !p.Deadline.IsZero() && time.Now().Add(h.RowTime(arms[c.Arm])).After(p.Deadline) {
				return rows, fmt.Errorf("%w with %d of %d rows to go", ErrDeadline, len(cells)-i, len(p.Cells))
			}
			row, err := h.Measure(ctx, arms[c.Arm], c)
			if err != nil {
				return rows, fmt.Errorf("round %d, arm %s beside %g %% online: %w", c.Round, c.Arm, c.OnlinePercent, err)
			}
			rows = append(rows, row)
			if err := keep(row); err != nil {
				return rows, fmt.Errorf("keep rows in %s: %w; what is in it stays, go on with the same command", p.Path, err)
			}
			again := !row.OK && try < p.Retries
			if say != nil {
				compare(rows)
				through := i
				if !again {
					through++
				}
				say(Progress{Row: rows[len(rows)-1], Done: len(p.Cells) - len(cells) + through, All: len(p.Cells), TryAgain: again,
					Left: h.Time(p, cells[through:])})
			}
			if !again {
				break
			}
		}
	}
	return rows, nil
}

// soloFirst moves the first solo row of a load that has none before the others of
// its round: what the service promises comes from it.
func soloFirst(cells []Cell, rows []Row) []Cell {
	have := map[float64]bool{}
	for _, r := range rows {
		if r.OK && r.Arm == Solo {
			have[r.OnlinePercent] = true
		}
	}
	cells = slices.Clone(cells)
	for i := 0; i < len(cells); i++ {
		load := cells[i].OnlinePercent
		if have[load] {
			continue
		}
		have[load] = true
		for j := i; j < len(cells); j++ {
			if cells[j].OnlinePercent == load && cells[j].Arm == Solo {
				c := cells[j]
				copy(cells[i+1:j+1], cells[i:j])
				cells[i] = c
				break
			}
		}
	}
	return cells
}

// openRows opens a file of rows to append to. A new one, and one whose end was cut
// off, is written anew with what is known.
func openRows(path string, head Head, rows []Row) (*os.File, error) {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	enc := json.NewEncoder(f)
	err = enc.Encode(head)
	for _, r := range rows {
		if err == nil {
			err = enc.Encode(r)
		}
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
