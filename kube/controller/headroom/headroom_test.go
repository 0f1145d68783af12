package headroom

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func read[T any](t testing.TB, doc string) *T {
	t.Helper()
	var obj T
	if err := yaml.UnmarshalStrict([]byte(doc), &obj); err != nil {
		t.Fatal(err)
	}
	return &obj
}

func TestRoomIsAsLargeAsAPodAndOnlyOnOwnedMachines(t *testing.T) {
	target := read[corev1.PodTemplateSpec](t, `
metadata: {labels: {app: chat}}
spec:
  priorityClassName: high
  nodeSelector: {disk: ssd}
  tolerations:
  - {key: neap.dev/serverless, operator: Exists}
  - {key: virtual-kubelet.io/provider, operator: Exists}
  - {operator: Exists}
  - {key: dedicated, value: live}
  affinity:
    podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: zone, labelSelector: {matchLabels: {app: chat}}}]}
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a]}]}]
  initContainers:
  - {name: load, image: load, resources: {requests: {cpu: "1", memory: 3Gi}}}
  containers:
  - {name: chat, image: chat, resources: {requests: {cpu: 1500m, memory: 2Gi, nvidia.com/gpu: 1}, limits: {cpu: "4", nvidia.com/gpu: 1}}}
  - {name: side, image: side, resources: {requests: {cpu: 100m}}}
`)
	pools := []*v1alpha1.ResourcePool{
		read[v1alpha1.ResourcePool](t, `{metadata: {name: owned}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: other}, spec: {selector: {matchLabels: {team: a}, matchExpressions: [{key: old, operator: DoesNotExist}]}}}`),
	}
	got, err := room(target, pools, "pause", map[string]string{"a": "b"})
	if err != nil {
		t.Fatal(err)
	}
	want := read[corev1.PodSpec](t, `
priorityClassName: neap-headroom
terminationGracePeriodSeconds: 0
automountServiceAccountToken: false
enableServiceLinks: false
nodeSelector: {disk: ssd}
tolerations: [{key: dedicated, value: live}]
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
      - matchExpressions: [{key: zone, operator: In, values: [a]}, {key: neap.dev/pool, operator: In, values: [owned]}]
      - matchExpressions: [{key: zone, operator: In, values: [a]}, {key: old, operator: DoesNotExist}, {key: team, operator: In, values: [a]}]
securityContext: {runAsNonRoot: true, runAsUser: 65535, seccompProfile: {type: RuntimeDefault}}
containers:
- name: room
  image: pause
  resources: {requests: {cpu: 1600m, memory: 3Gi, nvidia.com/gpu: 1}, limits: {nvidia.com/gpu: 1}}
  securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`)
	is, _ := yaml.Marshal(got.Spec)
	should, _ := yaml.Marshal(want)
	if string(is) != string(should) {
		t.Errorf("got\n%s\nwant\n%s", is, should)
	}
	if _, err := room(&corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}, pools, "pause", nil); err == nil {
		t.Error("a pod of no size: not refused")
	}
}

// A world is an API server that knows one policy and its target.
type world struct {
	t      *testing.T
	client client.Client
	r      *Reconciler
}

func newWorld(t *testing.T, buffers bool) *world {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	mapper := meta.NewDefaultRESTMapper(nil)
	for kind := range scheme.AllKnownTypes() {
		mapper.Add(kind, meta.RESTScopeNamespace)
	}
	if buffers {
		mapper.Add(bufferKind, meta.RESTScopeNamespace)
		scheme.AddKnownTypeWithName(bufferKind, &unstructured.Unstructured{})
	}
	c := fake.NewClientBuilder().WithScheme(scheme).WithRESTMapper(mapper).WithStatusSubresource(&v1alpha1.ElasticPolicy{}).WithObjects(
		read[appsv1.Deployment](t, `{metadata: {name: chat, namespace: live}, spec: {template: {spec: {containers: [{name: chat, image: chat, resources: {requests: {cpu: 500m}}}]}}}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: owned}, spec: {kind: Machines}}`),
		read[v1alpha1.ResourcePool](t, `{metadata: {name: burst}, spec: {kind: Serverless, machineType: sls}}`),
		read[v1alpha1.ElasticPolicy](t, `
metadata: {name: chat, namespace: live, uid: 3f1}
spec:
  targetRef: {kind: Deployment, name: chat}
  mode: Auto
  max: 300
  pools: [{name: owned, max: 60}, {name: burst}]
  headroom: {percent: "10%"}
status: {current: 10, desired: 10, soon: 30, pools: [{name: owned, pods: 8}, {name: burst, pods: 2}]}
`)).Build()
	return &world{t, c, New(Options{Client: c, Live: c})}
}

