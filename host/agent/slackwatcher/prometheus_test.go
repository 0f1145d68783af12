package slackwatcher

import (
	"math"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestPrometheusIsAsked(t *testing.T) {
	answer := ""
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/prom/api/v1/query" || r.FormValue("query") != `x{node="n7"}[1m]` {
			t.Errorf("it is asked %s", r.URL)
		}
		w.Write([]byte(answer))
	}))
	defer web.Close()
	ask, err := Prometheus(web.URL+"/prom", "n7")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]struct {
		value     float64
		known, ok bool
	}{
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"0.25"]},{"value":[1,"0.5"]},{"value":[1,"NaN"]}]}}`: {0.5, true, true},
		`{"status":"success","data":{"resultType":"scalar","result":[1,"0.1"]}}`:                                                      {0.1, true, true},
		`{"status":"success","data":{"resultType":"vector","result":[]}}`:                                                             {0, false, true},
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}`:                                          {0, false, true},
		`{"status":"success","data":{"resultType":"matrix","result":[]}}`:                                                             {},
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,7]}]}}`:                                              {},
		`{"status":"success","data":{"resultType":"vector","result":[{"value":[]}]}}`:                                                 {},
		`{"status":"error","error":"what?"}`:                                                                                          {},
		`<html>`:                                                                                                                      {},
	} {
		answer = text
		value, known, err := ask(t.Context(), `x{node="$node"}[$window]`)
		if value != want.value || known != want.known || (err == nil) != want.ok {
			t.Errorf("%s: %v, %v, %v; want %+v", text, value, known, err, want)
		}
	}
	for _, base := range []string{"", "prometheus:9090", "ftp://x", "http://"} {
		if _, err := Prometheus(base, "n"); err == nil {
			t.Errorf("%q is taken for an address", base)
		}
	}
}

// FuzzParse: whatever Prometheus answers, a value is a number that can be held
// against a target.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"0.25"]}]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"scalar","result":[1,"+Inf"]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v, known, err := parse(text)
		if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 || err != nil && known {
			t.Errorf("%v, %v, %v", v, known, err)
		}
	})
}
