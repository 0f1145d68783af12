package convert

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

func read[T any](t testing.TB, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatalf("%v in\n%s", err, doc)
	}
	return out
}

func TestRequest(t *testing.T) {
	cases := map[string]struct {
		pod  string
		want resource.Vector
	}{
		"containers add up": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: 500m, memory: 1Gi}}}, {name: b, resources: {requests: {cpu: 250m, nvidia.com/gpu: 1}}}]}}`,
			resource.Vector{750, resource.GiB, 1000},
		},
		"a large init container counts if it is more": {
			`{spec: {initContainers: [{name: i, resources: {requests: {cpu: 2, memory: 128Mi}}}], containers: [{name: a, resources: {requests: {cpu: 500m, memory: 1Gi}}}]}}`,
			resource.Vector{2000, resource.GiB, 0},
		},
		"a sidecar counts beside the containers": {
			`{spec: {initContainers: [{name: i, restartPolicy: Always, resources: {requests: {cpu: 100m}}}], containers: [{name: a, resources: {requests: {cpu: 500m}}}]}}`,
			resource.Vector{600, 0, 0},
		},
		"an init container runs beside the sidecars before it": {
			`{spec: {initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: 100m}}}, {name: i, resources: {requests: {cpu: 1}}}], containers: [{name: a, resources: {requests: {cpu: 500m}}}]}}`,
			resource.Vector{1100, 0, 0},
		},
		"the runtime's overhead is on top": {
			`{spec: {overhead: {cpu: 250m, memory: 120Mi}, containers: [{name: a, resources: {requests: {cpu: 500m}}}]}}`,
			resource.Vector{750, 120 * resource.MiB, 0},
		},
		"a resize upward holds from the wish on": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: 2}}}]}, status: {containerStatuses: [{name: a, ready: true, restartCount: 0, image: i, imageID: i, allocatedResources: {cpu: 1}, resources: {requests: {cpu: 1}}}]}}`,
			resource.Vector{2000, 0, 0},
		},
		"a resize downward holds once it is done": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: 500m}}}]}, status: {containerStatuses: [{name: a, ready: true, restartCount: 0, image: i, imageID: i, allocatedResources: {cpu: 500m}, resources: {requests: {cpu: 1}}}]}}`,
			resource.Vector{1000, 0, 0},
		},
		"a resize that cannot be is not held": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: 64}}}]}, status: {conditions: [{type: PodResizePending, status: "True", reason: Infeasible}], containerStatuses: [{name: a, ready: true, restartCount: 0, image: i, imageID: i, allocatedResources: {cpu: 1}, resources: {requests: {cpu: 1}}}]}}`,
			resource.Vector{1000, 0, 0},
		},
		"a request for the whole pod replaces its containers'": {
			`{spec: {resources: {requests: {cpu: 3}}, containers: [{name: a, resources: {requests: {cpu: 500m, memory: 1Gi}}}]}}`,
			resource.Vector{3000, resource.GiB, 0},
		},
		"a piece of a GPU is thousandths of one": {
			`{spec: {containers: [{name: a, resources: {requests: {neap.dev/gpu-milli: 300}}}, {name: b, resources: {requests: {neap.dev/gpu-milli: 150}}}]}}`,
			resource.Vector{0, 0, 450},
		},
		"a pod holds of GPUs what it was given": {
			`{metadata: {annotations: {neap.dev/gpu-allocation: '{"node":"n","devices":[{"uuid":"a","milli":650,"memoryMiB":8192}]}'}}, spec: {containers: [{name: a, resources: {requests: {neap.dev/gpu-milli: 300}}}]}}`,
			resource.Vector{0, 0, 650},
		},
		"nothing asked for is nothing": {`{spec: {containers: [{name: a}]}}`, resource.Vector{}},
		"more than any machine has is bounded": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: "9E", memory: "9E"}}}]}}`,
			resource.Vector{most, most, 0},
		},
		"less than nothing is nothing": {
			`{spec: {containers: [{name: a, resources: {requests: {cpu: "-5", memory: "-1Gi"}}}]}}`,
			resource.Vector{},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := read[corev1.Pod](t, tc.pod)
			if got := Request(pod); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			TrimPod(pod)
			if got := Request(pod); got != tc.want {
				t.Errorf("trimmed: got %v, want %v", got, tc.want)
			}
		})
	}
}

func TestType(t *testing.T) {
	cases := map[string]struct {
		object  string
		want    machine.Type
		wantErr string
	}{
		"a machine": {
			object: `{metadata: {name: m5}, spec: {capacity: {cpu: 8, memory: 32Gi}, price: {currency: USD, list: "0.3840", discountPercent: "37.5"}, rating: {ncuPerCore: "1.215", high: "1.35", source: CoreMark}}}`,
			want: machine.Type{
				Name: "m5", Currency: "USD", Capacity: resource.Vector{8000, 32 * resource.GiB, 0},
				List: 384_000_000, DiscountMillis: 375,
				RatingMillis: 1215, RatingLow: 1215, RatingHigh: 1350, RatingSource: "CoreMark",
			},
		},
		"capacity bought by the pod": {
			object: `{metadata: {name: eci}, spec: {price: {currency: CNY, units: {cpu: "0.15", memory: "0.0125"}}}}`,
			want:   machine.Type{Name: "eci", Currency: "CNY", UnitList: [resource.Kinds]money.PerHour{150_000_000, 12_500_000, 0}},
		},
		"a negative price names the type": {
			object:  `{metadata: {name: m5}, spec: {price: {list: "-1"}}}`,
			wantErr: `machine type "m5": price -1 is negative`,
		},
		"a price that is no number names the type": {
			object:  `{metadata: {name: m5}, spec: {price: {list: cheap}}}`,
			wantErr: `machine type "m5": "cheap" is not a decimal amount`,
		},
		"a discount that would pay us names the type": {
			object:  `{metadata: {name: m5}, spec: {price: {list: "1", discountPercent: 101}}}`,
			wantErr: `machine type "m5" has a discount of 1010 thousandths`,
		},
		"a discount too fine names the type": {
			object:  `{metadata: {name: m5}, spec: {price: {list: "1", discountPercent: "1.25"}}}`,
			wantErr: `"1.25" has too many decimals: at most 1`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := Type(read[v1alpha1.MachineType](t, tc.object))
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("got error %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestDeclaredModule(t *testing.T) {
	got, err := DeclaredModule(read[v1alpha1.Module](t, `
