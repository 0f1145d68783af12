package moduleload

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// answers is a source that knows its queries by heart.
type answers map[string][]float64

func (a answers) Instant(_ context.Context, query string, at time.Time) ([]metrics.Series, error) {
	values, ok := a[query]
	if !ok {
		return nil, errors.New("query " + query + " timed out")
	}
	var out []metrics.Series
	for _, v := range values {
		out = append(out, metrics.Series{Points: []metrics.Point{{T: at, V: v}}})
	}
	return out, nil
}

func (a answers) Range(context.Context, string, time.Time, time.Time, time.Duration) ([]metrics.Series, error) {
	panic("not asked")
}

func TestAsk(t *testing.T) {
	from := time.Date(2026, 3, 4, 15, 0, 0, 0, time.UTC)
	m := convert.Module{LoadQuery: "load[$window]", SuccessQuery: "ok[$window]", P99Query: "p99[$window]", SuccessMicros: 999_000, P99: 300 * time.Millisecond}
	cases := map[string]struct {
		source    answers
		requests  int64
		known     bool
		met       bool
		wantError string
	}{
		"all is answered and well":               {answers{"load[3600s]": {1234.4}, "ok[3600s]": {0.9995}, "p99[3600s]": {0.2}}, 1234, true, true, ""},
		"too slow":                               {answers{"load[3600s]": {1}, "ok[3600s]": {0.9995}, "p99[3600s]": {0.4}}, 1, true, false, ""},
		"a gap is unknown, not zero":             {answers{"load[3600s]": {}, "ok[3600s]": {}, "p99[3600s]": {}}, -1, false, false, ""},
		"an error is unknown and told":           {answers{"ok[3600s]": {1}, "p99[3600s]": {0.1}}, -1, true, true, "timed out"},
		"several results are not added up":       {answers{"load[3600s]": {1, 2}, "ok[3600s]": {1}, "p99[3600s]": {0.1}}, -1, true, true, "want one"},
		"one of two targets unknown is no pass":  {answers{"load[3600s]": {1}, "ok[3600s]": {1}, "p99[3600s]": {}}, 1, false, false, ""},
		"one target broken is enough to be told": {answers{"load[3600s]": {1}, "ok[3600s]": {0.5}, "p99[3600s]": {}}, 1, true, false, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			l, err := Ask(context.Background(), tc.source, m, from, from.Add(time.Hour))
			if l.Requests != tc.requests || l.Known != tc.known || l.Met != tc.met {
				t.Errorf("got %+v", l)
			}
			if (err != nil) != (tc.wantError != "") || err != nil && !strings.Contains(err.Error(), tc.wantError) {
				t.Errorf("error %v, want %q", err, tc.wantError)
			}
		})
	}
}
