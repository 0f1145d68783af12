package player

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/scenario"
)

// A Ledger keeps the decisions; store.Store is one.
type Ledger interface {
	AppendDecision(ctx context.Context, d bill.Decision) error
}

// A Memory keeps how far the player is; store.Store is one. Get returns "" for
// what was never set.
type Memory interface {
	SetState(ctx context.Context, key, value string) error
	State(ctx context.Context, key string) (string, error)
}

// Options say what is played and where. All fields but Fleet and Problem are required.
type Options struct {
	Scenario *scenario.Scenario
	Clock    *clock.Clock
	Client   kubernetes.Interface
	CRDs     client.Client // knows the kinds of api/v1alpha1
	// Nodes speaks as the fleet, which may say what GPUs its machines have, and
	// knows nodes. nil if no machine has GPUs to share.
	Nodes client.Client
	// Informers hold the cluster's nodes and pods. The caller starts them, after
	// [New] and before [Player.Setup].
	Informers informers.SharedInformerFactory
	Ledger    Ledger
	Memory    Memory
	// Fleet is told of new versions of modules; nil if there is no physics.
	Fleet interface{ SetModule(scenario.Module) }
	// Problem is told what went wrong; the player goes on and tries again. nil
	// ignores it.
	Problem func(error)
}

// A Player plays one scenario. Use [New], then [Player.Setup] once, then [Player.Run].
type Player struct {
	o        Options
	calendar *scenario.Calendar
	nodes    corelisters.NodeLister
	pods     corelisters.PodLister
	book     *machine.PriceBook

	was     scenario.State // what was applied last
	at      time.Time
	parents map[workload.Key]*batchv1.CronJob

	mu      sync.Mutex
	firing  map[time.Time]int             // jobs being started, by when they were due
	leaving map[string]context.CancelFunc // nodes being given back; cancel keeps them
	wg      sync.WaitGroup
	retry   bool // something of the last change failed
	begun   bool // the day had begun before this player
}

// memoryKey says up to which moment of the day everything was done.
const memoryKey = "player/done-until"

// workers is how many requests the player has in flight at once.
const workers = 32

