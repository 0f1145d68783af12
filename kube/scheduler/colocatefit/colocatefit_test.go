package colocatefit

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	restfake "k8s.io/client-go/rest/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/scheduler/kinds"
)

// monday is an evening at 17:00, an hour before the peak.
var monday = time.Date(2026, 3, 2, 17, 0, 0, 0, time.UTC)

// handle is as much of a scheduler as the plugin needs.
type handle struct {
	fwk.Handle
	fwk.NodeInfoLister
	factory informers.SharedInformerFactory
	nodes   []fwk.NodeInfo
}

func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }
func (h *handle) SnapshotSharedLister() fwk.SharedLister                 { return snapshot{h: h} }

type snapshot struct {
	fwk.SharedLister
	h *handle
}

func (s snapshot) NodeInfos() fwk.NodeInfoLister { return s.h }

func (h *handle) List() ([]fwk.NodeInfo, error) { return h.nodes, nil }
func (h *handle) Get(name string) (fwk.NodeInfo, error) {
	for _, n := range h.nodes {
		if n.Node().Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %s", name)
}

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// plugin returns a plugin whose clock stands at monday, and the scheduler around it.
func plugin(t *testing.T, policies ...string) (*ColocateFit, *handle) {
	t.Helper()
	h := &handle{factory: informers.NewSharedInformerFactory(fake.NewClientset(), 0)}
	f, err := newPlugin(h, kinds.Informer(&restfake.RESTClient{}, "colocationpolicies", &v1alpha1.ColocationPolicy{}, cache.Indexers{}))
	if err != nil {
		t.Fatal(err)
	}
	f.synced = func() bool { return true }
	f.now = func() time.Time { return monday }
	for _, doc := range policies {
		if err := f.policies.GetStore().Add(parse[v1alpha1.ColocationPolicy](t, doc)); err != nil {
			t.Fatal(err)
		}
	}
	f.learn()
	return f, h
}

// lends is what a node of eight cores lends that was decided at monday: so many
// milli in each of the quarters of an hour to come, the last one for the rest of
// the day; and the peak of online.
func lends(peak int64, milli ...int64) convert.BatchCapacity {
	o := colocate.Offer{At: monday, Curve: colocate.Curve{Start: monday, Step: 15 * time.Minute}}
	for i := range 96 {
		o.Curve.CPUMilli = append(o.Curve.CPUMilli, milli[min(i, len(milli)-1)])
		o.Curve.MemoryMiB = append(o.Curve.MemoryMiB, 16384)
		o.Online.CPUMilli = append(o.Online.CPUMilli, peak)
	}
	return convert.NewBatchCapacity("live", o)
}

func (h *handle) node(t *testing.T, name string, c *convert.BatchCapacity, pods ...*v1.Pod) fwk.NodeInfo {
	t.Helper()
	node := parse[v1.Node](t, fmt.Sprintf(`{metadata: {name: %s, labels: {}, annotations: {}}, status: {allocatable: {cpu: 8, memory: 32Gi, pods: 100}}}`, name))
	if c != nil {
		node.Annotations[v1alpha1.AnnotationBatchCapacity] = c.String()
	}
	info := framework.NewNodeInfo(pods...)
	info.SetNode(node)
	h.nodes = append(h.nodes, info)
	if err := h.factory.Core().V1().Nodes().Informer().GetStore().Add(node); err != nil {
		t.Fatal(err)
	}
	return info
}

// batch is a batch pod of so many milli; it was bound before minutes, or asks to be
// if that is negative.
func batch(t *testing.T, name string, milli int, run string, before int) *v1.Pod {
	t.Helper()
	p := parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %[1]s, namespace: etl, uid: %[1]s, labels: {neap.dev/class: batch}, annotations: {}, creationTimestamp: "2026-03-02T10:00:00Z"},
		spec: {containers: [{name: main, resources: {requests: {neap.dev/batch-cpu: %d, neap.dev/batch-memory: 1Gi}, limits: {neap.dev/batch-cpu: %[2]d, neap.dev/batch-memory: 1Gi}}}]}}`, name, milli))
	if run != "" {
		p.Annotations[v1alpha1.AnnotationBatchRunTime] = run
	}
	if before >= 0 {
		p.Spec.NodeName = "box"
		p.Status.Conditions = parse[v1.PodStatus](t, fmt.Sprintf(`{conditions: [{type: PodScheduled, status: "True", lastTransitionTime: %q}]}`,
			monday.Add(-time.Duration(before)*time.Minute).Format(time.RFC3339))).Conditions
	}
	return p
}

func online(t *testing.T, name, cpu string, bound time.Time) *v1.Pod {
	t.Helper()
	p := parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %[1]s, namespace: live, uid: %[1]s}, spec: {containers: [{name: main, resources: {requests: {cpu: %s}}}]}}`, name, cpu))
	if !bound.IsZero() {
		p.Spec.NodeName = "box"
		p.Status = *parse[v1.PodStatus](t, fmt.Sprintf(`{startTime: %[1]q, conditions: [{type: PodScheduled, status: "True", lastTransitionTime: %[1]q}]}`, bound.Format(time.RFC3339)))
	}
	return p
}

