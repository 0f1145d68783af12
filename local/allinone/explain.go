package allinone

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"github.com/neap-dev/neap/local/clusterdir"
)

// classify gives an error its cause, keeping one that it has.
func classify(err error) error {
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, clusterdir.ErrInUse) {
		return &Error{clusterdir.CauseInUse, err}
	}
	cause, sentence := clusterdir.Explain(err.Error())
	if errors.Is(err, syscall.ENOSPC) {
		cause = clusterdir.CauseDisk
	}
	if sentence == "" {
		return &Error{cause, err}
	}
	return &Error{cause, &explained{sentence, err}}
}

type explained struct {
	sentence string
	err      error
}

func (e *explained) Error() string { return e.sentence + " (" + e.err.Error() + ")" }
func (e *explained) Unwrap() error { return e.err }

// maxLog is the size, in bytes, beyond which a running cluster's log is cut.
const maxLog = 32 << 20

// keepSmall keeps the log below about twice maxLog. It is open for appending,
// so that cutting it to nothing goes on at the start; its last content stays
// beside it.
func keepSmall(ctx context.Context, path string) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		st, err := os.Stat(path)
		if err != nil || st.Size() < maxLog {
			continue
		}
		// A copy, because the open file must stay where standard error goes.
		if b, err := os.ReadFile(path); err == nil {
			_ = clusterdir.WriteFile(path+".1", b) // best effort: it is the old log
		}
		_ = os.Truncate(path, 0)
	}
}
