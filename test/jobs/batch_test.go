package jobs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// batchCluster returns a namespace in which the policies of the batch class hold.
func batchCluster(t *testing.T) (cl client.Client, ns string) {
	t.Helper()
	c := clustertest.Start(t)
	cl, ns = admin(t, c), clustertest.Namespace(t, c)
	clustertest.Eventually(t, "a pod to be taken into the batch class", func() error {
		p := batchPod(t, ns, `{containers: [{name: main, image: none, resources: {requests: {cpu: 1}}}]}`)
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			return err
		}
		if *p.Spec.Priority == 0 {
			return errors.New("it is not")
		}
		if bad := batchPod(t, ns, `{containers: [{name: main, image: none}]}`, "neap.dev/batch-freeze: never"); cl.Create(t.Context(), bad, client.DryRunAll) == nil {
			return errors.New("nothing is refused yet")
		}
		return nil
	})
	return cl, ns
}

// batchPod is a pod of the batch class with a spec in YAML, and annotations.
func batchPod(t *testing.T, ns, spec string, annotations ...string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	doc := fmt.Sprintf("{metadata: {generateName: p-, namespace: %s, labels: {neap.dev/class: batch}, annotations: {%s}}, spec: %s}", ns, strings.Join(annotations, ", "), spec)
	if err := yaml.UnmarshalStrict([]byte(doc), p); err != nil {
		t.Fatal(err)
	}
	return p
}

// resources tells what the containers of a pod ask for, requests and limits, which
// are the same of batch resources.
func resources(p *corev1.Pod) string {
	var out []string
	for _, c := range append(p.Spec.Containers, p.Spec.InitContainers...) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, v1alpha1.ResourceBatchCPU, v1alpha1.ResourceBatchMemory,
			v1alpha1.ResourceKubernetesBatchCPU, v1alpha1.ResourceKubernetesBatchMemory, "example.com/fpga", corev1.ResourceEphemeralStorage} {
			request, asked := c.Resources.Requests[name]
			limit, bound := c.Resources.Limits[name]
			switch {
			case asked && bound && request.Cmp(limit) == 0:
				out = append(out, fmt.Sprintf("%s %s=%s", c.Name, name, request.String()))
			case asked || bound:
				out = append(out, fmt.Sprintf("%s %s=%s..%s", c.Name, name, request.String(), limit.String()))
			}
		}
	}
	if r := p.Spec.Resources; r != nil {
		for name, q := range r.Requests {
			out = append(out, fmt.Sprintf("pod %s=%s", name, q.String()))
		}
		for name, q := range r.Limits {
			out = append(out, fmt.Sprintf("pod %s..%s", name, q.String()))
		}
	}
	return strings.Join(out, ", ")
}

