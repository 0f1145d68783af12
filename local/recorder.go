package local

import (
	"bytes"
	"context"
	"io"
	"time"

	"github.com/neap-dev/neap/metrics"
)

// A recorder keeps in the metrics what one part of the controllers tells, as a scrape
// of it would. It is not safe for concurrent use.
type recorder struct {
	metrics *metrics.Embedded // nil keeps nothing
	part    string
	last    time.Time // nothing is told twice of one moment
}

// newRecorder returns a recorder that goes on after what m already has.
func newRecorder(part string, m *metrics.Embedded) *recorder {
	r := &recorder{metrics: m, part: part}
	if m != nil {
		if newest, ok := m.Newest(); ok {
			r.last = newest
		}
	}
	return r
}

// record keeps what write writes as of a moment, unless that moment was told of before.
func (r *recorder) record(at time.Time, write func(io.Writer) error) error {
	if r.metrics == nil || !at.After(r.last) {
		return nil
	}
	r.last = at
	var text bytes.Buffer
	if err := write(&text); err != nil {
		return err
	}
	return r.metrics.AppendText(context.Background(), at, &text, controllerLabels(r.part))
}

// controllerLabels are those of what a part of the controllers tells. Each part is a
// target of its own: what another one does not tell has not ended.
func controllerLabels(part string) map[string]string {
	return map[string]string{"job": "neap-controller", "instance": part}
}
