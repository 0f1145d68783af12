package scaler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/metrics"
)

// A Ledger keeps decisions. store.Store is one.
type Ledger interface {
	// AppendDecision adds a row; a second one with the same ID is ignored.
	AppendDecision(ctx context.Context, d bill.Decision) error
}

// Options of a [Scaler].
type Options struct {
	// Client reads policies, pods, nodes and pools from a cache, and writes
	// statuses. Required.
	Client client.Client
	// Live reads past the cache: targets, and kinds that the cluster may not have.
	// Required.
	Live client.Reader
	// Scales reads and writes the /scale of targets. Required.
	Scales scale.ScalesGetter
	// Mapper finds the resource of a target's kind. Required.
	Mapper meta.RESTMapper
	// Clock is the cluster's clock. Required.
	Clock clock.Clock
	// Observed says that times are when they were seen, and not what the API
	// server writes down: for a day that does not pass at the wall's pace.
	Observed bool
	// Metrics tell the load and the quality. Without them, layers that need a load
	// hold what is there.
	Metrics metrics.Source
	// Ledger keeps decisions; nil keeps none.
	Ledger Ledger
	// Prices are what replicas cost in their pools; nil or without an answer, no
	// replica moves to a cheaper pool.
	Prices func() *machine.PriceBook
	// Decided is called after each minute's decisions; nil is not called.
	Decided func(at time.Time)
	// Log takes what happens; nil means slog.Default.
	Log *slog.Logger
}

// A Scaler decides for every ElasticPolicy.
type Scaler struct {
	o      Options
	log    *slog.Logger
	births *births
	rivals *rivals

	woken chan struct{}

	mu     sync.Mutex // guards what follows
	awake  map[types.NamespacedName]bool
	states map[types.UID]*state
	last   time.Time // of the last minute

	learner learner
	figures figures
}

// A state is what is remembered of one policy between two minutes. One decision
// at a time has it; what the learner shares with it is in demand.
type state struct {
	declared  declared
	decision  elastic.State
	starts    map[string]*startTimes // by pool; "" is outside of every pool
	roomSince map[string]time.Time   // by pool
	refusedAt map[string]time.Time   // by pool
	counted   int64                  // births up to here are in starts
	replica   request                // of one replica, once one was seen
	demand    *demand
	classes   classes
	last      *v1alpha1.ElasticPolicyStatus // as it was written
	written   time.Time                     // by the wall
}

// New returns a Scaler that knows nothing yet.
func New(o Options) (*Scaler, error) {
	switch {
	case o.Client == nil || o.Live == nil:
		return nil, errors.New("scaler: Client and Live are required")
	case o.Scales == nil || o.Mapper == nil:
		return nil, errors.New("scaler: Scales and Mapper are required")
	case o.Clock == nil:
		return nil, errors.New("scaler: Clock is required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &Scaler{
		o: o, log: o.Log.With("component", "scaler"),
		woken: make(chan struct{}, 1), awake: map[types.NamespacedName]bool{}, states: map[types.UID]*state{},
	}
	s.births = newBirths(o.Clock.Now, o.Observed)
	s.rivals = &rivals{cached: o.Client, live: o.Live, wall: time.Now, warn: func(err error) {
		s.log.Warn("another owner of a workload may go unseen", "err", err)
	}}
	s.figures.init()
	return s, nil
}

// Pod tells of a pod that is new or changed. It may be called from any goroutine.
func (s *Scaler) Pod(pod *corev1.Pod) { s.births.seen(pod) }

// PodGone tells that a pod's object is gone.
func (s *Scaler) PodGone(pod *corev1.Pod) { s.births.gone(pod) }

// Policy tells of a policy whose declaration is new or changed: it is decided at
// once, and not only in the next minute.
func (s *Scaler) Policy(p *v1alpha1.ElasticPolicy) {
	s.mu.Lock()
	s.awake[client.ObjectKeyFromObject(p)] = true
	s.mu.Unlock()
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Run decides every minute until ctx ends, which is no error.
func (s *Scaler) Run(ctx context.Context) error {
	stop := s.learner.start(ctx)
	defer stop()
	for {
		if err := s.Minute(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("this minute nothing was decided; the next is tried", "err", err)
		}
		now := s.o.Clock.Now()
		timer := s.o.Clock.NewTimer(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C():
				waiting = false
			case <-s.woken:
				s.mu.Lock()
				only := s.awake
				s.awake = map[types.NamespacedName]bool{}
				s.mu.Unlock()
				if err := s.decide(ctx, only); err != nil && ctx.Err() == nil {
					s.log.Warn("a changed policy waits for the next minute", "err", err)
				}
			}
		}
	}
}

// Minute decides for every policy, now. It may not be called while Run works.
func (s *Scaler) Minute(ctx context.Context) error { return s.decide(ctx, nil) }

const (
	// atOnce is how many policies are observed at the same time: it hides the
	// round trips, and spares the API server and the metrics.
	atOnce = 16
	// patience is how long one policy may take, by the wall.
	patience = 20 * time.Second
)

// decide decides for the policies in only, or for all if it is nil.
func (s *Scaler) decide(ctx context.Context, only map[types.NamespacedName]bool) error {
	// 1. One time for all, which never goes back.
	now := s.o.Clock.Now().UTC().Truncate(time.Second)
	s.mu.Lock()
	if now.Before(s.last) {
		now = s.last
	}
	s.last = now
	s.mu.Unlock()

	// 2. What all decisions need.
	w, err := s.look(ctx, now)
	if err != nil {
		return err
	}
	s.forget(w)

	// 3. One decision for each.
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range w.policies {
		p := &w.policies[i]
		if only != nil && !only[client.ObjectKeyFromObject(p)] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			one, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if err := s.one(one, w, p); err != nil && ctx.Err() == nil {
				s.log.Warn("a policy could not be carried out; the next minute is tried", "policy", p.Namespace+"/"+p.Name, "err", err)
			}
		})
	}
	wg.Wait()
	if s.o.Decided != nil && only == nil && ctx.Err() == nil {
		s.o.Decided(now)
	}
	return nil
}

