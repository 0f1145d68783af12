package interference

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A request is requestSize bytes: when it was meant to be sent (nanoseconds of
// the machine's monotonic clock), and the phase of the load that it belongs to.
// The answer is the same bytes.
const requestSize = 16

// maxPhases bounds the phases of one load.
const maxPhases = 4096

// tableSize is how many words the service looks up in: 2 MiB, more than a
// core's own cache, less than what cores share. Half of a request's work is
// arithmetic, half goes there, as a service's work does.
const tableSize = 1 << 18

// unit is that of latencies as they are kept: 32 bits hold seven minutes.
const unit = 100 * time.Nanosecond

func inUnits(ns int64) uint32 { return uint32(min(max(0, ns)/int64(unit), math.MaxUint32)) }

// patience is how long the server waits for the last answers; what is not answered
// then counts with that.
const patience = 10 * time.Second

// serveStats is what the server says of one phase: latencies in milliseconds.
type serveStats struct {
	Requests int     `json:"requests"` // answered
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	P999     float64 `json:"p999"`
	Mean     float64 `json:"mean"`
	Max      float64 `json:"max"`
}

// serveReady is the server's first line.
type serveReady struct {
	Address string `json:"address"`
	Steps   int    `json:"steps"` // of work in a request
}

// A server answers requests and remembers how long each took.
type server struct {
	steps int
	table []uint64

	mu    sync.Mutex // guards taken; held for an append
	taken [maxPhases][]uint32
	count atomic.Int64
	fresh []uint32 // since the last window, for p99 as it goes
}

// serve is the role of the online service. It prints [serveReady], then answers
// commands on stdin, a line each, with a line of JSON: "report" with how many
// requests each phase had waits until they are answered, patience at most, and
// gives [serveStats] of every phase; "window" gives those of what was answered
// since the last one. It ends with stdin.
func serve(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	steps := flags.Int("steps", 0, "steps of work in a request; 0 finds out how many take --service")
	service := flags.Duration("service", 500*time.Microsecond, "work in a request, alone on a core")
	expect := flags.Int("expect", 1<<16, "requests to have room for in a phase")
	if err := flags.Parse(args); err != nil {
		return err
	}
	runtime.GOMAXPROCS(runtime.NumCPU())
	debug.SetGCPercent(-1) // all memory is taken before the first request
	s := &server{table: make([]uint64, tableSize), steps: *steps, fresh: make([]uint32, 0, min(*expect, 1<<20))}
	for i := range s.table {
		s.table[i] = uint64(i) * 0x9e3779b97f4a7c15
	}
	for p := range 4 {
		s.taken[p] = make([]uint32, 0, min(*expect, 1<<22))
	}
	if s.steps <= 0 {
		s.steps = calibrate(s.table, *service)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.answer(conn)
		}
	}()
	out := json.NewEncoder(stdout)
	if err := out.Encode(serveReady{listener.Addr().String(), s.steps}); err != nil {
		return err
	}
	in := bufio.NewScanner(stdin)
	for in.Scan() {
		verb, arg, _ := strings.Cut(in.Text(), " ")
		var answer any
		switch verb {
		case "report":
			var sent []int
			for word := range strings.FieldsSeq(arg) {
				n, err := strconv.Atoi(word)
				if err != nil || len(sent) == maxPhases {
					return fmt.Errorf("report %q: how many requests a phase had is not a number", word)
				}
				sent = append(sent, n)
			}
			answer = s.report(sent)
		case "window":
			answer = s.window()
		default:
			return fmt.Errorf("the server knows report and window, not %q", verb)
		}
		if err := out.Encode(answer); err != nil {
			return err
		}
	}
	return in.Err()
}

func (s *server) answer(conn net.Conn) {
	defer conn.Close()
	clock := newMonotonic()
	buf := make([]byte, requestSize)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			return
		}
		meant := int64(binary.LittleEndian.Uint64(buf))
		phase := binary.LittleEndian.Uint32(buf[8:])
		work(s.table, s.steps, uint64(meant))
		if _, err := conn.Write(buf); err != nil {
			return
		}
		took := inUnits(clock.now() - meant)
		s.mu.Lock()
		if phase < maxPhases {
			s.taken[phase] = append(s.taken[phase], took)
		}
		if len(s.fresh) < cap(s.fresh) {
			s.fresh = append(s.fresh, took)
		}
		s.mu.Unlock()
		s.count.Add(1)
	}
}

func (s *server) report(sent []int) []serveStats {
	var want int64
	for _, n := range sent {
		want += int64(n)
	}
	for end := time.Now().Add(patience); s.count.Load() < want && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]serveStats, len(sent))
	for phase, n := range sent {
		taken := s.taken[phase]
		answered := len(taken)
		for len(taken) < n { // it has waited that long, and waits still
			taken = append(taken, uint32(patience/unit))
		}
		all[phase] = statsOf(taken)
		all[phase].Requests = answered
	}
	return all
}

func (s *server) window() serveStats {
	s.mu.Lock()
	taken := slices.Clone(s.fresh)
	s.fresh = s.fresh[:0]
	s.mu.Unlock()
	return statsOf(taken)
}

// statsOf sorts taken.
func statsOf(taken []uint32) serveStats {
	stats := serveStats{Requests: len(taken)}
	if len(taken) == 0 {
		return stats
	}
	slices.Sort(taken)
	var sum float64
	for _, v := range taken {
		sum += float64(v)
	}
	const perMilli = float64(time.Millisecond / unit)
	at := func(q float64) float64 { return float64(taken[nearestRank(q, len(taken))]) / perMilli }
	stats.P50, stats.P99, stats.P999 = at(0.5), at(0.99), at(0.999)
	stats.Mean, stats.Max = sum/float64(len(taken))/perMilli, at(1)
	return stats
}

// nearestRank returns the index of the q-quantile of n sorted values.
func nearestRank(q float64, n int) int {
	return min(max(int(math.Ceil(q*float64(n)))-1, 0), n-1)
}

// work does steps of a request's work: a fixed amount, not a time, so that a
// server that was kept off the CPU still has all of it to do.
func work(table []uint64, steps int, x uint64) uint64 {
	mask := uint64(len(table) - 1)
	for range steps {
		for range 12 {
			x ^= x >> 29
			x *= 0xbf58476d1ce4e5b9
		}
		x += table[x&mask]
	}
	sink.Store(x)
	return x
}

// sink keeps the compiler from leaving the work out.
var sink atomic.Uint64

// calibrate returns how many steps take so long, by the fastest of many tries:
// what disturbs a try only makes it slower.
func calibrate(table []uint64, long time.Duration) int {
	const steps = 2000
	best := time.Duration(math.MaxInt64)
	for i := range 200 {
		start := time.Now()
		work(table, steps, uint64(i))
		best = min(best, time.Since(start))
	}
	return max(1, int(float64(steps)*float64(long)/float64(max(best, 1))))
}

var errRole = errors.New("the roles are serve, load and burn")

// Main runs a child's role, args[0]: serve, load or burn, with the flags that
// follow. It returns when stdin ends, so that no child outlives its parent.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer) error {
	if len(args) == 0 {
		return errRole
	}
	switch args[0] {
	case "serve":
		return serve(ctx, args[1:], stdin, stdout)
	case "load":
		return load(args[1:], stdin, stdout)
	case "burn":
		return burn(args[1:], stdin, stdout)
	}
	return fmt.Errorf("%w, not %q", errRole, args[0])
}
