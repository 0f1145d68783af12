package jobs

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// admin speaks to the cluster, in which Neap's definitions and policies are.
func admin(t *testing.T, c *controlplane.Cluster) client.Client {
	t.Helper()
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s), apiextensionsv1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	cl, err := client.New(cfg, client.Options{Scheme: s})
	if err != nil {
		t.Fatal(err)
	}
	crds, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		if err := cl.Create(t.Context(), crd); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	policies, err := deploy.Admission()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range policies {
		if err := cl.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("the API server does not take %s %s: %v", o.GetKind(), o.GetName(), err)
		}
	}
	return cl
}

// make makes an object, waiting for its kind, and deletes it with the test.
func create(t *testing.T, cl client.Client, o client.Object) {
	t.Helper()
	clustertest.Eventually(t, "making "+o.GetName(), func() error { return cl.Create(t.Context(), o) })
	t.Cleanup(func() { _ = client.IgnoreNotFound(cl.Delete(context.Background(), o)) })
}

func pool(name string, kind v1alpha1.PoolKind, change ...func(*v1alpha1.ResourcePoolSpec)) *v1alpha1.ResourcePool {
	p := &v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ResourcePoolSpec{Kind: kind}}
	if kind == v1alpha1.PoolServerless {
		p.Spec.MachineType = "eci"
	}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func quantity(s string) *apiresource.Quantity {
	q := apiresource.MustParse(s)
	return &q
}

// pod is a pod of the job class.
func pod(ns string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "job-", Labels: map[string]string{v1alpha1.LabelClass: v1alpha1.ClassJob}},
		Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{
			Name: "main", Image: "simulated",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("250m")}},
		}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

// A seen is what admission made of a pod.
type seen struct {
	Pools     []string
	Affinity  []string // the values of neap.dev/pool in each term
	Tolerates bool
	Priority  int32
	Gated     bool
}

func look(p *corev1.Pod) seen {
	s := seen{Priority: *p.Spec.Priority}
	if v := p.Annotations[v1alpha1.AnnotationServerlessPools]; v != "" {
		s.Pools = strings.Split(v, ",")
		slices.Sort(s.Pools)
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			values := "any"
			for _, e := range term.MatchExpressions {
				if e.Key == v1alpha1.LabelPool {
					slices.Sort(e.Values)
					values = strings.Join(e.Values, ",")
				}
			}
			s.Affinity = append(s.Affinity, values)
		}
	}
	s.Tolerates = slices.ContainsFunc(p.Spec.Tolerations, func(t corev1.Toleration) bool { return t.Key == v1alpha1.TaintServerless })
	s.Gated = slices.ContainsFunc(p.Spec.SchedulingGates, func(g corev1.PodSchedulingGate) bool { return g.Name == v1alpha1.GateBurst })
	return s
}

