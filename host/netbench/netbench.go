package netbench

import (
	"context"
	"errors"
	"math/rand/v2"
	"os/exec"
	"slices"
	"time"
)

// The arms of a bench.
const (
	Solo = "solo" // no bulk sender
	None = "none" // nothing is done about it
	HTB  = "htb"  // the usual fixed classes: 40, 30 and 30 % of the link, each up to all of it
	Neap = "neap" // host/netqos
)

// Arms lists all of them.
func Arms() []string { return []string{Solo, None, HTB, Neap} }

// ErrUnable is what a machine gives that cannot run the bench.
var ErrUnable = errors.New("this machine cannot run it")

// Options say what to measure. The zero Options lack only Self.
type Options struct {
	Arms    []string                                    // all if empty
	Rounds  int                                         // 5 if zero
	Tries   int                                         // of a row that is not OK; 3 if zero
	Time    time.Duration                               // of measuring in each arm; 10 s if zero
	Warm    time.Duration                               // before it, in which Neap's budget rises; 12 s if zero
	Bits    int64                                       // of the link, a second; 100 million if zero
	Calls   float64                                     // a second; 500 if zero
	Bytes   int                                         // of each call; 4096 if zero
	Streams int                                         // of the bulk sender; 4 if zero
	Seed    uint64                                      // of the calls and the order of arms
	Self    func(role string, args ...string) *exec.Cmd // required: a command that calls Role
	Say     func(format string, args ...any)            // progress; nil says nothing
}

// latestMs is how late a caller may be at the 99th percentile for its row to count: the
// same for every arm, for a part of the row's own p99 would drop the fastest rows.
const latestMs = 2

// A Row is one arm of one round.
type Row struct {
	Round      int     `json:"round"`
	Arm        string  `json:"arm"`
	P50Ms      float64 `json:"p50Ms"`
	P99Ms      float64 `json:"p99Ms"`
	P99Ratio   float64 `json:"p99Ratio"`   // to the round's solo; 0 if it had none that was OK
	OnlineMbit float64 `json:"onlineMbit"` // a second, as calls carry it
	BulkMbit   float64 `json:"bulkMbit"`
	RestShare  float64 `json:"restShare"` // bulk, of what online leaves of the link
	LateMs     float64 `json:"lateMs"`    // p99 of the generator's own lateness
	Calls      int     `json:"calls"`
	Failed     int     `json:"failed"`
	OK         bool    `json:"ok"` // no call failed, and the generator was not what was measured
}

func (o *Options) defaults() {
	if len(o.Arms) == 0 {
		o.Arms = Arms()
	}
	set(&o.Rounds, 5)
	set(&o.Tries, 3)
	set(&o.Time, 10*time.Second)
	set(&o.Warm, 12*time.Second)
	set(&o.Bits, 100_000_000)
	set(&o.Calls, 500)
	set(&o.Bytes, 4096)
	set(&o.Streams, 4)
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
}

func set[T comparable](at *T, to T) {
	var zero T
	if *at == zero {
		*at = to
	}
}

// Run measures. Rows come in the order in which they were measured; those before an
// error come with it.
func Run(ctx context.Context, opts Options) ([]Row, error) {
	opts.defaults()
	sweep()
	var rows []Row
	dice := rand.New(rand.NewPCG(opts.Seed, 2))
	for round := 1; round <= opts.Rounds; round++ {
		arms := slices.Clone(opts.Arms)
		dice.Shuffle(len(arms), func(i, j int) { arms[i], arms[j] = arms[j], arms[i] })
		first := len(rows)
		for _, arm := range arms {
			seed := dice.Uint64() >> 32
			for try := 1; ; try++ {
				r, err := measure(ctx, opts, arm, seed)
				if err != nil {
					return rows, err
				}
				r.Round = round
				rows = append(rows, r)
				opts.Say("round %d of %d, %s: p99 %.2f ms, bulk %.1f Mbit/s", round, opts.Rounds, arm, r.P99Ms, r.BulkMbit)
				if r.OK || try == opts.Tries {
					break
				}
				opts.Say("the caller itself was late by %.2f ms, and %d of %d calls failed: not counted", r.LateMs, r.Failed, r.Calls+r.Failed)
			}
		}
		if i := slices.IndexFunc(rows[first:], func(r Row) bool { return r.Arm == Solo && r.OK }); i >= 0 {
			for k := range rows[first:] {
				rows[first+k].P99Ratio = rows[first+k].P99Ms / rows[first+i].P99Ms
			}
		}
	}
	return rows, nil
}
