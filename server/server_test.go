package server_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/server/servertest"
)

var made = sync.OnceValues(func() (*servertest.Fleet, error) { return servertest.New(48) })

func fleet(t *testing.T) *servertest.Fleet {
	t.Helper()
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

var page = fstest.MapFS{
	"index.html":       {Data: []byte("<!doctype html><title>Neap</title>" + strings.Repeat(" ", 2000))},
	"assets/app-12.js": {Data: []byte("1" + strings.Repeat(";", 2000))},
}

// get asks a handler and decodes the answer's JSON.
func get[T any](t *testing.T, h http.Handler, path string) T {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, request("GET", path))
	var v T
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func request(method, path string) *http.Request {
	r := httptest.NewRequest(method, path, nil)
	r.Host = "127.0.0.1:8080"
	return r
}

func TestTheBillAddsUpHoweverItIsGrouped(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Metrics: f, Live: f, Assets: page})
	for _, by := range []string{"module", "namespace", "pool", "machineType", "feature", "label:team"} {
		t.Run(by, func(t *testing.T) {
			a := get[struct {
				Report bill.Report
				Guard  struct{ Met, Broken, Unknown int }
				Labels []string
			}](t, h, "/api/v1/bill?by="+url.QueryEscape(by))
			sum, lines := a.Report.AllocatedNano+a.Report.UnexplainedNano, money.Amount(0)
			for _, v := range a.Report.IdleNano {
				sum += v
			}
			for _, l := range a.Report.Lines {
				lines += l.CostNano
			}
			if sum != a.Report.BillNano || lines != a.Report.BillNano || a.Report.UnexplainedNano != 0 || a.Report.BillNano == 0 {
				t.Errorf("bill %v, used and idle %v, lines %v, unexplained %v", a.Report.BillNano, sum, lines, a.Report.UnexplainedNano)
			}
			if a.Report.To.Sub(a.Report.From) != 24*time.Hour {
				t.Errorf("the default window is %v", a.Report.To.Sub(a.Report.From))
			}
			if a.Guard.Broken != 2 || a.Guard.Met < 20 {
				t.Errorf("guards %+v", a.Guard)
			}
			if strings.Join(a.Labels, " ") != "app team" {
				t.Errorf("labels %q", a.Labels)
			}
		})
	}
}

func TestTheBridgeLeavesNothingOver(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Assets: page})
	c := get[bill.Change](t, h, "/api/v1/bill/diff")
	sum := money.Amount(0)
	for _, e := range c.Effects {
		sum += e.Nano
	}
	if c.ResidualNano != 0 || sum != c.ChangeNano || c.AfterNano-c.BeforeNano != c.ChangeNano || c.ChangeNano == 0 {
		t.Errorf("change %v, effects %v, residual %v", c.ChangeNano, sum, c.ResidualNano)
	}
	if !c.Before.To.Equal(c.After.From) || c.After.To.Sub(c.After.From) != 24*time.Hour {
		t.Errorf("compared %v with %v", c.Before, c.After)
	}
}

func TestEveryColumnOfTheFlowIsTheBill(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Assets: page})
	a := get[struct {
		BillNano money.Amount
		Nodes    []struct {
			ID, Kind string
			Nano     money.Amount
		}
		Links []struct {
			Source, Target string
			Nano           money.Amount
		}
	}](t, h, "/api/v1/flow")
	columns, in, out := map[string]money.Amount{}, map[string]money.Amount{}, map[string]money.Amount{}
	for _, l := range a.Links {
		out[l.Source] += l.Nano
		in[l.Target] += l.Nano
	}
	for _, n := range a.Nodes {
		columns[n.Kind] += n.Nano
		if n.Kind != "feature" && in[n.ID] != n.Nano || n.Kind != "money" && out[n.ID] != n.Nano {
			t.Errorf("%s has %v, gets %v and gives %v", n.ID, n.Nano, in[n.ID], out[n.ID])
		}
	}
	for _, kind := range []string{"feature", "module", "resource", "money"} {
		if columns[kind] != a.BillNano || a.BillNano == 0 {
			t.Errorf("the %s column is %v of %v", kind, columns[kind], a.BillNano)
		}
	}
}

