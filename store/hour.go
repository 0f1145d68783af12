package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
)

// A part is one file of an hour, as SQLite knows it.
type part struct {
	Name   string `json:"name"` // relative to the store, with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// States of an hour.
const (
	whole    = "whole"    // its files are in place
	renaming = "renaming" // its files are durable; some may still have their temporary name
	damaged  = "damaged"  // its files were not what was written, and are set aside
)

const temporary = ".new" // ends the name of a file until its hour is recorded

// partName is the path of one of an hour's files, relative to the store.
func partName(hour time.Time, part string) string {
	return hour.UTC().Format("facts/2006/01/02/15.") + part + ".parquet"
}

// WriteHour records the facts of a closed hour, in place of earlier ones of the
// same hour of UTC. When it returns nil they are durable; when it fails, what
// was recorded of the hour before is untouched.
func (s *Store) WriteHour(ctx context.Context, f bill.Facts) error {
	hour := f.From.UTC().Truncate(time.Hour)
	if !f.From.Before(f.To) || f.To.Sub(hour) > time.Hour {
		return fmt.Errorf("record the facts from %s to %s: they are not of one hour; close each hour of UTC on its own",
			f.From.UTC().Format(time.RFC3339Nano), f.To.UTC().Format(time.RFC3339Nano))
	}
	op := "record the hour " + hour.Format("2006-01-02T15Z")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.w == nil {
		return s.explain(op, ErrReadOnly)
	}

	// 1. Roll up, and refuse facts that contradict themselves.
	window, err := bill.Rollup(f)
	if err != nil {
		return s.explain(op, err)
	}
	report, err := bill.SummariseWindow(window, bill.ByPool, nil)
	if err != nil {
		return s.explain(op, err)
	}
	if report.UnexplainedNano != 0 {
		return fmt.Errorf("%s: %d nano-units of its bill are unexplained, so it is not recorded; this is a fault of neap, please report it", op, report.UnexplainedNano)
	}
	rollup, err := encodeRollup(&window)
	if err != nil {
		return s.explain(op, err)
	}
	files, err := encodeHour(&f)
	if err != nil {
		return s.explain(op, err)
	}

	// 2. Write the files beside the old ones, durably. If the old ones still have
	// their temporary names, they get theirs first.
	old, err := s.row(ctx, hour)
	if err == nil && old != nil && old.state == renaming {
		err = s.placeParts(ctx, hour, old.parts)
	}
	if err != nil {
		return s.explain(op, err)
	}
	parts := make([]part, len(files))
	for i, data := range files {
		sum := sha256.Sum256(data)
		parts[i] = part{partName(hour, partNames[i]), int64(len(data)), hex.EncodeToString(sum[:])}
	}
	if err := s.writeParts(parts, files); err != nil {
		return s.explain(op, errors.Join(err, s.dropTemporary(parts)))
	}

	// 3. Record the hour: from here on it is the new one, whatever happens.
	list, err := json.Marshal(parts)
	if err != nil {
		return s.explain(op, err)
	}
	err = s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO hours (hour, from_ns, to_ns, currency, bill_nano, state, files) VALUES (?,?,?,?,?,?,?)
			ON CONFLICT (hour) DO UPDATE SET from_ns=excluded.from_ns, to_ns=excluded.to_ns, currency=excluded.currency,
			bill_nano=excluded.bill_nano, state=excluded.state, reason='', files=excluded.files`,
			hour.Unix(), f.From.UnixNano(), f.To.UnixNano(), f.Currency, int64(report.BillNano), renaming, string(list)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO hour_rollups (hour, data) VALUES (?,?)`, hour.Unix(), rollup); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM day_rollups WHERE day = ?`, dayOf(hour))
		return err
	})
	if err != nil {
		// A failed commit may have happened all the same: then the temporary files
		// are the hour, and recovery puts them in place.
		if now, sErr := s.row(ctx, hour); sErr != nil || now == nil || !slices.Equal(now.parts, parts) {
			if sErr == nil {
				err = errors.Join(err, s.dropTemporary(parts))
			}
			return s.explain(op, err)
		}
	}

	// 4. Put the files in place. If this fails, reading finds them by their
	// temporary names, and the next start tries again.
	if err := s.placeParts(ctx, hour, parts); err != nil {
		s.log().Warn("files of a recorded hour keep their temporary names for now", "hour", hour, "err", err)
	}
	if err := s.compactDays(ctx); err != nil {
		s.log().Warn("roll-ups of days were not written; reports use those of hours", "err", err)
	}
	return nil
}

func dayOf(hour time.Time) int64 { return hour.Unix() / 86400 }

func (s *Store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

func (s *Store) writeParts(parts []part, files [3][]byte) error {
	dir := filepath.Dir(s.path(parts[0].Name))
	if err := s.step("mkdir", dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for i, p := range parts {
		if err := s.writeFile(s.path(p.Name)+temporary, files[i]); err != nil {
			return err
		}
	}
	// The names, too, up to the store's own directory: a new day has new ones.
	for d := dir; ; d = filepath.Dir(d) {
		if err := syncDir(d); err != nil {
			return err
		}
		if len(d) <= len(s.dir) {
			return nil
		}
	}
}

func (s *Store) writeFile(path string, data []byte) (err error) {
	if err := s.step("write", path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

func syncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

func (s *Store) dropTemporary(parts []part) error {
	var errs []error
	for _, p := range parts {
		if err := os.Remove(s.path(p.Name) + temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// placeParts gives the files of a recorded hour their names and says so.
func (s *Store) placeParts(ctx context.Context, hour time.Time, parts []part) error {
	for _, p := range parts {
		path := s.path(p.Name)
		if err := s.step("rename", path); err != nil {
			return err
		}
		if err := os.Rename(path+temporary, path); err != nil {
			if _, ok := s.readPart(p, ""); ok && errors.Is(err, fs.ErrNotExist) {
				continue // done before a crash
			}
			return err
		}
	}
	if err := syncDir(filepath.Dir(s.path(parts[0].Name))); err != nil {
		return err
	}
	return s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE hours SET state = ? WHERE hour = ? AND state = ?`, whole, hour.Unix(), renaming)
		return err
	})
}

