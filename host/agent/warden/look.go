package warden

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/agent/evictor"
	"github.com/neap-dev/neap/host/agent/freezer"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/psi"
)

// How memory is judged.
const (
	stallPermille = 100 // of the time some online pod waits for memory: it is short
	hardPercent   = 5   // of the machine above its share: braking is not enough
	leastMiB      = 64  // that a batch pod keeps when it is braked
)

// look looks at what online pods feel and at the memory, and climbs the ladder.
func (w *Warden) look(now time.Time, at time.Duration, world World, batch []Pod, rule colocate.BudgetRule, memoryPercent int64) {
	spec := &world.Spec
	state := w.fast.State()

	// 1. What online pods feel.
	cool, err := time.ParseDuration(spec.Slack.CoolDown)
	if err != nil || cool < 0 {
		cool = 5 * time.Minute
	}
	w.culprits = w.guilty(at, world, batch)
	w.slack.Rule(colocate.SlackRule{CapacityMilli: rule.CapacityMilli, FloorMilli: rule.FloorMilli, Exposed: rule.Exposed, CoolDown: cool, Culprit: len(w.culprits) > 0})
	if !w.seeking { // else a look is a second, which is too short to judge by
		w.verdict = w.slack.Look(at, w.signals, state.Ceiling.Milli)
	}

	// 2. Whether there is memory.
	short, over, why := w.memory.look(w.opts, w.layout, world.Machine.MemoryMiB, memoryPercent)

	// 3. How far up the ladder. It waits while a culprit is looked for.
	w.seeking = w.seek(at, world, batch, short)
	stronger := w.verdict.Stronger && !w.seeking
	candidates := make([]evictor.Candidate, 0, len(batch))
	var freezable []freezer.Pod
	for _, p := range w.freezable(batch) {
		if w.blamed(p.UID) {
			freezable = append(freezable, p)
		}
	}
	for _, p := range batch {
		if !p.Leaving && (short || w.blamed(p.UID)) {
			candidates = append(candidates, evictor.Candidate{Pod: p.Object, Task: p.Task})
		}
	}
	_, mayEvict := w.opts.Evictor.May(now, world.PerHour)
	hard := over*100 > hardPercent*world.Machine.MemoryMiB || stronger
	may := colocate.Means{true}
	may[colocate.RungIdle] = w.avoidance == "idle"
	may[colocate.RungQuota] = spec.Ladder.Quota
	may[colocate.RungMemory] = spec.Ladder.Memory
	may[colocate.RungFreeze] = spec.Ladder.Freeze && w.freezer.Could(at, freezable)
	may[colocate.RungEvict] = spec.Ladder.Evict && mayEvict && len(candidates) > 0 && (hard || !short)
	bound := w.verdict.Capped || state.BatchMilli > 0 && state.BatchMilli*20 >= state.Ceiling.Milli*19
	before := w.rung
	rung, act := w.ladder.Next(at, colocate.Trouble{Batch: true, Bound: bound, Short: short, Stronger: stronger}, may)
	if w.rung = rung; rung > before {
		w.opts.Log.Info("a stronger means against batch", "step", rung, "before", before, "slack", w.verdict.Why, "memory", why)
	}
	// It is no wonder that all is well while a culprit is frozen.
	w.freezing = rung >= colocate.RungFreeze && (w.verdict.Stronger || w.freezing && len(w.culprits) > 0)

	// 4. Brake the memory, or no longer.
	w.brake(rung >= colocate.RungMemory && short, over, len(batch))

	// 5. Evict.
	if act && rung == colocate.RungEvict {
		need := colocate.Room{CPUMilli: 1}
		reason := w.verdict.Why
		if len(w.culprits) > 0 {
			reason += "; " + w.named
		}
		if short {
			need, reason = colocate.Room{MemoryMiB: max(over, 1)}, why
		}
		w.evict(candidates, need, now, world, reason)
	}
}

// feelers are the online workloads of the machine.
func (w *Warden) feelers(world World) []Feeler {
	var out []Feeler
	at := map[string]int{}
	for _, p := range world.Pods {
		if p.Batch {
			continue
		}
		i, known := at[p.Workload]
		if !known {
			i = len(out)
			at[p.Workload] = i
			out = append(out, Feeler{Workload: p.Workload})
		}
		out[i].Groups = append(out[i].Groups, w.layout.Pod(p.Class, p.UID))
	}
	return out
}

func (w *Warden) freezable(batch []Pod) []freezer.Pod {
	var out []freezer.Pod
	for _, p := range batch {
		if g, held := w.held[p.UID]; held && p.Freeze > 0 {
			out = append(out, freezer.Pod{UID: p.UID, Group: g, Most: p.Freeze, Leaving: p.Leaving})
		}
	}
	return out
}