// The policies are tried as the API server runs them, with dry runs.
func TestTheJobClassGoesToServerlessPools(t *testing.T) {
	c := clustertest.Start(t)
	cl, ns := admin(t, c), clustertest.Namespace(t, c)
	create(t, cl, pool("machines", v1alpha1.PoolMachines))
	create(t, cl, pool("small", v1alpha1.PoolServerless, func(s *v1alpha1.ResourcePoolSpec) {
		s.Serverless = &v1alpha1.ServerlessLimits{MaxPod: &v1alpha1.Amounts{CPU: quantity("4"), Memory: quantity("8Gi")}}
	}))
	create(t, cl, pool("large", v1alpha1.PoolServerless, func(s *v1alpha1.ResourcePoolSpec) {
		s.Serverless = &v1alpha1.ServerlessLimits{MaxPod: &v1alpha1.Amounts{CPU: quantity("64")}, Creation: &v1alpha1.CreationRate{PerSecond: 20, Burst: 100}}
	}))
	create(t, cl, pool("by-selector", v1alpha1.PoolServerless, func(s *v1alpha1.ResourcePoolSpec) {
		s.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"type": "virtual-kubelet"}}
	}))
	admit := func(p *corev1.Pod) (seen, error) {
		err := cl.Create(t.Context(), p, client.DryRunAll)
		if err != nil {
			return seen{}, err
		}
		return look(p), nil
	}
	clustertest.Eventually(t, "both pools to take a pod", func() error {
		s, err := admit(pod(ns))
		if err == nil && len(s.Pools) < 2 {
			err = errors.New("it goes to " + strings.Join(s.Pools, ","))
		}
		return err
	})
	requests := func(cpu, memory string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse(memory)}
		}
	}
	terms := func(terms ...corev1.NodeSelectorTerm) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms},
			}}
		}
	}
	term := func(key string) corev1.NodeSelectorTerm {
		return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{"x"}}}}
	}
	both := seen{Pools: []string{"large", "small"}, Affinity: []string{"large,small"}, Tolerates: true, Priority: -10, Gated: true}
	cases := map[string]struct {
		change func(*corev1.Pod)
		want   seen
	}{
		"a small pod goes to both": {func(*corev1.Pod) {}, both},
		"one too large for the small pool goes to the large": {requests("8", "1Gi"),
			seen{Pools: []string{"large"}, Affinity: []string{"large"}, Tolerates: true, Priority: -10, Gated: true}},
		"so does one with too much memory": {requests("1", "16Gi"),
			seen{Pools: []string{"large"}, Affinity: []string{"large"}, Tolerates: true, Priority: -10, Gated: true}},
		"one too large for all stays on machines": {requests("65", "1Gi"), seen{}},
		"sidecars count": {func(p *corev1.Pod) {
			requests("3", "1Gi")(p)
			second := p.Spec.Containers[0]
			second.Name = "second"
			p.Spec.Containers = append(p.Spec.Containers, second)
		}, seen{Pools: []string{"large"}, Affinity: []string{"large"}, Tolerates: true, Priority: -10, Gated: true}},
		"a GPU is not what these pools have": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{v1alpha1.ResourceGPU: apiresource.MustParse("1")}
		}, seen{}},
		"another class is left alone": {func(p *corev1.Pod) { p.Labels[v1alpha1.LabelClass] = "online" }, seen{}},
		"its own terms are kept, each with the pools": {terms(term("zone"), corev1.NodeSelectorTerm{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n"}}}}),
			seen{Pools: []string{"large", "small"}, Affinity: []string{"large,small", "large,small"}, Tolerates: true, Priority: -10, Gated: true}},
		"pod anti-affinity of its own is kept": {func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}}
		}, both},
		"a pod that names its pool is left alone": {terms(term(v1alpha1.LabelPool)), seen{Affinity: []string{"x"}}},
		"so is one that selects its pool":         {func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{v1alpha1.LabelPool: "x"} }, seen{}},
		"one that needs its host's network":       {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, seen{}},
		"one that needs its host's files": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}}}
		}, seen{}},
		"one of a DaemonSet": {func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "d", UID: "u"}}
		}, seen{}},
		"a priority of its own is kept": {func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" },
			seen{Pools: both.Pools, Affinity: both.Affinity, Tolerates: true, Priority: 2000001000, Gated: true}},
		"a toleration of its own is kept": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: v1alpha1.TaintServerless, Operator: corev1.TolerationOpExists}}
		}, both},
		"another gate is kept": {func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/quota"}} }, both},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := pod(ns, tc.change)
			asked := p.DeepCopy()
			got, err := admit(p)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s\n%v", diff, p.Spec)
			}
			if len(p.Spec.SchedulingGates) < len(asked.Spec.SchedulingGates) || len(p.Spec.Tolerations) < len(asked.Spec.Tolerations) {
				t.Errorf("what the pod asked for is gone: %v", p.Spec)
			}
		})
	}
}

func TestTheGateIsOnlyWhereSomethingIsWaitedFor(t *testing.T) {
	c := clustertest.Start(t)
	cl, ns := admin(t, c), clustertest.Namespace(t, c)
	create(t, cl, pool("endless", v1alpha1.PoolServerless))
	var got seen
	clustertest.Eventually(t, "the pool to take a pod", func() error {
		p := pod(ns)
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			return err
		}
		if got = look(p); len(got.Pools) != 1 {
			return errors.New("it is not taken")
		}
		return nil
	})
	if got.Gated {
		t.Error("a pool without limits makes a pod wait")
	}
	p := pod(ns, func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationSpread: "5m"} })
	if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if !look(p).Gated {
		t.Error("a pod with a spread does not wait")
	}
}

