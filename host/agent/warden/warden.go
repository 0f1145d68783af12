// Package warden keeps the batch pods of one machine within what its online pods
// leave: it looks at what the cluster says ([World]), and has the doers do it.
//
// A round a second, [Warden.Round]:
//
//  1. own the kubelet's groups, or say who does;
//  2. say what is to be: idle on the group of best-effort pods, which batch pods are
//     in; a weight and a bound of memory on each batch pod by what it asks for; the
//     plan of the fast loop ([suppressor]);
//  3. every five seconds look at what online pods feel and at the memory, and climb
//     the ladder of core/colocate: memory, freeze, evict; where the policy wants it,
//     first find out by pauses of a second which pod online suffers from;
//  4. renew the orders of the deadman;
//  5. tell: [Warden.Report], and metrics.
//
// Nothing is written unless the policy's mode is Auto and there are batch pods, and
// everything is as it was found when the last of them has gone. A policy that cannot
// be carried out puts batch at its floor.
//
// Not here: what is told to whom (host/agent/herald), the files (host/cgroup).
package warden

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/deadman"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/agent/freezer"
	"github.com/neap-dev/neap/host/agent/suppressor"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
	"github.com/neap-dev/neap/kube/convert"
)

// The pace of a warden.
const (
	round    = time.Second
	lookEach = 5 * time.Second
	// floorMilli is what each batch pod keeps: a hundredth of a core.
	floorMilli = 10
	// safePercent of the machine is what batch has when the agent is gone.
	safePercent = 5
)

// The reasons of the node's condition.
const (
	ReasonWorking  = "Working"       // batch is held back as the policy says
	ReasonIdling   = "NoBatch"       // there is no batch pod
	ReasonWatching = "Watching"      // the policy is in mode Observe or Preview
	ReasonNoPolicy = "NoPolicy"      // no policy selects the node
	ReasonBroken   = "PolicyBroken"  // the policy cannot be carried out
	ReasonRival    = "OtherSystem"   // another colocation system is here
	ReasonOwned    = "OwnedByOther"  // another agent owns the groups
	ReasonNoGroups = "NoCgroups"     // the kubelet's groups are not found, or cannot be written
	ReasonPartly   = "PartlyWorking" // some means could not be taken
	ReasonBlind    = "UseUnknown"    // what pods use cannot be told
)

// Options say what a warden works with.
type Options struct {
	Tree    *cgroup.Tree     // required
	Dir     string           // required: keeps what files held, outlives the process, not the machine
	Parent  cgroup.Group     // the kubelet's --cgroup-root; "/" if empty
	Evictor *evictor.Evictor // required
	// Event tells a pod something; required.
	Event func(pod *corev1.Pod, reason, message string)
	// Signals says what online workloads feel; nil knows nothing. It is called every
	// five seconds, with the targets of the policy.
	Signals func(ctx context.Context, spec v1alpha1.ColocationSlack, online []Feeler) []colocate.Signal
	// Shape takes over the network; netqos.Open if nil.
	Shape func(netqos.Options) (Shaper, error)
	// Deadman starts a deadman where none listens; nil leaves that to somebody else.
	Deadman func() error
	Proc    string           // the machine's /proc; /proc if empty
	Every   time.Duration    // between ticks of the fast loop; suppressor.Every if zero
	Now     func() time.Time // nil is time.Now
	Log     *slog.Logger     // nil logs nothing
}

// A Feeler is an online workload of the machine and the groups of its pods.
type Feeler struct {
	Workload string
	Groups   []cgroup.Group
}

// A Report is what a warden sees and does.
type Report struct {
	Colocation convert.ColocationReport
	OK         bool // batch is held back as it should be
	Reason     string
	Message    string
	Active     bool // something is written
	Mute       bool // the cluster has not been heard
}