// blamed tells whether a batch pod is held responsible: it is a culprit, or none is known.
func (w *Warden) blamed(uid string) bool { return len(w.culprits) == 0 || w.culprits[uid] }

// freeze freezes what is to be frozen, and lets go what has been for long enough.
func (w *Warden) freeze(at time.Duration, batch []Pod) {
	frozen, thawed, err := w.freezer.Keep(at, w.freezable(batch), func(p freezer.Pod) bool { return w.freezing && w.blamed(p.UID) }, w.verdict.Why)
	if err != nil {
		w.wanting = append(w.wanting, err)
	}
	say := func(pods []freezer.Pod, reason, message string) {
		for _, f := range pods {
			for _, p := range batch {
				if p.UID == f.UID {
					w.opts.Event(p.Object, reason, message)
				}
			}
		}
	}
	say(frozen, "BatchFrozen", "frozen, for it allows it: "+w.verdict.Why)
	say(thawed, "BatchThawed", "it goes on")
}

// brake bounds the memory of all batch pods together to what they use now, less what
// is over, where the kernel can slow them (v2), or to what they use now (v1, where
// more would kill).
func (w *Warden) brake(on bool, over int64, pods int) {
	knob := cgroup.MemoryHigh
	if w.opts.Tree.Version() == cgroup.V1 {
		knob = cgroup.MemoryMax
	}
	class := w.layout.Class(cgroup.BestEffort)
	if !on {
		if w.braked {
			w.braked = false
			w.want(cgroup.Want{Group: class, Knob: knob, Value: cgroup.Unlimited, Reason: "there is memory again"})
		}
		return
	}
	value := max(w.memory.batch-over<<20, int64(pods)*leastMiB<<20)
	if knob == cgroup.MemoryMax {
		value = max(w.memory.batchAll, int64(pods)*leastMiB<<20)
	}
	w.braked = true
	w.want(cgroup.Want{Group: class, Knob: knob, Value: value, Reason: "the machine is short of memory"})
}

// want has one thing written; a group that is gone needs nothing.
func (w *Warden) want(want cgroup.Want) bool {
	err := w.ledger.Set(want)
	if err != nil && !errors.Is(err, cgroup.ErrGone) {
		w.wanting = append(w.wanting, err)
	}
	return err == nil
}

// evict asks for evictions beside the rounds, one need at a time: an API server that
// hangs must not hold them up.
func (w *Warden) evict(from []evictor.Candidate, need colocate.Room, now time.Time, world World, reason string) {
	if !w.evicting.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer w.evicting.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		gone, err := w.opts.Evictor.Evict(ctx, from, need, now, world.PerHour, world.Grace, reason)
		if err != nil {
			w.opts.Log.Warn("evictions", "error", err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for range gone {
			w.counts.evictions[evictionReason(need)]++
		}
	}()
}

func evictionReason(need colocate.Room) string {
	if need.MemoryMiB > 0 {
		return "memory"
	}
	return "slack"
}

// A memory looks at the memory of the machine.
type memory struct {
	batch    int64 // bytes that batch cannot give back at once
	batchAll int64 // bytes charged to batch
	stalled  time.Duration
	at       time.Time
}

// look says whether the machine is short of memory, how many MiB over its share, and
// why in one sentence.
func (m *memory) look(o Options, layout cgroup.Layout, totalMiB, percent int64) (short bool, overMiB int64, why string) {
	if meter, err := o.Tree.Meter(layout.Class(cgroup.BestEffort)); err == nil {
		if use, err := meter.Read(); err == nil {
			m.batch, m.batchAll = use.Working, use.Memory
		}
		meter.Close()
	}
	if free, err := available(filepath.Join(o.Proc, "meminfo")); err == nil && totalMiB > 0 {
		if overMiB = totalMiB - free - totalMiB*percent/100; overMiB > 0 && m.batch > 0 {
			short, why = true, fmt.Sprintf("%d MiB of memory are used above the %d %% that may be", overMiB, percent)
		}
		overMiB = max(overMiB, 0)
	}
	now := time.Now()
	if p, err := o.Tree.Pressure(layout.Class(cgroup.Burstable), psi.Memory); err == nil {
		if gone := now.Sub(m.at); gone > 0 && !m.at.IsZero() {
			if share := 1000 * (p.Some.Total - m.stalled) / gone; share > stallPermille && m.batch > 0 {
				short, why = true, fmt.Sprintf("online pods waited for memory in %d ‰ of the time", share)
			}
		}
		m.stalled, m.at = p.Some.Total, now
	}
	return short, overMiB, why
}

// available reads how much memory a machine can still give, in MiB.
func available(meminfo string) (int64, error) {
	text, err := os.ReadFile(meminfo)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib >> 10, err
		}
	}
	return 0, fmt.Errorf("%s does not tell MemAvailable", meminfo)
}
