package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

// Handler serves the part of Prometheus' HTTP API that answers queries,
// /api/v1/query and /api/v1/query_range, so that a [Remote], Grafana or
// promtool can read the embedded metrics. It has no authentication: listen on
// loopback.
func (e *Embedded) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/query", func(w http.ResponseWriter, r *http.Request) {
		e.serve(w, r, func(ctx context.Context) (promql.Query, error) {
			at, err := apiTime(r, "time", time.Now())
			if err != nil {
				return nil, err
			}
			return e.engine.NewInstantQuery(ctx, e.db, nil, r.FormValue("query"), at)
		})
	})
	mux.HandleFunc("/api/v1/query_range", func(w http.ResponseWriter, r *http.Request) {
		e.serve(w, r, func(ctx context.Context) (promql.Query, error) {
			from, err := apiTime(r, "start", time.Time{})
			if err != nil {
				return nil, err
			}
			to, err := apiTime(r, "end", time.Time{})
			if err != nil {
				return nil, err
			}
			step, err := apiDuration(r.FormValue("step"))
			if err != nil {
				return nil, err
			}
			if err := checkRange(e.dir, r.FormValue("query"), from, to, step); err != nil {
				return nil, err
			}
			return e.engine.NewRangeQuery(ctx, e.db, nil, r.FormValue("query"), from, to, step)
		})
	})
	return mux
}

type apiAnswer struct {
	Status    string   `json:"status"`
	Data      *apiData `json:"data,omitempty"`
	ErrorType string   `json:"errorType,omitempty"`
	Error     string   `json:"error,omitempty"`
	Warnings  []string `json:"warnings,omitempty"`
	Infos     []string `json:"infos,omitempty"`
}

type apiData struct {
	ResultType parser.ValueType `json:"resultType"`
	Result     parser.Value     `json:"result"`
}

func (e *Embedded) serve(w http.ResponseWriter, r *http.Request, prepare func(context.Context) (promql.Query, error)) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		w.Header().Set("Allow", "GET, POST")
		http.Error(w, "use GET or POST", http.StatusMethodNotAllowed)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	ctx := r.Context()
	q, err := prepare(ctx)
	if err != nil {
		answer(w, http.StatusBadRequest, apiAnswer{Status: "error", ErrorType: "bad_data", Error: err.Error()})
		return
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		code, kind := http.StatusUnprocessableEntity, "execution"
		var timeout promql.ErrQueryTimeout
		var canceled promql.ErrQueryCanceled
		switch {
		case errors.As(res.Err, &timeout):
			code, kind = http.StatusServiceUnavailable, "timeout"
		case errors.As(res.Err, &canceled):
			code, kind = 499, "canceled"
		}
		answer(w, code, apiAnswer{Status: "error", ErrorType: kind, Error: res.Err.Error()})
		return
	}
	warnings, infos := res.Warnings.AsStrings(r.FormValue("query"), 10, 10)
	answer(w, http.StatusOK, apiAnswer{Status: "success", Warnings: warnings, Infos: infos,
		Data: &apiData{res.Value.Type(), res.Value}})
}

func answer(w http.ResponseWriter, code int, a apiAnswer) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	// The client is gone if this fails, and nobody is left to tell.
	_ = json.NewEncoder(w).Encode(a)
}

func apiTime(r *http.Request, name string, missing time.Time) (time.Time, error) {
	s := r.FormValue(name)
	if s == "" {
		if missing.IsZero() {
			return time.Time{}, fmt.Errorf("parameter %q is missing", name)
		}
		return missing, nil
	}
	if v, err := strconv.ParseFloat(s, 64); err == nil && finite(v) && v > -1e11 && v < 1e11 {
		return time.UnixMilli(int64(v*1000 + 0.5)).UTC(), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("parameter %q is neither seconds since 1970 nor RFC 3339", name)
	}
	return t, nil
}

func apiDuration(s string) (time.Duration, error) {
	if v, err := strconv.ParseFloat(s, 64); err == nil && finite(v) && v > 0 && v < 1e9 {
		return time.Duration(v * float64(time.Second)), nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("parameter \"step\" %q is not a positive duration", s)
	}
	return d, nil
}
