package interference

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"slices"
)

// A Row is one measurement: one arm beside one online load for some seconds.
type Row struct {
	Round         int     `json:"round"` // from 1
	Arm           string  `json:"arm"`
	OnlinePercent float64 `json:"onlinePercent"` // of the machine, asked for
	P50Ms         float64 `json:"p50Ms"`
	P99Ms         float64 `json:"p99Ms"`
	P99Ratio      float64 `json:"p99Ratio"`   // to the solo row of the same round, burner and load; 0 if there is none
	BatchCores    float64 `json:"batchCores"` // that the batch obtained
	OtherCores    float64 `json:"otherCores"` // used by programs that are not of the measurement
	Steal         float64 `json:"steal"`      // cores that the hypervisor took
	OK            bool    `json:"ok"`         // nothing disturbed it; others are kept, and count nowhere

	Burner      string  `json:"burner"`
	OnlineCores float64 `json:"onlineCores"` // that the service used
	LoaderCores float64 `json:"loaderCores"` // that sending took
	OwnCores    float64 `json:"ownCores"`    // of the measurement itself and of the arm's loop
	P999Ms      float64 `json:"p999Ms"`
	// How long the service's threads that could run waited for a CPU: at the 99th
	// percentile of times, and per request. What is in P99Ms and not here is no matter
	// of who gets the CPU. 0 where the kernel cannot be asked (it takes eBPF).
	WaitP99Ms float64 `json:"waitP99Ms"`
	WaitMs    float64 `json:"waitMs"`
	LateP99Ms float64 `json:"lateP99Ms"` // the sender's own lateness
	Requests  int     `json:"requests"`
	Lost      int     `json:"lost"` // sent, and not answered ten seconds after the end
	Seconds   float64 `json:"seconds"`
	Why       string  `json:"why"` // it is not OK, or what the arm says of itself
}

// Share returns which part of the cores that online and its sender left the
// batch obtained, of a machine with so many cores.
func (r Row) Share(cores int) float64 {
	left := float64(cores) - r.OnlineCores - r.LoaderCores
	if left <= 0 {
		return 0
	}
	return r.BatchCores / left
}

// A Cell is a row that is to be measured.
type Cell struct {
	Round         int
	Burner        string
	OnlinePercent float64
	Arm           string
}

// Solo is the arm without batch; every round has it.
const Solo = "solo"

// Cells returns a plan: in each round every arm at every load beside every
// burner, once, in an order thrown by seed. Solo rows are the same for all
// burners, and yet each burner has its own: they are what its rows are compared
// with, from the same minutes.
func Cells(arms []string, loads []float64, burners []string, rounds int, seed uint64) []Cell {
	if !slices.Contains(arms, Solo) {
		arms = slices.Concat([]string{Solo}, arms)
	}
	dice := rand.New(rand.NewPCG(seed, 0x726f7773))
	var cells []Cell
	for round := 1; round <= rounds; round++ {
		var blocks [][]Cell
		for _, burner := range burners {
			for _, load := range loads {
				var block []Cell
				for _, arm := range arms {
					block = append(block, Cell{round, burner, load, arm})
				}
				dice.Shuffle(len(block), func(i, j int) { block[i], block[j] = block[j], block[i] })
				blocks = append(blocks, block)
			}
		}
		dice.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
		cells = slices.Concat(cells, slices.Concat(blocks...))
	}
	return cells
}

func (r Row) cell() Cell { return Cell{r.Round, r.Burner, r.OnlinePercent, r.Arm} }

// compare fills P99Ratio of every row from the solo row of its round.
func compare(rows []Row) {
	solo := map[Cell]float64{}
	for _, r := range rows {
		if r.OK && r.Arm == Solo {
			solo[r.cell()] = r.P99Ms
		}
	}
	for i := range rows {
		c := rows[i].cell()
		c.Arm = Solo
		rows[i].P99Ratio = 0
		if s := solo[c]; s > 0 {
			rows[i].P99Ratio = rows[i].P99Ms / s
		}
	}
}

