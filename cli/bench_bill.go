package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/internal/benchreport"
	"github.com/neap-dev/neap/internal/madefleet"
	"github.com/neap-dev/neap/store"
)

// billBench says how much is measured.
type billBench struct {
	machines, pods, modules int
	hours                   int // closed and recorded, one after the other
	days                    int // of roll-ups that are asked for
	fleets                  int // random ones whose sums are checked
	pairs                   int // random ones whose change is explained
	seed                    int64
	dir                     string

	log  io.Writer
	rows []any
	bars []benchreport.Bar
}

// A billRow is one raw measurement of `neap bench bill`.
type billRow struct {
	What    string  `json:"what"`
	Case    string  `json:"case"`
	Seconds float64 `json:"seconds"`
	MiB     float64 `json:"mib"` // resident when it was done; −1 if not measured
	Count   int     `json:"count"`
	Note    string  `json:"note"`
}

func newBenchBillCommand() *cobra.Command {
	var format string
	b := billBench{}
	cmd := &cobra.Command{
		Use:   "bill",
		Short: "Measure that the bill closes to the last unit, how fast, and how fast it is asked for",
		Long: `Measure that the bill closes to the last unit, how fast, and how fast it is asked for.

Makes a fleet out of dice (25,000 pods on 1,000 machines), closes and records
hours of it, records 30 days and asks for their bill by module. Checks on 10,000
small random fleets that what was allocated and the idle boxes add up to the
bill with ==, in every grouping, and on random pairs of them that the causes of
a change add up to it. The store is made in a temporary folder, which needs
about 2 GB for 30 days.`,
		Example: `  neap bench bill
  neap bench bill --days 2 --fleets 1000 --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b.log = cmd.ErrOrStderr()
			if err := b.run(cmd.Context()); err != nil {
				return err
			}
			report := benchreport.Report{Machine: benchreport.ThisMachine(), Bars: b.bars, Rows: b.rows}
			if err := report.Write(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&format, "format", "table", "table or json")
	f.IntVar(&b.machines, "machines", 1000, "machines of the large fleet")
	f.IntVar(&b.pods, "pods", 25_000, "pods of the large fleet")
	f.IntVar(&b.modules, "modules", 2000, "modules of the large fleet")
	f.IntVar(&b.hours, "hours", 3, "hours of the large fleet that are closed and recorded")
	f.IntVar(&b.days, "days", 30, "days of the large fleet that are recorded and asked for")
	f.IntVar(&b.fleets, "fleets", 10_000, "random small fleets whose sums are checked")
	f.IntVar(&b.pairs, "pairs", 300, "random pairs of windows whose change is explained")
	f.Int64Var(&b.seed, "seed", 1, "of the dice: the same seed makes the same fleets")
	f.StringVar(&b.dir, "dir", "", "folder to make the temporary store in (default the system's)")
	return cmd
}

func (b *billBench) run(ctx context.Context) (err error) {
	for _, n := range []struct {
		flag string
		v    int
	}{{"machines", b.machines}, {"pods", b.pods}, {"modules", b.modules}, {"hours", b.hours}, {"days", b.days}, {"fleets", b.fleets}, {"pairs", b.pairs}} {
		if n.v < 1 {
			return usagef("--%s must be at least 1", n.flag)
		}
	}
	dir, err := os.MkdirTemp(b.dir, "neap-bench-bill-")
	if err != nil {
		return fmt.Errorf("make a temporary folder: %w; give another with --dir", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, measure := range []func(context.Context, string) error{b.closing, b.asking, b.identity, b.decomposition, b.golden, b.shortPod} {
		if err := measure(ctx, dir); err != nil {
			return err
		}
	}
	peak, err := peakMiB()
	if err != nil {
		return err
	}
	b.row("whole run", "peak resident", 0, 0, "")
	b.bars = append(b.bars, benchreport.AtMost("resident, highest of the whole run", peak, "MiB", 1024))
	return nil
}

func (b *billBench) row(what, which string, took time.Duration, count int, note string) {
	b.rows = append(b.rows, billRow{what, which, took.Seconds(), residentMiB(), count, note})
}

func (b *billBench) say(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

var benchStart = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// closing measures what the biller does once an hour.
func (b *billBench) closing(ctx context.Context, dir string) (err error) {
	b.say("closing and recording %d hours of %d pods on %d machines…", b.hours, b.pods, b.machines)
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var slowest time.Duration
	for i := range b.hours {
		from := benchStart.Add(time.Duration(i) * time.Hour)
		h := madefleet.Large(rand.New(rand.NewSource(b.seed+int64(i))), from, b.machines, b.pods, b.modules)
		book, err := madefleet.Book(nil, from)
		if err != nil {
			return err
		}
		runtime.GC() // what made the fleet is not what is measured
		start := time.Now()
		facts, err := bill.Close(h, book, bill.Options{})
		if err != nil {
			return err
		}
		closed := time.Now()
		if err := s.WriteHour(ctx, facts); err != nil {
			return err
		}
		done := time.Now()
		slowest = max(slowest, done.Sub(start))
		b.row("close an hour", from.Format(time.RFC3339), closed.Sub(start), len(facts.Pods), "")
		b.row("record an hour", from.Format(time.RFC3339), done.Sub(closed), len(facts.Pods), "")
		if sum := unaccounted(&facts); sum != 0 {
			return fmt.Errorf("%d nano-units of hour %s are unaccounted for", sum, from)
		}
	}
	peak, err := peakMiB()
	if err != nil {
		return err
	}
	b.bars = append(b.bars,
		benchreport.Below(fmt.Sprintf("close and record an hour of %d pods, slowest of %d", b.pods, b.hours), slowest.Seconds(), "s", 5),
		benchreport.AtMost("resident, highest while closing", peak, "MiB", 1024))
	return nil
}

// asking measures the bill of many days by module, from a store that nobody has
// read before.
func (b *billBench) asking(ctx context.Context, dir string) (err error) {
	b.say("recording %d days of the same fleet…", b.days)
	variants := make([]bill.Facts, 3)
	for i := range variants {
		h := madefleet.Large(rand.New(rand.NewSource(b.seed+int64(i))), benchStart, b.machines, b.pods, b.modules)
		book, err := madefleet.Book(nil, benchStart)
		if err != nil {
			return err
		}
		if variants[i], err = bill.Close(h, book, bill.Options{}); err != nil {
			return err
		}
	}
	debug.FreeOSMemory()
	start := time.Now()
	if err := b.record(ctx, dir, variants); err != nil {
		return err
	}
	b.row("record days", fmt.Sprintf("%d days", b.days), time.Since(start), b.days*24, "")

	r, err := store.OpenRead(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	b.say("asking for the bill of %d days by module…", b.days)
	end := benchStart.AddDate(0, 0, b.days)
	var slowest time.Duration
	for _, w := range []struct {
		name     string
		from, to time.Time
	}{
		{"whole days", benchStart, end},
		{"from noon to noon", benchStart.Add(12 * time.Hour), end.Add(-12 * time.Hour)},
		{"whole days again", benchStart, end},
	} {
		start := time.Now()
		report, err := r.Report(ctx, w.from, w.to, bill.ByModule)
		if err != nil {
			return err
		}
		took := time.Since(start)
		slowest = max(slowest, took)
		b.row("bill by module", w.name, took, len(report.Lines), "bill "+report.BillNano.String()+" "+report.Currency)
		sum := report.BillNano
		for _, l := range report.Lines {
			sum -= l.CostNano
		}
		if sum != 0 || report.UnexplainedNano != 0 {
			return fmt.Errorf("%d nano-units of %d days are on no line", sum, b.days)
		}
	}
	b.bars = append(b.bars, benchreport.Below(fmt.Sprintf("bill of %d days of %d pods by module, slowest", b.days, b.pods), slowest.Seconds(), "s", 1))
	return nil
}

func (b *billBench) record(ctx context.Context, dir string, variants []bill.Facts) (err error) {
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	said := time.Now()
	for i := range b.days * 24 {
		f := &variants[i%len(variants)]
		shift(f, benchStart.Add(time.Duration(i)*time.Hour))
		if err := s.WriteHour(ctx, *f); err != nil {
			return err
		}
		if time.Since(said) > 15*time.Second {
			b.say("  %d of %d hours", i+1, b.days*24)
			said = time.Now()
		}
	}
	return nil
}

// shift moves facts to another hour.
func shift(f *bill.Facts, from time.Time) {
	by := from.Sub(f.From)
	f.From, f.To = f.From.Add(by), f.To.Add(by)
	for i := range f.Pods {
		f.Pods[i].From, f.Pods[i].To = f.Pods[i].From.Add(by), f.Pods[i].To.Add(by)
	}
	for i := range f.Machines {
		f.Machines[i].From, f.Machines[i].To = f.Machines[i].From.Add(by), f.Machines[i].To.Add(by)
	}
}

// unaccounted is what Σ bill − Σ used − Σ idle boxes and Σ bill − Σ charged and
// the unexplained box come to: 0.
func unaccounted(f *bill.Facts) money.Amount {
	var bills, used, idle, unexplained, charged money.Amount
	for i := range f.Machines {
		m := &f.Machines[i]
		bills += m.Bill.Sum()
		charged += m.Unshared.Sum()
		for box, a := range m.Idle {
			idle += a.Sum()
			if box == bill.Unexplain {
				unexplained += a.Sum()
			}
		}
	}
	for i := range f.Pods {
		p := &f.Pods[i]
		used += p.Used.Sum()
		charged += p.Used.Sum() + p.Slack.Sum() + p.Shared.Sum()
	}
	return cmp.Or(bills-used-idle, bills-charged, unexplained)
}

var benchGroupings = []string{bill.ByModule, bill.ByNamespace, bill.ByPool, bill.ByMachineType, bill.ByFeature, bill.ByLabel + "team"}

// identity checks every sum of random fleets.
func (b *billBench) identity(ctx context.Context, _ string) error {
	b.say("checking the sums of %d random fleets…", b.fleets)
	start := time.Now()
	wrong, pods := 0, 0
	var unexplained money.Amount
	for i := range b.fleets {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := randomFacts(b.seed + int64(i))
		if err != nil {
			return err
		}
		pods += len(f.Pods)
		bad := unaccounted(&f) != 0
		for _, by := range benchGroupings {
			r, err := bill.Summarise([]bill.Facts{f}, by, madeFeatures)
			if err != nil {
				return err
			}
			unexplained += r.UnexplainedNano
			left := r.BillNano - r.AllocatedNano
			for _, a := range r.IdleNano {
				left -= a
			}
			lines := r.BillNano
			for _, l := range r.Lines {
				lines -= l.CostNano
			}
			bad = bad || left != 0 || lines != 0
		}
		if bad {
			wrong++
			b.row("sums", fmt.Sprintf("seed %d", b.seed+int64(i)), 0, 1, "the sums of this fleet are wrong")
		}
	}
	b.row("sums", fmt.Sprintf("%d fleets, %d pods, %d groupings", b.fleets, pods, len(benchGroupings)), time.Since(start), wrong, "count is of wrong sums")
	b.bars = append(b.bars,
		benchreport.AtLeast("random fleets whose sums were checked", float64(b.fleets), "fleets", 10_000),
		benchreport.Equal("fleets where Σ allocated + Σ idle boxes ≠ bill, in any grouping", float64(wrong), "fleets", 0),
		benchreport.Equal("unexplained", float64(unexplained), "nano", 0))
	return nil
}

var madeFeatures = map[workload.Key][]workload.Feature{
	{Namespace: "ns0", Kind: "Deployment", Name: "app0"}: {{Name: "homework", ShareMillis: 667}, {Name: "live", ShareMillis: 333}},
	{Namespace: "ns1", Kind: "Deployment", Name: "app1"}: {{Name: "live", ShareMillis: 500}},
}

func randomFacts(seed int64) (bill.Facts, error) {
	dice := rand.New(rand.NewSource(seed))
	book, err := madefleet.Book(dice, benchStart)
	if err != nil {
		return bill.Facts{}, err
	}
	return bill.Close(madefleet.Small(dice, benchStart), book, bill.Options{})
}

// decomposition explains the change between random fleets: modules and machine
// types appear and vanish.
func (b *billBench) decomposition(context.Context, string) error {
	b.say("explaining the change between %d random pairs…", b.pairs)
	start := time.Now()
	wrong, vanishing := 0, 0
	for i := range b.pairs {
		var w [2]bill.Window
		for n := range w {
			f, err := randomFacts(b.seed + 1_000_000 + int64(2*i+n))
			if err != nil {
				return err
			}
			if w[n], err = bill.Rollup(f); err != nil {
				return err
			}
		}
		c, err := bill.Explain(w[0], w[1])
		if err != nil {
			return err
		}
		left, vanishes := c.ChangeNano, false
		for _, e := range c.Effects {
			left -= e.Nano
			vanishes = vanishes || e.Nano != 0 && (e.Effect == bill.EffectNew || e.Effect == bill.EffectGone)
		}
		if vanishes {
			vanishing++
		}
		lines := c.ChangeNano
		for _, l := range c.Lines {
			lines -= l.ChangeNano
			inLine := l.ChangeNano
			for _, v := range l.Effects {
				inLine -= v
			}
			left = cmp.Or(left, inLine, l.ResidualNano)
		}
		if left != 0 || lines != 0 || c.ResidualNano != 0 {
			wrong++
		}
	}
	b.row("decomposition", fmt.Sprintf("%d pairs, in %d of them modules appear or vanish", b.pairs, vanishing), time.Since(start), wrong, "count is of residuals that are not 0")
	b.bars = append(b.bars,
		benchreport.AtLeast("random pairs explained", float64(b.pairs), "pairs", 300),
		benchreport.Equal("pairs with a residual", float64(wrong), "pairs", 0))
	return nil
}

// golden is the worked case: (Q, k, r, f, π) = (1000, 2, 2.5, 1.6, 0.01) →
// (1300, 1.6, 2.0, 1.4, 0.009).
func (b *billBench) golden(context.Context, string) error {
	window := func(q, use, held, bought int64, cost money.Amount) bill.Window {
		m := workload.Key{Namespace: "n", Kind: "Deployment", Name: "a"}
		r := bill.Row{Module: m, Namespace: "n", Type: "t", PodMillis: 1}
		r.Cells[resource.CPU] = bill.Cell{Use: use, Held: held, Bought: bought, Used: cost, List: cost}
		return bill.Window{From: benchStart, To: benchStart.Add(time.Hour), Currency: "USD", Rows: []bill.Row{r},
			Loads: []bill.LoadRow{{Module: m, Requests: q, Hours: 1}}}
	}
	c, err := bill.Explain(window(1000, 2000, 5000, 8000, 80_000_000_000), window(1300, 2080, 4160, 5824, 52_416_000_000))
	if err != nil {
		return err
	}
	want := map[bill.Effect]string{bill.EffectLoad: "17.5584", bill.EffectNeed: "-14.6833", bill.EffectSlack: "-14.6833",
		bill.EffectMatch: "-8.8143", bill.EffectList: "-6.9616"}
	wrong := 0
	for _, e := range c.Effects {
		got := strconv.FormatFloat(e.Nano.Float(), 'f', 4, 64)
		if w, ok := want[e.Effect]; ok {
			b.row("golden case", string(e.Effect), 0, 1, got+", should be "+w)
			if got != w {
				wrong++
			}
		}
	}
	b.bars = append(b.bars, benchreport.Equal("effects of the golden case that differ in 4 decimals", float64(wrong), "effects", 0))
	return nil
}

// shortPod bills a pod that lives for 30 seconds.
func (b *billBench) shortPod(context.Context, string) error {
	book, err := madefleet.Book(nil, benchStart)
	if err != nil {
		return err
	}
	size := resource.Vector{8000, 16 * resource.GiB, 0}
	at := benchStart.Add(17*time.Minute + 3*time.Second)
	f, err := bill.Close(bill.Hour{From: benchStart, To: benchStart.Add(time.Hour),
		Machines: []bill.Machine{{Name: "m", Pool: "p", Type: "c8", From: benchStart, To: benchStart.Add(time.Hour), Capacity: size, Allocatable: size}},
		Pods: []bill.Pod{{UID: "u", Namespace: "n", Name: "short", Module: workload.Key{Namespace: "n", Kind: "Job", Name: "short"}, Machine: "m",
			From: at, To: at.Add(30 * time.Second), Requests: []bill.Step{{At: at, Request: size}},
			Usage: []bill.Sample{{From: at, To: at.Add(30 * time.Second), Use: size}}}},
	}, book, bill.Options{})
	if err != nil {
		return err
	}
	price, err := book.At("c8", size, at)
	if err != nil {
		return err
	}
	pod := f.Pods[0]
	seconds := float64(pod.RequestSeconds[resource.CPU]) / float64(size[resource.CPU])
	exact := price.Effective.Between(at, at.Add(30*time.Second))
	b.row("30-second pod", "on a machine that it fills", 0, 1, fmt.Sprintf("billed %s for %v seconds; the machine cost %s in that time", pod.Used.Sum(), seconds, exact))
	b.bars = append(b.bars,
		benchreport.Equal("seconds billed of a 30-second pod", seconds, "s", 30),
		benchreport.Equal("nano-units by which its bill differs from the machine's price for 30 s", float64(pod.Used.Sum()-exact), "nano", 0))
	return nil
}

// residentMiB is the memory that the process has now, −1 if unknown.
func residentMiB() float64 {
	v, err := statusMiB("VmRSS:")
	if err != nil {
		return -1
	}
	return v
}

// peakMiB is the most memory that the process ever had.
func peakMiB() (float64, error) { return statusMiB("VmHWM:") }

func statusMiB(key string) (float64, error) {
	const path = "/proc/self/status"
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("measure the memory in use: %w; run it on Linux", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, key); ok {
			if f := strings.Fields(v); len(f) > 0 {
				kb, err := strconv.ParseFloat(f[0], 64)
				return kb / 1024, err
			}
		}
	}
	return 0, fmt.Errorf("measure the memory in use: %s does not say %s; run it on Linux", path, strings.TrimSuffix(key, ":"))
}
