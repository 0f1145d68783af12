package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/workload"
)

// AppendDecision adds a row to the ledger. A second one with the same ID is
// ignored. Rows are never changed; SQLite itself refuses to.
func (s *Store) AppendDecision(ctx context.Context, d bill.Decision) error {
	if d.ID == "" {
		return errors.New("record a decision: it has no ID; give it one that is unique")
	}
	data, err := json.Marshal(d)
	if err != nil {
		return s.explain("record a decision", err)
	}
	return s.explain("record a decision", s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO decisions (id, at_ns, actor, lever, subject, data) VALUES (?,?,?,?,?,?) ON CONFLICT (id) DO NOTHING`,
			d.ID, d.At.UnixNano(), d.Actor, d.Lever, d.Subject, string(data))
		return err
	}))
}

// Realise records what a decision saved per hour, once it is known. The first
// figure stands.
func (s *Store) Realise(ctx context.Context, id string, at time.Time, saved money.Amount) error {
	return s.explain("record what a decision saved", s.write(ctx, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM decisions WHERE id = ?`, id).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("no decision has the ID %q", id)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO realised (id, at_ns, nano) VALUES (?,?,?) ON CONFLICT (id) DO NOTHING`, id, at.UnixNano(), int64(saved))
		return err
	}))
}

// Decisions returns the ledger's rows made in [from, to), oldest first; a zero
// time leaves that side open.
func (s *Store) Decisions(ctx context.Context, from, to time.Time) ([]bill.Decision, error) {
	lo, hi := bounds(from, to)
	ds, err := collect(ctx, s.r, func(scan func(...any) error) (d bill.Decision, err error) {
		var data string
		var realised sql.NullInt64
		if err := scan(&data, &realised); err != nil {
			return d, err
		}
		if err := json.Unmarshal([]byte(data), &d); err != nil {
			return d, fmt.Errorf("%s is %w: a row of the ledger cannot be read: %w", dbName, ErrDamaged, err)
		}
		if realised.Valid {
			v := money.Amount(realised.Int64)
			d.RealisedNano = &v
		}
		return d, nil
	}, `SELECT d.data, r.nano FROM decisions d LEFT JOIN realised r ON r.id = d.id WHERE d.at_ns >= ? AND d.at_ns < ? ORDER BY d.at_ns, d.seq`, lo, hi)
	return ds, s.explain("read the ledger", err)
}

// AppendEvents records events of the journal, all or none, durably.
func (s *Store) AppendEvents(ctx context.Context, events ...bill.Event) error {
	if len(events) == 0 {
		return nil
	}
	return s.explain("record events", s.write(ctx, func(tx *sql.Tx) error { return insertEvents(ctx, tx, events) }))
}

// ReplaceEvents puts events in place of all that were kept, at once.
func (s *Store) ReplaceEvents(ctx context.Context, events []bill.Event) error {
	return s.explain("record events", s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM events`); err != nil {
			return err
		}
		return insertEvents(ctx, tx, events)
	}))
}

func insertEvents(ctx context.Context, tx *sql.Tx, events []bill.Event) error {
	st, err := tx.PrepareContext(ctx, `INSERT INTO events (data) VALUES (?)`)
	if err != nil {
		return err
	}
	defer st.Close()
	for i := range events {
		data, err := json.Marshal(&events[i])
		if err != nil {
			return err
		}
		if _, err := st.ExecContext(ctx, string(data)); err != nil {
			return err
		}
	}
	return nil
}

// Events returns every event kept, in the order of appending.
func (s *Store) Events(ctx context.Context) ([]bill.Event, error) {
	es, err := collect(ctx, s.r, func(scan func(...any) error) (e bill.Event, err error) {
		var data []byte
		if err := scan(&data); err != nil {
			return e, err
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return e, fmt.Errorf("%s is %w: an event cannot be read: %w", dbName, ErrDamaged, err)
		}
		return e, nil
	}, `SELECT data FROM events ORDER BY seq`)
	return es, s.explain("read the events", err)
}

// SetState keeps a value under key.
func (s *Store) SetState(ctx context.Context, key, value string) error {
	return s.explain("record state", s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO state (key, value) VALUES (?,?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
		return err
	}))
}

// State returns what [Store.SetState] kept under key, "" if nothing.
func (s *Store) State(ctx context.Context, key string) (string, error) {
	var v string
	err := s.r.QueryRowContext(ctx, `SELECT value FROM state WHERE key = ?`, key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return v, s.explain("read state", err)
}

// PutFeatures keeps the features that each module serves, in place of all that
// were kept.
func (s *Store) PutFeatures(ctx context.Context, features map[workload.Key][]workload.Feature) error {
	keys := make([]workload.Key, 0, len(features))
	for k := range features {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, workload.Key.Compare)
	return s.explain("record the features of modules", s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM features`); err != nil {
			return err
		}
		for _, k := range keys {
			for i, f := range features[k] {
				if _, err := tx.ExecContext(ctx, `INSERT INTO features (module, position, name, share_millis) VALUES (?,?,?,?)`,
					k.String(), i, f.Name, f.ShareMillis); err != nil {
					return err
				}
			}
		}
		return nil
	}))
}

// Features returns the features that each module serves.
func (s *Store) Features(ctx context.Context) (map[workload.Key][]workload.Feature, error) {
	type row struct {
		module string
		f      workload.Feature
	}
	rs, err := collect(ctx, s.r, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.module, &r.f.Name, &r.f.ShareMillis)
	}, `SELECT module, name, share_millis FROM features ORDER BY module, position`)
	if err != nil {
		return nil, s.explain("read the features of modules", err)
	}
	out := map[workload.Key][]workload.Feature{}
	for _, r := range rs {
		if k, ok := workload.ParseKey(r.module); ok {
			out[k] = append(out[k], r.f)
		}
	}
	return out, nil
}

// PutTypes keeps dated machine types, in place of all that were kept.
func (s *Store) PutTypes(ctx context.Context, types []machine.Entry) error {
	return s.explain("record the machine types", s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM types`); err != nil {
			return err
		}
		for i, t := range types {
			data, err := json.Marshal(t)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO types (position, name, from_ns, data) VALUES (?,?,?,?)`,
				i, t.Type.Name, nano(t.From), string(data)); err != nil {
				return err
			}
		}
		return nil
	}))
}

// Types returns what [Store.PutTypes] kept, in its order.
func (s *Store) Types(ctx context.Context) ([]machine.Entry, error) {
	es, err := collect(ctx, s.r, func(scan func(...any) error) (e machine.Entry, err error) {
		var data []byte
		if err := scan(&data); err != nil {
			return e, err
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return e, fmt.Errorf("%s is %w: a machine type cannot be read: %w", dbName, ErrDamaged, err)
		}
		return e, nil
	}, `SELECT data FROM types ORDER BY position`)
	return es, s.explain("read the machine types", err)
}