func TestTheBatchClassAsksForBatchResources(t *testing.T) {
	cl, ns := batchCluster(t)
	create(t, cl, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "sooner"}, Value: -50})
	create(t, cl, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "precious"}, Value: 1000})
	cases := map[string]struct {
		spec         string
		want         string
		wantPriority int32 // 0: that of the class
	}{
		"requests": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 1500m, memory: 2Gi}}}]}`,
			want: "a neap.dev/batch-cpu=1500, a neap.dev/batch-memory=2Gi"},
		"limits alone": {spec: `{containers: [{name: a, image: i, resources: {limits: {cpu: "2", memory: 512Mi}}}]}`,
			want: "a neap.dev/batch-cpu=2k, a neap.dev/batch-memory=512Mi"},
		"CPU is the request and memory the limit": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {cpu: "4", memory: 3Gi}}}]}`,
			want: "a neap.dev/batch-cpu=500, a neap.dev/batch-memory=3Gi"},
		"fractions are rounded up": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 100m, memory: 1000.5Mi}}}]}`,
			want: "a neap.dev/batch-cpu=100, a neap.dev/batch-memory=1024512Ki"},
		"a large one": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: "63.999", memory: 500G}}}]}`,
			want: "a neap.dev/batch-cpu=63999, a neap.dev/batch-memory=500G"},
		"every container": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}, {name: b, image: i, resources: {requests: {memory: 1Gi}}}, {name: c, image: i}]}`,
			want: "a neap.dev/batch-cpu=1k, b neap.dev/batch-memory=1Gi"},
		"init containers and sidecars": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}],
			initContainers: [{name: b, image: i, resources: {requests: {cpu: 2, memory: 1Gi}}}, {name: c, image: i, restartPolicy: Always, resources: {limits: {cpu: 250m}}}]}`,
			want: "a neap.dev/batch-cpu=1k, b neap.dev/batch-cpu=2k, b neap.dev/batch-memory=1Gi, c neap.dev/batch-cpu=250"},
		"a pod that asks for nothing counts as one core": {spec: `{containers: [{name: a, image: i}, {name: b, image: i}]}`,
			want: "a neap.dev/batch-cpu=1k"},
		"so does one that asks for memory alone": {spec: `{containers: [{name: a, image: i, resources: {requests: {memory: 1Gi}}}]}`,
			want: "a neap.dev/batch-cpu=1k, a neap.dev/batch-memory=1Gi"},
		"who writes batch resources keeps them": {spec: `{containers: [{name: a, image: i, resources: {limits: {neap.dev/batch-cpu: 700, neap.dev/batch-memory: 1Gi}}}, {name: b, image: i}]}`,
			want: "a neap.dev/batch-cpu=700, a neap.dev/batch-memory=1Gi"},
		"and loses what stands beside them": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 3, neap.dev/batch-cpu: 700}, limits: {cpu: 3, neap.dev/batch-cpu: 700}}}]}`,
			want: "a neap.dev/batch-cpu=700"},
		"the words of Koordinator and Volcano are kept": {spec: `{containers: [{name: a, image: i, resources: {requests: {kubernetes.io/batch-cpu: 1000, kubernetes.io/batch-memory: 1Gi}, limits: {kubernetes.io/batch-cpu: 4000, kubernetes.io/batch-memory: 1Gi}}}]}`,
			want: "a kubernetes.io/batch-cpu=1k..4k, a kubernetes.io/batch-memory=1Gi"},
		"what is said of the pod as a whole": {spec: `{resources: {requests: {cpu: 2, memory: 1Gi}, limits: {memory: 2Gi}}, containers: [{name: a, image: i}, {name: b, image: i, resources: {requests: {cpu: 500m}}}]}`,
			want: "a neap.dev/batch-cpu=2k, a neap.dev/batch-memory=2Gi"},
		"other resources stay": {spec: `{containers: [{name: a, image: i, resources: {requests: {cpu: 1, ephemeral-storage: 1Gi}, limits: {ephemeral-storage: 1Gi, example.com/fpga: 1}}}]}`,
			want: "a neap.dev/batch-cpu=1k, a example.com/fpga=1, a ephemeral-storage=1Gi"},
		"a lower class of one's own is kept": {spec: `{priorityClassName: sooner, containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}]}`,
			want: "a neap.dev/batch-cpu=1k", wantPriority: -50},
		"a higher one is not": {spec: `{priorityClassName: precious, containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}]}`,
			want: "a neap.dev/batch-cpu=1k"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := batchPod(t, ns, tc.spec)
			if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got := resources(p); got != tc.want {
				t.Errorf("it asks for\n\t%s\nwant\n\t%s", got, tc.want)
			}
			if tc.wantPriority == 0 {
				tc.wantPriority = -100000
			}
			if *p.Spec.Priority != tc.wantPriority {
				t.Errorf("its priority is %d, want %d", *p.Spec.Priority, tc.wantPriority)
			}
			if p.Status.QOSClass != corev1.PodQOSBestEffort {
				t.Errorf("the kubelet holds it for %s", p.Status.QOSClass)
			}
			// What was translated once stays as it is.
			again := batchPod(t, ns, "{}")
			p.Spec.Priority, p.Spec.PreemptionPolicy = nil, nil
			again.Spec = p.Spec
			if err := cl.Create(t.Context(), again, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if got := resources(again); got != tc.want {
				t.Errorf("the second time it asks for\n\t%s\nwant\n\t%s", got, tc.want)
			}
		})
	}
}

// Pods that already use the resources are of the class, others are not touched.
func TestWhoIsOfTheBatchClass(t *testing.T) {
	cl, ns := batchCluster(t)
	const batch = `{containers: [{name: a, image: i, resources: {limits: {neap.dev/batch-cpu: 500}}}]}`
	const koordinator = `{containers: [{name: a, image: i, resources: {requests: {kubernetes.io/batch-cpu: 500}, limits: {kubernetes.io/batch-cpu: 500}}}]}`
	const online = `{containers: [{name: a, image: i, resources: {requests: {cpu: 500m}}}]}`
	admit := func(spec string, change func(*corev1.Pod)) *corev1.Pod {
		p := batchPod(t, ns, spec)
		change(p)
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		return p
	}
	bare := func(p *corev1.Pod) { p.Labels = nil }
	if p := admit(koordinator, bare); *p.Spec.Priority < 0 || p.Labels != nil {
		t.Errorf("a pod of Koordinator is taken over although no policy says so: %v", p.Labels)
	}
	create(t, cl, &v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "takes-over"}, Spec: v1alpha1.ColocationPolicySpec{Resources: v1alpha1.BatchResourcesKubernetes}})
	clustertest.Eventually(t, "the policy to take over", func() error {
		if p := admit(koordinator, bare); p.Labels[v1alpha1.LabelClass] != v1alpha1.ClassBatch {
			return errors.New("it does not")
		}
		return nil
	})
	cases := map[string]struct {
		spec   string
		change func(*corev1.Pod)
		want   bool
	}{
		"one of Koordinator where a policy takes over":          {koordinator, bare, true},
		"a pod that asks for batch resources and has no labels": {batch, bare, true},
		"one that has other labels":                             {batch, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "x"} }, true},
		"an online pod":                                         {online, bare, false},
		"a pod of a DaemonSet": {online, func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: "d", UID: "u"}}
		}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := admit(tc.spec, tc.change)
			if is := *p.Spec.Priority < 0; is != tc.want {
				t.Errorf("batch: %v, want %v: %s", is, tc.want, resources(p))
			}
			if tc.want && p.Labels[v1alpha1.LabelClass] != v1alpha1.ClassBatch {
				t.Errorf("it is labelled %v", p.Labels)
			}
		})
	}
}

// A LimitRange gives every container requests, before admission policies are asked
// and once more after them.
func TestALimitRangeDoesNotMakeABatchPodOnline(t *testing.T) {
	cl, ns := batchCluster(t)
	limits := &corev1.LimitRange{}
	if err := yaml.UnmarshalStrict([]byte(fmt.Sprintf(`{metadata: {name: usual, namespace: %s}, spec: {limits: [{type: Container, defaultRequest: {cpu: 300m, memory: 64Mi}, default: {cpu: 600m, memory: 128Mi}}]}}`, ns)), limits); err != nil {
		t.Fatal(err)
	}
	create(t, cl, limits)
	clustertest.Eventually(t, "the LimitRange to hold", func() error {
		p := batchPod(t, ns, `{containers: [{name: a, image: i}]}`)
		p.Labels = nil
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			return err
		}
		if p.Spec.Containers[0].Resources.Requests.Cpu().IsZero() {
			return errors.New("it does not")
		}
		return nil
	})
	for spec, want := range map[string]string{
		`{containers: [{name: a, image: i}]}`:                                                    "a neap.dev/batch-cpu=300, a neap.dev/batch-memory=128Mi",
		`{containers: [{name: a, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 2}}}]}`: "a neap.dev/batch-cpu=2k, a neap.dev/batch-memory=128Mi",
	} {
		p := batchPod(t, ns, spec)
		if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		if got := resources(p); got != want {
			t.Errorf("%s asks for %s, want %s", spec, got, want)
		}
	}
}

// Jobs and what Spark makes need nothing but the label on their template.
func TestAJobBecomesBatchByItsLabel(t *testing.T) {
	cl, ns := batchCluster(t)
	job := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(fmt.Sprintf(`{apiVersion: batch/v1, kind: Job, metadata: {name: etl, namespace: %s}, spec: {template: {
		metadata: {labels: {neap.dev/class: batch}}, spec: {restartPolicy: Never, automountServiceAccountToken: false, containers: [{name: main, image: none, resources: {requests: {cpu: 2, memory: 1Gi}}}]}}}}`, ns)), &job.Object); err != nil {
		t.Fatal(err)
	}
	create(t, cl, job)
	clustertest.Eventually(t, "the job's pod to be made", func() error {
		var pods corev1.PodList
		if err := cl.List(t.Context(), &pods, client.InNamespace(ns)); err != nil {
			return err
		}
		if len(pods.Items) != 1 {
			return fmt.Errorf("%d pods", len(pods.Items))
		}
		if got, want := resources(&pods.Items[0]), "main neap.dev/batch-cpu=2k, main neap.dev/batch-memory=1Gi"; got != want {
			t.Errorf("it asks for %s, want %s", got, want)
		}
		return nil
	})
	driver := batchPod(t, ns, `{serviceAccountName: default, restartPolicy: Never, priority: 0, containers: [{name: spark-kubernetes-driver, image: spark,
		args: [driver], ports: [{containerPort: 7078, name: driver-rpc-port}], resources: {requests: {cpu: "1", memory: 1408Mi}, limits: {memory: 1408Mi}}}]}`)
	driver.Labels["spark-role"] = "driver"
	if err := cl.Create(t.Context(), driver, client.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if got, want := resources(driver), "spark-kubernetes-driver neap.dev/batch-cpu=1k, spark-kubernetes-driver neap.dev/batch-memory=1408Mi"; got != want {
		t.Errorf("Spark's driver asks for %s, want %s", got, want)
	}
}

func TestWhatABatchPodCannotMeanIsRefused(t *testing.T) {
	cl, ns := batchCluster(t)
	const one = `{containers: [{name: a, image: i, resources: {requests: {cpu: 1}}}]}`
	cases := map[string]struct {
		annotation, want string
	}{
		"a run time without a unit":      {`neap.dev/batch-run-time: "45"`, `annotation neap.dev/batch-run-time is "45": give a duration above 0`},
		"a run time of nothing":          {`neap.dev/batch-run-time: 0s`, "give a duration above 0"},
		"a run time of years":            {`neap.dev/batch-run-time: 9000h`, "up to 720h"},
		"a negative freeze":              {`neap.dev/batch-freeze: -5m`, "give a duration above 0"},
		"a checkpoint on no day":         {`neap.dev/batch-checkpointed-at: "2026-13-02T18:00:00Z"`, "give a time in RFC 3339"},
		"a checkpoint without a zone":    {`neap.dev/batch-checkpointed-at: "2026-03-02T18:00:00"`, "give a time in RFC 3339"},
		"a good run time":                {`neap.dev/batch-run-time: 1h30m`, ""},
		"a good checkpoint":              {`neap.dev/batch-checkpointed-at: "2026-03-02T18:00:00.123+08:00"`, ""},
		"a good freeze of half a minute": {`neap.dev/batch-freeze: 0.5m`, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := cl.Create(t.Context(), batchPod(t, ns, one, tc.annotation), client.DryRunAll)
			refusedWith(t, err, tc.want)
			if tc.want == "" {
				return
			}
			job := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(fmt.Sprintf(`{apiVersion: batch/v1, kind: CronJob, metadata: {name: etl, namespace: %s}, spec: {schedule: "0 3 * * *", jobTemplate: {spec: {template: {
				metadata: {labels: {neap.dev/class: batch}, annotations: {%s}}, spec: {restartPolicy: Never, containers: [{name: main, image: none}]}}}}}}`, ns, tc.annotation)), &job.Object); err != nil {
				t.Fatal(err)
			}
			refusedWith(t, cl.Create(t.Context(), job, client.DryRunAll), tc.want)
		})
	}
	job := batchPod(t, ns, `{containers: [{name: a, image: i, resources: {limits: {neap.dev/batch-cpu: 100}}}]}`)
	job.Labels[v1alpha1.LabelClass] = v1alpha1.ClassJob
	refusedWith(t, cl.Create(t.Context(), job, client.DryRunAll), "is of the class job: label it neap.dev/class=batch")
	daemons := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(fmt.Sprintf(`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d, namespace: %s}, spec: {selector: {matchLabels: {neap.dev/class: batch}}, template: {
		metadata: {labels: {neap.dev/class: batch}}, spec: {containers: [{name: main, image: none}]}}}}`, ns)), &daemons.Object); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, cl.Create(t.Context(), daemons, client.DryRunAll), "leave neap.dev/class=batch out")
}

func refusedWith(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("refused: %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("got %v, want a refusal with %q", err, want)
	}
}

func TestOnlyNeapSaysWhatAMachineLends(t *testing.T) {
	c := clustertest.Start(t)
	cl, _ := batchCluster(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lender"}}
	create(t, cl, node)
	as := func(user, on string, groups ...string) client.Client {
		cfg, err := c.RESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg = rest.CopyConfig(cfg)
		cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
		if on != "" {
			cfg.Impersonate.Extra = map[string][]string{"authentication.kubernetes.io/node-name": {on}}
		}
		out, err := client.New(cfg, client.Options{Scheme: cl.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	role := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: batch-anybody},
		roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}, subjects: [{kind: Group, apiGroup: rbac.authorization.k8s.io, name: everybody}]}`), &role.Object); err != nil {
		t.Fatal(err)
	}
	create(t, cl, role)
	clustertest.Eventually(t, "rights", func() error {
		return as("mallory", "", "everybody").Get(t.Context(), client.ObjectKey{Name: "lender"}, &corev1.Node{})
	})
	cases := map[string]struct {
		user, annotation, want string
		on                     string // the node that the user's token says
	}{
		"anybody lends":                      {user: "mallory", annotation: v1alpha1.AnnotationBatchCapacity, want: "only Neap's controller writes it"},
		"the controller lends":               {user: "system:serviceaccount:neap-system:neap-controller", annotation: v1alpha1.AnnotationBatchCapacity, want: ""},
		"an agent lends":                     {user: "system:serviceaccount:neap-system:neap-colocation-agent", annotation: v1alpha1.AnnotationBatchCapacity, want: "only Neap's controller writes it"},
		"an agent tells":                     {user: "system:serviceaccount:neap-system:neap-colocation-agent", annotation: v1alpha1.AnnotationColocation, want: ""},
		"the controller tells what it is":    {user: "system:serviceaccount:neap-system:neap-controller", annotation: v1alpha1.AnnotationProbe, want: "only it writes it"},
		"anybody tells":                      {user: "mallory", annotation: v1alpha1.AnnotationColocation, want: "only it writes it"},
		"the node's own kubelet, as it may":  {user: "system:node:lender", annotation: v1alpha1.AnnotationProbe, want: ""},
		"anybody says something of his own":  {user: "mallory", annotation: "example.com/note", want: ""},
		"another node's kubelet writes here": {user: "system:node:other", annotation: v1alpha1.AnnotationProbe, want: "only it writes it"},
		"an agent of another node":           {user: "system:serviceaccount:neap-system:neap-colocation-agent", on: "other", annotation: "example.com/note", want: "to no other"},
		"the agent of this node":             {user: "system:serviceaccount:neap-system:neap-colocation-agent", on: "lender", annotation: v1alpha1.AnnotationProbe},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			patch := client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"x"}}}`, tc.annotation))
			refusedWith(t, as(tc.user, tc.on, "everybody").Patch(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "lender"}}, patch, client.DryRunAll), tc.want)
		})
	}
}