func TestIdleCellsAddUpToTheBoxes(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Assets: page})
	a := get[struct {
		Boxes    []string
		Totals   []money.Amount
		Machines []struct {
			Name  string
			Bill  []money.Amount
			Boxes map[string][]money.Amount
		}
	}](t, h, "/api/v1/idle")
	report := get[struct{ Report bill.Report }](t, h, "/api/v1/bill").Report
	for i, box := range a.Boxes {
		sum := money.Amount(0)
		for _, m := range a.Machines {
			for h, v := range m.Boxes[box] {
				sum += v
				if v > 0 && m.Bill[h] < v {
					t.Errorf("%s is idle by %v of %v", m.Name, v, m.Bill[h])
				}
			}
		}
		if sum != a.Totals[i] || bill.Box(box) != bill.Unexplain && sum != report.IdleNano[bill.Box(box)] {
			t.Errorf("%s: cells %v, total %v, bill %v", box, sum, a.Totals[i], report.IdleNano[bill.Box(box)])
		}
	}
}

type day struct {
	From, To    time.Time
	StepSeconds int
	Points      int
	Pools       []struct {
		Name                      string
		Bought, Held, Ready, Used []*float64
	}
	Modules []struct {
		Name string
		Load []*float64
	}
	Notes []string
}

func TestTheDayShowsAGapAsAGap(t *testing.T) {
	f := fleet(t)
	h := server.New(server.Options{Store: f, Metrics: f, Live: f, Assets: page})
	d := get[day](t, h, "/api/v1/day")
	if len(d.Modules) != 60 || d.StepSeconds != 60 || d.Points != 24*60+20 || len(d.Pools) != 3 || len(d.Notes) != 0 {
		t.Fatalf("%d modules, %d points of %d s, %d pools, notes %q", len(d.Modules), d.Points, d.StepSeconds, len(d.Pools), d.Notes)
	}
	at := func(hour, minute int) int {
		return int(time.Date(2026, 3, 3, hour, minute, 0, 0, servertest.Zone).Sub(d.From) / time.Minute)
	}
	for _, m := range d.Modules {
		if m.Load[at(4, 10)] != nil || m.Load[at(12, 0)] == nil {
			t.Fatalf("%s: in the gap %v, at noon %v", m.Name, m.Load[at(4, 10)], m.Load[at(12, 0)])
		}
	}
	for _, p := range d.Pools {
		if p.Used[at(4, 10)] != nil || p.Bought[at(4, 10)] == nil || p.Used[at(12, 0)] == nil || *p.Used[at(12, 0)] > *p.Bought[at(12, 0)] {
			t.Errorf("%s: the gap or noon is wrong", p.Name)
		}
	}
}

// patchy is a store that lacks one hour in the midst.
type patchy struct{ *servertest.Fleet }

var lost = servertest.Start.Add(40 * time.Hour)

func (p patchy) Hours(ctx context.Context, from, to time.Time) ([]time.Time, error) {
	hours, err := p.Fleet.Hours(ctx, from, to)
	return slices.DeleteFunc(hours, lost.Equal), err
}

func TestAnHourThatIsNotRecordedIsAGap(t *testing.T) {
	h := server.New(server.Options{Store: patchy{fleet(t)}, Assets: page})
	d := get[day](t, h, "/api/v1/day")
	in, after := int(lost.Sub(d.From)/time.Minute)+30, int(lost.Sub(d.From)/time.Minute)+90
	for _, p := range d.Pools {
		if p.Bought[in] != nil || p.Used[in] != nil || p.Held[in] != nil || p.Bought[after] == nil {
			t.Errorf("%s: in the gap %v bought, after it %v", p.Name, p.Bought[in], p.Bought[after])
		}
	}
	idle := get[struct {
		Hours    []time.Time
		Machines []struct{ Bill []money.Amount }
	}](t, h, "/api/v1/idle")
	if len(idle.Hours) != 23 || len(idle.Machines[0].Bill) != 23 {
		t.Errorf("%d hours, %d cells", len(idle.Hours), len(idle.Machines[0].Bill))
	}
}

// broken is a metrics source that does not answer.
type broken struct{}

func (broken) Instant(context.Context, string, time.Time) ([]metrics.Series, error) {
	return nil, errors.New("ask http://prometheus:9090: timed out after 30 s")
}