func TestABatchPodRunsWhereItFitsUntilItIsDone(t *testing.T) {
	falls := lends(0, 4000, 4000, 4000, 4000, 1000) // from 18:00 on a quarter is left
	stale := lends(0, 4000)
	stale.At, stale.Until = stale.At.Add(-time.Hour), stale.Until.Add(-time.Hour)
	ahead := lends(0, 4000)
	ahead.At, ahead.Until = ahead.At.Add(time.Hour), ahead.Until.Add(time.Hour)
	cases := map[string]struct {
		capacity *convert.BatchCapacity
		asks     *v1.Pod
		running  []*v1.Pod
		want     string
	}{
		"done before the peak":               {&falls, batch(t, "p", 4000, "45m", -1), nil, ""},
		"done just as the peak begins":       {&falls, batch(t, "p", 4000, "1h", -1), nil, ""},
		"small enough for the peak":          {&falls, batch(t, "p", 1000, "5h", -1), nil, ""},
		"too large for the peak":             {&falls, batch(t, "p", 1001, "61m", -1), nil, ErrFalls},
		"too large now":                      {&falls, batch(t, "p", 4001, "1m", -1), nil, ErrFull},
		"beside others that are there":       {&falls, batch(t, "p", 1000, "30m", -1), []*v1.Pod{batch(t, "a", 3000, "40m", 0)}, ""},
		"others have taken all":              {&falls, batch(t, "p", 1001, "30m", -1), []*v1.Pod{batch(t, "a", 3000, "40m", 0)}, ErrFull},
		"others are still there in the peak": {&falls, batch(t, "p", 500, "2h", -1), []*v1.Pod{batch(t, "a", 600, "3h", 60)}, ErrFalls},
		"others are gone by then":            {&falls, batch(t, "p", 1000, "2h", -1), []*v1.Pod{batch(t, "a", 3000, "90m", 60)}, ""},
		"another was just placed, after a long wait": {&falls, batch(t, "p", 500, "2h", -1), []*v1.Pod{func() *v1.Pod {
			p := batch(t, "a", 600, "3h", -1)
			p.Spec.NodeName = "box"
			return p
		}()}, ErrFalls},
		"online pods there count in the curve":    {&falls, batch(t, "p", 4000, "30m", -1), []*v1.Pod{online(t, "web", "7", monday.Add(-time.Hour))}, ""},
		"its owner's run time was learnt":         {&falls, owned(t, batch(t, "p", 2000, "", -1), "nightly"), nil, ErrFalls},
		"nothing is known: the policy's run time": {&falls, batch(t, "p", 2000, "", -1), nil, ""},
		"more memory than is lent":                {&falls, memory(t, batch(t, "p", 100, "30m", -1), "17Gi"), nil, ErrFull},
		"a node that lends nothing":               {nil, batch(t, "p", 1, "1m", -1), nil, ErrNone},
		"a curve that nobody renews":              {&stale, batch(t, "p", 1, "1m", -1), nil, ErrStale},
		"a curve of the future":                   {&ahead, batch(t, "p", 1, "1m", -1), nil, ErrStale},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f, h := plugin(t, `{metadata: {name: live}, spec: {capacity: {defaultRunTime: 50m}}, status: {nodes: 1, runTimes: [{owner: etl/CronJob/nightly, p80: 3h, pods: 9}]}}`)
			info := h.node(t, "box", tc.capacity, tc.running...)
			state := framework.NewCycleState()
			if _, status := f.PreFilter(t.Context(), state, tc.asks, h.nodes); !status.IsSuccess() {
				t.Fatal(status)
			}
			for range 2 { // what was read once is read again
				if got := f.Filter(t.Context(), state, tc.asks, info).Message(); got != tc.want {
					t.Fatalf("got %q, want %q", got, tc.want)
				}
			}
		})
	}
	f, h := plugin(t)
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), online(t, "web", "1", time.Time{}), nil); !status.IsSkip() {
		t.Errorf("an online pod is filtered: %v", status)
	}
	broken := h.node(t, "broken", nil)
	broken.Node().Annotations[v1alpha1.AnnotationBatchCapacity] = "{"
	if got := f.Filter(t.Context(), nil, batch(t, "p", 1, "", -1), broken).Message(); got != ErrBroken {
		t.Errorf("what cannot be read: %q", got)
	}
}