// New prepares a player.
func New(o Options) (*Player, error) {
	c, err := scenario.NewCalendar(o.Scenario)
	if err != nil {
		return nil, err
	}
	p := &Player{
		o: o, calendar: c, parents: map[workload.Key]*batchv1.CronJob{}, leaving: map[string]context.CancelFunc{}, firing: map[time.Time]int{},
		nodes: o.Informers.Core().V1().Nodes().Lister(), pods: o.Informers.Core().V1().Pods().Lister(),
		book: machine.NewPriceBook(o.Scenario.Currency),
	}
	for _, t := range o.Scenario.MachineTypes {
		if err := p.book.Set(o.Scenario.Start, t); err != nil {
			return nil, err
		}
	}
	for _, e := range o.Scenario.Events {
		if e.Price != nil {
			if err := p.book.Set(e.At, e.Price.Type); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// Setup brings the cluster to what should be in it now. On an empty cluster it
// makes everything; after a restart it makes up for what was missed. The
// informers must have synced.
func (p *Player) Setup(ctx context.Context) error {
	now := p.o.Clock.Now()
	p.at = now
	saved, err := p.o.Memory.State(ctx, memoryKey)
	if err != nil {
		return fmt.Errorf("read how far the scenario was played: %w", err)
	}
	fresh := saved == ""
	p.begun = !fresh
	if !fresh {
		if t, err := time.Parse(time.RFC3339Nano, saved); err == nil && t.Before(now) {
			p.at = t
		}
	}
	d := scenario.Desired(p.o.Scenario, now)
	if err := p.declare(ctx, d); err != nil {
		return err
	}
	if err := p.namespaces(ctx, d); err != nil {
		return err
	}
	// Machines first, so that pods find them.
	var all []func() error
	for i := range p.o.Scenario.Pools {
		pool := &p.o.Scenario.Pools[i]
		if pool.Kind == scenario.Serverless {
			all = append(all, func() error { return p.create(ctx, node(p.o.Scenario, pool, 0, 0)) })
			continue
		}
		for k := range d.Machines[pool.Name] {
			all = append(all, func() error { return p.machine(ctx, pool, k, 0, d.Sick) })
		}
	}
	if err := parallel(ctx, all); err != nil {
		return err
	}
	if fresh {
		p.awaitNodes(ctx, len(all))
	}
	// Then modules, those with the largest pods first: small ones spread over all
	// machines would leave no hole that is large enough.
	for _, wave := range waves(d) {
		all = all[:0]
		for _, m := range wave {
			if p.o.Fleet != nil && m.Version > 1 {
				p.o.Fleet.SetModule(*m.Spec)
			}
			all = append(all, func() error { return p.applyModule(ctx, m) })
		}
		if err := parallel(ctx, all); err != nil {
			return err
		}
		if fresh {
			p.awaitBound(ctx, wave)
		}
	}
	if err := p.policies(ctx); err != nil {
		return err
	}
	if err := p.colocation(ctx); err != nil {
		return err
	}
	p.was = d
	p.problem(p.keepSizes(ctx))
	if !p.plans(ctx, d, len(scenario.Desired(p.o.Scenario, p.at).Plans)) {
		p.retry, p.was.Plans = true, nil
	}
	if !fresh {
		// Machines that should have gone meanwhile.
		for name, n := range d.Machines {
			p.shrink(ctx, p.o.Scenario.Pool(name), n)
		}
		return nil
	}
	machines := 0
	for _, n := range d.Machines {
		machines += n
	}
	p.decide(ctx, bill.Decision{
		Action: "begin", Subject: p.o.Scenario.Name, Outcome: "done",
		Reason: fmt.Sprintf("The scenario begins with %d machines and %d modules.", machines, len(d.Modules)),
	})
	return p.o.Memory.SetState(ctx, memoryKey, now.Format(time.RFC3339Nano))
}

// sizes are the CPU requests, in milli-cores, at which a wave of modules begins.
var sizes = []int64{8000, 4000, 2000, 1000, 0}

// mostAtOnce is about how many pods a wave has. The controller manager makes
// the pods of a ReplicaSet at once; with many thousands the API server refuses
// some, and their ReplicaSets wait for minutes before they try again.
const mostAtOnce = 1000

// waves returns the modules by the size of their pods, largest first, a limited
// number of pods at a time.
func waves(d scenario.State) [][]scenario.ModuleState {
	bySize := make([][]scenario.ModuleState, len(sizes))
	for _, key := range sortedKeys(d.Modules) {
		m := d.Modules[key]
		i := slices.IndexFunc(sizes, func(s int64) bool { return m.Requests[resource.CPU] >= s })
		bySize[i] = append(bySize[i], m)
	}
	var out [][]scenario.ModuleState
	for _, wave := range bySize {
		pods := 0
		for i, m := range wave {
			if i == 0 || pods+m.Replicas > mostAtOnce {
				out, pods = append(out, nil), 0
			}
			pods += m.Replicas
			out[len(out)-1] = append(out[len(out)-1], m)
		}
	}
	return out
}

// awaitNodes waits until as many machines take pods, or none has come to for a
// while: pods that meet only closed machines would be put aside by the scheduler.
func (p *Player) awaitNodes(ctx context.Context, want int) {
	const stuck = 10 * time.Second
	last, since := 0, time.Now()
	for ctx.Err() == nil && time.Since(since) < stuck {
		all, err := p.nodes.List(labels.Everything())
		if err != nil {
			return
		}
		open := 0
		for _, n := range all {
			if !slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeNotReady }) {
				open++
			}
		}
		if open >= want {
			return
		}
		if open != last {
			last, since = open, time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitBound waits until the pods of modules have machines, or none has got one
// for a while.
func (p *Player) awaitBound(ctx context.Context, modules []scenario.ModuleState) {
	const stuck = 10 * time.Second
	want := 0
	for _, m := range modules {
		want += m.Replicas
	}
	last, since := 0, time.Now()
	for ctx.Err() == nil && time.Since(since) < stuck {
		bound := 0
		for _, m := range modules {
			pods, err := p.pods.Pods(m.Spec.Namespace).List(labels.SelectorFromSet(selector(m.Spec)))
			if err != nil {
				return
			}
			for _, pod := range pods {
				if pod.Spec.NodeName != "" {
					bound++
				}
			}
		}
		if bound >= want {
			return
		}
		if bound != last {
			last, since = bound, time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Expected returns how many pods of services should be there now.
func (p *Player) Expected() int {
	n := 0
	for _, m := range scenario.Desired(p.o.Scenario, p.o.Clock.Now()).Modules {
		if p.begun && m.Spec.Elastic.Acts() {
			n += m.Spec.Elastic.Min // what a policy said since, nobody here knows
			continue
		}
		n += m.Replicas
	}
	return n
}

// Run plays until ctx is done. It returns when everything it began has ended.
func (p *Player) Run(ctx context.Context) error {
	defer p.wg.Wait()
	for {
		next := p.calendar.After(p.at)
		if p.retry {
			next = earlier(next, p.at.Add(time.Duration(p.o.Clock.Speed()*float64(time.Second))))
		}
		if p.resized() {
			// Pods made meanwhile are as large as their template says.
			next = earlier(next, p.at.Add(time.Duration(p.o.Clock.Speed()*float64(time.Second))))
		}
		t := p.o.Clock.NewTimerAt(next)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C():
		}
		now := p.o.Clock.Now()
		p.retry = false
		p.fire(ctx, p.calendar.Starts(p.at, now))
		p.change(ctx, scenario.Desired(p.o.Scenario, now))
		p.problem(p.keepSizes(ctx))
		if ctx.Err() != nil {
			return nil
		}
		p.at = now
		if err := p.o.Memory.SetState(ctx, memoryKey, p.doneUntil(now).Format(time.RFC3339Nano)); err != nil {
			p.problem(fmt.Errorf("write down how far the scenario was played: %w", err))
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// resized reports whether a module's pods differ from their template.
func (p *Player) resized() bool {
	for _, m := range p.was.Modules {
		if m.Requests != m.Spec.Requests || m.Limits != m.Spec.Limits {
			return true
		}
	}
	return false
}

// keepSizes resizes the pods of resized modules that are not yet.
func (p *Player) keepSizes(ctx context.Context) error {
	var errs []error
	for _, key := range sortedKeys(p.was.Modules) {
		if m := p.was.Modules[key]; m.Requests != m.Spec.Requests || m.Limits != m.Spec.Limits {
			errs = append(errs, p.resize(ctx, key, m))
		}
	}
	return errors.Join(errs...)
}

func (p *Player) problem(err error) {
	if err != nil && p.o.Problem != nil && !errors.Is(err, context.Canceled) {
		p.o.Problem(err)
	}
}

// decide writes a row of the ledger.
func (p *Player) decide(ctx context.Context, d bill.Decision) {
	d.At = p.o.Clock.Now()
	d.Actor, d.Mode = "scenario", "Auto"
	if d.ID == "" {
		d.ID = strings.Join([]string{"scenario", d.At.UTC().Format(time.RFC3339Nano), d.Action, d.Subject}, "/")
	}
	if err := p.o.Ledger.AppendDecision(ctx, d); err != nil {
		p.problem(fmt.Errorf("write the decision %s %s into the ledger: %w", d.Action, d.Subject, err))
	}
}

func outcome(err error) string {
	if err == nil {
		return "done"
	}
	return "failed: " + strings.ReplaceAll(err.Error(), "\n", "; ")
}

// declare applies the nouns: machine types, pools, modules.
func (p *Player) declare(ctx context.Context, d scenario.State) error {
	var all []func() error
	for _, name := range slices.Sorted(maps.Keys(d.Types)) {
		t := d.Types[name]
		all = append(all, func() error { return p.apply(ctx, machineType(t)) })
	}
	for i := range p.o.Scenario.Pools {
		all = append(all, func() error { return p.apply(ctx, resourcePool(&p.o.Scenario.Pools[i])) })
	}
	return parallel(ctx, all)
}

// apply writes a custom resource; what others wrote elsewhere in it stays.
func (p *Player) apply(ctx context.Context, o client.Object) error {
	b, err := yaml.Marshal(o)
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err == nil {
		err = p.o.CRDs.Patch(ctx, o, client.RawPatch(types.ApplyPatchType, b), client.FieldOwner(FieldManager), client.ForceOwnership)
	}
	if err != nil {
		return fmt.Errorf("apply %s %s: %w", strings.ToLower(o.GetObjectKind().GroupVersionKind().Kind), o.GetName(), err)
	}
	return nil
}

func (p *Player) namespaces(ctx context.Context, d scenario.State) error {
	names := map[string]bool{}
	for k := range d.Modules {
		names[k.Namespace] = true
	}
	var all []func() error
	for _, name := range slices.Sorted(maps.Keys(names)) {
		all = append(all, func() error {
			_, err := p.o.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: simulated()}}, metav1.CreateOptions{})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("create namespace %s: %w", name, err)
			}
			return nil
		})
	}
	return parallel(ctx, all)
}

// machine makes machine i of a pool unless it is there, and has it say what GPUs
// it has.
func (p *Player) machine(ctx context.Context, pool *scenario.Pool, i int, startsAfter time.Duration, sick map[scenario.MachineGPU]string) error {
	if err := p.create(ctx, node(p.o.Scenario, pool, i, startsAfter)); err != nil {
		return err
	}
	return p.announce(ctx, pool, i, sick)
}

// create makes a node unless it is there.
func (p *Player) create(ctx context.Context, n *corev1.Node) error {
	p.mu.Lock()
	if keep := p.leaving[n.Name]; keep != nil {
		keep()
	}
	p.mu.Unlock()
	old, err := p.nodes.Get(n.Name)
	if err == nil && !old.Spec.Unschedulable {
		return nil
	}
	if err == nil {
		// It was about to be given back; it stays after all.
		_, err := p.o.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{FieldManager: FieldManager})
		switch {
		case err == nil:
			return nil
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("keep node %s: %w", n.Name, err)
		}
	}
	if _, err := p.o.Client.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{FieldManager: FieldManager}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node %s: %w", n.Name, err)
	}
	return nil
}

// applyModule makes or changes the workload and the Module of a module.
func (p *Player) applyModule(ctx context.Context, m scenario.ModuleState) error {
	if err := p.apply(ctx, module(m.Spec)); err != nil {
		return err
	}
	if m.Spec.Work == nil {
		d := deployment(p.o.Scenario, m)
		if m.Spec.Elastic.Acts() {
			if err := p.begin(ctx, d); err != nil {
				return err
			}
			d.Spec.Replicas = nil // the policy's to say
		}
		b, err := yaml.Marshal(d)
		if err == nil {
			b, err = yaml.YAMLToJSON(b)
		}
		if err != nil {
			return err
		}
		force := true
		_, err = p.o.Client.AppsV1().Deployments(m.Spec.Namespace).Patch(ctx, m.Spec.Name, types.ApplyPatchType, b, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
		if err != nil {
			return fmt.Errorf("apply deployment %s/%s: %w", m.Spec.Namespace, m.Spec.Name, err)
		}
		return nil
	}
	b, err := yaml.Marshal(cronJob(p.o.Scenario, m))
	if err == nil {
		b, err = yaml.YAMLToJSON(b)
	}
	if err != nil {
		return err
	}
	force := true
	c, err := p.o.Client.BatchV1().CronJobs(m.Spec.Namespace).Patch(ctx, m.Spec.Name, types.ApplyPatchType, b, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
	if err != nil {
		return fmt.Errorf("apply cronjob %s/%s: %w", m.Spec.Namespace, m.Spec.Name, err)
	}
	p.mu.Lock()
	p.parents[m.Spec.Key()] = c
	p.mu.Unlock()
	return nil
}

// keepJobs is how long a finished job stays, on the wall: long enough that a
// player killed in between finds what it started, short enough that a fast day
// does not pile up objects.
func (p *Player) keepJobs() int32 {
	return int32(min(max(p.o.Clock.Wall(10*time.Minute).Seconds(), 10), 600))
}

// fire starts jobs. One that exists was started before.
func (p *Player) fire(ctx context.Context, starts []scenario.JobStart) {
	if len(starts) == 0 {
		return
	}
	d := scenario.Desired(p.o.Scenario, p.o.Clock.Now())
	used := map[string]bool{}
	var all []func() error
	for _, s := range starts {
		m := d.Modules[s.Module]
		parent := p.parents[s.Module]
		if parent == nil {
			continue
		}
		at := s.At
		for used[s.Module.String()+at.String()] { // two in one second have one name
			at = at.Add(time.Second)
		}
		used[s.Module.String()+at.String()] = true
		all = append(all, func() error {
			_, err := p.o.Client.BatchV1().Jobs(s.Module.Namespace).Create(ctx, job(p.o.Scenario, m, parent, at, p.keepJobs()), metav1.CreateOptions{FieldManager: FieldManager})
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return fmt.Errorf("start a job of %s: %w", s.Module, err)
			}
			return nil
		})
	}
	// Not waited for: an API server that is slow for a moment must not delay
	// what is due next.
	due := starts[0].At
	p.mu.Lock()
	p.firing[due]++
	p.mu.Unlock()
	p.wg.Go(func() {
		p.problem(parallel(ctx, all))
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.firing[due]--; p.firing[due] == 0 {
			delete(p.firing, due)
		}
	})
}

// doneUntil returns up to when everything is done: before the first job that is
// still being started.
func (p *Player) doneUntil(now time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for due := range p.firing {
		if !due.After(now) {
			now = due.Add(-time.Nanosecond)
		}
	}
	return now
}

// change brings the cluster from what was applied last to d.
func (p *Player) change(ctx context.Context, d scenario.State) {
	failed := p.was // keep what could not be done as it was, so that it is tried again
	next := scenario.State{At: d.At, Machines: maps.Clone(d.Machines), Modules: maps.Clone(d.Modules), Types: maps.Clone(d.Types), Sick: d.Sick, Plans: d.Plans, Why: d.Why}

	for _, name := range slices.Sorted(maps.Keys(d.Types)) {
		t, was := d.Types[name], p.was.Types[name]
		if t == was {
			continue
		}
		err := p.apply(ctx, machineType(t))
		if err != nil {
			next.Types[name] = failed.Types[name]
			p.retry = true
			p.problem(err)
		}
		saved := money.Amount(was.List-t.List) * money.Amount(p.count(name))
		p.decide(ctx, bill.Decision{Lever: "price", Action: "reprice", Subject: name, PredictedNano: saved, Outcome: outcome(err),
			Reason: because(d.Why[name], fmt.Sprintf("The list price of %s goes from %s to %s an hour.", name, money.Amount(was.List), money.Amount(t.List)))})
	}
	for _, name := range slices.Sorted(maps.Keys(d.Machines)) {
		n, was := d.Machines[name], p.was.Machines[name]
		if n == was {
			continue
		}
		pool := p.o.Scenario.Pool(name)
		var err error
		action := "buy"
		if n > was {
			err = p.grow(ctx, pool, was, n)
		} else {
			action = "give-back"
			p.shrink(ctx, pool, n)
		}
		if err != nil {
			next.Machines[name] = failed.Machines[name]
			p.retry = true
			p.problem(err)
		}
		p.decide(ctx, bill.Decision{Lever: "elastic", Action: action, Subject: name, Outcome: outcome(err),
			PredictedNano: p.hourly(pool, d.At) * money.Amount(was-n),
			Inputs:        map[string]string{"machines": fmt.Sprint(n), "before": fmt.Sprint(was), "machineType": pool.MachineType},
			Reason:        because(d.Why[name], fmt.Sprintf("The schedule of pool %s wants %d machines and not %d.", name, n, was))})
	}
	for _, key := range sortedKeys(d.Modules) {
		m, was := d.Modules[key], p.was.Modules[key]
		if m == was {
			continue
		}
		if err := p.changeModule(ctx, d, key, m, was); err != nil {
			next.Modules[key] = failed.Modules[key]
			p.retry = true
			p.problem(err)
		}
	}
	if !p.health(ctx, d) {
		next.Sick, p.retry = failed.Sick, true
	}
	if !p.plans(ctx, d, len(p.was.Plans)) {
		next.Plans, p.retry = failed.Plans, true
	}
	p.was = next
}

func (p *Player) changeModule(ctx context.Context, d scenario.State, key workload.Key, m, was scenario.ModuleState) error {
	row := bill.Decision{Lever: "elastic", Subject: key.String(), Inputs: map[string]string{}}
	var err error
	switch {
	case m.Version != was.Version:
		if p.o.Fleet != nil {
			p.o.Fleet.SetModule(*m.Spec)
		}
		err = p.applyModule(ctx, m)
		row.Lever, row.Action = "", "deploy"
		row.Inputs["version"] = fmt.Sprint(m.Version)
		row.PredictedNano = p.unitCost(was, d.At)*money.Amount(was.Replicas) - p.unitCost(m, d.At)*money.Amount(m.Replicas)
		row.Reason = because(d.Why[key.String()], fmt.Sprintf("Version %d of %s replaces version %d, pod by pod.", m.Version, key, was.Version))
	case m.Requests != was.Requests || m.Limits != was.Limits:
		err = p.resize(ctx, key, m)
		row.Lever, row.Action = "", "resize"
		row.Inputs["cpuMilli"] = fmt.Sprintf("%d → %d", was.Requests[resource.CPU], m.Requests[resource.CPU])
		row.Inputs["memoryMiB"] = fmt.Sprintf("%d → %d", was.Requests[resource.Memory]/resource.MiB, m.Requests[resource.Memory]/resource.MiB)
		row.PredictedNano = (p.unitCost(was, d.At) - p.unitCost(m, d.At)) * money.Amount(m.Replicas)
		row.Reason = because(d.Why[key.String()], fmt.Sprintf("The pods of %s are resized in place.", key))
	}
	if m.Replicas != was.Replicas && !m.Spec.Elastic.Acts() {
		if m.Version == was.Version {
			patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, m.Replicas)
			_, scaleErr := p.o.Client.AppsV1().Deployments(key.Namespace).Patch(ctx, key.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: FieldManager})
			if scaleErr != nil {
				err = errors.Join(err, fmt.Errorf("scale %s: %w", key, scaleErr))
			}
		}
		if row.Action == "" {
			row.Action = "scale"
			row.PredictedNano = p.unitCost(m, d.At) * money.Amount(was.Replicas-m.Replicas)
			row.Reason = because(d.Why[key.String()], fmt.Sprintf("The schedule of %s wants %d replicas and not %d.", key, m.Replicas, was.Replicas))
		}
		row.Inputs["replicas"], row.Inputs["before"] = fmt.Sprint(m.Replicas), fmt.Sprint(was.Replicas)
	}
	if row.Action == "" {
		return nil
	}
	row.Outcome = outcome(err)
	p.decide(ctx, row)
	return err
}

func because(why, otherwise string) string {
	if why != "" {
		return why
	}
	return otherwise
}

// resize changes the running pods of a module in place.
func (p *Player) resize(ctx context.Context, key workload.Key, m scenario.ModuleState) error {
	pods, err := p.pods.Pods(key.Namespace).List(labels.SelectorFromSet(selector(m.Spec)))
	if err != nil {
		return err
	}
	requests, limits := quantities(m.Requests), quantities(m.Limits)
	delete(requests, "nvidia.com/gpu") // can't be resized
	delete(limits, "nvidia.com/gpu")
	patch, err := yaml.Marshal(map[string]any{"spec": map[string]any{"containers": []any{map[string]any{
		"name": fleet.Container, "resources": map[string]any{"requests": requests, "limits": limits},
	}}}})
	if err == nil {
		patch, err = yaml.YAMLToJSON(patch)
	}
	if err != nil {
		return err
	}
	var all []func() error
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if has := pod.Spec.Containers[0].Resources; same(has.Requests, requests) && same(has.Limits, limits) {
			continue
		}
		all = append(all, func() error {
			_, err := p.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager}, "resize")
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("resize pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
			return nil
		})
	}
	return parallel(ctx, all)
}

