package kube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/host/agent/announcer"
	"github.com/neap-dev/neap/host/agent/gpuplugin"
	"github.com/neap-dev/neap/host/agent/memorywatcher"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fakekubelet"
)

// The whole command, with no more rights than the chart gives it, on the real API
// server: what it writes on the Node, what it hands out, and whom it evicts.
func TestAnAgentDoesWithItsRightsWhatItMust(t *testing.T) {
	shared, cfg := cluster(t)
	ns := clustertest.Namespace(t, shared)
	const user = "system:serviceaccount:neap-system:neap-agent"
	node := "agent-" + ns

	// 1. A machine, its kubelet, and the agent's rights.
	asScheduler := rest.CopyConfig(cfg) // who alone may say which GPU a pod has
	asScheduler.Impersonate = rest.ImpersonationConfig{UserName: "system:kube-scheduler", Groups: []string{"system:masters"}}
	c := newClient(t, asScheduler)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: node}, Rules: agent.Permissions}
	for _, o := range []client.Object{
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: corev1.NodeSpec{Unschedulable: true}},
		role,
		&rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: node},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: node},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}},
		},
		&v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: v1alpha1.GPUClassSpec{OnMemoryOverrun: v1alpha1.GPUEvict}},
	} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Delete(context.Background(), o) })
	}
	t.Cleanup(func() { // the auditor of other tests would find their machine gone
		_ = c.DeleteAllOf(context.Background(), &corev1.Pod{}, client.InNamespace(ns), client.GracePeriodSeconds(0))
	})
	dir, err := os.MkdirTemp("", "neap") // short, for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	kubelet, err := fakekubelet.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kubelet.Stop)
	gpus := device.NewFake("m", "Tesla T4", 16384, 16384)

	// 2. The command.
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData, CertificateAuthority: cfg.CAFile}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"u": {
			ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData, ClientCertificate: cfg.CertFile, ClientKey: cfg.KeyFile, Token: cfg.BearerToken,
			Impersonate: user, ImpersonateGroups: []string{"system:authenticated"},
		}},
		Contexts: map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}}, CurrentContext: "x",
	}, kubeconfig); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := l.Addr().String()
	l.Close()
	cmd := agent.NewCommand(func(string, string) device.Finder { return gpus })
	cmd.SetArgs([]string{
		"--node=" + node, "--kubeconfig=" + kubeconfig, "--kubelet-dir=" + dir, "--cdi-dir=" + filepath.Join(dir, "cdi"),
		"--root=" + dir, "--proc=" + filepath.Join(dir, "proc"), "--interval=1s", "--metrics-address=" + metrics,
	})
	cmd.SetErr(agentLog{t})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	// 3. The Node says what there is.
	until(t, func() error {
		got := new(corev1.Node)
		if err := c.Get(t.Context(), client.ObjectKey{Name: node}, got); err != nil {
			return err
		}
		devices, err := convert.GPUDevices(got)
		memory := got.Status.Capacity[v1alpha1.ResourceGPUMemory]
		says := map[corev1.NodeConditionType]corev1.ConditionStatus{}
		for _, c := range got.Status.Conditions {
			says[c.Type] = c.Status
		}
		if err != nil || len(devices) != 2 || got.Labels[v1alpha1.LabelGPUModel] != "Tesla-T4" || memory.Value() != 32768 ||
			says[announcer.HealthyCondition] != corev1.ConditionTrue || says[announcer.EnforcedCondition] != corev1.ConditionFalse {
			return fmt.Errorf("the node has %v, %v, %v, %v, %v", devices, err, got.Labels, memory.Value(), says)
		}
		return nil
	})
	wait, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	if err := kubelet.Await(wait, v1alpha1.ResourceGPUMilli, 2000, 2000); err != nil {
		t.Fatal(err)
	}

	// 4. A pod gets its GPU; one that no scheduler gave any gets an event.
	limits := corev1.ResourceList{v1alpha1.ResourceGPUMilli: *resource.NewQuantity(500, resource.DecimalSI)}
	start := func(name string, given bool) (*corev1.Pod, error) {
		t.Helper()
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, Annotations: map[string]string{v1alpha1.AnnotationGPUClass: node}},
			Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{
				Name: "a", Image: "a", Resources: corev1.ResourceRequirements{Limits: limits, Requests: limits},
			}}},
		}
		if given {
			p.Annotations[v1alpha1.AnnotationGPUAllocation] = convert.WriteGPUAllocation(v1alpha1.GPUAllocation{
				Node: node, Devices: []v1alpha1.GPUShare{{UUID: "GPU-m-1", Milli: 500, MemoryMiB: 4000}},
			})
		}
		if err := c.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := kubelet.Admit(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		_, err := kubelet.StartContainer(t.Context(), p.UID, "a")
		return p, err
	}
	p, err := start("chat", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := start("stray", false); err == nil || !strings.Contains(err.Error(), "no scheduler of Neap gave it a GPU") {
		t.Errorf("a pod of another scheduler: %v", err)
	}
	event := func(pod, reason string) func() error {
		return func() error {
			var list corev1.EventList
			if err := c.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
				return err
			}
			for _, e := range list.Items {
				if e.InvolvedObject.Name == pod && e.Reason == reason {
					return nil
				}
			}
			return fmt.Errorf("pod %s has no event %s among %d", pod, reason, len(list.Items))
		}
	}
	until(t, event("stray", gpuplugin.ReasonNotGranted))

	// 5. It takes more memory than it has, and goes.
	proc := filepath.Join(dir, "proc", "7")
	if err := errors.Join(os.MkdirAll(proc, 0o755), os.WriteFile(filepath.Join(proc, "cgroup"), []byte("0::/kubepods/pod"+string(p.UID)+"/x\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	gpus.Run(device.Process{PID: 7, UUID: "GPU-m-1", Memory: 5000 << 20})
	until(t, event("chat", memorywatcher.ReasonOverrun))
	until(t, func() error {
		switch err := c.Get(t.Context(), client.ObjectKeyFromObject(p), p); {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case p.DeletionTimestamp != nil:
			return nil
		}
		return errors.New("the pod is not evicted")
	})
	until(t, func() error {
		r, err := http.Get("http://" + metrics + "/metrics")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err == nil && !strings.Contains(string(body), `neap_gpu_memory_used_bytes{namespace=`) {
			err = fmt.Errorf("the metrics are %s", body)
		}
		return err
	})
}

// until fails the test unless ok holds at some time.
func until(t *testing.T, ok func() error) {
	t.Helper()
	for end := time.Now().Add(clustertest.Patience); ; time.Sleep(50 * time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// agentLog shows a program's log with the test's.
type agentLog struct{ t *testing.T }

func (l agentLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