// forget drops what is remembered of policies that are gone.
func (s *Scaler) forget(w *world) {
	there := make(map[types.UID]bool, len(w.policies))
	for i := range w.policies {
		there[w.policies[i].UID] = true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for uid := range s.states {
		if !there[uid] {
			delete(s.states, uid)
			s.figures.drop(uid)
		}
	}
	for uid := range there {
		if s.states[uid] == nil {
			s.states[uid] = &state{starts: map[string]*startTimes{}, roomSince: map[string]time.Time{}, refusedAt: map[string]time.Time{}, demand: &demand{}}
		}
	}
}

func (s *Scaler) state(uid types.UID) *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.states[uid]
}

// one observes, decides, acts and records for one policy. Whatever it is killed
// after, the next one ends where it would have ended.
func (s *Scaler) one(ctx context.Context, w *world, p *v1alpha1.ElasticPolicy) error {
	st := s.state(p.UID)
	// 1. Observe.
	seen := s.observe(ctx, w, p, st)
	// 2. Decide, asking for the quality only if something may go.
	said := decideOn(seen)
	if said.leaves(seen) {
		seen.Guard, seen.GuardErr = s.guard(ctx, w, seen)
		said = decideOn(seen)
	}
	st.decision = said.Next
	// 3. Act. What was decided is absolute, so that doing it twice is doing it once.
	// Where new replicas may be is said before they come: admission and the
	// scheduler look there.
	if said.Acts && said.Desired > seen.Current {
		seen.ActErr = s.plan(ctx, p, seen, said, st)
	}
	if said.Acts && said.Desired != seen.Current && seen.ActErr == nil {
		seen.ActErr = s.scale(ctx, p, seen.target, said.Desired)
	}
	// 4. Record: the ledger before the status, which counts its rows.
	err := s.record(ctx, p, st, seen, said)
	s.figures.set(p, seen, said)
	return err
}

// plan writes into the status how many replicas each pool may have, if that is new.
func (s *Scaler) plan(ctx context.Context, p *v1alpha1.ElasticPolicy, seen *observation, said verdict, st *state) error {
	to := p.DeepCopy()
	to.Status.Pools = statusOf(seen, said, st).Pools
	if slices.EqualFunc(p.Status.Pools, to.Status.Pools, samePlan) {
		return nil
	}
	if err := s.o.Client.Status().Patch(ctx, to, client.MergeFrom(p)); err != nil {
		return fmt.Errorf("write the plan of the pools: %w", err)
	}
	p.Status.Pools, p.ResourceVersion = to.Status.Pools, to.ResourceVersion
	return nil
}

// scale sets the replicas of the target, unless somebody else did since it was
// read. Its status changes all the time while replicas come and go; that is no
// reason to wait for the next minute.
func (s *Scaler) scale(ctx context.Context, p *v1alpha1.ElasticPolicy, t target, replicas int) error {
	scales := s.o.Scales.Scales(p.Namespace)
	to := t.scale.DeepCopy()
	to.Spec = autoscalingv1.ScaleSpec{Replicas: int32(replicas)}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		_, err := scales.Update(ctx, t.resource, to, updateOptions)
		if !apierrors.IsConflict(err) {
			return err
		}
		now, getErr := scales.Get(ctx, t.resource, p.Spec.TargetRef.Name, metav1.GetOptions{})
		if getErr != nil {
			return getErr
		}
		if now.UID != t.scale.UID || now.Spec != t.scale.Spec {
			return errors.New("somebody else changed them meanwhile")
		}
		to.ResourceVersion = now.ResourceVersion
		return err
	})
	if err != nil {
		return fmt.Errorf("set the replicas of %s %s/%s to %d: %w", p.Spec.TargetRef.Kind, p.Namespace, p.Spec.TargetRef.Name, replicas, err)
	}
	return nil
}