func (w *world) reconcile() {
	w.t.Helper()
	if _, err := w.r.Reconcile(w.t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "live", Name: "chat"}}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) change(change func(*v1alpha1.ElasticPolicy)) {
	w.t.Helper()
	var p v1alpha1.ElasticPolicy
	if err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: "live", Name: "chat"}, &p); err != nil {
		w.t.Fatal(err)
	}
	status := p.DeepCopy()
	change(status)
	spec := status.DeepCopy()
	if err := w.client.Update(w.t.Context(), spec); err != nil {
		w.t.Fatal(err)
	}
	spec.Status = status.Status
	if err := w.client.Status().Update(w.t.Context(), spec); err != nil {
		w.t.Fatal(err)
	}
}

// balloons returns how many there should be; −1 if there is no such Deployment.
func (w *world) balloons() int {
	w.t.Helper()
	var d appsv1.Deployment
	err := w.client.Get(w.t.Context(), client.ObjectKey{Namespace: "live", Name: "chat-headroom"}, &d)
	if apierrors.IsNotFound(err) {
		return -1
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if d.Labels[v1alpha1.LabelHeadroom] != "true" || d.Spec.Template.Labels[v1alpha1.LabelHeadroom] != "true" || len(d.OwnerReferences) != 1 || d.Annotations[annotationReason] == "" {
		w.t.Errorf("the balloons are %+v", d.ObjectMeta)
	}
	return int(*d.Spec.Replicas)
}

func TestBalloonsFollowThePolicy(t *testing.T) {
	w := newWorld(t, false)
	steps := []struct {
		what   string
		change func(*v1alpha1.ElasticPolicy)
		want   int
	}{
		{"20 come, and a share of 30", func(p *v1alpha1.ElasticPolicy) {}, 23},
		{"10 of them are there", func(p *v1alpha1.ElasticPolicy) { p.Status.Current, p.Status.Desired = 20, 20 }, 13},
		{"machines take 52 more, and no more", func(p *v1alpha1.ElasticPolicy) { p.Status.Soon = 200 }, 52},
		{"no more than declared", func(p *v1alpha1.ElasticPolicy) { p.Spec.Headroom.Max = ptr.To[int32](5) }, 5},
		{"a paused policy is left as it is", func(p *v1alpha1.ElasticPolicy) {
			p.Annotations = map[string]string{v1alpha1.AnnotationPause: "true"}
			p.Spec.Headroom.Max = ptr.To[int32](9)
		}, 5},
		{"and goes on", func(p *v1alpha1.ElasticPolicy) { p.Annotations = nil }, 9},
		{"nothing is foreseen", func(p *v1alpha1.ElasticPolicy) {
			p.Status.Soon, p.Status.Current, p.Status.Desired = 0, 0, 0
		}, 0},
		{"Preview keeps none", func(p *v1alpha1.ElasticPolicy) { p.Spec.Mode = v1alpha1.ModePreview }, -1},
		{"Auto again", func(p *v1alpha1.ElasticPolicy) { p.Spec.Mode, p.Status.Soon = v1alpha1.ModeAuto, 4 }, 5},
		{"another owner of the target", func(p *v1alpha1.ElasticPolicy) {
			meta.SetStatusCondition(&p.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionSoleOwner, Status: metav1.ConditionFalse, Reason: "HPA"})
		}, -1},
		{"which went", func(p *v1alpha1.ElasticPolicy) { p.Status.Conditions = nil }, 5},
		{"no headroom is declared any more", func(p *v1alpha1.ElasticPolicy) { p.Spec.Headroom = nil }, -1},
	}
	for _, step := range steps {
		w.change(step.change)
		w.reconcile()
		if got := w.balloons(); got != step.want {
			t.Fatalf("%s: %d balloons, want %d", step.what, got, step.want)
		}
	}
	var class schedulingv1.PriorityClass
	if err := w.client.Get(t.Context(), client.ObjectKey{Name: PriorityClass}, &class); err != nil || class.Value != -10 || *class.PreemptionPolicy != corev1.PreemptNever {
		t.Errorf("the priority is %+v, %v", class, err)
	}
}