func (broken) Range(context.Context, string, time.Time, time.Time, time.Duration) ([]metrics.Series, error) {
	return nil, errors.New("ask http://prometheus:9090: timed out after 30 s")
}

func TestTheDaySaysWhatTheMetricsDoNotKnow(t *testing.T) {
	f := fleet(t)
	cases := map[string]struct {
		source metrics.Source
		want   string
	}{
		"without metrics the hours of the bill are shown":    {nil, "no-metrics"},
		"metrics that fail are named and nothing is made up": {broken{}, "metrics: ask http://prometheus:9090: timed out after 30 s"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := get[day](t, server.New(server.Options{Store: f, Metrics: tc.source, Assets: page}), "/api/v1/day")
			if !strings.Contains(strings.Join(d.Notes, "\n"), tc.want) {
				t.Errorf("notes %q", d.Notes)
			}
			for _, p := range d.Pools {
				if p.Ready[700] != nil || p.Used[700] == nil {
					t.Errorf("%s: ready %v, used %v", p.Name, p.Ready[700], p.Used[700])
				}
			}
		})
	}
}

// rare is a metrics source whose samples are two minutes apart.
type rare struct{ *servertest.Fleet }

func (r rare) Range(ctx context.Context, query string, from, to time.Time, step time.Duration) ([]metrics.Series, error) {
	if strings.Contains(query, "[60s]") {
		return nil, nil // no window holds two samples
	}
	return r.Fleet.Range(ctx, query, from, to, step)
}

func TestRareSamplesAreAskedForOverALongerWindow(t *testing.T) {
	f := fleet(t)
	d := get[day](t, server.New(server.Options{Store: f, Metrics: rare{f}, Assets: page}), "/api/v1/day")
	if len(d.Notes) != 1 || d.Notes[0] != "window: 5" || d.Modules[3].Load[720] == nil {
		t.Errorf("notes %q, load at noon %v", d.Notes, d.Modules[3].Load[720])
	}
}

func TestMachinesAreThoseOfNowOrOfTheLastHour(t *testing.T) {
	f := fleet(t)
	type answer struct {
		Live     bool
		Modules  []string
		Machines []struct {
			Name string
			Pods []struct{ Module int }
		}
	}
	for name, h := range map[string]http.Handler{"live": server.New(server.Options{Store: f, Live: f, Assets: page}), "closed": server.New(server.Options{Store: f, Assets: page})} {
		a := get[answer](t, h, "/api/v1/machines")
		pods := 0
		for _, m := range a.Machines {
			pods += len(m.Pods)
		}
		if a.Live != (name == "live") || len(a.Modules) < 50 || len(a.Machines) < 10 || pods < 60 {
			t.Errorf("%s: live %v, %d modules, %d machines, %d pods", name, a.Live, len(a.Modules), len(a.Machines), pods)
		}
	}
}

// empty is a store in which no hour is closed.
type empty struct{ server.Store }

func (empty) Hours(context.Context, time.Time, time.Time) ([]time.Time, error) { return nil, nil }

func (empty) Decisions(context.Context, time.Time, time.Time) ([]bill.Decision, error) {
	return nil, nil
}

// torn is a store whose disk is gone.
type torn struct{ server.Store }

func (torn) Hours(context.Context, time.Time, time.Time) ([]time.Time, error) {
	return nil, errors.New("read the hours: the disk is gone; mount it again")
}