// A Warden keeps one machine. [Warden.Run] works; the other methods may be called
// from any goroutine.
type Warden struct {
	opts  Options
	began time.Time

	mu     sync.Mutex
	world  World
	told   bool // a world was set
	report Report
	rounds time.Time // when the last one ended
	counts counts

	// Of the goroutine of Run.
	layout    cgroup.Layout
	ledger    *cgroup.Ledger
	fast      *suppressor.Suppressor
	endFast   func()
	line      *deadman.Line
	freezer   *freezer.Freezer
	slack     *colocate.Slack
	ladder    colocate.Ladder
	verdict   colocate.SlackVerdict
	signals   []colocate.Signal
	memory    memory
	net       network
	lookedAt  time.Duration
	rung      colocate.Rung
	freezing  bool
	braked    bool
	held      map[string]cgroup.Group // groups of batch pods that were written, by uid
	lonely    bool                    // they are the only ones of their class
	avoidance string
	// A culprit is looked for, by pauses, in every round.
	attribution colocate.Attribution
	seeking     bool
	felt        []colocate.Signal // since the round before
	trial       colocate.Trial    // of the last round
	tried       string            // who last was told that it is tried
	named       string            // the last culprit, in a sentence
	culprits    map[string]bool   // that are here, by uid

	ticks     int64     // of the fast loop, when it was last seen to move
	tickedAt  time.Time // and when that was
	startedAt time.Time // a deadman, last
	wanting   []error   // what could not be done in this round

	evicting atomic.Bool
}

// New returns a warden that owns nothing yet.
func New(opts Options) *Warden {
	opts.Proc = cmp.Or(opts.Proc, "/proc")
	opts.Every = cmp.Or(opts.Every, suppressor.Every)
	if opts.Shape == nil {
		opts.Shape = func(o netqos.Options) (Shaper, error) { return netqos.Open(o) }
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Warden{
		opts: opts, began: time.Now(), slack: colocate.NewSlack(colocate.SlackRule{}),
		held: map[string]cgroup.Group{}, counts: counts{evictions: map[string]int64{}},
	}
}

// Tell makes a world hold from the next round on.
func (w *Warden) Tell(world World) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.world, w.told = world, true
}

// Report returns what the last round saw and did.
func (w *Warden) Report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.report
}

// Fault says that rounds have stopped to come, nil if they have not.
func (w *Warden) Fault() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if gone := time.Since(w.rounds); !w.rounds.IsZero() && gone > time.Minute {
		return fmt.Errorf("colocation: no round for %v", gone.Round(time.Second))
	}
	return nil
}

