package interference

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
)

// An Arm is one way to hold batch back.
type Arm struct {
	Name string // as it stands in rows, such as "koordinator@80"
	// Batch tells whether there is any.
	Batch bool
	// Settle is how long its loop takes until it has learnt the load.
	Settle time.Duration
	// Hold sets the arm up on a stage whose service runs and whose batch is about to
	// begin. What it returns ends it, and says what there is to tell.
	Hold func(ctx context.Context, s *Stage) (end func() string, err error)
}

// A Stage is what an arm works on: two groups that are siblings, as the kubelet's
// burstable and best-effort groups are. Both have 1024 shares and nothing else.
type Stage struct {
	Tree          *cgroup.Tree
	Online, Batch cgroup.Group
	OnlinePID     int
	Cores         int
	// TargetMs is what the service promises its p99 to stay below, 0 if it promises
	// nothing; P99Ms is what it was since the last call, and of how many requests.
	TargetMs float64
	P99Ms    func(context.Context) (ms float64, requests int, err error)
	// Others is how many cores neither group used since the last call.
	Others func() (cores float64, err error)
	// Loaded is closed when the load begins: loops start then, for what they do when
	// a load comes out of nothing is another measurement.
	Loaded chan struct{}

	machine machine
}

var arms = []struct {
	name, what string
	amount     int // after @, if none is given; 0: takes none
	settle     time.Duration
	hold       func(ctx context.Context, s *Stage, amount int) (func() string, error)
}{
	{Solo, "no batch", 0, 0, nil},
	{"none", "batch as an equal: two groups of 1024 shares", 0, 0, set()},
	{"shares2", "batch has 2 shares, as the kubelet gives best-effort pods on cgroup v1", 0, 0, set(knob{cgroup.Weight, 2})},
	{"weight1", "batch has weight 1 of cgroup v2, the kubelet's there (10 shares on v1)", 0, 0, weightOne},
	{"idle", "batch runs only where online leaves CPU (cpu.idle)", 0, 0, set(knob{cgroup.Idle, 1})},
	{"slice", "batch has 2 shares, online threads take turns of 0.1 ms", 0, 0, slice},
	{"quota", "batch has a fixed quota of so many percent of the machine, and 1024 shares", 45, 0, fixedQuota},
	{"koordinator", "batch has 2 shares and Koordinator's cfsQuota loop with this threshold", 65, 3 * time.Second, koordinator},
	{"neap", "the agent's own loops: idle, the fast budget up to so many percent of the machine, slack of the service's p99", 100, 10 * time.Second, neap},
}

// ArmNames are the arms of [NewArm], in the order of the help text, each with
// what it does.
func ArmNames() [][2]string {
	var names [][2]string
	for _, a := range arms {
		names = append(names, [2]string{a.name, a.what})
	}
	return names
}

// NewArm returns the arm of that name: one of [ArmNames], quota, koordinator
// and neap also with a percentage behind an @.
func NewArm(name string) (Arm, error) {
	bare, text, with := strings.Cut(name, "@")
	for _, a := range arms {
		if a.name != bare {
			continue
		}
		amount := a.amount
		if with {
			n, err := strconv.Atoi(text)
			if err != nil || a.amount == 0 || n < 1 || n > 100 {
				return Arm{}, fmt.Errorf("arm %q: give quota, koordinator and neap a whole percentage of 1 to 100, such as koordinator@80, others none", name)
			}
			amount = n
		}
		arm := Arm{Name: name, Batch: a.hold != nil, Settle: a.settle}
		arm.Hold = func(ctx context.Context, s *Stage) (func() string, error) {
			if a.hold == nil {
				return func() string { return "" }, nil
			}
			return a.hold(ctx, s, amount)
		}
		return arm, nil
	}
	var names []string
	for _, a := range arms {
		names = append(names, a.name)
	}
	return Arm{}, fmt.Errorf("arm %q is not one of %s", name, strings.Join(names, ", "))
}

type knob struct {
	knob  cgroup.Knob
	value int64
}

// set returns an arm that sets the batch group's knobs once.
func set(knobs ...knob) func(context.Context, *Stage, int) (func() string, error) {
	return func(_ context.Context, s *Stage, _ int) (func() string, error) {
		for _, k := range knobs {
			if err := s.Tree.Set(s.Batch, k.knob, k.value); err != nil {
				return nil, err
			}
		}
		return func() string { return "" }, nil
	}
}

func weightOne(ctx context.Context, s *Stage, _ int) (func() string, error) {
	shares := int64(2) // becomes weight 1
	if s.Tree.Version() == cgroup.V1 {
		shares = 10 // the same weight inside the kernel
	}
	return set(knob{cgroup.Weight, shares})(ctx, s, 0)
}

func slice(ctx context.Context, s *Stage, _ int) (func() string, error) {
	if err := SetSlice(s.OnlinePID, 100*time.Microsecond); err != nil {
		return nil, fmt.Errorf("arm slice needs Linux 6.12: %w", err)
	}
	return set(knob{cgroup.Weight, 2})(ctx, s, 0)
}

func fixedQuota(ctx context.Context, s *Stage, percent int) (func() string, error) {
	return set(knob{cgroup.Quota, int64(s.Cores) * int64(percent) * 10})(ctx, s, 0)
}

// koordinator runs the cfsQuota loop each second, as its agent does.
func koordinator(ctx context.Context, s *Stage, percent int) (func() string, error) {
	if err := s.Tree.Set(s.Batch, cgroup.Weight, 2); err != nil {
		return nil, err
	}
	rule := QuotaRule{Cores: float64(s.Cores), Threshold: float64(percent) / 100}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan string, 1)
	go func() {
		now, writes := -1.0, 0
		say := func() string { return fmt.Sprintf("quota %.2f cores at the end, %d writes", now, writes) }
		s.wait(ctx)
		online := s.usage(s.OnlinePID)
		if _, err := s.Others(); err != nil {
			done <- err.Error()
			return
		}
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- say()
				return
			case <-tick.C:
			}
			others, err := s.Others()
			if err != nil {
				done <- err.Error()
				return
			}
			next := rule.Next(now, online(), others)
			if next == now {
				continue
			}
			if err := s.Tree.Set(s.Batch, cgroup.Quota, int64(next*1000)); err != nil {
				done <- err.Error()
				return
			}
			now, writes = next, writes+1
		}
	}()
	return func() string { cancel(); return <-done }, nil
}

// wait waits until the load has been there for a moment.
func (s *Stage) wait(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-s.Loaded:
	}
	select {
	case <-ctx.Done():
	case <-time.After(300 * time.Millisecond):
	}
}

// usage returns a function that says how many cores a process used since it was
// last called.
func (s *Stage) usage(pid int) func() float64 {
	m := s.machine
	last, _ := m.process(pid)
	at := time.Now()
	return func() float64 {
		now, err := m.process(pid)
		if err != nil {
			return 0 // it has ended, and the row with it
		}
		used := (now - last) / time.Since(at).Seconds()
		last, at = now, time.Now()
		return used
	}
}