func TestARefusalIsOneSentence(t *testing.T) {
	f := fleet(t)
	full, none, lost := server.New(server.Options{Store: f, Assets: page}), server.New(server.Options{Store: empty{f}, Assets: page}), server.New(server.Options{Store: torn{f}, Assets: page})
	cases := map[string]struct {
		h      http.Handler
		method string
		path   string
		status int
		want   string
	}{
		"a time that is none":             {full, "GET", "/api/v1/bill?from=yesterday", 400, `from is "yesterday"; it must be a full hour of UTC such as 2026-03-02T18:00:00Z.`},
		"half an hour":                    {full, "GET", "/api/v1/bill?from=2026-03-02T18:30:00Z", 400, "full hour"},
		"a window that ends before":       {full, "GET", "/api/v1/bill?from=2026-03-02T18:00:00Z&to=2026-03-02T17:00:00Z", 400, "The window is empty"},
		"a window without hours":          {full, "GET", "/api/v1/bill?from=2020-03-02T18:00:00Z&to=2020-03-02T19:00:00Z", 404, "No hour is closed between"},
		"a grouping nobody knows":         {full, "GET", "/api/v1/bill?by=colour", 400, `grouped by "colour"`},
		"a label without a name":          {full, "GET", "/api/v1/bill?by=label:", 400, "label:KEY"},
		"an idle map of a year":           {full, "GET", "/api/v1/idle?from=2025-03-02T18:00:00Z&to=2026-03-02T18:00:00Z", 400, "this page shows at most 192"},
		"a day of no policy":              {full, "GET", "/api/v1/elastic/day", 400, "namespace/name of an ElasticPolicy"},
		"a policy of another query":       {full, "GET", "/api/v1/elastic/day?policy=a/b%22%7D%20or%20up", 400, "namespace/name of an ElasticPolicy"},
		"a machine of another query":      {full, "GET", "/api/v1/colocation/day?machine=a%22%7D%20or%20up", 400, "the name of a machine"},
		"a machine without batch":         {server.New(server.Options{Store: f, Metrics: f, Assets: page, Now: f.Now}), "GET", "/api/v1/colocation/day?machine=nobody", 404, "Nothing is known of batch work on a machine nobody"},
		"a policy that is none":           {server.New(server.Options{Store: f, Metrics: f, Assets: page, Now: f.Now}), "GET", "/api/v1/elastic/day?policy=live/nobody", 404, "There is no ElasticPolicy live/nobody"},
		"a route that is none":            {full, "GET", "/api/v1/cost", 404, "/api/v1/cost"},
		"a page that is none":             {full, "GET", "/old.html", 404, "/old.html"},
		"writing":                         {full, "POST", "/api/v1/bill", 405, "only reads"},
		"a store in which nothing is yet": {none, "GET", "/api/v1/bill", 404, "No hour is closed yet"},
		"a bridge of nothing":             {none, "GET", "/api/v1/bill/diff", 404, "No hour is closed yet"},
		"a store that fails":              {lost, "GET", "/api/v1/bill", 500, "Read the hours: the disk is gone; mount it again."},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			tc.h.ServeHTTP(w, request(tc.method, tc.path))
			var v struct{ Error string }
			if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
				t.Fatalf("%s: %v", w.Body, err)
			}
			if w.Code != tc.status || !strings.Contains(v.Error, tc.want) || !strings.HasSuffix(v.Error, ".") || strings.Contains(v.Error, "\n") {
				t.Errorf("got %d %q, want %d %q", w.Code, v.Error, tc.status, tc.want)
			}
		})
	}
	if d := get[struct{ Decisions []bill.Decision }](t, none, "/api/v1/decisions"); d.Decisions == nil {
		t.Error("an empty ledger is null")
	}
	if st := get[struct{ Closed *struct{} }](t, none, "/api/v1/status"); st.Closed != nil {
		t.Error("nothing is closed, and the status names hours")
	}
}

func TestOnlyKnownHostNamesAreAnswered(t *testing.T) {
	f := fleet(t)
	loopback, named := server.New(server.Options{Store: f, Assets: page}), server.New(server.Options{Store: f, Assets: page, Hosts: []string{"neap.example"}})
	cases := map[string]struct {
		h    http.Handler
		host string
		want int
	}{
		"loopback by number":                       {loopback, "127.0.0.1:8080", 200},
		"loopback by name":                         {loopback, "localhost:8080", 200},
		"loopback by IPv6":                         {loopback, "[::1]:8080", 200},
		"a name that another site points here":     {loopback, "evil.example:8080", 421},
		"no name":                                  {loopback, "", 421},
		"the name that was given":                  {named, "NEAP.example", 200},
		"loopback where another name was given":    {named, "127.0.0.1", 421},
		"a name that only starts like the allowed": {named, "neap.example.evil.example", 421},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			w, r := httptest.NewRecorder(), request("GET", "/healthz")
			r.Host = tc.host
			tc.h.ServeHTTP(w, r)
			if w.Code != tc.want {
				t.Errorf("got %d, want %d", w.Code, tc.want)
			}
		})
	}
}