// Run works until ctx ends, and then leaves every file as it was found.
func (w *Warden) Run(ctx context.Context) error {
	ticker := time.NewTicker(round)
	defer ticker.Stop()
	for ctx.Err() == nil {
		w.Round(ctx)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return w.Close()
}

// Close ends the fast loop and leaves every file as it was found.
func (w *Warden) Close() error {
	w.disown()
	var err error
	if w.ledger != nil {
		err = w.ledger.Close()
		w.ledger = nil
	}
	if w.line != nil {
		if err == nil {
			w.line.Send(deadman.Orders{Bye: true}) // else it shall try
		}
		w.line.Close()
		w.line = nil
	}
	return err
}

// disown ends the fast loop.
func (w *Warden) disown() {
	w.unshape()
	if w.fast != nil {
		if w.endFast != nil {
			w.endFast()
			w.endFast = nil
		}
		w.fast.Close()
		w.fast = nil
	}
}

// Round looks once at everything, and acts.
func (w *Warden) Round(ctx context.Context) {
	w.mu.Lock()
	world, told := w.world, w.told
	w.mu.Unlock()
	if !told {
		return
	}
	w.wanting = nil
	now := w.opts.Now()
	r := Report{Mute: world.Mute, Colocation: convert.ColocationReport{Policy: world.Policy, Avoidance: "none", Step: colocate.RungNone.String()}}
	batch := slices.DeleteFunc(slices.Clone(world.Pods), func(p Pod) bool { return !p.Batch })

	// 1. Whether there is something to do, and nobody else does it.
	nothing := w.excused(&r, world, len(batch))
	if !nothing {
		if err := w.own(); err != nil {
			nothing, r.Reason, r.Message = true, ReasonNoGroups, err.Error()
			if errors.Is(err, cgroup.ErrOwned) {
				r.Reason = ReasonOwned
			}
		}
	}
	if nothing {
		w.rest(world)
		w.tell(r, now)
		return
	}

	// 2. What is to be.
	cpu, memoryPercent, window := world.shares(now)
	if world.Broken != "" {
		cpu, memoryPercent = 0, 0
	}
	active := cmp.Or(world.Spec.Mode, v1alpha1.ModePreview) == v1alpha1.ModeAuto && len(batch) > 0
	w.hold(world, batch, active)
	guests := w.guests(world)
	rule := colocate.BudgetRule{
		CapacityMilli: world.Machine.CPUMilli, Percent: cpu, FloorMilli: max(int64(len(batch))*floorMilli, floorMilli),
		Exposed: w.avoidance != "idle",
	}
	w.plan(world, rule, guests, active)

	// 3. What online pods feel.
	if at := time.Since(w.began); active {
		due := at-w.lookedAt >= lookEach
		if due || w.seeking {
			w.feel(ctx, world)
		}
		if due {
			w.lookedAt = at
			w.look(now, at, world, batch, rule, memoryPercent)
		}
		w.attribute(at, batch)
		w.freeze(at, batch)
	}
	w.shape(world, batch, active, time.Since(w.began))
	if err := w.net.faults(); err != nil {
		w.wanting = append(w.wanting, err)
	}
	state := w.fast.State()

	// 4. What holds if this is the last round.
	w.order(batch, rule, active, state)

	// 5. Tell.
	r.Active, r.OK, r.Reason = active, true, ReasonWorking
	r.Message = "batch is held back by " + w.avoidance
	switch {
	case state.Err != nil:
		r.OK, r.Reason, r.Message = false, ReasonBlind, state.Err.Error()
	case world.Broken != "":
		r.OK, r.Reason, r.Message = false, ReasonBroken, world.Broken+"; until then batch is at its floor"
	case len(w.wanting) > 0:
		r.OK, r.Reason, r.Message = false, ReasonPartly, errors.Join(w.wanting...).Error()
	case len(batch) == 0:
		r.Reason, r.Message = ReasonIdling, "there is no batch pod"
	case !active:
		r.Reason, r.Message = ReasonWatching, fmt.Sprintf("policy %s is in mode %s: nothing is written", world.Policy, cmp.Or(world.Spec.Mode, v1alpha1.ModePreview))
	}
	c := &r.Colocation
	if active {
		c.Avoidance = w.avoidance
		c.Step = w.rung.String()
	}
	c.OnlineMilli, c.BatchMilli, c.SystemMilli = state.Use.OnlineMilli, state.BatchMilli, state.Use.SystemMilli
	c.BudgetMilli, c.Why = state.Ceiling.Milli, w.says(world, state, window)
	w.tell(r, now)
}

// excused says in r why there is nothing to do, if there is not.
func (w *Warden) excused(r *Report, world World, batch int) bool {
	switch {
	case world.Rival != "":
		r.Reason = ReasonRival
		r.Message = world.Rival + " holds batch back on this node as well; two systems that write the same files undo each other: remove one of them"
	case world.Policy == "" && batch > 0:
		r.Reason, r.Message = ReasonNoPolicy, "no ColocationPolicy selects this node, and batch pods run here: nothing holds them back"
	case world.Policy == "":
		r.OK, r.Reason, r.Message = true, ReasonNoPolicy, "no ColocationPolicy selects this node"
	default:
		return false
	}
	return true
}

// own becomes the owner of the kubelet's groups.
func (w *Warden) own() error {
	if w.ledger != nil {
		if w.opts.Tree.Exists(w.layout.Pods()) {
			return nil
		}
		// The kubelet's groups are gone, and everything with them.
		w.rest(World{})
		w.disown()
		w.ledger.Close()
		w.ledger = nil
	}
	layout, err := w.opts.Tree.FindLayout(w.opts.Parent)
	if err != nil {
		return err
	}
	ledger, err := cgroup.OpenLedger(w.opts.Tree, cgroup.Options{Scope: layout.Pods(), Dir: w.opts.Dir, Foreign: func(f cgroup.Foreign) {
		w.opts.Log.Info("somebody else wrote a file of ours", "group", f.Group, "knob", f.Knob, "found", f.Found, "restored", f.Restored)
	}})
	if err != nil {
		return err
	}
	w.layout, w.ledger = layout, ledger
	w.freezer = freezer.New(ledger)
	w.fast = suppressor.New(suppressor.Options{
		Tree: w.opts.Tree, Hand: ledger, InForce: -1, Log: w.opts.Log,
		Plan: suppressor.Plan{Pods: layout.Pods(), Batch: layout.Class(cgroup.BestEffort)},
	})
	return nil
}

// rest gives everything back and goes on watching.
func (w *Warden) rest(world World) {
	if w.ledger == nil {
		return
	}
	w.fast.Follow(func(p *suppressor.Plan) {
		p.Write, p.Guests, p.Restraint = false, nil, colocate.Restraint{}
		p.Rule = colocate.BudgetRule{CapacityMilli: world.Machine.CPUMilli}
	})
	w.unshape()
	w.giveBack()
	w.order(nil, colocate.BudgetRule{}, false, suppressor.State{})
}

// giveBack leaves the files as they were found.
func (w *Warden) giveBack() {
	if len(w.ledger.Table()) == 0 {
		return
	}
	if err := w.ledger.Release(w.layout.Pods()); err != nil {
		w.wanting = append(w.wanting, err)
	}
	w.avoidance, w.rung, w.freezing, w.braked, w.signals = "none", colocate.RungNone, false, false, nil
	w.ladder, w.slack = colocate.Ladder{}, colocate.NewSlack(colocate.SlackRule{})
	w.verdict, w.seeking, w.trial, w.culprits = colocate.SlackVerdict{}, false, colocate.Trial{}, nil
	w.freezer = freezer.New(w.ledger)
	clear(w.held)
}

// hold makes the groups of batch and of its pods what they are to be.
func (w *Warden) hold(world World, batch []Pod, active bool) {
	if !active {
		w.fast.Follow(func(p *suppressor.Plan) { p.Write = false })
		w.giveBack()
		return
	}
	class := w.layout.Class(cgroup.BestEffort)
	w.avoidance = "none"
	if world.Spec.Ladder.Quota {
		w.avoidance = "weight+quota"
	}
	lonely := len(w.guests(world)) == 0
	switch cmp.Or(world.Spec.Ladder.Idle, v1alpha1.IdleAuto) {
	case v1alpha1.IdleNever:
		w.want(cgroup.Want{Group: class, Knob: cgroup.Idle, Value: 0, Reason: "the policy does not want idle"})
	default:
		err := w.ledger.Set(cgroup.Want{Group: class, Knob: cgroup.Idle, Value: 1, Reason: "online pods go first"})
		switch {
		case err == nil:
			w.avoidance = "idle"
		case errors.Is(err, cgroup.ErrGone): // no pod of the class has been here yet
		case errors.Is(err, cgroup.ErrAbsent) && world.Spec.Ladder.Idle != v1alpha1.IdleAlways: // weight and quota have to do
		default:
			w.wanting = append(w.wanting, err)
		}
	}
	if lonely != w.lonely { // from weights to idle among pods, or back
		w.lonely = lonely
		for _, g := range w.held {
			if err := w.ledger.Release(g); err != nil {
				w.wanting = append(w.wanting, err)
			}
		}
	}
	here := map[string]bool{}
	for _, p := range batch {
		g := w.layout.Pod(cgroup.BestEffort, p.UID)
		here[p.UID] = true
		if !w.opts.Tree.Exists(g) {
			continue // the kubelet has not made it yet
		}
		w.held[p.UID] = g
		if lonely {
			w.want(cgroup.Want{Group: g, Knob: cgroup.Weight, Value: max(p.Task.Need.CPUMilli*1024/1000, 2), Reason: "its share among batch pods"})
		} else {
			w.want(cgroup.Want{Group: g, Knob: cgroup.Idle, Value: 1, Reason: "online pods of the class go first"})
		}
		if p.Task.Need.MemoryMiB > 0 && world.Spec.Ladder.Memory {
			w.want(cgroup.Want{Group: g, Knob: cgroup.MemoryMax, Value: p.Task.Need.MemoryMiB << 20, Reason: "what it asks for"})
		}
	}
	for uid, g := range w.held {
		if here[uid] {
			continue
		}
		delete(w.held, uid)
		if w.opts.Tree.Exists(g) { // it is no longer of the class, or about to go
			if err := w.ledger.Release(g); err != nil {
				w.wanting = append(w.wanting, err)
			}
		}
		w.ledger.Forget(g)
	}
}

// guests are the groups of online pods in the class that batch is in.
func (w *Warden) guests(world World) []cgroup.Group {
	var out []cgroup.Group
	for _, p := range world.Pods {
		if !p.Batch && p.Class == cgroup.BestEffort {
			out = append(out, w.layout.Pod(cgroup.BestEffort, p.UID))
		}
	}
	return out
}

// plan tells the fast loop what to work with, and has it begin.
func (w *Warden) plan(world World, rule colocate.BudgetRule, guests []cgroup.Group, active bool) {
	w.fast.Follow(func(p *suppressor.Plan) {
		p.Rule, p.Guests, p.Restraint = rule, guests, w.verdict.Restraint
		p.Write = active && world.Spec.Ladder.Quota
	})
	if w.endFast != nil {
		return
	}
	// It begins with a plan: without one its ceiling is nothing, and rises for long.
	w.tickedAt = time.Now()
	fast := w.fast
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		fast.Run(ctx, w.opts.Every)
	}()
	w.endFast = func() {
		cancel()
		<-done
	}
}