// readPart returns a file if it is, byte for byte, what was written.
func (s *Store) readPart(p part, suffix string) ([]byte, bool) {
	data, err := os.ReadFile(s.path(p.Name) + suffix)
	if err != nil || int64(len(data)) != p.Size {
		return nil, false
	}
	sum := sha256.Sum256(data)
	return data, hex.EncodeToString(sum[:]) == p.SHA256
}

// An hourRow is what SQLite knows of an hour.
type hourRow struct {
	hour     time.Time
	from, to time.Time
	currency string
	bill     int64
	state    string
	reason   string
	parts    []part
}

const hourColumns = `hour, from_ns, to_ns, currency, bill_nano, state, reason, files`

func scanHour(scan func(...any) error) (hourRow, error) {
	var h hourRow
	var hour, from, to int64
	var files string
	if err := scan(&hour, &from, &to, &h.currency, &h.bill, &h.state, &h.reason, &files); err != nil {
		return h, err
	}
	h.hour, h.from, h.to = time.Unix(hour, 0).UTC(), instant(from), instant(to)
	if err := json.Unmarshal([]byte(files), &h.parts); err != nil || len(h.parts) != len(partNames) {
		return h, fmt.Errorf("%s is %w: the files of hour %s are not listed", dbName, ErrDamaged, h.hour.Format("2006-01-02T15Z"))
	}
	return h, nil
}

// row returns what is known of the hour, nil if nothing.
func (s *Store) row(ctx context.Context, hour time.Time) (*hourRow, error) {
	h, err := scanHour(s.r.QueryRowContext(ctx, `SELECT `+hourColumns+` FROM hours WHERE hour = ?`, hour.Unix()).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &h, err
}

// bounds turns a window into nanoseconds; a zero time leaves that side open.
func bounds(from, to time.Time) (int64, int64) {
	lo, hi := int64(-1<<63), int64(1<<63-1)
	if !from.IsZero() {
		lo = from.UnixNano()
	}
	if !to.IsZero() {
		hi = to.UnixNano()
	}
	return lo, hi
}

type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func rows(ctx context.Context, q querier, from, to time.Time) ([]hourRow, error) {
	lo, hi := bounds(from, to)
	return collect(ctx, q, func(scan func(...any) error) (hourRow, error) { return scanHour(scan) },
		`SELECT `+hourColumns+` FROM hours WHERE from_ns >= ? AND from_ns < ? ORDER BY hour`, lo, hi)
}

// collect reads every row of a query.
func collect[T any](ctx context.Context, q querier, read func(scan func(...any) error) (T, error), query string, args ...any) (out []T, err error) {
	rs, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rs.Close()) }()
	for rs.Next() {
		v, err := read(rs.Scan)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, rs.Err()
}

// Hours lists the starts of the closed hours in [from, to), oldest first; a zero
// time leaves that side open. An hour whose files are damaged is among them.
func (s *Store) Hours(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	hs, err := rows(ctx, s.r, from, to)
	if err != nil {
		return nil, s.explain("list the closed hours", err)
	}
	out := make([]time.Time, len(hs))
	for i, h := range hs {
		out[i] = h.from
	}
	return out, nil
}

