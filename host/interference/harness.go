package interference

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/runqueue"
)

// Options says how a [Harness] measures. Command is needed, the rest has defaults.
type Options struct {
	// Command runs [Main] with what is appended to it.
	Command []string
	// Seconds is how long a row is measured after its warm-up; 10 if zero.
	Seconds float64
	WarmUp  time.Duration // 1 s if zero; arms with a loop have their own
	Service time.Duration // work in a request; 0.5 ms if zero
	Seed    uint64        // of arrivals and of the order of rows

	// A row is rejected when other programs used more than Foreign cores (0.15 if
	// zero), when the hypervisor took more than Steal cores (0.02), or when the
	// sender's p99 lateness was beyond Late of the p99 (a tenth) and beyond 0.2 ms.
	Foreign, Steal, Late float64
	// Patience is for how long to wait for a quiet second before a row is measured
	// and judged all the same; a minute if zero.
	Patience time.Duration
	// TargetRatio makes the service promise this many times its p99 alone; 0: nothing.
	TargetRatio float64
	// Head continues a measurement: work and cost of a request come from it.
	Head Head
}

// A Harness measures rows on this machine, one at a time.
type Harness struct {
	options Options
	tree    *cgroup.Tree
	machine machine
	cores   int
	head    Head
	solo    map[float64][]float64 // p99 alone, by load
}

const groupPrefix = "neap-bench-"

// New returns a harness. It needs root and a cgroup filesystem that may be
// written. Groups and programs that a killed measurement left are removed first.
func New(tree *cgroup.Tree, o Options) (*Harness, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("measuring colocation needs Linux: its groups, its scheduler")
	}
	if len(o.Command) == 0 {
		return nil, errors.New("the Command is empty; name the program that runs the children")
	}
	o.Seconds = cmp.Or(o.Seconds, 10)
	o.WarmUp = cmp.Or(o.WarmUp, time.Second)
	o.Service = cmp.Or(o.Service, 500*time.Microsecond)
	o.Foreign = cmp.Or(o.Foreign, 0.15)
	o.Steal = cmp.Or(o.Steal, 0.02)
	o.Late = cmp.Or(o.Late, 0.1)
	o.Patience = cmp.Or(o.Patience, time.Minute)
	h := &Harness{options: o, tree: tree, machine: machine{"/proc", time.Second}, cores: runtime.NumCPU(), head: o.Head, solo: map[float64][]float64{}}
	if h.head.Format != "" && h.head.Cores != h.cores {
		return nil, fmt.Errorf("the rows to go on with are of a machine with %d cores, this one has %d; begin a new file", h.head.Cores, h.cores)
	}
	h.sweep()
	return h, nil
}

// sweep removes what measurements left whose process is dead: groups with what
// runs in them, and directories of ledgers.
func (h *Harness) sweep() {
	dead := func(text string) bool {
		pid, err := strconv.Atoi(text)
		return err == nil && pid != os.Getpid() && !h.machine.lives(pid)
	}
	groups, _ := h.tree.Children("/") // if that fails, making our own will say why
	for _, g := range groups {
		if text, ok := strings.CutPrefix(g.Name(), groupPrefix); ok && dead(text) {
			_ = h.clear(g)
		}
	}
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), groupPrefix+"*-*"))
	for _, dir := range dirs {
		text, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), groupPrefix), "-")
		if dead(text) {
			_ = os.RemoveAll(dir)
		}
	}
}