// same reports whether what is wanted is what a container has.
func same(has, want corev1.ResourceList) bool {
	for name, q := range want {
		if h := has[name]; h.Cmp(q) != 0 {
			return false
		}
	}
	return true
}

// grow buys machines of a pool. They take pods after the pool's start time.
func (p *Player) grow(ctx context.Context, pool *scenario.Pool, from, to int) error {
	starts := p.o.Clock.Wall(pool.StartTime)
	sick := scenario.Desired(p.o.Scenario, p.o.Clock.Now()).Sick
	var all []func() error
	for i := range to {
		all = append(all, func() error { return p.machine(ctx, pool, i, starts, sick) })
	}
	return parallel(ctx, all)
}

// shrink gives back the machines of a pool beyond the first n: no new pods,
// then the pods move, then the machine goes. It returns at once.
func (p *Player) shrink(ctx context.Context, pool *scenario.Pool, n int) {
	all, err := p.nodes.List(labels.SelectorFromSet(labels.Set{"neap.dev/pool": pool.Name}))
	if err != nil {
		p.problem(err)
		return
	}
	keep := map[string]bool{}
	for i := range n {
		keep[nodeName(pool.Name, i)] = true
	}
	for _, nd := range all {
		if keep[nd.Name] || nd.Labels[fleet.SimulatedLabel] != "true" {
			continue
		}
		drain, cancel := context.WithCancel(ctx)
		p.mu.Lock()
		busy := p.leaving[nd.Name] != nil
		if !busy {
			p.leaving[nd.Name] = cancel
		}
		p.mu.Unlock()
		if busy {
			cancel()
			continue
		}
		p.wg.Go(func() {
			defer cancel()
			p.problem(p.giveBack(drain, nd.Name))
			p.mu.Lock()
			delete(p.leaving, nd.Name)
			p.mu.Unlock()
		})
	}
}