metadata: {name: api, namespace: homework}
spec:
  targetRef: {name: api-server}
  features: [{name: ask, share: 700}, {name: search, share: 300}]
  load: {query: "q[$window]"}
  quality: {success: {query: "s[$window]", target: 99.95%}, p99: {query: "p[$window]", target: 1.5s}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := Module{
		Name: "api", Key: workload.Key{Namespace: "homework", Kind: "Deployment", Name: "api-server"},
		Features:  []workload.Feature{{Name: "ask", ShareMillis: 700}, {Name: "search", ShareMillis: 300}},
		LoadQuery: "q[$window]", SuccessQuery: "s[$window]", P99Query: "p[$window]",
		SuccessMicros: 999_500, P99: 1500 * time.Millisecond,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for bad, wantErr := range map[string]string{
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, features: [{name: x, share: 999}]}}`:                         "module ns/api: the shares of its features add up to 999, not 1000",
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {success: {query: q, target: "101%"}}}}`:            `module ns/api: success target "101%" is not a percentage`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {p99: {query: q, target: "soon"}}}}`:                `module ns/api: p99 target "soon" is not a time above 0`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {success: {query: q, target: "99.99999%"}}}}`:       `success target "99.99999%"`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {p99: {query: q, target: "-300ms"}}}}`:              `p99 target "-300ms"`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {success: {query: q, target: "0.999"}}}}`:           `success target "0.999"`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, quality: {success: {query: q, target: "-1%"}}}}`:             `success target "-1%"`,
		`{metadata: {name: api, namespace: ns}, spec: {targetRef: {name: a}, features: [{name: x, share: 500}, {name: y, share: 1500}]}}`: "add up to 2000",
	} {
		if _, err := DeclaredModule(read[v1alpha1.Module](t, bad)); err == nil || !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%s\ngot error %v, want %q", bad, err, wantErr)
		}
	}
}

func TestPoolsOf(t *testing.T) {
	pools, err := NewPools([]*v1alpha1.ResourcePool{
		read[v1alpha1.ResourcePool](t, `{metadata: {name: gpu}, spec: {kind: SpareOnGPUMachines, order: 2, selector: {matchLabels: {gpu: "yes"}}}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: zone-a}, spec: {order: 1, selector: {matchLabels: {zone: a}}}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: general}, spec: {order: 3}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: burst}, spec: {kind: Serverless, machineType: eci, order: 4}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: broken}, spec: {selector: {matchExpressions: [{key: a, operator: Near}]}}}`),
	})
	if err == nil || !strings.Contains(err.Error(), `resource pool "broken": selector`) {
		t.Errorf("got error %v, want one that names the broken pool", err)
	}
	cases := map[string]struct {
		labels      map[string]string
		want        string
		wantVirtual bool
	}{
		"a selector finds its nodes":                      {map[string]string{"gpu": "yes"}, "gpu", false},
		"the lowest order wins":                           {map[string]string{"gpu": "yes", "zone": "a"}, "zone-a", false},
		"without a selector the label names the pool":     {map[string]string{v1alpha1.LabelPool: "general"}, "general", false},
		"a serverless pool's nodes are virtual":           {map[string]string{v1alpha1.LabelPool: "burst"}, "burst", true},
		"an undeclared pool is named by the node's label": {map[string]string{"karpenter.sh/nodepool": "spot"}, "spot", false},
		"a virtual kubelet is virtual without a pool":     {map[string]string{"type": "virtual-kubelet"}, "", true},
		"a node without any label is in no pool":          {nil, "", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: tc.labels}}
			if got := pools.Of(node).Name; got != tc.want {
				t.Errorf("pool %q, want %q", got, tc.want)
			}
			if got := Virtual(node, pools); got != tc.wantVirtual {
				t.Errorf("virtual %v, want %v", got, tc.wantVirtual)
			}
		})
	}
}

func TestMachine(t *testing.T) {
	node := read[corev1.Node](t, `
