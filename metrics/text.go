package metrics

import (
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
)

// WriteText writes what c collects now in Prometheus' text format. A collector that
// collects what it did not describe is an error.
func WriteText(w io.Writer, c prometheus.Collector) error {
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		return err
	}
	families, err := r.Gather()
	if err != nil {
		return err
	}
	e := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := e.Encode(f); err != nil {
			return err
		}
	}
	return nil
}
