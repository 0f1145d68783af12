package cli

import (
	"context"
	"fmt"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
)

// A replayStore is a store that a replay writes.
type replayStore struct{}

func openReplayStore(_ context.Context, dir string, _ *scenario.Scenario) (*replayStore, error) {
	return nil, fmt.Errorf("keep the replay in %s: this build of neap cannot write a store; leave --store out", dir)
}

func (*replayStore) WriteHour(context.Context, bill.Facts) error  { return nil }
func (*replayStore) finish(context.Context, *replay.Result) error { return nil }
func (*replayStore) Close() error                                 { return nil }