metadata: {name: n1, labels: {node.kubernetes.io/instance-type: m5.2xlarge, topology.kubernetes.io/zone: b, neap.dev/pool: general}}
spec: {taints: [{key: nvidia.com/gpu, effect: NoSchedule}]}
status:
  capacity: {cpu: 8, memory: 32Gi, nvidia.com/gpu: 1, pods: 110}
  allocatable: {cpu: 7910m, memory: 30Gi, nvidia.com/gpu: 1, pods: 58}`)
	want := bill.Machine{
		Name: "n1", Pool: "general", Type: "m5.2xlarge", Domain: "b", MaxPods: 58,
		Capacity:    resource.Vector{8000, 32 * resource.GiB, 1000},
		Allocatable: resource.Vector{7910, 30 * resource.GiB, 1000},
	}
	if got := Machine(node, nil); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	TrimNode(node)
	if got := Machine(node, nil); got != want {
		t.Errorf("trimmed: got %+v, want %+v", got, want)
	}
	node.Spec.Unschedulable = true
	if !Machine(node, nil).Closed {
		t.Error("a cordoned machine must be closed")
	}
	node.Spec.Unschedulable = false
	node.Spec.Taints = []corev1.Taint{{Key: "karpenter.sh/disrupted", Effect: corev1.TaintEffectNoSchedule}}
	if !Machine(node, nil).Closed {
		t.Error("a machine that is about to be given back must be closed")
	}
}

func TestPodOnAVirtualNodeIsItsOwnMachine(t *testing.T) {
	pools, err := NewPools([]*v1alpha1.ResourcePool{read[v1alpha1.ResourcePool](t, `{metadata: {name: burst}, spec: {kind: Serverless, machineType: eci}}`)})
	if err != nil {
		t.Fatal(err)
	}
	node := read[corev1.Node](t, `{metadata: {name: virtual-burst, labels: {neap.dev/pool: burst, topology.kubernetes.io/zone: a}}, status: {capacity: {cpu: 100k}}}`)
	pod := read[corev1.Pod](t, `{metadata: {name: api-1, namespace: homework, uid: u1}, spec: {nodeName: virtual-burst, containers: [{name: a, resources: {requests: {cpu: 2, memory: 4Gi}}}]}}`)
	key := workload.Key{Namespace: "homework", Kind: "Deployment", Name: "api"}
	p, m := Pod(pod, key, node, pools)
	want := &bill.Machine{
		Name: "virtual-burst/homework/api-1", Pool: "burst", Type: "eci", Serverless: true, Domain: "a",
		Capacity: resource.Vector{2000, 4 * resource.GiB, 0}, Allocatable: resource.Vector{2000, 4 * resource.GiB, 0},
	}
	if d := cmp.Diff(want, m); d != "" {
		t.Error(d)
	}
	if p.Machine != want.Name || p.Module != key {
		t.Errorf("pod is on %q as %v", p.Machine, p.Module)
	}
}

func TestRules(t *testing.T) {
	owned := `ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: r, uid: u, controller: true}]`
	cases := map[string]struct {
		pod  string
		want bill.Rules
	}{
		"no rules":                              {`{metadata: {` + owned + `}}`, bill.Rules{}},
		"a pod that nobody would make again":    {`{}`, bill.Rules{Pinned: true}},
		"a pod that asks not to be moved":       {`{metadata: {` + owned + `, annotations: {karpenter.sh/do-not-disrupt: "true"}}}`, bill.Rules{Pinned: true}},
		"a pod with the machine's disk":         {`{metadata: {` + owned + `}, spec: {volumes: [{name: d, hostPath: {path: /d}}]}}`, bill.Rules{Pinned: true}},
		"a pod bound to a pool by its selector": {`{metadata: {` + owned + `}, spec: {nodeSelector: {neap.dev/pool: a}}}`, bill.Rules{Pools: []string{"a"}}},
		"a pod bound to pools by affinity": {
			`{metadata: {` + owned + `}, spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: neap.dev/pool, operator: In, values: [b, a]}]}, {matchExpressions: [{key: neap.dev/pool, operator: In, values: [a]}]}]}}}}}`,
			bill.Rules{Pools: []string{"a", "b"}},
		},
		"an affinity with a way around the pool": {
			`{metadata: {` + owned + `}, spec: {affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: neap.dev/pool, operator: In, values: [a]}]}, {matchExpressions: [{key: zone, operator: Exists}]}]}}}}}`,
			bill.Rules{},
		},
		"one pod a machine, spread over zones": {
			`{metadata: {namespace: ns, labels: {app: x}, ` + owned + `}, spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: x}}}]}}, topologySpreadConstraints: [{maxSkew: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: x}}}]}}`,
			bill.Rules{Alone: "ns/app=x", Spread: "ns/app=x", Domains: 2},
		},
		"away from others, not from its own": {
			`{metadata: {namespace: ns, labels: {app: x}, ` + owned + `}, spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: y}}}]}}}}`,
			bill.Rules{},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := read[corev1.Pod](t, tc.pod)
			p, _ := Pod(pod, workload.Key{}, nil, nil)
			if d := cmp.Diff(tc.want, p.Rules); d != "" {
				t.Error(d)
			}
			TrimPod(pod)
			p, _ = Pod(pod, workload.Key{}, nil, nil)
			if d := cmp.Diff(tc.want, p.Rules); d != "" {
				t.Errorf("trimmed: %s", d)
			}
		})
	}
}

func TestOwners(t *testing.T) {
	yes := true
	ref := func(kind, name, uid string) []metav1.OwnerReference {
		return []metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID(uid), Controller: &yes}}
	}
	var o Owners
	o.Put(&metav1.ObjectMeta{UID: "rs", OwnerReferences: ref("Deployment", "api", "dep")})
	o.Put(&metav1.ObjectMeta{UID: "lone-rs"})
	o.Put(&metav1.ObjectMeta{UID: "job", OwnerReferences: ref("CronJob", "report", "cron")})
	o.Put(&metav1.ObjectMeta{UID: "rollout-rs", OwnerReferences: ref("Rollout", "canary", "ro")})
	o.Put(&metav1.ObjectMeta{UID: "ring-a", OwnerReferences: ref("Ring", "b", "ring-b")})
	o.Put(&metav1.ObjectMeta{UID: "ring-b", OwnerReferences: ref("Ring", "a", "ring-a")})
	cases := map[string]struct {
		pod  metav1.ObjectMeta
		want string
	}{
		"a Deployment behind its ReplicaSet":            {metav1.ObjectMeta{OwnerReferences: ref("ReplicaSet", "api-1", "rs")}, "n/Deployment/api"},
		"a ReplicaSet that nobody owns":                 {metav1.ObjectMeta{OwnerReferences: ref("ReplicaSet", "lone", "lone-rs")}, "n/ReplicaSet/lone"},
		"a CronJob behind its Job":                      {metav1.ObjectMeta{OwnerReferences: ref("Job", "report-29000000", "job")}, "n/CronJob/report"},
		"another kind behind a ReplicaSet":              {metav1.ObjectMeta{OwnerReferences: ref("ReplicaSet", "canary-1", "rollout-rs")}, "n/Rollout/canary"},
		"a StatefulSet owns its pods itself":            {metav1.ObjectMeta{OwnerReferences: ref("StatefulSet", "db", "sts")}, "n/StatefulSet/db"},
		"a pod that nobody owns is its own":             {metav1.ObjectMeta{Name: "p"}, "n/Pod/p"},
		"a ReplicaSet that may not be read":             {metav1.ObjectMeta{OwnerReferences: ref("ReplicaSet", "web-6f9", "?"), Labels: map[string]string{"pod-template-hash": "6f9"}}, "n/Deployment/web"},
		"a Job that is gone but was a CronJob's":        {metav1.ObjectMeta{OwnerReferences: ref("Job", "nightly-29187840", "?")}, "n/CronJob/nightly"},
		"a Job that is gone and ends in a few numbers":  {metav1.ObjectMeta{OwnerReferences: ref("Job", "train-2026", "?")}, "n/Job/train-2026"},
		"owners in a circle end somewhere":              {metav1.ObjectMeta{OwnerReferences: ref("Ring", "a", "ring-a")}, "n/Ring/b"},
		"an owner that does not control does not count": {metav1.ObjectMeta{Name: "p", OwnerReferences: []metav1.OwnerReference{{Kind: "Fleet", Name: "f"}}}, "n/Pod/p"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.pod.Namespace = "n"
			if got := o.Of(&tc.pod).String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestLifetime(t *testing.T) {
	pod := read[corev1.Pod](t, `