// clear ends the processes of a group and of those in it, and removes them.
func (h *Harness) clear(g cgroup.Group) error {
	var err error
	for range 200 { // two seconds: a process that was killed is not gone at once
		children, _ := h.tree.Children(g)
		for _, c := range append(children, g) {
			_ = h.tree.Set(c, cgroup.Freeze, 0) // what is frozen cannot die
			pids, _ := h.tree.Processes(c)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		if err = h.tree.Remove(g); err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// times are the machine's. What the scheduler adds up for the root group is to the
// nanosecond; /proc/stat counts who is met by a tick.
func (h *Harness) times() (cpuTimes, error) {
	t, err := h.machine.times()
	if err != nil {
		return t, err
	}
	m, err := h.tree.Meter("/")
	if err != nil {
		return t, nil // no accounting for groups here: ticks it is
	}
	defer m.Close()
	if use, err := m.ReadCPU(); err == nil {
		t.busy = use.CPU.Seconds()
	}
	return t, nil
}

// Head returns what rows of this harness have in common; complete after
// [Harness.Calibrate].
func (h *Harness) Head() Head { return h.head }

// Calibrate finds out how much work takes the service's time, and what a request
// costs in all. It does nothing when the harness goes on with earlier rows.
func (h *Harness) Calibrate(ctx context.Context) error {
	if h.head.Format != "" {
		return nil
	}
	solo, err := NewArm(Solo)
	if err != nil {
		return err
	}
	const tries = 5
	for try := 1; ; try++ {
		if _, _, err := h.machine.quiet(ctx, h.options.Foreign, h.options.Patience); err != nil {
			return err
		}
		cost, used, err := h.cost(ctx, solo)
		if err != nil {
			return err
		}
		if used.other <= h.options.Foreign && used.steal <= h.options.Steal && cost > 0 {
			h.head.Cost = cost
			break
		}
		if try == tries {
			return fmt.Errorf("what a request costs cannot be told: other programs used %.2f cores in the last of %d tries, and the hypervisor took %.2f; measure on a machine with nothing else to do", used.other, tries, used.steal)
		}
	}
	h.head.Format, h.head.Cores, h.head.Kernel = rowsFormat, h.cores, kernel()
	h.head.Seconds, h.head.Seed = h.options.Seconds, h.options.Seed
	return nil
}

// cost returns seconds of CPU time for a request, at a load of about a half.
func (h *Harness) cost(ctx context.Context, solo Arm) (float64, cores, error) {
	rate := 0.4 * float64(h.cores) / h.options.Service.Seconds()
	h.head.Steps = 0 // the service finds them out
	s, err := h.open(ctx, solo, "", 0, int(4*rate))
	if err != nil {
		return 0, cores{}, err
	}
	defer s.close()
	h.head.Steps = s.ready.Steps
	before, err := h.machine.process(s.server.pid())
	if err != nil {
		return 0, cores{}, err
	}
	const long = 3 * time.Second
	if err := s.load(ctx, []phase{{rate, long}}, 0); err != nil {
		return 0, cores{}, err
	}
	used, err := s.between(ctx, 0, long)
	if err != nil {
		return 0, cores{}, err
	}
	_, stats, err := s.finish(ctx)
	if err != nil {
		return 0, used, err
	}
	after, err := h.machine.process(s.server.pid())
	return (after - before) / float64(max(stats[0].Requests, 1)), used, err
}

func kernel() string {
	b, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return strings.TrimSpace(string(b))
}

// rate returns requests a second that keep the service busy on so many percent of
// the machine.
func (h *Harness) rate(percent float64) float64 {
	return percent / 100 * float64(h.cores) / h.head.Cost
}

// Measure makes one row. Calibrate first.
func (h *Harness) Measure(ctx context.Context, arm Arm, c Cell) (Row, error) {
	row := Row{Round: c.Round, Arm: c.Arm, OnlinePercent: c.OnlinePercent, Burner: c.Burner, Seconds: h.options.Seconds}
	before, calm, err := h.machine.quiet(ctx, h.options.Foreign, h.options.Patience)
	if err != nil {
		return row, err
	}
	target := 0.0
	if p := h.solo[c.OnlinePercent]; len(p) > 0 {
		target = h.options.TargetRatio * SpreadOf(p).Median
	}
	long := time.Duration(h.options.Seconds * float64(time.Second))
	rate := h.rate(c.OnlinePercent)
	s, err := h.open(ctx, arm, c.Burner, target, int(1.2*rate*h.options.Seconds)+1000)
	if err != nil {
		return row, err
	}
	defer s.close()
	warm := max(h.options.WarmUp, arm.Settle)
	// The same arrivals for all arms of a round.
	seed := h.options.Seed<<20 ^ uint64(c.Round)<<10 ^ uint64(c.OnlinePercent)
	if err := s.load(ctx, []phase{{rate, warm}, {rate, long}}, seed); err != nil {
		return row, err
	}
	waits, forget := s.waits()
	defer forget()
	if err := s.wait(ctx, warm); err != nil {
		return row, err
	}
	unmeasured := waits()
	used, err := s.between(ctx, warm, warm+long)
	if err != nil {
		return row, err
	}
	waited := waits()
	waited = waited.Since(&unmeasured)
	sent, stats, err := s.finish(ctx)
	if err != nil {
		return row, err
	}
	got := stats[1]
	row.P50Ms, row.P99Ms, row.P999Ms = got.P50, got.P99, got.P999
	row.WaitP99Ms = ms(waited.Quantile(0.99))
	row.WaitMs = ms(waited.Waited) / float64(max(got.Requests, 1))
	row.Requests, row.Lost, row.LateP99Ms = got.Requests, sent[1].Sent-got.Requests, sent[1].LateP99
	row.BatchCores, row.OnlineCores, row.LoaderCores, row.OwnCores = used.batch, used.online, used.loader, used.own
	row.OtherCores, row.Steal, row.Why = used.other, used.steal, s.said
	switch {
	case row.OtherCores > h.options.Foreign:
		row.Why = fmt.Sprintf("other programs used %.2f cores", row.OtherCores)
	case row.Steal > h.options.Steal:
		row.Why = fmt.Sprintf("the hypervisor took %.2f cores", row.Steal)
	case row.LateP99Ms > max(h.options.Late*row.P99Ms, 0.2):
		row.Why = fmt.Sprintf("the sender was %.2f ms late at the 99th percentile", row.LateP99Ms)
	case got.Requests == 0:
		row.Why = "no request was answered"
	default:
		row.OK = true
	}
	if !row.OK && !calm {
		row.Why += fmt.Sprintf("; they used %.2f before it began", before)
	}
	if row.OK && arm.Name == Solo {
		h.solo[c.OnlinePercent] = append(h.solo[c.OnlinePercent], row.P99Ms)
	}
	return row, nil
}

// Known tells the harness of rows that were measured before, for what the service
// promises.
func (h *Harness) Known(rows []Row) {
	for _, r := range rows {
		if r.OK && r.Arm == Solo {
			h.solo[r.OnlinePercent] = append(h.solo[r.OnlinePercent], r.P99Ms)
		}
	}
}

// A session is a service, its batch and an arm, at work in groups of their own.
type session struct {
	h      *Harness
	group  cgroup.Group
	stage  *Stage
	server *child
	burner *child
	sender *child
	ready  serveReady
	end    func() string // of the arm
	start  int64         // of the load, by the monotonic clock
	clock  monotonic
	said   string // by the arm
	ask    sync.Mutex
}

// open starts everything but the load.
func (h *Harness) open(ctx context.Context, arm Arm, burner string, target float64, expect int) (_ *session, err error) {
	g := cgroup.Group("/" + groupPrefix + strconv.Itoa(os.Getpid()))
	s := &session{h: h, group: g, clock: newMonotonic(), end: func() string { return "" }}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	online, batch := g.Child("online"), g.Child("batch")
	for _, c := range []cgroup.Group{online, batch} {
		if err := h.tree.Make(c); err != nil {
			return nil, fmt.Errorf("%w; measuring needs root and a cgroup filesystem that may be written", err)
		}
	}
	// As the kubelet weighs all pods against the rest of the machine.
	if err := h.tree.Set(g, cgroup.Weight, 1024*int64(h.cores)); err != nil {
		return nil, err
	}
	if s.server, err = start(h.options.Command, "serve", "-steps", strconv.Itoa(h.head.Steps), "-service", h.options.Service.String(), "-expect", strconv.Itoa(expect)); err != nil {
		return nil, err
	}
	if err := h.tree.Move(online, s.server.pid()); err != nil {
		return nil, err
	}
	if err := s.server.read(ctx, time.Minute, &s.ready); err != nil {
		return nil, err
	}
	s.stage = &Stage{Tree: h.tree, Online: online, Batch: batch, OnlinePID: s.server.pid(), Cores: h.cores, TargetMs: target, P99Ms: s.window, Others: s.others(), Loaded: make(chan struct{}), machine: h.machine}
	if arm.Batch {
		if s.burner, err = start(h.options.Command, "burn", "-kind", burner, "-threads", strconv.Itoa(h.cores)); err != nil {
			return nil, err
		}
		if err := h.tree.Move(batch, s.burner.pid()); err != nil {
			return nil, err
		}
		var hello string
		if err := s.burner.read(ctx, time.Minute, &hello); err != nil {
			return nil, err
		}
	}
	end, err := arm.Hold(ctx, s.stage)
	if err != nil {
		return nil, fmt.Errorf("arm %s: %w", arm.Name, err)
	}
	s.end = end
	return s, nil
}

// load lets the batch begin, and the load.
func (s *session) load(ctx context.Context, phases []phase, seed uint64) (err error) {
	if s.burner != nil {
		if err := s.burner.say("go"); err != nil {
			return err
		}
	}
	if s.sender, err = start(s.h.options.Command, "load", "-address", s.ready.Address, "-phases", phasesFlag(phases), "-seed", strconv.FormatUint(seed, 10)); err != nil {
		return err
	}
	var begun loadStart
	if err := s.sender.read(ctx, time.Minute, &begun); err != nil {
		return err
	}
	if !begun.RealTime {
		return errors.New("the sender may not have real-time priority: run as root, in the root CPU group on cgroup v1")
	}
	s.start = begun.At
	close(s.stage.Loaded)
	return nil
}

// wait sleeps until so long after the load's start.
func (s *session) wait(ctx context.Context, after time.Duration) error {
	t := time.NewTimer(time.Duration(s.start-s.clock.now()) + after)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// cores is how many cores each used, on average over a stretch.
type cores struct{ online, batch, loader, own, other, steal float64 }

// A reading is CPU time used until a moment, in seconds.
type reading struct {
	at                         int64
	all                        cpuTimes
	online, batch, loader, own float64
}

func (s *session) read() (r reading, err error) {
	r.at = s.clock.now()
	if r.all, err = s.h.times(); err != nil {
		return r, err
	}
	if r.online, err = s.h.machine.process(s.server.pid()); err != nil {
		return r, err
	}
	if s.burner != nil {
		if r.batch, err = s.h.machine.process(s.burner.pid()); err != nil {
			return r, err
		}
	}
	if s.sender != nil {
		if r.loader, err = s.h.machine.process(s.sender.pid()); err != nil {
			return r, err
		}
	}
	r.own, err = s.h.machine.process(os.Getpid())
	return r, err
}

func (a reading) until(b reading) cores {
	long := float64(b.at-a.at) / 1e9
	c := cores{
		online: (b.online - a.online) / long, batch: (b.batch - a.batch) / long,
		loader: (b.loader - a.loader) / long, own: (b.own - a.own) / long,
		steal: (b.all.steal - a.all.steal) / long,
	}
	c.other = max(0, (b.all.busy-a.all.busy)/long-c.online-c.batch-c.loader-c.own)
	return c
}

// between says who used how much from one moment after the load's start to another.
func (s *session) between(ctx context.Context, from, to time.Duration) (cores, error) {
	if err := s.wait(ctx, from); err != nil {
		return cores{}, err
	}
	a, err := s.read()
	if err != nil {
		return cores{}, s.alive(ctx, err)
	}
	if err := s.wait(ctx, to); err != nil {
		return cores{}, err
	}
	b, err := s.read()
	if err != nil {
		return cores{}, s.alive(ctx, err)
	}
	return a.until(b), nil
}

// alive says which child ended, if one did; otherwise err.
func (s *session) alive(ctx context.Context, err error) error {
	for _, c := range []*child{s.server, s.burner, s.sender} {
		if c == nil {
			continue
		}
		var line json.RawMessage
		if ended := c.read(ctx, 50*time.Millisecond, &line); ended != nil && strings.Contains(ended.Error(), "ended") {
			return ended
		}
	}
	return err
}

// finish ends arm and batch when all was sent, and says what came of the load.
func (s *session) finish(ctx context.Context) ([]loadPhase, []serveStats, error) {
	var sent []loadPhase
	if err := s.sender.read(ctx, time.Minute, &sent); err != nil {
		return nil, nil, err
	}
	s.sender.stop()
	s.still()
	ask := "report"
	for _, p := range sent {
		ask += " " + strconv.Itoa(p.Sent)
	}
	s.ask.Lock()
	defer s.ask.Unlock()
	if err := s.server.say(ask); err != nil {
		return nil, nil, err
	}
	var stats []serveStats
	err := s.server.read(ctx, time.Minute, &stats)
	if err == nil && len(stats) != len(sent) {
		err = fmt.Errorf("the service told of %d phases of %d", len(stats), len(sent))
	}
	return sent, stats, err
}

// window asks the service for its p99 since it was last asked.
func (s *session) window(ctx context.Context) (float64, int, error) {
	s.ask.Lock()
	defer s.ask.Unlock()
	if err := s.server.say("window"); err != nil {
		return 0, 0, err
	}
	var st serveStats
	// An answer that nobody waited for would be taken for the next one's.
	if err := s.server.read(context.WithoutCancel(ctx), 10*time.Second, &st); err != nil {
		return 0, 0, err
	}
	return st.P99, st.Requests, nil
}

// waits begins to measure how long the service's threads wait for a CPU: read says
// how long since then, forget ends it. Without eBPF nothing is told: a thread's means
// give no percentiles.
func (s *session) waits() (read func() runqueue.Histogram, forget func()) {
	m, err := runqueue.Open(runqueue.Options{Source: runqueue.Traced, Groups: 1})
	if err != nil {
		return func() runqueue.Histogram { return runqueue.Histogram{} }, func() {}
	}
	dir := filepath.Dir(s.h.tree.File(s.stage.Online, cgroup.Weight))
	_ = m.Watch(dir) // what cannot be watched has waited for nothing
	return func() (h runqueue.Histogram) {
		_ = m.Read(dir, &h)
		return h
	}, func() { _ = m.Close() }
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// others returns a function that says how many cores neither service nor batch
// used since it was last called; the first call begins.
func (s *session) others() func() (float64, error) {
	var last reading
	return func() (float64, error) {
		now := reading{at: s.clock.now()}
		var err error
		if now.all, err = s.h.times(); err != nil {
			return 0, err
		}
		if now.online, err = s.h.machine.process(s.server.pid()); err != nil {
			return 0, err
		}
		if s.burner != nil {
			if now.batch, err = s.h.machine.process(s.burner.pid()); err != nil {
				return 0, err
			}
		}
		was := last
		last = now
		if was.at == 0 {
			return 0, nil
		}
		return was.until(now).other, nil
	}
}

// still ends the arm and the batch.
func (s *session) still() {
	s.said = cmp.Or(s.end(), s.said)
	s.end = func() string { return "" }
	if s.burner != nil {
		_ = s.h.tree.Set(s.stage.Batch, cgroup.Freeze, 0) // what is frozen cannot die
		s.burner.stop()
	}
}

// close ends everything and removes the groups. It may be called at any point.
func (s *session) close() {
	s.still()
	for _, c := range []*child{s.sender, s.server} {
		if c != nil {
			c.stop()
		}
	}
	_ = s.h.clear(s.group)
}