// order renews what the deadman does if this was the last round.
func (w *Warden) order(batch []Pod, rule colocate.BudgetRule, active bool, state suppressor.State) {
	if w.ledger == nil {
		return
	}
	if state.Ticks != w.ticks || !active {
		w.ticks, w.tickedAt = state.Ticks, time.Now()
	} else if time.Since(w.tickedAt) > deadman.Silence/2 {
		return // the fast loop hangs: the deadman shall end us
	}
	o := deadman.Orders{PID: os.Getpid(), Scope: w.layout.Pods(), Dir: w.opts.Dir, Network: w.net.shaper != nil}
	if active {
		const gone = "the agent is gone"
		class := w.layout.Class(cgroup.BestEffort)
		if state.BurstMicros > 0 { // the kernel refuses a quota below it
			o.Wants = append(o.Wants, cgroup.Want{Group: class, Knob: cgroup.Burst, Value: 0, Reason: gone})
		}
		o.Wants = append(o.Wants, cgroup.Want{
			Group: class, Knob: cgroup.Quota, Value: max(rule.CapacityMilli*safePercent/100, rule.FloorMilli), Reason: gone,
		})
	}
	for range 2 { // the deadman may have been started anew
		if w.line == nil {
			line, err := deadman.Dial(w.opts.Dir)
			if err != nil {
				w.alone(err, active)
				return
			}
			w.line = line
		}
		if w.line.Send(o) == nil {
			return
		}
		w.line.Close()
		w.line = nil
	}
}