metadata: {creationTimestamp: "2026-03-02T10:00:00Z"}
spec: {nodeName: n1}
status:
  phase: Succeeded
  conditions: [{type: PodScheduled, status: "True", lastTransitionTime: "2026-03-02T10:00:05Z"}]
  startTime: "2026-03-02T10:00:07Z"
  initContainerStatuses: [{name: i, ready: false, restartCount: 0, image: i, imageID: i, state: {terminated: {exitCode: 0, finishedAt: "2026-03-02T10:00:10Z"}}}]
  containerStatuses: [{name: a, ready: false, restartCount: 0, image: i, imageID: i, state: {terminated: {exitCode: 0, finishedAt: "2026-03-02T10:00:35Z"}}}]`)
	from, ok := Bound(pod)
	to, ok2 := Ended(pod)
	if !ok || !ok2 || to.Sub(from) != 30*time.Second {
		t.Errorf("lived from %v to %v (%v, %v), want 30 s", from, to, ok, ok2)
	}
	if !Over(pod) {
		t.Error("a pod that succeeded is over")
	}

	waiting := pod.DeepCopy()
	waiting.Status.ContainerStatuses[0].State = corev1.ContainerState{}
	if at, ok := Ended(waiting); ok {
		t.Errorf("a pod whose container has yet to start ended at %v", at)
	}
	unbound := pod.DeepCopy()
	unbound.Spec.NodeName = ""
	if at, ok := Bound(unbound); ok {
		t.Errorf("a pod without a node was bound at %v", at)
	}
	static := pod.DeepCopy()
	static.Status = corev1.PodStatus{}
	if at, _ := Bound(static); !at.Equal(pod.CreationTimestamp.Time) {
		t.Errorf("a static pod counts from %v, want its creation", at)
	}
	skewed := pod.DeepCopy()
	skewed.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(from.Add(-time.Hour))
	skewed.Status.InitContainerStatuses = nil
	if at, ok := Ended(skewed); !ok || at.Before(from) {
		t.Errorf("a kubelet with a wrong clock ends a pod at %v, before it began at %v", at, from)
	}
}

func TestSetSpare(t *testing.T) {
	pools, err := NewPools([]*v1alpha1.ResourcePool{
		read[v1alpha1.ResourcePool](t, `{metadata: {name: each}, spec: {spare: {perMachine: {cpu: 500m, memory: 64Gi}}}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: all}, spec: {spare: {total: {cpu: 6}}}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	from := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	at := func(min int) time.Time { return from.Add(time.Duration(min) * time.Minute) }
	h := bill.Hour{From: at(0), To: at(60), Machines: []bill.Machine{
		{Name: "a", Pool: "each", From: at(0), To: at(60), Allocatable: resource.Vector{4000, 16 * resource.GiB, 0}},
		{Name: "b", Pool: "all", From: at(0), To: at(60), Allocatable: resource.Vector{8000, 0, 0}},
		{Name: "c", Pool: "all", From: at(0), To: at(30), Allocatable: resource.Vector{8000, 0, 0}},
		{Name: "d", Pool: "none", From: at(0), To: at(60), Allocatable: resource.Vector{8000, 0, 0}},
	}}
	pools.SetSpare(&h)
	want := map[string]resource.Vector{
		"a": {500, 16 * resource.GiB, 0}, // never more than there is
		"b": {4000, 0, 0},
		"c": {4000, 0, 0}, // 4 cores for an hour and 4 for half of it: 6 over the hour
		"d": {},
	}
	for _, m := range h.Machines {
		if m.Spare != want[m.Name] {
			t.Errorf("machine %s holds %v, want %v", m.Name, m.Spare, want[m.Name])
		}
	}
}