func owned(t *testing.T, p *v1.Pod, cron string) *v1.Pod {
	p.OwnerReferences = parse[v1.Pod](t, fmt.Sprintf(`{metadata: {ownerReferences: [{apiVersion: batch/v1, kind: Job, name: %s-29537760, uid: u, controller: true}]}}`, cron)).OwnerReferences
	return p
}

func memory(t *testing.T, p *v1.Pod, amount string) *v1.Pod {
	p.Spec.Containers[0].Resources = parse[v1.Pod](t, fmt.Sprintf(`{spec: {containers: [{name: main, resources: {requests: {neap.dev/batch-cpu: 100, neap.dev/batch-memory: %s}}}]}}`, amount)).Spec.Containers[0].Resources
	return p
}

// A pod that leaves a node is seen there, although everything else stays.
func TestTheRoomOfAPodThatLeftIsFree(t *testing.T) {
	f, h := plugin(t)
	c := lends(0, 2000)
	first := batch(t, "first", 2000, "30m", 0)
	info := h.node(t, "box", &c, first)
	asks := batch(t, "second", 1000, "30m", -1)
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != ErrFull {
		t.Fatalf("got %q", got)
	}
	if err := info.RemovePod(klog.Background(), first); err != nil {
		t.Fatal(err)
	}
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestTheCurveMayFallBeforeAPodIsReserved(t *testing.T) {
	f, h := plugin(t)
	before, after := lends(0, 2000), lends(0, 500)
	info := h.node(t, "box", &before)
	asks := batch(t, "p", 1000, "30m", -1)
	state := framework.NewCycleState()
	if _, status := f.PreFilter(t.Context(), state, asks, h.nodes); !status.IsSuccess() {
		t.Fatal(status)
	}
	if status := f.Reserve(t.Context(), state, asks, "box"); !status.IsSuccess() {
		t.Errorf("nothing has changed: %v", status)
	}
	newest := info.Node().DeepCopy()
	newest.Annotations[v1alpha1.AnnotationBatchCapacity] = after.String()
	if err := h.factory.Core().V1().Nodes().Informer().GetStore().Update(newest); err != nil {
		t.Fatal(err)
	}
	if status := f.Reserve(t.Context(), state, asks, "box"); status.Code() != fwk.Unschedulable || !strings.Contains(status.Message(), "lends less than a moment ago: short of 0.5 cores now") {
		t.Errorf("got %v", status)
	}
	if status := f.Reserve(t.Context(), framework.NewCycleState(), online(t, "web", "1", time.Time{}), "box"); !status.IsSuccess() {
		t.Errorf("an online pod: %v", status)
	}
}

// statuses are those of nodes that the plugin refused.
type statuses map[string]*fwk.Status

func (s statuses) Get(node string) *fwk.Status { return s[node] }
func (s statuses) NodesForStatusCode(fwk.NodeInfoLister, fwk.Code) ([]fwk.NodeInfo, error) {
	return nil, nil
}

func TestAPodThatWaitsIsToldWhatIsMissing(t *testing.T) {
	f, h := plugin(t)
	asks := batch(t, "p", 3000, "2h", -1)
	seen := statuses{}
	for name, c := range map[string]convert.BatchCapacity{"small": lends(0, 1000), "soon": lends(0, 4000, 4000, 2500), "other": lends(0, 2900)} {
		info := h.node(t, name, &c)
		seen[name] = f.Filter(t.Context(), nil, asks, info)
		seen[name].SetPlugin(Name)
	}
	seen["other"].SetPlugin("NodeAffinity") // comes closer, but is no way out
	state := framework.NewCycleState()
	if _, status := f.PreFilter(t.Context(), state, asks, h.nodes); !status.IsSuccess() {
		t.Fatal(status)
	}
	_, status := f.PostFilter(t.Context(), state, asks, seen)
	if want := "soon comes closest: short of 0.5 cores from 17:30 on, and it would run until 19:00 (UTC)"; status.Code() != fwk.Unschedulable || status.Message() != want {
		t.Errorf("got %v, want %q", status, want)
	}
	if _, status := f.PostFilter(t.Context(), framework.NewCycleState(), online(t, "web", "1", time.Time{}), seen); status.Message() != "" {
		t.Errorf("an online pod is told %q", status.Message())
	}
}

func TestOnlinePodsGoWhereTheirPeakFits(t *testing.T) {
	f, h := plugin(t)
	low, high := lends(2000, 1000), lends(6000, 1000)
	asks := online(t, "web", "1", time.Time{})
	score := func(name string, c *convert.BatchCapacity, pods ...*v1.Pod) int64 {
		got, status := f.Score(t.Context(), nil, asks, h.node(t, name, c, pods...))
		if !status.IsSuccess() {
			t.Fatal(status)
		}
		return got
	}
	old, fresh := online(t, "old", "4", monday.Add(-time.Hour)), online(t, "new", "4", monday.Add(time.Minute))
	for name, c := range map[string]struct {
		got, want int64
	}{
		"a low peak":                             {score("a", &low), 62},                             // 8 − 2 − 1 of 8
		"a high peak":                            {score("b", &high), 12},                            // 8 − 6 − 1
		"a pod that the curve knows counts once": {score("c", &low, old), 62},                        //
		"one that came since counts":             {score("d", &low, fresh), 12},                      // 8 − 2 − 4 − 1
		"batch pods make way":                    {score("e", &low, batch(t, "x", 1000, "", 0)), 62}, //
		"without a curve, what is asked for":     {score("f", nil, old), 37},                         // 8 − 4 − 1
		"no room at all":                         {score("g", ptr(lends(8000, 1000))), 0},            //
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	if status := f.PreScore(t.Context(), nil, asks, []fwk.NodeInfo{h.node(t, "h", nil)}); !status.IsSkip() {
		t.Errorf("where nothing is lent anywhere, something is preferred: %v", status)
	}
}

// All ask for the same, two cores, and use more or less than that, at one hour or another.
func TestOnlinePodsGoByTheirOwnPeak(t *testing.T) {
	const policy = `{metadata: {name: live}, spec: {}, status: {onlinePeaks: [
		{owner: live/Deployment/hungry, peakMilli: 4000, pods: 3, measuredAt: "2026-03-02T16:00:00Z", hourlyMilli: [%[1]s4000, 4000, 4000, 4000]},
		{owner: live/Deployment/modest, peakMilli: 400, pods: 3, measuredAt: "2026-03-02T16:00:00Z", hourlyMilli: [%[2]s400, 400, 400, 400]},
		{owner: live/Deployment/nightly, peakMilli: 4000, pods: 3, measuredAt: "2026-03-02T16:00:00Z", hourlyMilli: [4000, %[3]s400, 400, 400]},
		{owner: live/Deployment/young, peakMilli: 400, pods: 3, measuredAt: "2026-03-02T16:00:00Z", hourlyMilli: [400, %[4]s-1, -1, -1]},
		{owner: live/Deployment/stale, peakMilli: 400, pods: 3, measuredAt: "2026-02-20T16:00:00Z", hourlyMilli: [%[2]s400, 400, 400, 400]}]}}`
	f, h := plugin(t, fmt.Sprintf(policy, strings.Repeat("4000, ", 20), strings.Repeat("400, ", 20), strings.Repeat("400, ", 20), strings.Repeat("-1, ", 20)))
	evening := lends(1000, 1000)
	for i := range evening.OnlineMilli { // from 18:00 to 23:00 UTC it uses 3 cores
		if hour := evening.Curve().Begin(i).Hour(); hour >= 18 && hour < 23 {
			evening.OnlineMilli[i] = 3000
		}
	}
	of := func(owner, name string, bound time.Time) *v1.Pod {
		p := online(t, name, "2", bound)
		p.Labels = map[string]string{"pod-template-hash": "5f"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: owner + "-5f", Controller: ptr(true)}}
		return p
	}
	for owner, want := range map[string]int64{
		"hungry":  12, // 8 − (3 + 4) of 8
		"modest":  57, // 8 − (3 + 0.4)
		"nightly": 37, // 8 − (1 + 4), at midnight; in the evening it is 8 − 3.4
		"young":   37, // 8 − (3 + 2): in the evening it was not seen yet, and asks for 2
		"stale":   37, // nobody has measured it for ten days
		"unheard": 37,
	} {
		got, status := f.Score(t.Context(), nil, of(owner, "p", time.Time{}), h.node(t, owner, &evening))
		if !status.IsSuccess() || got != want {
			t.Errorf("%s: %d, want %d (%v)", owner, got, want, status)
		}
	}
	// What has come since the curve counts alike.
	beside := func(owner string) int64 {
		got, _ := f.Score(t.Context(), nil, of("modest", "p", time.Time{}), h.node(t, "beside-"+owner, &evening, of(owner, "new", monday.Add(time.Minute))))
		return got
	}
	if hungry, modest := beside("hungry"), beside("modest"); hungry != 7 || modest != 52 { // 8 − 3 − 4 − 0.4 and 8 − 3 − 0.8
		t.Errorf("beside a hungry pod %d and beside a modest one %d, want 7 and 52", hungry, modest)
	}
	// One after the other: by what they ask for, both hungry ones would be on the first.
	nodes := []fwk.NodeInfo{h.node(t, "first", &evening), h.node(t, "second", &evening)}
	var got []string
	for i, owner := range []string{"hungry", "modest", "hungry", "modest"} {
		p := of(owner, fmt.Sprint("pod-", i), time.Time{})
		best, most := 0, int64(-1)
		for j, node := range nodes {
			if score, _ := f.Score(t.Context(), nil, p, node); score > most {
				best, most = j, score
			}
		}
		nodes[best].AddPodInfo(podInfo(t, p))
		got = append(got, nodes[best].Node().Name)
	}
	if want := "[first second second first]"; fmt.Sprint(got) != want {
		t.Errorf("two hungry pods and two modest ones go to %v, want %s", got, want)
	}
	sign := func(owner string) string {
		fragments, _ := f.SignPod(t.Context(), of(owner, "p", time.Time{}))
		return fmt.Sprint(fragments)
	}
	if sign("hungry") == sign("modest") || sign("unheard") != sign("unknown") {
		t.Error("pods of different peaks are signed alike, or those of no known one are not")
	}
}

func podInfo(t *testing.T, p *v1.Pod) fwk.PodInfo {
	t.Helper()
	info, err := framework.NewPodInfo(p)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func ptr[T any](v T) *T { return &v }

func TestBatchPodsGoWhereMostIsLeft(t *testing.T) {
	f, h := plugin(t)
	wide, narrow, falls := lends(0, 4000), lends(0, 2000), lends(0, 4000, 4000, 2000)
	asks := batch(t, "p", 1000, "2h", -1)
	var got []int64
	for i, n := range []fwk.NodeInfo{
		h.node(t, "wide", &wide), h.node(t, "narrow", &narrow), h.node(t, "falls", &falls),
		h.node(t, "used", &wide, batch(t, "x", 2000, "3h", 0)), h.node(t, "none", nil),
	} {
		s, status := f.Score(t.Context(), nil, asks, n)
		if !status.IsSuccess() {
			t.Fatal(i, status)
		}
		got = append(got, s)
	}
	if want := []int64{75, 50, 50, 25, 0}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestWhoWaitsIsTriedAgainWhenItMayHelp(t *testing.T) {
	f, h := plugin(t)
	asks := batch(t, "p", 2000, "30m", -1)
	node := func(c *convert.BatchCapacity) *v1.Node { return h.node(t, "box", c).Node() }
	none, less, more := lends(0, 1000), lends(0, 2000), lends(0, 3000)
	late := lends(0, 2000)
	late.At = late.At.Add(time.Hour)
	late.Until = late.Until.Add(time.Hour)
	for name, c := range map[string]struct {
		was, is any
		want    fwk.QueueingHint
	}{
		"a node comes with room":    {nil, node(&more), fwk.Queue},
		"a node comes without":      {nil, node(nil), fwk.QueueSkip},
		"it lends more":             {node(&less), node(&more), fwk.Queue},
		"it lends as much":          {node(&more), node(&more), fwk.QueueSkip},
		"it lends less":             {node(&more), node(&less), fwk.QueueSkip},
		"it lends enough now":       {node(&none), node(&less), fwk.Queue},
		"it does not lend enough":   {node(nil), node(&none), fwk.QueueSkip},
		"it was silent, and speaks": {node(&less), node(&late), fwk.Queue},
	} {
		if got, err := f.afterNodeChanged(klog.Background(), asks, c.was, c.is); err != nil || got != c.want {
			t.Errorf("%s: %v (%v), want %v", name, got, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		left *v1.Pod
		want fwk.QueueingHint
	}{
		"a batch pod left":       {batch(t, "x", 1, "", 0), fwk.Queue},
		"one that waited itself": {batch(t, "x", 1, "", -1), fwk.QueueSkip},
		"an online pod left":     {online(t, "web", "1", monday), fwk.QueueSkip},
	} {
		if got, err := f.afterPodLeft(klog.Background(), asks, c.left, nil); err != nil || got != c.want {
			t.Errorf("%s: %v (%v), want %v", name, got, err, c.want)
		}
	}
}

// A simulated day passes sixty times as fast as the wall, and is another one.
func TestASimulatedDayHasItsOwnClock(t *testing.T) {
	f, h := plugin(t)
	wall := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f.now = func() time.Time { return wall }
	c := lends(0, 4000, 4000, 4000, 4000, 1000)
	info := h.node(t, "box", &c)
	info.Node().Labels[v1alpha1.LabelSimulated] = "true"
	renew := func() {
		info.Node().Annotations[v1alpha1.AnnotationBatchCapacity] = c.String()
		f.tell(info.Node())
	}
	renew()
	asks := batch(t, "p", 2000, "50m", -1)
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != "" {
		t.Errorf("at 17:00: %q", got)
	}
	wall = wall.Add(10 * time.Second) // ten minutes of the day
	c.At, c.Until = c.At.Add(10*time.Minute), c.Until.Add(10*time.Minute)
	renew()
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != "" {
		t.Errorf("at 17:10: %q", got)
	}
	wall = wall.Add(time.Second)
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != ErrFalls {
		t.Errorf("at 17:11, when it would run until 18:01: %q", got)
	}
	// One that began ten seconds ago has run for ten minutes.
	running := batch(t, "r", 2500, "50m", 0)
	running.Status.Conditions[0].LastTransitionTime.Time = wall.Add(-10 * time.Second)
	busy := h.node(t, "busy", &c, running)
	busy.Node().Labels[v1alpha1.LabelSimulated] = "true"
	f.days["busy"] = f.days["box"]
	if got := f.Filter(t.Context(), nil, batch(t, "q", 1000, "2h", -1), busy).Message(); got != "" {
		t.Errorf("it is expected to be done before the peak: %q", got)
	}
	wall = wall.Add(convert.BatchLasts)
	if got := f.Filter(t.Context(), nil, asks, info).Message(); got != ErrStale {
		t.Errorf("nobody renews it: %q", got)
	}
}

func TestEveryBatchPodIsLookedAtByItself(t *testing.T) {
	f, _ := plugin(t)
	if _, status := f.SignPod(t.Context(), batch(t, "p", 1, "", -1)); status.Code() != fwk.Unschedulable {
		t.Errorf("got %v", status)
	}
	if _, status := f.SignPod(t.Context(), online(t, "web", "1", time.Time{})); !status.IsSuccess() {
		t.Errorf("got %v", status)
	}
}
