package kube

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/bridge"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// The real HorizontalPodAutoscaler controller asks the real API server, which asks
// the bridge.
func TestAnHPATakesTheForecastAsItsFloor(t *testing.T) {
	shared, cfg := cluster(t)
	ns := clustertest.Namespace(t, shared)
	c := newClient(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	// 1. A Deployment, its HPA, and a policy that only looks.
	for doc, obj := range map[string]client.Object{
		`{metadata: {name: chat, namespace: %[1]s}, spec: {selector: {matchLabels: {app: chat}}, replicas: 2, template: {metadata: {labels: {app: chat}}, spec: {containers: [{name: chat, image: chat}]}}}}`: &appsv1.Deployment{},
		`{metadata: {name: chat, namespace: %[1]s}, spec: {targetRef: {name: chat}, mode: Preview, max: 100}}`:                                                                                                &v1alpha1.ElasticPolicy{},
		`
metadata: {name: chat, namespace: %[1]s}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: chat}
  minReplicas: 2
  maxReplicas: 20
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
  metrics:
  - type: External
    external: {metric: {name: neap_elastic_forecast, selector: {matchLabels: {policy: chat}}}, target: {type: AverageValue, averageValue: "1"}}
`: &autoscalingv2.HorizontalPodAutoscaler{},
	} {
		unmarshal(t, fmt.Sprintf(doc, ns), obj)
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
	}
	foretell := func(replicas int, skilled bool) {
		t.Helper()
		var p v1alpha1.ElasticPolicy
		if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "chat"}, &p); err != nil {
			t.Fatal(err)
		}
		was := p.DeepCopy()
		text := fmt.Sprintf(`{layers: [{layer: forecast, floor: %d}], forecast: {skilled: %v, fittedAt: %s}}`, replicas, skilled, time.Now().UTC().Format(time.RFC3339))
		if err := yaml.Unmarshal([]byte(text), &p.Status); err != nil {
			t.Fatal(err)
		}
		if err := c.Status().Patch(ctx, &p, client.MergeFrom(was)); err != nil {
			t.Fatal(err)
		}
	}
	foretell(7, true)

	// 2. The bridge, as an API of the cluster. The API server of tests has no
	// certificate to call with, so that it is nobody to the bridge.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- bridge.Run(ctx, bridge.Options{Kubeconfig: shared.Kubeconfig, Listener: l}) }()
	nobody := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:unauthenticated"}
	service := &unstructured.Unstructured{}
	unmarshal(t, fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.external.metrics.k8s.io}
spec: {group: external.metrics.k8s.io, version: v1beta1, groupPriorityMinimum: 100, versionPriority: 100, insecureSkipTLSVerify: true, service: {namespace: %s, name: bridge, port: %d}}
`, ns, l.Addr().(*net.TCPAddr).Port), &service.Object)
	for _, obj := range []client.Object{
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "bridge-test"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"external.metrics.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}},
			{NonResourceURLs: []string{"/apis", "/apis/*", "/openapi/*"}, Verbs: []string{"get"}},
		}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "bridge-test"}, Subjects: []rbacv1.Subject{nobody},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "bridge-test"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "bridge"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}},
		service,
	} {
		if err := c.Create(ctx, obj); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), obj) })
	}

	// 3. The HPA follows the forecast up, and back when it has no skill any more.
	replicas := func(want int32) {
		t.Helper()
		clustertest.Eventually(t, fmt.Sprintf("%d replicas", want), func() error {
			select {
			case err := <-served:
				t.Fatalf("the bridge ended: %v", err)
			default:
			}
			var d appsv1.Deployment
			if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "chat"}, &d); err != nil {
				return err
			}
			if *d.Spec.Replicas == want {
				return nil
			}
			var hpa autoscalingv2.HorizontalPodAutoscaler
			if err := c.Get(ctx, client.ObjectKey{Namespace: ns, Name: "chat"}, &hpa); err != nil {
				return err
			}
			return fmt.Errorf("there are %d; the HPA says %+v", *d.Spec.Replicas, hpa.Status.Conditions)
		})
	}
	replicas(7)
	foretell(7, false)
	replicas(2)

	// 4. It ends when it is told to.
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("the bridge ended with %v", err)
		}
	case <-time.After(clustertest.Patience):
		t.Error("the bridge does not end")
	}
}