// Whatever a cluster holds, conversion gives bounded values and the same ones
// before and after trimming.
func FuzzPod(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"p","namespace":"n","labels":{"neap.dev/headroom":"true"}},"spec":{"nodeName":"x","containers":[{"name":"a","resources":{"requests":{"cpu":"1e3","memory":"-5"}}}]},"status":{"phase":"Failed"}}`))
	f.Add([]byte(`{"spec":{"overhead":{"cpu":"9E"},"initContainers":[{"restartPolicy":"Always","resources":{"requests":{"nvidia.com/gpu":"9E"}}}]},"status":{"initContainerStatuses":[{"state":{"terminated":{"finishedAt":"2026-03-02T10:00:10Z"}}}]}}`))
	f.Add([]byte(`{"spec":{"affinity":{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchExpressions":[{"key":"a","operator":"?"}]}}]}}}}`))
	pools, _ := NewPools([]*v1alpha1.ResourcePool{{ObjectMeta: metav1.ObjectMeta{Name: "burst"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolServerless}}})
	virtual := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{v1alpha1.LabelPool: "burst"}}}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var pod corev1.Pod
		if json.Unmarshal(raw, &pod) != nil {
			return
		}
		var o Owners
		key := o.Of(&pod)
		p, m := Pod(&pod, key, virtual, pools)
		for _, k := range resource.All {
			if r := p.Requests[0].Request[k]; r < 0 || r > most {
				t.Fatalf("requests %d of %s", r, k)
			}
		}
		if m.Capacity != p.Requests[0].Request {
			t.Fatal("the machine is not as large as its pod")
		}
		from, bound := Bound(&pod)
		to, ended := Ended(&pod)
		if bound && ended && to.Before(from) {
			t.Fatalf("ended at %v before it was bound at %v", to, from)
		}
		over := Over(&pod)
		TrimPod(&pod)
		p2, m2 := Pod(&pod, o.Of(&pod), virtual, pools)
		if d := cmp.Diff(p, p2) + cmp.Diff(m, m2); d != "" {
			t.Fatalf("trimming changed the pod:\n%s", d)
		}
		from2, bound2 := Bound(&pod)
		to2, ended2 := Ended(&pod)
		if !from.Equal(from2) || !to.Equal(to2) || bound != bound2 || ended != ended2 || over != Over(&pod) {
			t.Fatal("trimming changed the pod's lifetime")
		}
	})
}

// Amounts and amounts are inverse for everything a machine can have.
func FuzzAmounts(f *testing.F) {
	f.Add(int64(1), int64(2), int64(3))
	f.Add(int64(0), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, cpu, memory, gpu int64) {
		v := resource.Vector{cpu & (1<<40 - 1), memory & (1<<49 - 1), gpu & (1<<40 - 1)}
		if got := amounts(Amounts(v)); got != v {
			t.Errorf("got %v, want %v", got, v)
		}
	})
}

func FuzzQuantity(f *testing.F) {
	f.Add("1e3")
	f.Add("9E")
	f.Add("-1n")
	f.Add("1e6666615")
	f.Fuzz(func(t *testing.T, s string) {
		q, err := apiresource.ParseQuantity(s)
		if err != nil {
			return
		}
		for _, got := range []int64{milli(&q), whole(&q)} {
			if got < 0 || got > most {
				t.Errorf("%q is %d", s, got)
			}
		}
		if exact := q.AsApproximateFloat64(); exact > 0 && exact < 1e6 && math.Abs(float64(milli(&q))-exact*1000) > 1 {
			t.Errorf("%q is %d milli, want about %v", s, milli(&q), exact*1000)
		}
	})
}
