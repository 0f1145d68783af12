package colocator

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// A Ledger keeps decisions; a row appended twice is one.
type Ledger interface {
	AppendDecision(context.Context, bill.Decision) error
}

// A Memory keeps what the accounts come to over a restart. State returns "" for what
// was never set.
type Memory interface {
	SetState(ctx context.Context, key, value string) error
	State(ctx context.Context, key string) (string, error)
}

// Options of a [Colocator].
type Options struct {
	// Client reads policies, nodes, pods and Modules from a cache, and writes. Required.
	Client client.Client
	// Live reads past the cache: the Leases of agents. Required.
	Live client.Reader
	// Clock is the cluster's clock. Required.
	Clock clock.Clock
	// Observed says that times are when they were seen, and not what the API server
	// writes down: for a day that does not pass at the wall's pace.
	Observed bool
	// Metrics tell what pods use. Without them nothing is lent.
	Metrics metrics.Source
	// Ledger keeps decisions, and Memory the accounts; nil keeps none.
	Ledger Ledger
	Memory Memory
	// Prices are what machines cost; nil or without an answer, batch earns nothing.
	Prices func() *machine.PriceBook
	// AgentNamespace is where the agents' Leases are; "" means neap-system.
	AgentNamespace string
	// Lasts is how long a capacity holds that nobody renews; 0 means
	// convert.BatchLasts. A day faster than the wall's needs more.
	Lasts time.Duration
	// Apart is the least time between two looks, on the wall.
	Apart time.Duration
	// Decided is called after each minute's decisions; nil is not called.
	Decided func(at time.Time)
	// Log takes what happens; nil means slog.Default.
	Log *slog.Logger
}

// DefaultAgentNamespace is where agents keep their Leases unless told otherwise.
const DefaultAgentNamespace = "neap-system"

// A Colocator decides for every node of every ColocationPolicy. Use [New].
type Colocator struct {
	o     Options
	log   *slog.Logger
	runs  *runs
	woken chan struct{}

	// Of one minute after the other.
	machines map[string]*machineState // by node
	policies map[types.UID]*policyState
	history  history
	restored bool
	kept     time.Time // when the accounts were kept last
	last     time.Time

	figures figures
}

// A machineState is what is remembered of one node.
type machineState struct {
	past  *colocate.Past
	last  colocate.Offer
	agent agentState
	wrote convert.BatchCapacity // what this process wrote last
}

// A policyState is what is remembered of one policy.
type policyState struct {
	account account
	settled time.Time // the last hour of it that is in the ledger
	lending bool
	peaks   peaks
	judged  time.Time // when the services' quality was last asked for
	broken  []breach  // what was found
	unknown error
	status  *v1alpha1.ColocationPolicyStatus // as it was written
	written time.Time                        // by the wall
}

// New returns a Colocator that knows nothing yet.
func New(o Options) (*Colocator, error) {
	switch {
	case o.Client == nil || o.Live == nil:
		return nil, errors.New("colocator: Client and Live are required")
	case o.Clock == nil:
		return nil, errors.New("colocator: Clock is required")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.AgentNamespace = cmp.Or(o.AgentNamespace, DefaultAgentNamespace)
	o.Lasts = min(cmp.Or(o.Lasts, convert.BatchLasts), time.Hour)
	return &Colocator{
		o: o, log: o.Log.With("component", "colocator"), woken: make(chan struct{}, 1), runs: newRuns(o.Clock.Now, o.Observed),
		machines: map[string]*machineState{}, policies: map[types.UID]*policyState{},
	}, nil
}

// +kubebuilder:rbac:groups=neap.dev,resources=colocationpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=neap.dev,resources=colocationpolicies/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=nodes,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups="",resources=nodes/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=get;list;watch
// +kubebuilder:rbac:groups="",resources=pods/eviction,verbs=create
// +kubebuilder:rbac:groups=coordination.k8s.io,resources=leases,verbs=list

// Pod tells of a pod that is new or changed. It may be called from any goroutine.
func (c *Colocator) Pod(pod *corev1.Pod) { c.runs.seen(pod) }

// PodGone tells that a pod's object is gone.
func (c *Colocator) PodGone(pod *corev1.Pod) { c.runs.gone(pod) }

// Owner tells who controls a ReplicaSet or a Job.
func (c *Colocator) Owner(obj metav1.Object) { c.runs.owner(obj) }

// OwnerGone tells that a ReplicaSet or a Job is gone.
func (c *Colocator) OwnerGone(uid types.UID) { c.runs.ownerGone(uid) }

// Wake makes the next minute begin at once: a policy is new or changed.
func (c *Colocator) Wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

// Run decides every minute until ctx ends, which is no error.
func (c *Colocator) Run(ctx context.Context) error {
	for {
		began := time.Now()
		if err := c.Minute(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("this minute nothing was decided on batch; the next is tried", "err", err)
		}
		if rest := c.o.Apart - time.Since(began); rest > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(rest):
			}
		}
		// The minute after the last decision, and not after now: a day that waits for us
		// would never come to that.
		rest := c.last.Truncate(time.Minute).Add(time.Minute).Sub(c.o.Clock.Now())
		if rest <= 0 && ctx.Err() == nil {
			continue
		}
		timer := c.o.Clock.NewTimer(min(rest, time.Minute)) // a clock may have been set back
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C():
		case <-c.woken:
			timer.Stop()
		}
	}
}

