package scenario_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/neap-dev/neap/sim/replay"
	"github.com/neap-dev/neap/sim/scenario"
)

var update = flag.Bool("update", false, "write the errors that are found into testdata")

// TestScripts runs testdata/*.txtar. Each holds a scenario, and either the
// "errors" it must be refused with or what must be "expect"ed of its replay:
//
//	bill 3.000000000                                   exactly
//	hour 1: used 0.5 of 4 cores, requested 1           to a hundredth
//	requests shop/api between 10 and 20                over the whole time; also failed
//	created 3 pods, 2 at once, 0 waiting               exactly; waiting at the end
//	decided deploy shop/Deployment/api: the reason
//
// A second scenario in the file is scenario-2.yaml with expect-2. Files under
// series/ are the folder of real series. Every replay is done twice and must
// give the same bytes.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := ""
			parts := map[string][]byte{}
			for _, f := range a.Files {
				parts[f.Name] = f.Data
				if name, ok := strings.CutPrefix(f.Name, "series/"); ok {
					if dir == "" {
						dir = t.TempDir()
					}
					if err := os.WriteFile(filepath.Join(dir, name), f.Data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			for _, suffix := range []string{"", "-2", "-3"} {
				text, ok := parts["scenario"+suffix+".yaml"]
				if !ok {
					continue
				}
				s, err := scenario.Parse(text, "scenario"+suffix+".yaml", scenario.Options{SeriesDir: dir})
				if want, ok := parts["errors"+suffix]; ok {
					refused(t, a, file, "errors"+suffix, err, string(want), dir)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				expect(t, s, string(parts["expect"+suffix]))
			}
		})
	}
}

func refused(t *testing.T, a *txtar.Archive, file, part string, err error, want, dir string) {
	t.Helper()
	var wrong scenario.Errors
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v, want errors", err)
	}
	got := wrong.Error() + "\n"
	if dir != "" {
		got = strings.ReplaceAll(got, dir+string(filepath.Separator), "SERIES/")
	}
	if got == want {
		return
	}
	if *update {
		for i := range a.Files {
			if a.Files[i].Name == part {
				a.Files[i].Data = []byte(got)
			}
		}
		if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("got\n%s\nwant\n%s", got, want)
}

func expect(t *testing.T, s *scenario.Scenario, script string) {
	t.Helper()
	r, err := replay.Run(t.Context(), s, replay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := replay.Run(t.Context(), s, replay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal([]any{r, r.Facts})
	b, _ := json.Marshal([]any{again, again.Facts})
	if string(a) != string(b) {
		t.Error("two replays differ")
	}
	if r.Bill.UnexplainedNano != 0 {
		t.Errorf("%s is unexplained", r.Bill.UnexplainedNano)
	}
	for _, line := range strings.Split(script, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if got := holds(r, line); got != "" {
			t.Errorf("%s: %q, but %s", s.Name, line, got)
		}
	}
}

// holds returns "" if a line of a script is true of a replay, else what is.
func holds(r *replay.Result, line string) string {
	var n, created, most, waiting int
	var used, of, requested float64
	var low, high int64
	var module, bill string
	scan := func(format string, to ...any) bool {
		k, err := fmt.Sscanf(line, format, to...)
		return err == nil && k == len(to)
	}
	near := func(milli int64, cores float64) bool { return math.Abs(float64(milli)/1000-cores) <= 0.01 }
	between := func(count func(replay.Module) int64) string {
		for _, m := range r.Modules {
			if ns, rest, _ := strings.Cut(m.Module, "/"); ns+"/"+rest[strings.Index(rest, "/")+1:] == module {
				if c := count(m); c < low || c > high {
					return fmt.Sprintf("it is %d", c)
				}
				return ""
			}
		}
		return "there is no such module"
	}
	switch {
	case scan("bill %s", &bill):
		if got := r.Bill.BillNano.String(); got != bill {
			return "the bill is " + got
		}
	case scan("hour %d: used %g of %g cores, requested %g", &n, &used, &of, &requested):
		if n >= len(r.Hours) {
			return fmt.Sprintf("there are %d hours", len(r.Hours))
		}
		if h := r.Hours[n].Total; !near(h.UsedMilli, used) || !near(h.BoughtMilli, of) || !near(h.RequestedMilli, requested) {
			return fmt.Sprintf("it used %d m of %d m, requested %d m", h.UsedMilli, h.BoughtMilli, h.RequestedMilli)
		}
	case scan("requests %s between %d and %d", &module, &low, &high):
		return between(func(m replay.Module) int64 { return m.Requests })
	case scan("failed %s between %d and %d", &module, &low, &high):
		return between(func(m replay.Module) int64 { return m.Failed })
	case scan("created %d pods, %d at once, %d waiting", &created, &most, &waiting):
		if c := r.Counts; c.PodsCreated != created || c.PodsMost != most || c.PendingLeft != waiting {
			return fmt.Sprintf("%d were created, %d at once, %d waiting", c.PodsCreated, c.PodsMost, c.PendingLeft)
		}
	case strings.HasPrefix(line, "decided "):
		var all []string
		for _, d := range r.Decisions {
			got := fmt.Sprintf("decided %s %s: %s", d.Action, d.Subject, d.Reason)
			if got == line {
				return ""
			}
			all = append(all, got)
		}
		return fmt.Sprintf("the decisions are %q", all)
	default:
		return "this line says nothing that can be checked"
	}
	return ""
}
