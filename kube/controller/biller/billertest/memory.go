// Package billertest has a store in memory for tests of what watches and bills a
// cluster.
package billertest

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/workload"
)

// Memory is a store that forgets with the process. The zero Memory is empty and
// ready; it is safe for concurrent use.
type Memory struct {
	mu       sync.Mutex
	events   [][]byte
	facts    []bill.Facts // by From
	state    map[string]string
	features map[workload.Key][]workload.Feature
	types    []machine.Entry
	err      error
	writes   int
}

// Fail makes every write fail with err from now on; nil makes them work again.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.err = err
}

// HourWrites counts how often an hour was written.
func (m *Memory) HourWrites() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writes
}

func (m *Memory) write(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return m.err
	}
	f()
	return nil
}

// AppendEvents keeps events as JSON, as a real store does.
func (m *Memory) AppendEvents(_ context.Context, events ...bill.Event) error {
	return m.write(func() {
		for _, e := range events {
			raw, err := json.Marshal(e)
			if err != nil {
				panic(err)
			}
			m.events = append(m.events, raw)
		}
	})
}

// Events returns the events kept.
func (m *Memory) Events(context.Context) ([]bill.Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]bill.Event, len(m.events))
	for i, raw := range m.events {
		if err := json.Unmarshal(raw, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ReplaceEvents puts events in place of those kept.
func (m *Memory) ReplaceEvents(ctx context.Context, events []bill.Event) error {
	if err := m.write(func() { m.events = nil }); err != nil {
		return err
	}
	return m.AppendEvents(ctx, events...)
}

// WriteHour keeps the facts of an hour.
func (m *Memory) WriteHour(_ context.Context, f bill.Facts) error {
	return m.write(func() {
		m.writes++
		i, found := slices.BinarySearchFunc(m.facts, f.From.Truncate(time.Hour), func(g bill.Facts, t time.Time) int {
			return g.From.Truncate(time.Hour).Compare(t)
		})
		if found {
			m.facts[i] = f
			return
		}
		m.facts = slices.Insert(m.facts, i, f)
	})
}

// Hours lists the hours kept.
func (m *Memory) Hours(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	facts, err := m.Facts(ctx, from, to)
	var out []time.Time
	for _, f := range facts {
		out = append(out, f.From)
	}
	return out, err
}

// Facts returns the hours kept that start in [from, to).
func (m *Memory) Facts(_ context.Context, from, to time.Time) ([]bill.Facts, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []bill.Facts
	for _, f := range m.facts {
		if (from.IsZero() || !f.From.Before(from)) && (to.IsZero() || f.From.Before(to)) {
			out = append(out, f)
		}
	}
	return out, nil
}

// State returns what was kept under key.
func (m *Memory) State(_ context.Context, key string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state[key], nil
}

// SetState keeps a value under key.
func (m *Memory) SetState(_ context.Context, key, value string) error {
	return m.write(func() {
		if m.state == nil {
			m.state = map[string]string{}
		}
		m.state[key] = value
	})
}

// PutFeatures keeps the features of modules.
func (m *Memory) PutFeatures(_ context.Context, features map[workload.Key][]workload.Feature) error {
	return m.write(func() { m.features = features })
}

// Features returns the features of modules.
func (m *Memory) Features(context.Context) (map[workload.Key][]workload.Feature, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.features, nil
}

// PutTypes keeps dated machine types.
func (m *Memory) PutTypes(_ context.Context, types []machine.Entry) error {
	return m.write(func() { m.types = slices.Clone(types) })
}

// Types returns the dated machine types.
func (m *Memory) Types(context.Context) ([]machine.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.types), nil
}