// alone has a deadman started, for none is there.
func (w *Warden) alone(err error, active bool) {
	if w.opts.Deadman != nil && time.Since(w.startedAt) > 5*time.Second {
		w.startedAt = time.Now()
		err = w.opts.Deadman()
	} else if w.opts.Deadman != nil {
		return // it is on its way
	}
	if err != nil && active {
		w.wanting = append(w.wanting, fmt.Errorf("nothing would bound batch if this agent died: %w", err))
	}
}

// says returns one sentence about what holds.
func (w *Warden) says(world World, state suppressor.State, window string) string {
	c := state.Ceiling
	var b strings.Builder
	fmt.Fprintf(&b, "batch may use %d thousandths of a core: %s", c.Milli, c.Reason)
	if c.Reason != colocate.ReasonLost {
		fmt.Fprintf(&b, " (%d may be used, %d are, %d stay free for noise)", c.LimitMilli, c.BusyMilli, c.MarginMilli)
	}
	if window != "" {
		fmt.Fprintf(&b, "; in window %s", window)
	}
	if w.verdict.Why != "" {
		fmt.Fprintf(&b, "; %s", w.verdict.Why)
	}
	switch {
	case w.seeking:
		fmt.Fprintf(&b, "; %s", w.trial.Why)
	case len(w.culprits) > 0:
		fmt.Fprintf(&b, "; %s", w.named)
	}
	if world.Mute {
		b.WriteString("; the cluster has not been heard for a while, what it said last holds")
	}
	return b.String()
}

// tell keeps a report for others.
func (w *Warden) tell(r Report, now time.Time) {
	r.Colocation.At = now.UTC()
	var writes int64
	if w.ledger != nil {
		for _, n := range w.ledger.ForeignWrites() {
			writes += n
		}
	}
	r.Colocation.ForeignWrites = writes
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.report.Reason != r.Reason {
		w.opts.Log.Info("colocation", "ok", r.OK, "reason", r.Reason, "message", r.Message)
	}
	w.report, w.rounds = r, time.Now()
	w.count()
}
