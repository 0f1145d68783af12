package observe_test

import (
	"context"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/kube/observe/observetest"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// TestRealCluster reads a real API server as a user who may do nothing but what
// the ForbiddenErrors ask for, one rule at a time.
func TestRealCluster(t *testing.T) {
	c := clustertest.Start(t)
	client := clustertest.Client(t, c)
	ns := clustertest.Namespace(t, c)
	ctx := t.Context()

	node := observetest.Node("", "big.8", time.Time{})
	node.GenerateName = "real-"
	status := node.Status
	made, err := client.CoreV1().Nodes().Create(ctx, &node, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.CoreV1().Nodes().Delete(context.Background(), made.Name, metav1.DeleteOptions{}) })
	clustertest.Eventually(t, "the node's status", func() error {
		n, err := client.CoreV1().Nodes().Get(ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.Capacity, n.Status.Allocatable = status.Capacity, status.Allocatable
		_, err = client.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		return err
	})
	deploy(t, client, ns, made.Name)

	cfg, err := c.ConfigFor("jane")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Add(2 * time.Second).UTC()
	read := func() (snapshot, error) {
		return readAll(ctx, observe.Options{Config: cfg, From: now.Add(-time.Hour), To: now, Now: now})
	}

	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "jane-"}}
	if role, err = client.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{GenerateName: "jane-"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}}}
	if _, err = client.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	// Every refusal names the rule that takes the reader one step further.
	asked := 0
	var snap snapshot
	clustertest.Eventually(t, "all the rights that are asked for", func() error {
		var err error
		snap, err = read()
		var f *observe.ForbiddenError
		if errors.As(err, &f) {
			if f.User != "jane" {
				t.Errorf("the user is called %q", f.User)
			}
			role.Rules = append(role.Rules, rbacv1.PolicyRule{APIGroups: []string{f.Group}, Resources: []string{f.Resource}, Verbs: []string{f.Verb}})
			role, _ = client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{})
			asked++
		}
		return err
	})
	if asked < 2 {
		t.Errorf("%d rules were asked for, want at least nodes and pods", asked)
	}
	if !hasNote(snap, `resources: ["replicasets"]`) {
		t.Errorf("no note asks for replicasets: %q", snap.Notes)
	}
	found := false
	for _, f := range closeAll(t, snap) {
		r, err := bill.Summarise([]bill.Facts{f}, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.UnexplainedNano != 0 {
			t.Errorf("unexplained %s", r.UnexplainedNano)
		}
		for _, l := range r.Lines {
			found = found || l.Key == ns+"/Deployment/web"
		}
	}
	if !found {
		t.Errorf("the bill lacks %s/Deployment/web", ns)
	}
}

// deploy makes a Deployment of one pod and binds the pod to a node.
func deploy(t *testing.T, client kubernetes.Interface, ns, node string) {
	t.Helper()
	ctx := t.Context()
	labels := map[string]string{"app": "web"}
	one := int32(1)
	_, err := client.AppsV1().Deployments(ns).Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web",
					Resources: corev1.ResourceRequirements{Requests: observetest.Resources("1", "1Gi")}}}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the Deployment's pod to be bound", func() error {
		pods, err := client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errors.New("there is no pod yet")
		}
		if pods.Items[0].Spec.NodeName != "" {
			return nil
		}
		return client.CoreV1().Pods(ns).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pods.Items[0].Name},
			Target:     corev1.ObjectReference{Kind: "Node", Name: node},
		}, metav1.CreateOptions{})
	})
}