// A Spread is what a value was over the rounds.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Mean   float64 `json:"mean"`
	Low    float64 `json:"low"`  // the 95 % range of the mean,
	High   float64 `json:"high"` // by the bootstrap
	N      int     `json:"n"`
}

// SpreadOf returns the spread of values, the zero Spread if there are none. The
// range comes from two thousand draws with a seed of its own: equal values give
// equal ranges.
func SpreadOf(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	s := Spread{Min: v[0], Max: v[len(v)-1], N: len(v), Median: v[len(v)/2]}
	if len(v)%2 == 0 {
		s.Median = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	for _, x := range v {
		s.Mean += x / float64(len(v))
	}
	dice := rand.New(rand.NewPCG(uint64(len(v)), 0x626f6f74))
	means := make([]float64, 2000)
	for i := range means {
		for range v {
			means[i] += v[dice.IntN(len(v))] / float64(len(v))
		}
	}
	slices.Sort(means)
	s.Low, s.High = means[nearestRank(0.025, len(means))], means[nearestRank(0.975, len(means))]
	return s
}

// A Summary is what came of one arm beside one burner at one load.
type Summary struct {
	Burner        string  `json:"burner"`
	OnlinePercent float64 `json:"onlinePercent"`
	Arm           string  `json:"arm"`
	P99Ratio      Spread  `json:"p99Ratio"`
	BatchCores    Spread  `json:"batchCores"`
	Share         Spread  `json:"share"` // of what online left
	P50Ms         Spread  `json:"p50Ms"`
	P99Ms         Spread  `json:"p99Ms"`
	Rejected      int     `json:"rejected"` // rows that were disturbed
}

// Summarise returns one summary for every burner, load and arm in rows, in that
// order; arms as they stand in arms, others behind by name. Rows that are not
// OK, or whose round has no solo row, count only as rejected.
func Summarise(rows []Row, arms []string, cores int) []Summary {
	rows = slices.Clone(rows)
	compare(rows)
	type key struct {
		burner string
		load   float64
		arm    string
	}
	groups := map[key][]Row{}
	var keys []key
	for _, r := range rows {
		k := key{r.Burner, r.OnlinePercent, r.Arm}
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], r)
	}
	rank := func(arm string) int {
		if i := slices.Index(arms, arm); i >= 0 {
			return i
		}
		return len(arms)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.burner, b.burner), cmp.Compare(a.load, b.load), cmp.Compare(rank(a.arm), rank(b.arm)), cmp.Compare(a.arm, b.arm))
	})
	var all []Summary
	for _, k := range keys {
		s := Summary{Burner: k.burner, OnlinePercent: k.load, Arm: k.arm}
		var ratio, batch, share, p50, p99 []float64
		for _, r := range groups[k] {
			if !r.OK || r.P99Ratio == 0 {
				s.Rejected++
				continue
			}
			ratio, batch, share = append(ratio, r.P99Ratio), append(batch, r.BatchCores), append(share, r.Share(cores))
			p50, p99 = append(p50, r.P50Ms), append(p99, r.P99Ms)
		}
		s.P99Ratio, s.BatchCores, s.Share = SpreadOf(ratio), SpreadOf(batch), SpreadOf(share)
		s.P50Ms, s.P99Ms = SpreadOf(p50), SpreadOf(p99)
		all = append(all, s)
	}
	return all
}

// A Rival is how an arm stands to another one at the same burner and load, over
// the rounds in which both were measured.
type Rival struct {
	Burner        string
	OnlinePercent float64
	Arm           string
	// P99 is the other arm's p99 ÷ this one's, Batch the other's batch cores less
	// this one's.
	P99, Batch Spread
	// Beats says that the other is better at once in p99 and in batch, beyond what
	// the rounds differ by: on one axis its 95 % range lies wholly on the better
	// side, on the other it is not worse.
	Beats bool
}