func TestSomebodyElsesDeploymentIsLeftAlone(t *testing.T) {
	w := newWorld(t, false)
	if err := w.client.Create(t.Context(), read[appsv1.Deployment](t, `{metadata: {name: chat-headroom, namespace: live}, spec: {replicas: 7}}`)); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	w.change(func(p *v1alpha1.ElasticPolicy) { p.Spec.Headroom = nil })
	w.reconcile()
	var d appsv1.Deployment
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "live", Name: "chat-headroom"}, &d); err != nil || *d.Spec.Replicas != 7 || len(d.Labels) > 0 {
		t.Errorf("it is %+v, %v", d, err)
	}
}

func TestWhereThereAreBuffersRoomIsABuffer(t *testing.T) {
	w := newWorld(t, true)
	w.reconcile()
	buffer := &unstructured.Unstructured{}
	buffer.SetGroupVersionKind(bufferKind)
	key := client.ObjectKey{Namespace: "live", Name: "chat-headroom"}
	if err := w.client.Get(t.Context(), key, buffer); err != nil {
		t.Fatal(err)
	}
	spec, _, _ := unstructured.NestedMap(buffer.Object, "spec")
	text, _ := yaml.Marshal(spec)
	if want := "podTemplateRef:\n  name: chat-headroom\nprovisioningStrategy: buffer.x-k8s.io/active-capacity\nreplicas: 23\n"; string(text) != want {
		t.Errorf("the buffer is\n%swant\n%s", text, want)
	}
	var template corev1.PodTemplate
	if err := w.client.Get(t.Context(), key, &template); err != nil || template.Template.Spec.PriorityClassName != "" || len(template.Template.Spec.Containers) != 1 {
		t.Errorf("its template is %+v, %v", template, err)
	}
	if got := w.balloons(); got != -1 {
		t.Errorf("%d balloons beside a buffer", got)
	}
	w.change(func(p *v1alpha1.ElasticPolicy) { p.Spec.Headroom = nil })
	w.reconcile()
	if err := w.client.Get(t.Context(), key, buffer); !apierrors.IsNotFound(err) {
		t.Errorf("the buffer is still there: %v", err)
	}
	if err := w.client.Get(t.Context(), key, &template); !apierrors.IsNotFound(err) {
		t.Errorf("its template is still there: %v", err)
	}
}

func TestATargetWithoutATemplateIsSaidOnce(t *testing.T) {
	w := newWorld(t, false)
	var log strings.Builder
	w.r = New(Options{Client: w.client, Live: w.client, Log: logTo(&log)})
	var d appsv1.Deployment
	if err := w.client.Get(t.Context(), client.ObjectKey{Namespace: "live", Name: "chat"}, &d); err != nil {
		t.Fatal(err)
	}
	d.Spec.Template.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	if err := w.client.Update(t.Context(), &d); err != nil {
		t.Fatal(err)
	}
	w.reconcile()
	w.reconcile()
	if n := strings.Count(log.String(), "request nothing"); n != 1 {
		t.Errorf("it was said %d times: %s", n, log.String())
	}
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