const (
	// patience is how long one minute may take, by the wall.
	patience = 50 * time.Second
	// atOnce is how many nodes are written at the same time.
	atOnce = 16
)

// Minute decides for every node, now. It may not be called while Run works.
func (c *Colocator) Minute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	// 1. One time for all, which never goes back.
	now := c.o.Clock.Now().UTC().Truncate(time.Second)
	if now.Before(c.last) {
		now = c.last
	}
	c.last = now

	// 2. Observe.
	w, err := c.look(ctx, now)
	if err != nil {
		return err
	}
	if err := c.restore(ctx, w); err != nil {
		return err
	}
	c.forget(w)
	if err := c.agents(ctx, w); err != nil {
		return err
	}
	c.measure(ctx, w)
	c.judge(ctx, w)

	// 3. Decide, machine by machine, then who has to leave.
	for _, m := range w.machines {
		c.decide(w, m)
	}
	leaving := c.leaving(w)

	// 4. Act.
	err = c.write(ctx, w)
	err = errors.Join(err, c.evict(ctx, w, leaving))

	// 5. Record, and learn what is not needed at once.
	c.account(w)
	c.learnPeaks(ctx, w)
	err = errors.Join(err, c.record(ctx, w))
	c.figures.set(w, c)
	if c.o.Decided != nil && ctx.Err() == nil {
		c.o.Decided(now)
	}
	return err
}

// forget drops what is remembered of nodes and policies that are gone.
func (c *Colocator) forget(w *world) {
	nodes := map[string]bool{}
	for _, m := range w.machines {
		nodes[m.node.Name] = true
		if c.machines[m.node.Name] == nil {
			c.machines[m.node.Name] = &machineState{last: standing(m.node)}
		}
		m.state = c.machines[m.node.Name]
	}
	for name := range c.machines {
		if !nodes[name] {
			delete(c.machines, name)
		}
	}
	there := map[types.UID]bool{}
	for _, p := range w.policies {
		there[p.UID] = true
		if c.policies[p.UID] == nil {
			c.policies[p.UID] = &policyState{}
		}
	}
	for uid := range c.policies {
		if !there[uid] {
			delete(c.policies, uid)
		}
	}
}

// standing is the offer that stands on a node from before this process; the zero
// Offer if there is none.
func standing(node *corev1.Node) colocate.Offer {
	is, err := convert.NodeBatchCapacity(node)
	if err != nil {
		return colocate.Offer{}
	}
	return colocate.Offer{At: is.At, Curve: is.Curve(), Now: convert.BatchOffer(node).Min(is.Curve().At(is.At))}
}

// What keeps a capacity from being more, besides the bounds of core/colocate.
const (
	boundPolicy colocate.Bound = "policy" // it makes no sense
	boundAgent  colocate.Bound = "agent"  // nobody holds batch back
	boundGuard  colocate.Bound = "guard"  // a service beside batch misses its quality
)

// decide works out what one machine lends.
func (c *Colocator) decide(w *world, m *seen) {
	if m.policy == nil {
		return
	}
	st := m.state
	m.observation.Last = st.last
	allow := m.declared.Policy
	allow.Windows = colocate.Windows(m.declared.Hours, w.now, w.now.Add(colocate.Steps*colocate.Step))
	o := colocate.Capacity(m.observation, allow)
	switch {
	case m.declareErr != nil:
		nothing(&o, boundPolicy, m.declareErr.Error())
	case w.measured != nil && o.Binds == colocate.BoundUnknown:
		o.Why = w.measured.Error()
	case m.policy.Spec.Mode == v1alpha1.ModeAuto && m.agentErr != nil:
		nothing(&o, boundAgent, m.agentErr.Error())
	case m.breach != "" && !st.last.At.IsZero():
		hold(&o, st.last.Now, boundGuard, m.breach)
	}
	m.offer, st.last = o, o
}

// nothing makes an offer lend nothing.
func nothing(o *colocate.Offer, binds colocate.Bound, why string) {
	hold(o, colocate.Room{}, binds, why)
	o.Binds, o.When, o.Why = binds, o.At, why
}

// hold keeps an offer at most at a room.
func hold(o *colocate.Offer, most colocate.Room, binds colocate.Bound, why string) {
	least := func(of []int64, most int64) []int64 {
		of = slices.Clone(of)
		for i := range of {
			of[i] = min(of[i], most)
		}
		return of
	}
	o.Curve.CPUMilli, o.Curve.MemoryMiB = least(o.Curve.CPUMilli, most.CPUMilli), least(o.Curve.MemoryMiB, most.MemoryMiB)
	if o.Now.Fits(most) {
		return
	}
	o.Now, o.Binds, o.When, o.Why = o.Now.Min(most), binds, o.At, why
}