// Frontier compares every arm with the arm ours, in pairs of the same round. On
// the frontier nothing beats it.
func Frontier(rows []Row, ours string, cores int) []Rival {
	type key struct {
		burner string
		load   float64
		arm    string
	}
	mine := map[Cell]Row{}
	for _, r := range rows {
		if r.OK && r.Arm == ours {
			mine[r.cell()] = r
		}
	}
	ratios, gains := map[key][]float64{}, map[key][]float64{}
	var keys []key
	for _, r := range rows {
		c := r.cell()
		c.Arm = ours
		m, ok := mine[c]
		if !r.OK || !ok || r.Arm == ours || r.Arm == Solo || m.P99Ms <= 0 {
			continue
		}
		k := key{r.Burner, r.OnlinePercent, r.Arm}
		if ratios[k] == nil {
			keys = append(keys, k)
		}
		ratios[k], gains[k] = append(ratios[k], r.P99Ms/m.P99Ms), append(gains[k], r.BatchCores-m.BatchCores)
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.burner, b.burner), cmp.Compare(a.load, b.load), cmp.Compare(a.arm, b.arm))
	})
	var rivals []Rival
	for _, k := range keys {
		r := Rival{Burner: k.burner, OnlinePercent: k.load, Arm: k.arm, P99: SpreadOf(ratios[k]), Batch: SpreadOf(gains[k])}
		// What differs by less than a hundredth of the machine, or of the p99, is equal.
		const equal = 0.01
		room := equal * float64(cores)
		r.Beats = r.P99.High < 1 && r.Batch.Median > -room || r.Batch.Low > room && r.P99.Median < 1+equal
		rivals = append(rivals, r)
	}
	return rivals
}

// A Head is the first line of a file of rows: what must be the same for rows to
// be of one measurement.
type Head struct {
	Format  string  `json:"format"`  // rowsFormat
	Cores   int     `json:"cores"`   // of the machine
	Kernel  string  `json:"kernel"`  // release
	Steps   int     `json:"steps"`   // of work in a request
	Cost    float64 `json:"cost"`    // seconds of CPU time that a request takes the service
	Seconds float64 `json:"seconds"` // of a row
	Seed    uint64  `json:"seed"`
}

const rowsFormat = "neap colocation rows 1"

// ReadRows reads a file of rows as [Run] writes it. A last line that was cut off,
// by a kill, is left out; a file that does not exist has no head and no rows.
func ReadRows(path string) (Head, []Row, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{}, nil, nil
	}
	if err != nil {
		return Head{}, nil, err
	}
	defer f.Close()
	head, rows, err := parseRows(f)
	if err != nil {
		return Head{}, nil, fmt.Errorf("%s: %w", path, err)
	}
	return head, rows, nil
}

func parseRows(r io.Reader) (Head, []Row, error) {
	in := bufio.NewReader(r)
	var head Head
	var rows []Row
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break // what stands there without an end was cut off
		}
		if err != nil {
			return Head{}, nil, err
		}
		if n == 1 {
			if err := json.Unmarshal(line, &head); err != nil || head.Format != rowsFormat {
				return Head{}, nil, fmt.Errorf("line 1 does not say %q: it is no file of rows; name another", rowsFormat)
			}
			if head.Cores < 1 || head.Steps < 1 || !(head.Cost > 0) || math.IsInf(head.Cost, 0) || !(head.Seconds > 0) {
				return Head{}, nil, errors.New("line 1 has no cores, steps, cost or seconds; remove the file and begin anew")
			}
			continue
		}
		var row Row
		if err := json.Unmarshal(line, &row); err != nil {
			return Head{}, nil, fmt.Errorf("line %d is no row: %w; take it out, and what it was is measured again", n, err)
		}
		rows = append(rows, row)
	}
	if head.Format == "" {
		return Head{}, nil, nil
	}
	return head, rows, nil
}
