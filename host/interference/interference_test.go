package interference

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
)

// TestMain is the children's program too.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "role" {
		if err := Main(context.Background(), os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// harness returns one on this machine's cgroups that rejects nothing: a test
// machine is never quiet.
func harness(t *testing.T, o Options) *Harness {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("CI") == "true" {
		skip = t.Fatalf
	}
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		skip("measuring needs Linux and root")
	}
	tree, err := cgroup.Open("")
	if err != nil {
		skip("measuring needs cgroups: %v", err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Command = []string{program, "role"}
	o.Foreign, o.Steal, o.Patience = 1e6, 1e6, time.Nanosecond
	h, err := New(tree, o)
	if err != nil {
		t.Fatal(err)
	}
	h.machine.stretch = time.Millisecond
	return h
}

// leftovers fails the test if groups of this process are still there.
func leftovers(t *testing.T, h *Harness) {
	t.Helper()
	groups, err := h.tree.Children("/")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g.Name() == groupPrefix+fmt.Sprint(os.Getpid()) {
			t.Errorf("group %s is still there", g)
		}
	}
}

func arm(t *testing.T, name string) Arm {
	t.Helper()
	a, err := NewArm(name)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestEveryArmIsMeasuredAndLeavesNothing(t *testing.T) {
	h := harness(t, Options{Seconds: 0.3, WarmUp: 200 * time.Millisecond, TargetRatio: 1.5})
	// Little load: a busy machine must get through it.
	h.head = Head{Format: rowsFormat, Cores: h.cores, Steps: 200, Cost: 1e-3, Seconds: 0.3}
	var plan Plan
	var names []string
	for _, a := range ArmNames() {
		b := arm(t, a[0])
		b.Settle = 0
		names, plan.Arms = append(names, a[0]), append(plan.Arms, b)
	}
	plan.Cells = Cells(names, []float64{10}, []string{BurnCPU}, 1, 1)
	plan.Path = filepath.Join(t.TempDir(), "rows")
	rows, err := Run(t.Context(), h, plan, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	leftovers(t, h)
	if len(rows) != len(names) {
		t.Fatalf("%d rows of %d arms", len(rows), len(names))
	}
	for _, r := range rows {
		if r.Requests == 0 && r.Lost == 0 {
			t.Errorf("arm %s: no request was sent", r.Arm)
		}
		if r.Arm == Solo && r.BatchCores != 0 {
			t.Errorf("solo has batch: %.2f cores", r.BatchCores)
		}
		if r.OK && r.P99Ms <= 0 {
			t.Errorf("arm %s: p99 %.3f ms", r.Arm, r.P99Ms)
		}
	}
	head, kept, err := ReadRows(plan.Path)
	if err != nil || head != h.Head() || len(kept) != len(rows) {
		t.Fatalf("the file has %+v, %d rows, %v", head, len(kept), err)
	}
	// Nothing is left to do: the same plan measures nothing.
	for i := range kept {
		kept[i].OK = true
	}
	again, err := Run(t.Context(), h, plan, kept, func(Progress) { t.Error("a row was measured again") })
	if err != nil || len(again) != len(kept) {
		t.Errorf("%d rows, %v", len(again), err)
	}
}

func TestTheMemoryBurnerRuns(t *testing.T) {
	h := harness(t, Options{Seconds: 0.2, WarmUp: 100 * time.Millisecond})
	h.head = Head{Format: rowsFormat, Cores: h.cores, Steps: 200, Cost: 1e-3, Seconds: 0.2}
	if _, err := h.Measure(t.Context(), arm(t, "idle"), Cell{1, BurnMemory, 5, "idle"}); err != nil {
		t.Fatal(err)
	}
	leftovers(t, h)
}

func TestCalibrationFindsTheCostOfARequest(t *testing.T) {
	h := harness(t, Options{Service: 200 * time.Microsecond})
	if err := h.Calibrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if head := h.Head(); head.Steps < 1 || head.Cost < 50e-6 || head.Cost > 0.1 {
		t.Errorf("%+v", head)
	}
	leftovers(t, h)
}

func TestAStoppedMeasurementCleansUp(t *testing.T) {
	h := harness(t, Options{Seconds: 60})
	h.head = Head{Format: rowsFormat, Cores: h.cores, Steps: 200, Cost: 1e-3, Seconds: 60}
	ctx, cancel := context.WithCancel(t.Context())
	g := cgroup.Group("/" + groupPrefix + fmt.Sprint(os.Getpid()))
	go func() {
		defer cancel()
		for t.Context().Err() == nil { // until the batch is at work
			if pids, err := h.tree.Processes(g.Child("batch")); err == nil && len(pids) > 0 {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := h.Measure(ctx, arm(t, "neap"), Cell{1, BurnCPU, 5, "neap"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	leftovers(t, h)
}

func TestWhatAKilledMeasurementLeftIsSwept(t *testing.T) {
	h := harness(t, Options{})
	// No process has an id above the kernel's largest.
	g := cgroup.Group("/" + groupPrefix + "4194305")
	if err := h.tree.Make(g.Child("batch")); err != nil {
		t.Fatal(err)
	}
	c, err := start(h.options.Command, "burn", "-threads", "1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	if err := h.tree.Move(g.Child("batch"), c.pid()); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- c.cmd.Wait() }() // it is not our init's child
	h.sweep()
	<-gone
	if h.tree.Exists(g) {
		t.Errorf("%s is still there", g)
	}
}

func TestAStepIsSeen(t *testing.T) {
	h := harness(t, Options{Service: 500 * time.Microsecond})
	h.head = Head{Format: rowsFormat, Cores: h.cores, Steps: 200, Cost: 1e-3}
	r, err := h.React(t.Context(), arm(t, "koordinator"), 1, 2, 5, 1500*time.Millisecond, 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if r.BeforeCores <= 0 || r.AfterCores <= 0 {
		t.Errorf("no ceiling was seen: %+v", r)
	}
	leftovers(t, h)
}

func TestAnArmIsNamed(t *testing.T) {
	for _, name := range []string{"", "koord", "quota@", "quota@0", "quota@101", "quota@x", "idle@50"} {
		if _, err := NewArm(name); err == nil {
			t.Errorf("arm %q is taken", name)
		}
	}
	if a, err := NewArm("koordinator@80"); err != nil || a.Name != "koordinator@80" || !a.Batch {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestCells(t *testing.T) {
	arms := []string{"none", "idle"}
	cells := Cells(arms, []float64{25, 50}, []string{BurnCPU, BurnMemory}, 3, 1)
	if want := 3 * 2 * 2 * 3; len(cells) != want {
		t.Fatalf("%d cells, want %d with solo", len(cells), want)
	}
	seen := map[Cell]bool{}
	round := 0
	for _, c := range cells {
		if seen[c] || c.Round < round {
			t.Errorf("%+v comes twice, or after a later round", c)
		}
		seen[c], round = true, c.Round
	}
	if !slices.Equal(cells, Cells(arms, []float64{25, 50}, []string{BurnCPU, BurnMemory}, 3, 1)) {
		t.Error("the same seed gives another order")
	}
	if slices.Equal(cells, Cells(arms, []float64{25, 50}, []string{BurnCPU, BurnMemory}, 3, 2)) {
		t.Error("another seed gives the same order")
	}
	first := map[float64]string{}
	moved := soloFirst(cells, nil)
	for _, c := range moved {
		if first[c.OnlinePercent] == "" {
			first[c.OnlinePercent] = c.Arm
		}
	}
	if len(moved) != len(cells) || first[25] != Solo || first[50] != Solo {
		t.Errorf("first of each load: %v", first)
	}
}

func row(round int, arm string, p99, batch float64) Row {
	return Row{Round: round, Arm: arm, OnlinePercent: 50, Burner: BurnCPU, P99Ms: p99, BatchCores: batch, OnlineCores: 1, OK: true}
}

func TestSummaries(t *testing.T) {
	rows := []Row{
		row(1, Solo, 1, 0), row(1, "neap", 1.1, 0.9), row(1, "none", 3, 1),
		row(2, Solo, 2, 0), row(2, "neap", 2.4, 0.7),
		row(3, "neap", 9, 0.1), // this round has no solo row
	}
	rows = append(rows, Row{Round: 2, Arm: "none", OnlinePercent: 50, Burner: BurnCPU, P99Ms: 50})
	all := Summarise(rows, []string{Solo, "none", "neap"}, 2)
	if len(all) != 3 || all[1].Arm != "none" || all[2].Arm != "neap" {
		t.Fatalf("%+v", all)
	}
	neap := all[2]
	if neap.P99Ratio.N != 2 || math.Abs(neap.P99Ratio.Median-1.15) > 1e-9 || neap.Rejected != 1 {
		t.Errorf("neap %+v", neap)
	}
	if math.Abs(neap.Share.Median-0.8) > 1e-9 {
		t.Errorf("share %+v", neap.Share)
	}
	if none := all[1]; none.P99Ratio.N != 1 || none.P99Ratio.Median != 3 || none.Rejected != 1 {
		t.Errorf("none %+v", none)
	}
}

func TestFrontier(t *testing.T) {
	var rows []Row
	for round := 1; round <= 5; round++ {
		noise := float64(round) * 0.01
		rows = append(rows, row(round, "neap", 1+noise, 0.9), row(round, "none", 2+noise, 0.9), // no cheaper, and worse
			row(round, "better", 0.8+noise, 0.9), row(round, "greedy", 1+noise, 1.1), row(round, "absent", 0.9+noise, 0.1),
			row(round, "equal", 1.0+noise*float64(1-2*(round%2)), 0.9))
	}
	beats := map[string]bool{}
	for _, r := range Frontier(rows, "neap", 2) {
		beats[r.Arm] = r.Beats
	}
	for arm, want := range map[string]bool{"none": false, "better": true, "greedy": true, "absent": false} {
		if got, ok := beats[arm]; !ok || got != want {
			t.Errorf("%s beats neap: %v, want %v", arm, got, want)
		}
	}
}

func TestSpread(t *testing.T) {
	if got := SpreadOf(nil); got != (Spread{}) {
		t.Errorf("of nothing: %+v", got)
	}
	s := SpreadOf([]float64{4, 1, 2, 3})
	if s.Median != 2.5 || s.Min != 1 || s.Max != 4 || s.Mean != 2.5 || s.Low < 1 || s.High > 4 || s.Low >= s.High {
		t.Errorf("%+v", s)
	}
	if s != SpreadOf([]float64{1, 2, 3, 4}) {
		t.Error("the order of values changes their spread")
	}
}

func TestReversals(t *testing.T) {
	cases := map[string]struct {
		series []int64
		want   int
	}{
		"nothing turns":                   {nil, 0},
		"a fall is no turn":               {[]int64{100, 80, 60}, 0},
		"down and up is one":              {[]int64{100, 50, 100}, 1},
		"small ways are none":             {[]int64{100, 95, 103, 96, 104}, 0},
		"slowly up after a fall is one":   {[]int64{100, 50, 55, 60, 65, 70}, 1},
		"a square wave turns at its ends": {[]int64{100, 50, 100, 50, 100}, 3},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Reversals(tc.series, 10); got != tc.want {
				t.Errorf("got %d, want %d", got, tc.want)
			}
		})
	}
}

func TestKoordinatorsQuota(t *testing.T) {
	rule := QuotaRule{Cores: 10, Threshold: 0.65}
	cases := map[string]struct {
		now, online, system, want float64
	}{
		"the first is what is free":          {-1, 2, 0.5, 4},
		"it falls at once":                   {4, 6, 0.5, quotaFloor},
		"it rises by a tenth of the machine": {1, 1, 0, 2},
		"less than a hundredth is not worth": {4, 2.45, 0, 4},
		"it is never below two milliseconds": {-1, 20, 3, quotaFloor},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := rule.Next(tc.now, tc.online, tc.system); math.Abs(got-tc.want) > 1e-9 {
				t.Errorf("got %g, want %g", got, tc.want)
			}
		})
	}
}

func TestRowsAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rows")
	if head, rows, err := ReadRows(path); err != nil || head != (Head{}) || rows != nil {
		t.Errorf("of no file: %+v, %v, %v", head, rows, err)
	}
	head := Head{Format: rowsFormat, Cores: 2, Kernel: "6.18", Steps: 10, Cost: 1e-3, Seconds: 5, Seed: 7}
	want := []Row{row(1, Solo, 1, 0), row(1, "neap", 1.1, 0.9)}
	f, err := openRows(path, head, want)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"round":2,"arm":"sol`); err != nil { // killed in the middle
		t.Fatal(err)
	}
	f.Close()
	got, rows, err := ReadRows(path)
	if err != nil || got != head || !slices.Equal(rows, want) {
		t.Errorf("%+v, %+v, %v", got, rows, err)
	}
	for _, bad := range []string{"hello\n", `{"format":"other"}` + "\n", `{"format":"` + rowsFormat + `"}` + "\n"} {
		if _, _, err := parseRows(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestPlot(t *testing.T) {
	var out bytes.Buffer
	rows := []Row{row(1, Solo, 1, 0), row(1, "neap", 1.05, 0.9), row(1, "none", 30, 1)}
	if err := Plot(&out, Summarise(rows, nil, 2), "neap", 2); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<svg", ">neap</text>", ">none</text>", "online 50 %", "</svg>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "NaN") || strings.Contains(out.String(), "Inf") {
		t.Errorf("it has a figure that is none:\n%s", out.String())
	}
}

func TestPhases(t *testing.T) {
	want := []phase{{1000, 2 * time.Second}, {0.5, 10 * time.Millisecond}}
	got, err := parsePhases(phasesFlag(want))
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "5", "x:1s", "5:", "0:1s", "-1:1s", "NaN:1s", "5:-1s", "1:1s,", "1e9:1s"} {
		if _, err := parsePhases(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("cpu  1 2 3 4 5 6 7 8 9 10")
	f.Add("1 (a) b) S 1 1 1 0 -1 0 0 0 0 0 12 34 0 0 20")
	f.Add(`{"format":"` + rowsFormat + `","cores":1,"steps":1,"cost":1,"seconds":1}` + "\n{}\n")
	f.Add("100:1s,200:2s")
	f.Fuzz(func(t *testing.T, text string) {
		if c, err := parseCPULine(text); err == nil && (c.busy < 0 || c.steal < 0) {
			t.Errorf("%q: %+v", text, c)
		}
		if v, err := parseProcessStat(text); err == nil && v < 0 {
			t.Errorf("%q: %g", text, v)
		}
		if head, rows, err := parseRows(strings.NewReader(text)); err == nil && head.Format == "" && rows != nil {
			t.Errorf("%q: rows without a head", text)
		}
		if phases, err := parsePhases(text); err == nil && len(phases) == 0 {
			t.Errorf("%q: no phases and no error", text)
		}
	})
}
