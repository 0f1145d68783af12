package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/controller/headroom"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// buffers is enough of the definition of CapacityBuffers to hold them.
const buffers = `
metadata: {name: capacitybuffers.autoscaling.x-k8s.io, annotations: {api-approved.kubernetes.io: "unapproved, a test's own"}}
spec:
  group: autoscaling.x-k8s.io
  scope: Namespaced
  names: {kind: CapacityBuffer, plural: capacitybuffers, singular: capacitybuffer, listKind: CapacityBufferList}
  versions:
  - name: v1beta1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              provisioningStrategy: {type: string}
              podTemplateRef: {type: object, required: [name], properties: {name: {type: string}}}
              replicas: {type: integer, format: int32, minimum: 0}
`

func TestHeadroomOnARealControlPlane(t *testing.T) {
	shared, cfg := cluster(t)
	ns := clustertest.Namespace(t, shared)
	c := newClient(t, cfg)
	ctx := t.Context()
	for doc, obj := range map[string]client.Object{
		`{metadata: {name: %[1]s}}`: &v1alpha1.ResourcePool{},
		`{metadata: {name: chat, namespace: %[1]s}, spec: {selector: {matchLabels: {app: chat}}, replicas: 0, template: {metadata: {labels: {app: chat}}, spec: {containers: [{name: chat, image: chat, resources: {requests: {cpu: 500m}}}]}}}}`: &appsv1.Deployment{},
		`{metadata: {name: chat, namespace: %[1]s}, spec: {targetRef: {name: chat}, mode: Auto, max: 100, pools: [{name: %[1]s}], headroom: {percent: "10%%"}}}`:                                                                                  &v1alpha1.ElasticPolicy{},
	} {
		unmarshal(t, fmt.Sprintf(doc, ns), obj)
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	key := client.ObjectKey{Namespace: ns, Name: "chat"}
	made := client.ObjectKey{Namespace: ns, Name: "chat-headroom"}
	foresee := func(soon int32) {
		t.Helper()
		var p v1alpha1.ElasticPolicy
		if err := c.Get(ctx, key, &p); err != nil {
			t.Fatal(err)
		}
		was := p.DeepCopy()
		p.Status.Current, p.Status.Desired, p.Status.Soon = 10, 10, soon
		if err := c.Status().Patch(ctx, &p, client.MergeFrom(was)); err != nil {
			t.Fatal(err)
		}
	}
	reconcile := func(r *headroom.Reconciler) {
		t.Helper()
		if _, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: key}); err != nil {
			t.Fatal(err)
		}
	}

	// 1. Where there are no buffers, balloons: the real Deployment controller makes
	// them, of the lowest priority, for the machines of the pool.
	foresee(30)
	r := headroom.New(headroom.Options{Client: c, Live: c})
	reconcile(r)
	clustertest.Eventually(t, "23 balloons", func() error {
		var pods corev1.PodList
		if err := c.List(ctx, &pods, client.InNamespace(ns), client.MatchingLabels{v1alpha1.LabelHeadroom: "true"}); err != nil {
			return err
		}
		if len(pods.Items) != 23 {
			return fmt.Errorf("there are %d", len(pods.Items))
		}
		if p := pods.Items[0]; *p.Spec.Priority != -10 || *p.Spec.PreemptionPolicy != corev1.PreemptNever || p.Spec.Affinity == nil {
			t.Fatalf("a balloon is %+v", p.Spec)
		}
		return nil
	})

	// 2. What somebody changed is put right by one that remembers nothing.
	var d appsv1.Deployment
	if err := c.Get(ctx, made, &d); err != nil {
		t.Fatal(err)
	}
	// Not an update: the Deployment controller writes its status meanwhile.
	if err := c.Patch(ctx, &d, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":500}}`))); err != nil {
		t.Fatal(err)
	}
	r = headroom.New(headroom.Options{Client: c, Live: c})
	reconcile(r)
	if err := c.Get(ctx, made, &d); err != nil || *d.Spec.Replicas != 23 {
		t.Fatalf("it is %d, %v", *d.Spec.Replicas, err)
	}

	// 3. Once the cluster has buffers, the room is one.
	ext, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	definition := parse[apiextensionsv1.CustomResourceDefinition](t, buffers)
	if _, err := ext.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ext.ApiextensionsV1().CustomResourceDefinitions().Delete(context.Background(), definition.Name, metav1.DeleteOptions{})
	})
	foresee(20)
	buffer := &unstructured.Unstructured{}
	buffer.SetAPIVersion("autoscaling.x-k8s.io/v1beta1")
	buffer.SetKind("CapacityBuffer")
	clustertest.Eventually(t, "a buffer of 12, and no balloons", func() error {
		reconcile(headroom.New(headroom.Options{Client: c, Live: c}))
		if err := c.Get(ctx, made, buffer); err != nil {
			return err
		}
		if n, _, _ := unstructured.NestedInt64(buffer.Object, "spec", "replicas"); n != 12 {
			return fmt.Errorf("the buffer has %d", n)
		}
		if err := c.Get(ctx, made, &d); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the balloons are still there"), err)
		}
		return nil
	})

	// 4. What was made goes with the policy.
	if err := c.Delete(ctx, &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "chat"}}); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the buffer and its template to go", func() error {
		if err := c.Get(ctx, made, buffer); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("the buffer is still there"), err)
		}
		if err := c.Get(ctx, made, &corev1.PodTemplate{}); !apierrors.IsNotFound(err) {
			return errors.Join(errors.New("its template is still there"), err)
		}
		return nil
	})
}

// Room on machines is there at once for whom it is held, and never on serverless
// capacity, though the workload itself may go there.
func TestBalloonsGiveWay(t *testing.T) {
	w := newPoolWorld(t)
	ctx := t.Context()
	p := w.policy("web", onMachines, 0, 0)
	d := w.deployment("web", 0)
	was := p.DeepCopy()
	p.Spec.Headroom = &v1alpha1.Headroom{Percent: "0%"}
	if err := w.c.Patch(ctx, p, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	was = p.DeepCopy()
	p.Status.Soon = onMachines
	if err := w.c.Status().Patch(ctx, p, client.MergeFrom(was)); err != nil {
		t.Fatal(err)
	}
	r := headroom.New(headroom.Options{Client: w.c, Live: w.c})
	if _, err := r.Reconcile(ctx, ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)}); err != nil {
		t.Fatal(err)
	}
	const balloons = "" // they have no label app
	w.await(balloons, map[string]int{"owned": onMachines})
	w.scale(d, onMachines)
	w.await("web", map[string]int{"owned": onMachines})
	w.await(balloons, map[string]int{"": onMachines})
}