// drainLimit is how long, in simulated time, a machine waits for its pods to
// move before it goes all the same.
const drainLimit = 10 * time.Minute

// giveBack cordons a node, evicts its pods, waits until they are gone and
// deletes it.
func (p *Player) giveBack(ctx context.Context, name string) error {
	nodes := p.o.Client.CoreV1().Nodes()
	_, err := nodes.Patch(ctx, name, types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{FieldManager: FieldManager})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cordon node %s: %w", name, err)
	}
	deadline := p.o.Clock.Now().Add(drainLimit)
	for {
		left, err := p.podsOn(name)
		if err != nil {
			return err
		}
		if len(left) == 0 || p.o.Clock.Now().After(deadline) {
			break
		}
		for _, pod := range left {
			if pod.DeletionTimestamp != nil {
				continue
			}
			err := p.o.Client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsConflict(err) {
				return fmt.Errorf("evict pod %s/%s from node %s: %w", pod.Namespace, pod.Name, name, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(100 * time.Millisecond):
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := nodes.Delete(ctx, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", name, err)
	}
	return nil
}

// podsOn returns the pods that still run on a node.
func (p *Player) podsOn(node string) ([]*corev1.Pod, error) {
	all, err := p.pods.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(pod *corev1.Pod) bool {
		return pod.Spec.NodeName != node || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}), nil
}

// count returns how many machines of a type are bought now.
func (p *Player) count(machineType string) int {
	n := 0
	for _, pool := range p.o.Scenario.Pools {
		if pool.MachineType == machineType {
			n += p.was.Machines[pool.Name]
		}
	}
	return n
}

// hourly returns what a machine of a pool costs in an hour.
func (p *Player) hourly(pool *scenario.Pool, at time.Time) money.Amount {
	price, err := p.book.At(pool.MachineType, pool.Capacity, at)
	if err != nil {
		return 0
	}
	return money.Amount(price.Effective)
}

// unitCost returns what one more pod of a module costs in an hour: nothing on
// machines, for they are bought already; its price where it is bought by the pod.
func (p *Player) unitCost(m scenario.ModuleState, at time.Time) money.Amount {
	if m.Spec == nil || len(m.Spec.Places()) == 0 {
		return 0
	}
	pool := p.o.Scenario.Pool(m.Spec.Places()[0])
	if pool == nil || pool.Kind != scenario.Serverless {
		return 0
	}
	price, err := p.book.At(pool.MachineType, m.Requests, at)
	if err != nil {
		return 0
	}
	return money.Amount(price.Effective)
}

func sortedKeys[V any](m map[workload.Key]V) []workload.Key {
	return slices.SortedFunc(maps.Keys(m), workload.Key.Compare)
}

// parallel runs all, some at once, and joins the first few errors.
func parallel(ctx context.Context, all []func() error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, workers)
	for _, do := range all {
		if ctx.Err() != nil {
			break
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if len(errs) < 5 {
					errs = append(errs, err)
				}
			}
		})
	}
	wg.Wait()
	if len(errs) == 0 {
		return ctx.Err()
	}
	return errors.Join(errs...)
}