// Facts returns the closed hours that start in [from, to), oldest first. An hour
// whose files are damaged and cannot be rebuilt is there without machines and
// pods, with a note that says so. Pods with equal labels share one map.
//
// It refuses with [ErrTooMuch] what would not fit into memory; [Store.EachHour]
// reads any time.
func (s *Store) Facts(ctx context.Context, from, to time.Time) ([]bill.Facts, error) {
	hs, err := rows(ctx, s.r, from, to)
	if err != nil {
		return nil, s.explain("read the closed hours", err)
	}
	size := int64(0)
	for i := range hs {
		for _, p := range hs[i].parts {
			size += p.Size
		}
	}
	if size > s.mostFacts() {
		return nil, s.explain(fmt.Sprintf("read the facts of %d hours", len(hs)), fmt.Errorf("%w (%d MiB of files)", ErrTooMuch, size>>20))
	}
	var out []bill.Facts
	err = s.EachHour(ctx, from, to, func(f bill.Facts) error {
		out = append(out, f)
		return nil
	})
	return out, err
}

func (s *Store) mostFacts() int64 {
	if s.opts.MostFacts > 0 {
		return s.opts.MostFacts
	}
	return 128 << 20
}

// EachHour calls do with what [Store.Facts] would return, one hour at a time, so
// that only one is held in memory.
func (s *Store) EachHour(ctx context.Context, from, to time.Time, do func(bill.Facts) error) error {
	hs, err := rows(ctx, s.r, from, to)
	if err != nil {
		return s.explain("read the closed hours", err)
	}
	for i := range hs {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := s.readHour(ctx, &hs[i])
		if err != nil {
			return err
		}
		if err := do(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) readHour(ctx context.Context, h *hourRow) (bill.Facts, error) {
	op := "read the hour " + h.hour.Format("2006-01-02T15Z")
	reason := h.reason
	if h.state != damaged {
		// A writer may replace the files between the look into SQLite and the look
		// at them: then SQLite says something new, and that is read.
		for try := 0; ; try++ {
			f, bad, err := s.readFiles(h)
			if err != nil {
				return f, s.explain(op, err)
			}
			if bad == "" {
				return f, nil
			}
			reason = bad
			now, err := s.row(ctx, h.hour)
			if err != nil {
				return bill.Facts{}, s.explain(op, err)
			}
			if now == nil || try == 3 || slices.Equal(now.parts, h.parts) && now.state == h.state {
				break
			}
			if now.state == damaged {
				reason = now.reason
				break
			}
			*h = *now
		}
		if s.w != nil {
			if f, ok := s.rebuild(ctx, h, reason); ok {
				return f, nil
			}
		}
	}
	return bill.Facts{From: h.from, To: h.to, Currency: h.currency, Notes: []string{damageNote(h, reason)}}, nil
}

func damageNote(h *hourRow, reason string) string {
	return fmt.Sprintf("The facts of the hour %s are damaged (%s): a gap in everything by pod, machine and label; its totals come from its roll-up.",
		h.hour.Format("2006-01-02 15:00Z"), reason)
}

// readFiles returns the hour, or in bad what is wrong with its files.
func (s *Store) readFiles(h *hourRow) (f bill.Facts, bad string, err error) {
	var files [3][]byte
	for i, p := range h.parts {
		data, ok := s.readPart(p, "")
		if !ok && h.state == renaming {
			data, ok = s.readPart(p, temporary)
		}
		if !ok {
			st, err := os.Stat(s.path(p.Name))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return f, p.Name + " is missing", nil
			case err != nil:
				return f, "", err
			case st.Size() != p.Size:
				return f, fmt.Sprintf("%s has %d bytes and should have %d", p.Name, st.Size(), p.Size), nil
			}
			if _, err := os.ReadFile(s.path(p.Name)); err != nil {
				return f, "", err
			}
			return f, p.Name + " is not what was written", nil
		}
		files[i] = data
	}
	f, err = decodeHour(files)
	if err != nil {
		return f, oneLine(err.Error()), nil
	}
	return f, "", nil
}

// rebuild closes a damaged hour again, or marks it as a gap and sets its files
// aside.
func (s *Store) rebuild(ctx context.Context, h *hourRow, reason string) (bill.Facts, bool) {
	if s.opts.Rebuild != nil {
		f, err := s.opts.Rebuild(ctx, h.from, h.to)
		if err == nil && (!f.From.Equal(h.from) || !f.To.Equal(h.to)) {
			err = fmt.Errorf("it was closed from %s to %s", f.From, f.To)
		}
		if err == nil {
			err = s.WriteHour(ctx, f)
		}
		if err == nil {
			s.log().Warn("a damaged hour was closed again", "hour", h.hour, "damage", reason)
			return f, true
		}
		s.log().Warn("a damaged hour cannot be closed again", "hour", h.hour, "damage", reason, "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, err := s.row(ctx, h.hour); err != nil || now == nil || !slices.Equal(now.parts, h.parts) {
		return bill.Facts{}, false
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE hours SET state = ?, reason = ? WHERE hour = ?`, damaged, reason, h.hour.Unix())
		return err
	})
	for _, p := range h.parts {
		if err != nil {
			break
		}
		err = s.setAside(p.Name)
	}
	if err != nil {
		s.log().Warn("the files of a damaged hour cannot be set aside", "hour", h.hour, "err", err)
	}
	s.log().Warn("an hour is damaged: it is a gap from now on", "hour", h.hour, "damage", reason)
	return bill.Facts{}, false
}

// setAside moves a file to damaged/.
func (s *Store) setAside(name string) error {
	to := s.path("damaged/" + strings.TrimPrefix(name, "facts/"))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	err := os.Rename(s.path(name), to)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// recover puts right what a crash left: files with temporary names, files that
// SQLite does not know, hours whose files are not there.
func (s *Store) recover(ctx context.Context) error {
	const op = "open the store"
	hs, err := rows(ctx, s.r, time.Time{}, time.Time{})
	if err != nil {
		return s.explain(op, err)
	}
	known := map[string]*hourRow{}
	for i := range hs {
		h := &hs[i]
		for _, p := range h.parts {
			known[p.Name] = h
		}
		if h.state == renaming {
			if err := s.placeParts(ctx, h.hour, h.parts); err == nil {
				h.state = whole
			} else {
				s.log().Warn("files of a recorded hour keep their temporary names for now", "hour", h.hour, "err", err)
			}
		}
	}

	sizes := map[string]int64{}
	strange := map[time.Time]bool{}
	root := filepath.Join(s.dir, "facts")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(s.dir, path)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if base, ok := strings.CutSuffix(name, temporary); ok {
			if h := known[base]; h != nil && h.state == renaming {
				return nil
			}
			return os.Remove(path) // its hour was never recorded
		}
		if known[name] == nil {
			if hour, ok := hourOfFile(name); ok {
				strange[hour] = true
			}
			return nil
		}
		info, err := d.Info()
		if err == nil {
			sizes[name] = info.Size()
		}
		return err
	})
	if err != nil {
		return s.explain(op, err)
	}

	for i := range hs {
		h := &hs[i]
		if h.state != whole {
			continue
		}
		for _, p := range h.parts {
			size, ok := sizes[p.Name]
			if ok && size == p.Size {
				continue
			}
			if _, err := s.readHour(ctx, h); err != nil {
				return err
			}
			break
		}
	}
	return s.index(ctx, strange)
}

func hourOfFile(name string) (time.Time, bool) {
	for _, part := range partNames {
		if stem, ok := strings.CutSuffix(name, "."+part+".parquet"); ok {
			t, err := time.Parse("facts/2006/01/02/15", stem)
			return t, err == nil
		}
	}
	return time.Time{}, false
}

// index records hours whose files are there and whole but that SQLite does not
// know: it was lost, or put back from an older copy.
func (s *Store) index(ctx context.Context, strange map[time.Time]bool) error {
	hours := make([]time.Time, 0, len(strange))
	for h := range strange {
		hours = append(hours, h)
	}
	slices.SortFunc(hours, time.Time.Compare)
	for _, hour := range hours {
		var files [3][]byte
		var err error
		for i, name := range partNames {
			if files[i], err = os.ReadFile(s.path(partName(hour, name))); err != nil {
				break
			}
		}
		var f bill.Facts
		if err == nil {
			f, err = decodeHour(files)
		}
		if err == nil && !f.From.UTC().Truncate(time.Hour).Equal(hour) {
			err = fmt.Errorf("its files are of another hour")
		}
		if err == nil {
			err = s.WriteHour(ctx, f)
			if errors.Is(err, ErrFull) {
				return err
			}
		}
		if err != nil {
			s.log().Warn("files of an hour that was never recorded are damaged and set aside", "hour", hour, "err", oneLine(err.Error()))
			for _, name := range partNames {
				if err := s.setAside(partName(hour, name)); err != nil {
					return s.explain("open the store", err)
				}
			}
			continue
		}
		s.log().Info("an hour was indexed from its files", "hour", hour)
	}
	return nil
}

// Check reads every file of the hours that start in [from, to) and returns the
// damaged ones with what is wrong. A writer rebuilds what it can.
func (s *Store) Check(ctx context.Context, from, to time.Time) (map[time.Time]string, error) {
	hs, err := rows(ctx, s.r, from, to)
	if err != nil {
		return nil, s.explain("check the closed hours", err)
	}
	bad := map[time.Time]string{}
	for i := range hs {
		h := &hs[i]
		f, err := s.readHour(ctx, h)
		if err != nil {
			return bad, err
		}
		if len(f.Machines) == 0 && len(f.Notes) == 1 && strings.Contains(f.Notes[0], "are damaged (") {
			bad[h.from] = f.Notes[0]
		}
	}
	return bad, nil
}
