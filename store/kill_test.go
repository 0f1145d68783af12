package store

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/bill"
)

// TestKill kills a process at whatever it is doing with the store, again and
// again, and finds everything there that it had said was recorded.
func TestKill(t *testing.T) {
	if dir := os.Getenv("NEAP_TEST_STORE"); dir != "" {
		recordForEver(t, dir)
		return
	}
	dir := t.TempDir()
	hours, events := 0, 0
	decisions := map[string]bool{} // by ID; one whose hour was the last thing to survive is never made
	for round := range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "NEAP_TEST_STORE="+dir, fmt.Sprint("NEAP_TEST_FROM=", hours))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var at int
			if _, err := fmt.Sscanf(lines.Text(), "hour %d", &at); err == nil {
				hours = at + 1
			}
			if _, err := fmt.Sscanf(lines.Text(), "decision %d", &at); err == nil {
				decisions[fmt.Sprint(at)] = true
			}
			if _, err := fmt.Sscanf(lines.Text(), "events %d", &at); err == nil {
				events = at
			}
			if n == 10+round {
				// Not at once: the next steps are cut at another point each time.
				time.Sleep(time.Duration(round) * 1700 * time.Microsecond)
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed: its status says so

		s := open2(t, dir, Options{})
		facts := read(t, s)
		if len(facts) < hours {
			t.Fatalf("round %d: %d hours are there, but %d were recorded", round, len(facts), hours)
		}
		for i := range facts {
			if d := cmp.Diff(made(t, int64(i), hour0.Add(time.Duration(i)*time.Hour)), facts[i], alike); d != "" {
				t.Fatalf("round %d, hour %d: %s", round, i, d)
			}
		}
		got, err := s.Decisions(t.Context(), time.Time{}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, d := range got {
			there[d.ID] = true
		}
		for id := range decisions {
			if !there[id] {
				t.Fatalf("round %d: decision %s was recorded, but is not among the %d that are there", round, id, len(got))
			}
		}
		if got, err := s.Events(t.Context()); err != nil || len(got) < events || len(got)%3 != 0 {
			t.Fatalf("round %d: %d events are there (%v), but %d were recorded, three at a time", round, len(got), err, events)
		}
		want, err := bill.Summarise(facts, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		report, err := s.Report(t.Context(), time.Time{}, time.Time{}, bill.ByModule)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, report, alike); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
		if bad, err := s.Check(t.Context(), time.Time{}, time.Time{}); err != nil || len(bad) > 0 {
			t.Fatalf("round %d: damaged %v, %v", round, bad, err)
		}
		hours = len(facts)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if hours < 16 {
		t.Errorf("only %d hours were recorded: the test shows too little", hours)
	}
}

func recordForEver(t *testing.T, dir string) {
	s, err := Open(dir, Options{Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	from := 0
	if _, err := fmt.Sscan(os.Getenv("NEAP_TEST_FROM"), &from); err != nil {
		t.Fatal(err)
	}
	old, err := s.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < from+1000; i++ {
		f := made(t, int64(i), hour0.Add(time.Duration(i)*time.Hour))
		if err := s.WriteHour(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("hour %d\n", i)
		if err := s.AppendDecision(t.Context(), bill.Decision{ID: fmt.Sprint(i), At: f.From}); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("decision %d\n", i)
		e := bill.Event{At: f.From, Kind: bill.PodGone, Name: "x"}
		if err := s.AppendEvents(t.Context(), e, e, e); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("events %d\n", len(old)+3*(i-from+1))
		if i%5 == 0 { // an hour that was closed is closed again, with the same result
			if err := s.WriteHour(t.Context(), made(t, int64(i/2), hour0.Add(time.Duration(i/2)*time.Hour))); err != nil {
				t.Fatal(err)
			}
		}
	}
}
