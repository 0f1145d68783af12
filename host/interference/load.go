package interference

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

// loadConnections is over how many connections requests go, in turn: so many
// that two requests rarely wait behind each other on one.
const loadConnections = 64

// A phase is a stretch of load.
type phase struct {
	rate float64 // requests a second, on average
	long time.Duration
}

func (p phase) String() string {
	return strconv.FormatFloat(p.rate, 'g', -1, 64) + ":" + p.long.String()
}

func phasesFlag(phases []phase) string {
	words := make([]string, len(phases))
	for i, p := range phases {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}

func parsePhases(text string) ([]phase, error) {
	var phases []phase
	for word := range strings.SplitSeq(text, ",") {
		rate, long, ok := strings.Cut(word, ":")
		r, err := strconv.ParseFloat(rate, 64)
		d, err2 := time.ParseDuration(long)
		if !ok || err != nil || err2 != nil || !(r > 0) || r > 1e6 || d <= 0 {
			return nil, fmt.Errorf("phase %q is not REQUESTS_A_SECOND:DURATION, such as 1000:5s", word)
		}
		phases = append(phases, phase{r, d})
	}
	if len(phases) > maxPhases {
		return nil, fmt.Errorf("there are %d phases, more than %d", len(phases), maxPhases)
	}
	return phases, nil
}

// loadStart is the sender's first line: from then on phases follow each other.
type loadStart struct {
	At       int64 `json:"at"`       // of the monotonic clock, nanoseconds
	RealTime bool  `json:"realTime"` // it runs above all others
}

// loadPhase is what the sender says of a phase when all are over.
type loadPhase struct {
	Sent    int     `json:"sent"`
	LateP99 float64 `json:"lateP99"` // milliseconds from the intended moment until it was sent
}

// load is the role of the sender. It prints [loadStart], sends, prints
// [][loadPhase], and ends; earlier when stdin ends.
func load(args []string, stdin io.Reader, stdout io.Writer) error {
	flags := flag.NewFlagSet("load", flag.ContinueOnError)
	address := flags.String("address", "", "where the server listens")
	phaseText := flags.String("phases", "", "requests a second and for how long: RATE:DURATION,…")
	seed := flags.Uint64("seed", 1, "of the arrivals")
	if err := flags.Parse(args); err != nil {
		return err
	}
	phases, err := parsePhases(*phaseText)
	if err != nil {
		return err
	}
	expect := 0.0
	for _, p := range phases {
		expect += p.rate * p.long.Seconds()
	}
	if expect > 1<<26 {
		return fmt.Errorf("%.0f requests are more than one load may have", expect)
	}
	go func() {
		_, _ = io.Copy(io.Discard, stdin)
		os.Exit(1)
	}()
	runtime.LockOSThread()
	debug.SetGCPercent(-1)
	senders, err := connect(*address, loadConnections)
	if err != nil {
		return err
	}
	reports := make([]loadPhase, len(phases))
	late := make([]uint32, int(expect*1.2)+1000)
	for i := range late {
		late[i] = 1 // the kernel hands out the memory now, not while we send
	}
	late = late[:0]
	counts := make([]int, len(phases))

	rt := realTime() == nil
	clock := newMonotonic()
	start := clock.now() + int64(20*time.Millisecond)
	out := json.NewEncoder(stdout)
	if err := out.Encode(loadStart{start, rt}); err != nil {
		return err
	}
	buf := make([]byte, requestSize)
	end, which := float64(start), 0
	for i, p := range phases {
		begin := end
		end += float64(p.long)
		gap := 1e9 / p.rate
		// Of its own: what came before a phase does not change its arrivals.
		dice := rand.New(rand.NewPCG(*seed, uint64(len(phases)-i)))
		// Memoryless: arrivals begin anew with the phase's own rate.
		for next := begin + dice.ExpFloat64()*gap; next < end; next += dice.ExpFloat64() * gap {
			meant := int64(next)
			sleepUntil(meant)
			now := clock.now()
			binary.LittleEndian.PutUint64(buf, uint64(meant))
			binary.LittleEndian.PutUint32(buf[8:], uint32(i))
			if err := senders[which%len(senders)].send(buf); err != nil {
				return fmt.Errorf("send to the server at %s: %w", *address, err)
			}
			which++
			counts[i]++
			late = append(late, inUnits(now-meant))
		}
	}
	sleepUntil(int64(end))
	from := 0
	for i, n := range counts {
		part := late[from : from+n]
		from += n
		reports[i].Sent = n
		if n > 0 {
			slices.Sort(part)
			reports[i].LateP99 = float64(part[nearestRank(0.99, n)]) / float64(time.Millisecond/unit)
		}
	}
	for flushed := time.Now().Add(5 * time.Second); time.Now().Before(flushed); time.Sleep(time.Millisecond) {
		rest := 0
		for _, s := range senders {
			if err := s.flush(); err != nil {
				return err
			}
			rest += len(s.pending)
		}
		if rest == 0 {
			break
		}
	}
	return out.Encode(reports)
}

// A sender is a connection that never makes its thread wait: what the kernel
// does not take stays in pending until the next request.
type sender struct {
	conn    rawConn
	pending []byte
	scrap   [4096]byte
}

func connect(address string, n int) ([]*sender, error) {
	addr, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, fmt.Errorf("--address %q is not where a server listens: %w", address, err)
	}
	senders := make([]*sender, n)
	for i := range senders {
		conn, err := dialRaw(addr.AddrPort())
		if err != nil {
			return nil, fmt.Errorf("connect to the server at %s: %w", address, err)
		}
		senders[i] = &sender{conn: conn, pending: make([]byte, 0, 1<<10)}
	}
	return senders, nil
}

func (s *sender) send(request []byte) error {
	// Answers are read only to make room; the server has stamped them.
	if _, err := s.conn.read(s.scrap[:]); err != nil && !errors.Is(err, errAgain) {
		return err
	}
	s.pending = append(s.pending, request...)
	return s.flush()
}

func (s *sender) flush() error {
	if len(s.pending) == 0 {
		return nil
	}
	n, err := s.conn.write(s.pending)
	if errors.Is(err, errAgain) {
		return nil
	}
	if err != nil {
		return err
	}
	s.pending = append(s.pending[:0], s.pending[n:]...)
	return nil
}