func TestASpreadThatCannotBeReadIsRefused(t *testing.T) {
	c := clustertest.Start(t)
	cl, ns := admin(t, c), clustertest.Namespace(t, c)
	job := func(spread string) *batchv1.CronJob {
		p := pod(ns)
		return &batchv1.CronJob{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "c-"},
			Spec: batchv1.CronJobSpec{Schedule: "0 0 * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels, Annotations: map[string]string{v1alpha1.AnnotationSpread: spread}}, Spec: p.Spec},
			}}},
		}
	}
	clustertest.Eventually(t, "the policy to hold", func() error {
		err := cl.Create(t.Context(), job("soon"), client.DryRunAll)
		if err == nil {
			return errors.New("taken")
		}
		if want := `neap.dev/spread of the pod template is "soon": give a duration up to 6h, such as 5m`; !strings.Contains(err.Error(), want) {
			t.Fatalf("%v\ndoes not say %s", err, want)
		}
		return nil
	})
	for _, s := range []string{"90s", "1h30m", "0s"} {
		if err := cl.Create(t.Context(), job(s), client.DryRunAll); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := cl.Create(t.Context(), job("7h"), client.DryRunAll); err == nil {
		t.Error("7h is taken")
	}
}

func TestAPolicysPodsAreToleratedByServerlessPools(t *testing.T) {
	c := clustertest.Start(t)
	cl, ns := admin(t, c), clustertest.Namespace(t, c)
	policy := func(name, kind string, mode v1alpha1.Mode, pool v1alpha1.PoolKind) {
		p := &v1alpha1.ElasticPolicy{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
			Spec:       v1alpha1.ElasticPolicySpec{TargetRef: v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: kind, Name: name}, Mode: mode, Max: 10},
		}
		create(t, cl, p)
		p.Status.Pools = []v1alpha1.PolicyPoolStatus{{Name: "own", Kind: v1alpha1.PoolMachines}, {Name: "other", Kind: pool}}
		if err := cl.Status().Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	policy("web", "Deployment", v1alpha1.ModeAuto, v1alpha1.PoolServerless)
	policy("db", "StatefulSet", v1alpha1.ModeAuto, v1alpha1.PoolServerless)
	policy("preview", "Deployment", v1alpha1.ModePreview, v1alpha1.PoolServerless)
	policy("owned", "Deployment", v1alpha1.ModeAuto, v1alpha1.PoolSpareOnGPUMachines)
	yes := true
	admit := func(kind, owner, hash string, change ...func(*corev1.Pod)) bool {
		p := pod(ns, change...)
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		p.Labels = map[string]string{"pod-template-hash": hash}
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: owner, UID: "u", Controller: &yes}}
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		return look(p).Tolerates
	}
	clustertest.Eventually(t, "the policy to hold", func() error {
		if !admit("ReplicaSet", "web-5d4", "5d4") {
			return errors.New("not tolerated")
		}
		return nil
	})
	cases := map[string]struct {
		kind, owner, hash string
		change            func(*corev1.Pod)
		want              bool
	}{
		"the Deployment's ReplicaSet":              {"ReplicaSet", "web-5d4", "5d4", nil, true},
		"a Deployment whose name begins alike":     {"ReplicaSet", "web-api-5d4", "5d4", nil, false},
		"a StatefulSet":                            {"StatefulSet", "db", "", nil, true},
		"a StatefulSet called like the Deployment": {"StatefulSet", "web", "", nil, false},
		"a policy that does not act":               {"ReplicaSet", "preview-5d4", "5d4", nil, false},
		"a policy without serverless":              {"ReplicaSet", "owned-5d4", "5d4", nil, false},
		"a pod that needs its host":                {"ReplicaSet", "web-5d4", "5d4", func(p *corev1.Pod) { p.Spec.HostPID = true }, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var change []func(*corev1.Pod)
			if tc.change != nil {
				change = append(change, tc.change)
			}
			if got := admit(tc.kind, tc.owner, tc.hash, change...); got != tc.want {
				t.Errorf("tolerates serverless: %t, want %t", got, tc.want)
			}
		})
	}
}
