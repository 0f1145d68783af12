package cli

import (
	"context"
	"fmt"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
	"github.com/neap-dev/neap/store"
)

// A replayStore is a store that a replay writes.
type replayStore struct{ *store.Store }

// openReplayStore opens or makes a store and refuses one that holds something
// else's hours: simulated money must not mix with other money.
func openReplayStore(ctx context.Context, dir string, s *scenario.Scenario) (*replayStore, error) {
	st, err := store.Open(dir, store.Options{})
	if err != nil {
		return nil, err
	}
	keep := &replayStore{st}
	who := fmt.Sprintf("replay of %s, seed %d", s.Name, s.Seed)
	was, err := st.State(ctx, replayStateKey)
	if err == nil && was == "" {
		hours, herr := st.Hours(ctx, s.Start.AddDate(-100, 0, 0), s.Start.AddDate(100, 0, 0))
		if err = herr; len(hours) > 0 {
			was = "a cluster"
		}
	}
	if err == nil && was != "" && was != who {
		err = fmt.Errorf("keep the replay in %s: it already holds the bill of %s; name another folder with --store", dir, was)
	}
	if err == nil {
		err = st.SetState(ctx, replayStateKey, who)
	}
	if err == nil {
		features := map[workload.Key][]workload.Feature{}
		for i := range s.Modules {
			if m := &s.Modules[i]; len(m.Features) > 0 {
				features[m.Key()] = m.Features
			}
		}
		err = st.PutFeatures(ctx, features)
	}
	if err != nil {
		st.Close()
		return nil, err
	}
	return keep, nil
}

// replayStateKey says what a store holds, if it is a replay's.
const replayStateKey = "replay"

// WriteHour implements [replay.Sink].
func (k *replayStore) WriteHour(ctx context.Context, f bill.Facts) error {
	return k.Store.WriteHour(ctx, f)
}

// finish keeps what is known only at the end.
func (k *replayStore) finish(ctx context.Context, r *replay.Result) error {
	if err := k.PutTypes(ctx, r.Book.Entries()); err != nil {
		return err
	}
	for _, d := range r.Decisions {
		if err := k.AppendDecision(ctx, d); err != nil {
			return err
		}
	}
	return nil
}
