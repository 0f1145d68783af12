package elasticfit

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	restfake "k8s.io/client-go/rest/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/workload"
)

// handle is as much of a scheduler as the plugin needs to choose.
type handle struct {
	fwk.Handle
	factory informers.SharedInformerFactory
	woken   []string
}

func (h *handle) SharedInformerFactory() informers.SharedInformerFactory { return h.factory }

func (h *handle) Activate(_ klog.Logger, pods map[string]*v1.Pod) {
	h.woken = append(h.woken, slices.Sorted(maps.Keys(pods))...)
}

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// pod returns a pod of half a core that a ReplicaSet of Deployment web made.
func pod(t *testing.T, name, hash string) *v1.Pod {
	t.Helper()
	return parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %[1]s, namespace: live, uid: %[1]s, labels: {pod-template-hash: %[2]s},
		ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-%[2]s, uid: set-%[2]s, controller: true}]},
		spec: {containers: [{name: main, resources: {requests: {cpu: 500m, memory: 256Mi}}}], tolerations: [{key: neap.dev/serverless, operator: Exists}]}}`, name, hash))
}

// cluster returns a plugin that knows three pools, and their machines: two bought
// ones of two cores, a GPU machine that lends two, and a virtual one.
func cluster(t *testing.T, policy string) (*ElasticFit, *handle, []fwk.NodeInfo) {
	t.Helper()
	h := &handle{factory: informers.NewSharedInformerFactory(fake.NewClientset(), 0)}
	f, err := newPlugin(t.Context(), h, newDeclared(&restfake.RESTClient{}))
	if err != nil {
		t.Fatal(err)
	}
	f.synced = func() bool { return true }
	for _, doc := range []string{
		`{metadata: {name: owned}}`,
		`{metadata: {name: spare}, spec: {kind: SpareOnGPUMachines, order: 1, guard: {cpuPerGPU: 4}}}`,
		`{metadata: {name: sls}, spec: {kind: Serverless, order: 2, machineType: x, limit: {cpu: 3}, serverless: {maxPod: {cpu: 4}}}}`,
	} {
		if err := f.declared.pools.GetStore().Add(parse[v1alpha1.ResourcePool](t, doc)); err != nil {
			t.Fatal(err)
		}
	}
	f.declared.forget()
	p := parse[v1alpha1.ElasticPolicy](t, `{metadata: {name: web, namespace: live}, spec: {mode: Auto, targetRef: {name: web}, max: 100, pools: [{name: owned}, {name: spare}, {name: sls}]}}`)
	if policy != "" {
		if err := yaml.UnmarshalStrict([]byte(policy), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.declared.policies.GetStore().Add(p); err != nil {
		t.Fatal(err)
	}
	var nodes []fwk.NodeInfo
	for _, n := range []struct{ name, pool, has, spec string }{
		{"owned-0", "owned", "cpu: 2, memory: 8Gi, pods: 10", ""},
		{"owned-1", "owned", "cpu: 2, memory: 8Gi, pods: 10", ""},
		{"spare-0", "spare", "cpu: 10, memory: 64Gi, pods: 10, nvidia.com/gpu: 2", ""},
		{"sls-0", "sls", "cpu: 1000, memory: 64Ti, pods: 1000", `taints: [{key: neap.dev/serverless, value: "true", effect: NoSchedule}]`},
	} {
		info := framework.NewNodeInfo()
		info.SetNode(parse[v1.Node](t, fmt.Sprintf(`{metadata: {name: %s, labels: {neap.dev/pool: %s}}, spec: {%s}, status: {allocatable: {%s}}}`, n.name, n.pool, n.spec, n.has)))
		nodes = append(nodes, info)
	}
	return f, h, nodes
}

// put binds pods to a node.
func put(f *ElasticFit, nodes []fwk.NodeInfo, node string, pods ...*v1.Pod) {
	for _, p := range pods {
		p = p.DeepCopy()
		p.Spec.NodeName = node
		f.seen(p)
		for _, n := range nodes {
			if n.Node().Name == node {
				info, _ := framework.NewPodInfo(p)
				n.AddPodInfo(info)
			}
		}
	}
}

func many(t *testing.T, n int, prefix, hash string) []*v1.Pod {
	var out []*v1.Pod
	for i := range n {
		out = append(out, pod(t, fmt.Sprintf("%s-%d", prefix, i), hash))
	}
	return out
}

func TestPreFilterChoosesThePool(t *testing.T) {
	const plan = `status: {pools: [{name: owned, planned: %d}, {name: spare, planned: %d}, {name: sls, planned: %d}]}`
	cases := map[string]struct {
		policy string
		before func(*testing.T, *ElasticFit, []fwk.NodeInfo)
		change func(*v1.Pod)
		want   string // the machines, or the message
	}{
		"the first pool with room gets the pod": {"", nil, nil, "owned-0 owned-1"},
		"only machines with room are tried": {"", func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 4, "a", "1")...)
		}, nil, "owned-1"},
		"a full pool is passed over": {"", func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 4, "a", "1")...)
			put(f, n, "owned-1", many(t, 4, "b", "1")...)
		}, nil, "spare-0"},
		"so is one whose plan is full": {fmt.Sprintf(plan, 1, 1, 0), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 1, "a", "1")...)
		}, nil, "spare-0"},
		"and one that has the policy's most": {`{spec: {mode: Auto, targetRef: {name: web}, max: 9, pools: [{name: owned, max: 0}, {name: sls}]}}`, nil, nil, "sls-0"},
		"the guard counts as fullness": {fmt.Sprintf(plan, 0, 9, 9), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "spare-0", many(t, 4, "a", "1")...)
		}, nil, "sls-0"},
		"where all plans are full the pod waits and hears of each": {fmt.Sprintf(plan, 1, 0, 0), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 1, "a", "1")...)
		}, nil, `ElasticPolicy "web": no pool may take the pod: pool owned has 1 of 1 planned; pool spare has 0 of 0 planned; pool sls has 0 of 0 planned`},
		"another ReplicaSet is counted by itself": {fmt.Sprintf(plan, 1, 0, 0), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 1, "a", "2")...)
		}, nil, "owned-0 owned-1"},
		"but not for the policy's most": {`{spec: {mode: Auto, targetRef: {name: web}, max: 9, pools: [{name: owned, max: 1}]}}`, func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "owned-0", many(t, 1, "a", "2")...)
		}, nil, `ElasticPolicy "web": no pool may take the pod: pool owned has 1 of at most 1`},
		"a pod that is leaving is counted no more": {fmt.Sprintf(plan, 1, 0, 0), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			a := pod(t, "a", "1")
			put(f, n, "owned-0", a)
			a.DeletionTimestamp = &metav1.Time{}
			f.seen(a)
		}, nil, "owned-0 owned-1"},
		"a pool beyond its own limit takes none": {fmt.Sprintf(plan, 0, 0, 9), func(t *testing.T, f *ElasticFit, n []fwk.NodeInfo) {
			put(f, n, "sls-0", many(t, 6, "a", "1")...)
		}, nil, `ElasticPolicy "web": pool owned has 0 of 0 planned; pool spare has 0 of 0 planned; pool sls has used up its limit`},
		"nor one whose provider takes no such pods": {fmt.Sprintf(plan, 0, 0, 9), nil, func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("5")
		}, `ElasticPolicy "web": pool owned has 0 of 0 planned; pool spare has 0 of 0 planned; pool sls takes no pod of this size`},
		"a taint that is not tolerated passes a pool over": {fmt.Sprintf(plan, 0, 9, 9), nil, func(p *v1.Pod) {
			p.Spec.Tolerations = nil
		}, "spare-0"},
		"so does a node selector": {"", nil, func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"neap.dev/pool": "spare"} }, "spare-0"},
		"where no machine has room all that may are left to the others": {`{spec: {mode: Auto, targetRef: {name: web}, max: 9, pools: [{name: owned}]}}`, nil, func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = resource.MustParse("3")
		}, "owned-0 owned-1"},
		"what the cycles before refused is passed over": {"", func(_ *testing.T, f *ElasticFit, _ []fwk.NodeInfo) {
			f.refused["new"] = sets.New("owned")
		}, nil, "spare-0"},
		"a policy in mode Preview places nothing":           {`{spec: {mode: Preview, targetRef: {name: web}, max: 9, pools: [{name: owned}]}}`, nil, nil, "any"},
		"nor does one that is paused":                       {`{metadata: {name: web, namespace: live, annotations: {neap.dev/pause: "true"}}}`, nil, nil, "any"},
		"a pod of another workload is none of its business": {"", nil, func(p *v1.Pod) { p.OwnerReferences[0].Name, p.Labels["pod-template-hash"] = "other-1", "1" }, "any"},
		"a StatefulSet's pod goes by its ordinal": {
			`{spec: {mode: Auto, targetRef: {kind: StatefulSet, name: db}, max: 9, pools: [{name: owned}, {name: sls}]}, status: {pools: [{name: owned, planned: 2}, {name: sls, planned: 2}]}}`, nil,
			func(p *v1.Pod) {
				p.Name, p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name = "db-2", "StatefulSet", "db"
			}, "sls-0"},
		"and waits if the plan ends before": {
			`{spec: {mode: Auto, targetRef: {kind: StatefulSet, name: db}, max: 9, pools: [{name: owned}]}, status: {pools: [{name: owned, planned: 2}]}}`, nil,
			func(p *v1.Pod) {
				p.Name, p.OwnerReferences[0].Kind, p.OwnerReferences[0].Name = "db-2", "StatefulSet", "db"
			},
			`ElasticPolicy "web": no pool may take the pod: pool owned is planned for 2 from ordinal 0`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f, _, nodes := cluster(t, tc.policy)
			if tc.before != nil {
				tc.before(t, f, nodes)
			}
			p := pod(t, "new", "1")
			if tc.change != nil {
				tc.change(p)
			}
			result, status := f.PreFilter(t.Context(), framework.NewCycleState(), p, nodes)
			got := status.Message()
			switch {
			case status.IsSuccess() && result != nil:
				got = strings.Join(sets.List(result.NodeNames), " ")
			case status.IsSuccess() || status.IsSkip():
				got = "any"
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestWhatWaitsIsWokenAndWhatIsRefusedGoesOn(t *testing.T) {
	f, h, nodes := cluster(t, `status: {pools: [{name: owned, planned: 1}, {name: spare, planned: 0}, {name: sls, planned: 1}]}`)
	first, second := pod(t, "first", "1"), pod(t, "second", "1")

	// 1. The first is refused by the machines of the first pool, and tries the last.
	state := framework.NewCycleState()
	if _, status := f.PreFilter(t.Context(), state, first, nodes); !status.IsSuccess() {
		t.Fatal(status)
	}
	for _, n := range nodes {
		if got, want := f.Filter(t.Context(), state, first, n).IsSuccess(), strings.HasPrefix(n.Node().Name, "owned"); got != want {
			t.Errorf("machine %s may take the pod: %t", n.Node().Name, got)
		}
	}
	if _, status := f.PostFilter(t.Context(), state, first, nil); status.Code() != fwk.UnschedulableAndUnresolvable || !slices.Equal(h.woken, []string{"first"}) {
		t.Fatalf("%v, woken %v", status, h.woken)
	}
	state = framework.NewCycleState()
	if r, status := f.PreFilter(t.Context(), state, first, nodes); !status.IsSuccess() || !r.NodeNames.Equal(sets.New("sls-0")) {
		t.Fatalf("then %v, %v", r, status)
	}

	// 2. It is reserved; the second finds one place, and a third none.
	put(f, nil, "sls-0", first)
	put(f, nil, "owned-0", second)
	third := pod(t, "third", "1")
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), third, nodes); status.IsSuccess() {
		t.Fatal("the third pod is placed beyond the plan")
	}

	// 3. Whoever leaves, another policy or pool, and a binding that failed wake it.
	h.woken = nil
	second.DeletionTimestamp = &metav1.Time{}
	f.seen(second)
	f.changed(parse[v1alpha1.ElasticPolicy](t, `{metadata: {name: web, namespace: live}, spec: {targetRef: {name: web}}}`))
	f.declared.forget()
	f.Unreserve(t.Context(), nil, first, "sls-0")
	if want := []string{"third", "third", "third", "third"}; !slices.Equal(h.woken, want) {
		t.Errorf("woken %v, want %v", h.woken, want)
	}
	f.gone(third)
	if len(f.waiting) != 0 || len(f.refused) != 0 || len(f.book.pods) != 0 {
		t.Errorf("kept for nobody: %v, %v, %v", f.waiting, f.refused, f.book.pods)
	}
}

// late is an informer whose policies change just after they have been read.
type late struct {
	cache.SharedIndexInformer
	after func()
}

func (l *late) GetIndexer() cache.Indexer { return lateIndexer{l.SharedIndexInformer.GetIndexer(), l} }

type lateIndexer struct {
	cache.Indexer
	*late
}

func (l lateIndexer) ByIndex(name, value string) ([]any, error) {
	found, err := l.Indexer.ByIndex(name, value)
	if after := l.after; after != nil {
		l.late.after = nil
		after()
	}
	return found, err
}

func TestAPlanThatComesWhileAPodIsLookedAtIsNotMissed(t *testing.T) {
	f, _, nodes := cluster(t, `status: {pools: [{name: owned, planned: 0}, {name: spare, planned: 0}, {name: sls, planned: 0}]}`)
	informer := f.declared.policies
	f.declared.policies = &late{informer, func() {
		p := parse[v1alpha1.ElasticPolicy](t, `{metadata: {name: web, namespace: live}, spec: {mode: Auto, targetRef: {name: web}, max: 100, pools: [{name: owned}]}, status: {pools: [{name: owned, planned: 1}]}}`)
		if err := informer.GetStore().Update(p); err != nil {
			t.Error(err)
		}
		f.changed(p)
	}}
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), pod(t, "new", "1"), nodes); !status.IsSuccess() {
		t.Errorf("the pod waits, and nothing will wake it: %v", status)
	}
}

func TestWhatMayEndAPodsWaitWakesIt(t *testing.T) {
	f, h, nodes := cluster(t, `status: {pools: [{name: owned, planned: 0}, {name: spare, planned: 0}, {name: sls, planned: 0}]}`)
	set := parse[appsv1.ReplicaSet](t, `{metadata: {name: web-1, namespace: live, uid: set-1, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: web, controller: true}]}}`)
	api := h.factory.Apps().V1().ReplicaSets().Informer()
	if err := api.GetStore().Add(set); err != nil {
		t.Fatal(err)
	}
	p := pod(t, "new", "1")
	if _, status := f.PreFilter(t.Context(), framework.NewCycleState(), p, nodes); status.IsSuccess() {
		t.Fatal("the pod is placed beyond the plan")
	}
	// 1. Its workload is paused.
	paused := set.DeepCopy()
	paused.Annotations = map[string]string{v1alpha1.AnnotationPause: "true"}
	f.changedSet(set, paused)
	f.changedSet(paused, paused)
	if !slices.Equal(h.woken, []string{"new"}) {
		t.Errorf("paused: woken %v", h.woken)
	}
	// 2. A pod leaves with its machine.
	left := pod(t, "left", "2")
	left.Spec.NodeName = "gone"
	if hint, err := f.afterPodLeft(klog.Background(), p, left, nil); hint != fwk.Queue || err != nil {
		t.Errorf("of a machine that is gone: %v, %v", hint, err)
	}
}

// FuzzBook plays reservations, bindings, failures and departures, and counts again
// from nothing.
func FuzzBook(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 250, 9, 8, 7})
	f.Fuzz(func(t *testing.T, script []byte) {
		b := newBook()
		at := map[types.UID]entry{}
		nodes := []string{"a", "b", "c"}
		for i := 0; i+1 < len(script); i += 2 {
			uid := types.UID(fmt.Sprint(script[i] % 16))
			by := owner{workload.Key{Name: fmt.Sprint(script[i] % 3)}, types.UID(fmt.Sprint(script[i] % 5))}
			if node := script[i+1] % 4; node < 3 {
				b.put(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid}}, nodes[node], by)
				at[uid] = entry{nodes[node], by.revision, by.workload}
			} else {
				_, there := at[uid]
				if b.drop(uid) != there {
					t.Fatalf("pod %s was there: %t", uid, there)
				}
				delete(at, uid)
			}
		}
		for r := range 5 {
			for w := range 3 {
				for _, n := range nodes {
					by := owner{workload.Key{Name: fmt.Sprint(w)}, types.UID(fmt.Sprint(r))}
					var revision, all int
					for _, e := range at {
						if e.node == n && e.workload == by.workload {
							all++
						}
						if e.node == n && e.revision == by.revision {
							revision++
						}
					}
					gotRevision, gotAll := b.on(by, []string{n})
					if gotAll != all || all > 0 && gotRevision != revision {
						t.Fatalf("on %s are %d and %d of %v, want %d and %d", n, gotRevision, gotAll, by, revision, all)
					}
				}
			}
		}
		if len(at) == 0 && len(b.revisions)+len(b.workloads) > 0 {
			t.Fatalf("an empty book keeps %v and %v", b.revisions, b.workloads)
		}
	})
}
