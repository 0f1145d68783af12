package realnode

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/realnode"
)

// join makes this machine a node of a cluster of the test's own, and undoes it.
func join(t *testing.T) (*controlplane.Cluster, *realnode.Node, kubernetes.Interface) {
	t.Helper()
	clustertest.Need(t)
	bin, err := controlplane.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	c := clustertest.Own(t, controlplane.Options{})
	if _, err := c.StartScheduler(t.Context()); err != nil {
		t.Fatal(err)
	}
	var n *realnode.Node
	for {
		n, err = realnode.Start(t.Context(), realnode.Options{Cluster: c, BinDir: bin, Log: t.Logf})
		if !errors.Is(err, realnode.ErrInUse) {
			break
		}
		time.Sleep(time.Second) // somebody else's; the test's own deadline ends this
	}
	if errors.Is(err, realnode.ErrMissing) || os.Geteuid() != 0 {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(c.Dir.Log("kubelet")))
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, log := range []string{"kubelet", "containerd"} {
				t.Logf("%s:\n%s", log, tail(c.Dir.Log(log)))
			}
		}
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		for _, what := range remains() {
			t.Errorf("the node left %s", what)
		}
	})
	return c, n, clustertest.Client(t, c)
}

// tail returns the end of a log.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// remains lists what a node has left on this machine.
func remains() []string {
	var found []string
	for _, pattern := range []string{
		"/run/neap-node", "/var/lib/neap-node", "/sys/fs/cgroup/neap-node", "/sys/fs/cgroup/*/neap-node",
		"/sys/class/net/neap-node*", "/proc/sys/net/ipv4/conf/neap-node*",
	} {
		paths, _ := filepath.Glob(pattern)
		found = append(found, paths...)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/neap-node") {
			found = append(found, "the mount "+line)
		}
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range programs {
		b, _ := os.ReadFile(p)
		if strings.Contains(string(b), "/run/neap-node") {
			found = append(found, "the process "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// real is a pod that comes to the real node.
func real(name string, image realnode.Image, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{realnode.LabelReal: "true"},
			Tolerations:                   []corev1.Toleration{{Key: realnode.LabelReal, Operator: corev1.TolerationOpExists}},
			TerminationGracePeriodSeconds: new(int64(1)),
			Containers:                    []corev1.Container{{Name: "main", Image: image.Name, ImagePullPolicy: corev1.PullNever, Args: args}},
		},
	}
}

func running(t *testing.T, client kubernetes.Interface, ns, name string) *corev1.Pod {
	t.Helper()
	var pod *corev1.Pod
	clustertest.Eventually(t, "the pod "+name+" to run", func() (err error) {
		if pod, err = client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if pod.Status.Phase != corev1.PodRunning {
			return fmt.Errorf("it is %s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
		}
		return nil
	})
	return pod
}

func TestAPodRunsOnThisMachine(t *testing.T) {
	c, n, client := join(t)
	ns := clustertest.Namespace(t, c)
	bin, err := controlplane.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	image := realnode.Image{Name: "localhost/neap-try:local", Program: filepath.Join(bin, "neap-pause")}
	if err := n.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), real("try", image), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := running(t, client, ns, "try")
	if pod.Status.PodIP == "" || pod.Spec.NodeName != n.Name {
		t.Errorf("the pod has the address %q on %q, want one on %s", pod.Status.PodIP, pod.Spec.NodeName, n.Name)
	}
}