func TestAssetsAreCachedZippedAndGuarded(t *testing.T) {
	h := server.New(server.Options{Store: fleet(t), Assets: page})
	ask := func(path string, header ...string) *httptest.ResponseRecorder {
		w, r := httptest.NewRecorder(), request("GET", path)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		h.ServeHTTP(w, r)
		return w
	}
	plain := ask("/")
	if plain.Code != 200 || !strings.HasPrefix(plain.Body.String(), "<!doctype") || plain.Header().Get("Cache-Control") != "no-cache" {
		t.Errorf("the page: %d %v", plain.Code, plain.Header())
	}
	for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} {
		if csp := plain.Header().Get("Content-Security-Policy"); !strings.Contains(csp, want) || strings.Contains(csp, "unsafe") {
			t.Errorf("policy %q", csp)
		}
	}
	if w := ask("/", "If-None-Match", plain.Header().Get("ETag")); w.Code != 304 {
		t.Errorf("asked again: %d", w.Code)
	}
	zipped := ask("/assets/app-12.js", "Accept-Encoding", "br, gzip")
	if zipped.Header().Get("Content-Encoding") != "gzip" || !strings.Contains(zipped.Header().Get("Cache-Control"), "immutable") || !strings.HasPrefix(zipped.Header().Get("Content-Type"), "text/javascript") {
		t.Errorf("script: %v", zipped.Header())
	}
	zr, err := gzip.NewReader(zipped.Body)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(zr); err != nil || len(body) != 2001 {
		t.Errorf("unzipped %d bytes, %v", len(body), err)
	}
	if w := ask("/assets/app-12.js", "Accept-Encoding", "gzip;q=0"); w.Header().Get("Content-Encoding") != "" {
		t.Error("zipped for a reader that refuses it")
	}
	api := ask("/api/v1/status")
	if w := ask("/api/v1/status", "If-None-Match", api.Header().Get("ETag")); api.Header().Get("ETag") == "" || w.Code == 200 && w.Body.String() == api.Body.String() {
		t.Errorf("the same answer again: %d", w.Code)
	}
	bare := server.New(server.Options{Store: fleet(t), Assets: fstest.MapFS{}})
	w := httptest.NewRecorder()
	bare.ServeHTTP(w, request("GET", "/"))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "make ui") {
		t.Errorf("without a built page: %d %s", w.Code, w.Body)
	}
}

func TestTheStreamTellsWhatChangesAndLetsGo(t *testing.T) {
	f, err := servertest.New(2)
	if err != nil {
		t.Fatal(err)
	}
	s := server.New(server.Options{Store: f, Live: f, Assets: page, Tick: 10 * time.Millisecond, MaxStreams: 2})
	ts := httptest.NewServer(s)
	defer ts.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	open := func() *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, "GET", ts.URL+"/api/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first, second := open(), open()
	if third := open(); third.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third stream of two: %d", third.StatusCode)
	}
	second.Body.Close()

	lines := bufio.NewScanner(first.Body)
	seen := map[string]string{}
	read := func(until func() bool) {
		t.Helper()
		name := ""
		for !until() && lines.Scan() {
			if v, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				seen[name] = v
			}
		}
		if !until() {
			t.Fatalf("the stream ended: %v; saw %v", lines.Err(), seen)
		}
	}
	read(func() bool { return len(seen) == 3 })
	if !strings.Contains(seen["status"], `"simulated":true`) || !strings.Contains(seen["provisional"], `"unexplainedNano":0`) {
		t.Errorf("saw %v", seen)
	}
	closed := seen["closed"]
	if err := f.Advance(time.Hour); err != nil {
		t.Fatal(err)
	}
	read(func() bool { return seen["closed"] != closed })

	s.Close()
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("the stream was torn, not ended: %v", err)
	}
}

func ExampleNew() {
	f, err := servertest.New(2)
	if err != nil {
		fmt.Println(err)
		return
	}
	h := server.New(server.Options{Store: f, Title: "example"})
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "http://localhost/healthz", nil)
	h.ServeHTTP(w, r)
	fmt.Print(w.Body)
	// Output: ok
}
