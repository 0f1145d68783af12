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
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/process"
	"github.com/neap-dev/neap/local/realnode"
)

// TestMain lets the test's own program be what runs in pods, and what is killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role := roles[os.Args[1]]; role != nil {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

var roles = map[string]func(args []string) error{
	"wait":  func([]string) error { select {} },
	"join":  joinAndWait,
	"serve": serve,
	"burn":  burn,
}

// program is an image of this test's own program.
func program(t *testing.T, n *realnode.Node) realnode.Image {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	image := realnode.Image{Name: "localhost/neap-test:local", Program: self}
	if err := n.Import(t.Context(), image); err != nil {
		t.Fatal(err)
	}
	return image
}

// joinAndWait makes this machine a node of a new cluster in a folder, says so, and
// waits to be killed.
func joinAndWait(args []string) error {
	bin, err := controlplane.FindBin()
	if err != nil {
		return err
	}
	c, err := controlplane.Start(context.Background(), controlplane.Options{Dir: args[0], BinDir: bin})
	if err != nil {
		return err
	}
	if _, err := realnode.Start(context.Background(), realnode.Options{Cluster: c, BinDir: bin}); err != nil {
		return err
	}
	fmt.Println("joined")
	select {}
}

// join makes this machine a node of a cluster of the test's own, and undoes it.
func join(t *testing.T) (*controlplane.Cluster, *realnode.Node, kubernetes.Interface) {
	t.Helper()
	need(t)
	bin, err := controlplane.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	c := clustertest.Own(t, controlplane.Options{})
	before := settings(t)
	n, err := realnode.Start(t.Context(), realnode.Options{Cluster: c, BinDir: bin, Log: t.Logf})
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
		if after := settings(t); after != before {
			t.Errorf("the machine was\n%s\nand is\n%s", before, after)
		}
	})
	return c, n, clustertest.Client(t, c)
}

// need skips the test where this machine cannot be a node, and waits while it is one
// already. In CI what is missing is a failure.
func need(t *testing.T) {
	t.Helper()
	clustertest.Need(t)
	bin, err := controlplane.FindBin()
	if err == nil {
		err = realnode.Check(bin)
	}
	if err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "this machine to be free", realnode.Sweep)
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

// real is a pod of the real node. It is said to be there: what places pods is tested
// in test/kube.
func real(name string, image realnode.Image, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeName:                      realnode.DefaultName,
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
	image := program(t, n)
	if _, err := client.CoreV1().Pods(ns).Create(t.Context(), real("try", image, "wait"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := running(t, client, ns, "try")
	if pod.Status.PodIP == "" || pod.Spec.NodeName != n.Name {
		t.Errorf("the pod has the address %q on %q, want one on %s", pod.Status.PodIP, pod.Spec.NodeName, n.Name)
	}
	// A second one is refused, and disturbs nothing.
	bin, err := controlplane.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := realnode.Start(t.Context(), realnode.Options{Cluster: c, BinDir: bin}); !errors.Is(err, realnode.ErrInUse) {
		t.Errorf("a second node on one machine: %v", err)
	}
	if err := realnode.Sweep(); !errors.Is(err, realnode.ErrInUse) {
		t.Errorf("a sweep beside a node that runs: %v", err)
	}
}

func TestANodeThatWasKilledIsSweptAway(t *testing.T) {
	need(t)
	before := settings(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	said := make(chan string, 16)
	p, err := process.Start(process.Options{
		Path: self, Args: []string{"join", dir}, LogFile: filepath.Join(dir, "join.log"), Line: func(line string) { said <- line },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if err := realnode.Sweep(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-said:
	case <-p.Done():
		t.Fatalf("it did not join: %v\n%s", p.Err(), tail(filepath.Join(dir, "join.log")))
	case <-time.After(clustertest.Patience):
		t.Fatal("it did not join in time")
	}
	client, err := kubernetes.NewForConfig(admin(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	pod := real("try", realnode.Image{Name: "localhost/neap-pause:local"})
	clustertest.Eventually(t, "a pod to be made", func() error {
		_, err := client.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		return err
	})
	running(t, client, "default", "try")

	p.Kill() // kill -9
	if len(remains()) == 0 {
		t.Error("nothing is left of a node that was killed: this test does not test")
	}
	clustertest.Eventually(t, "the sweep", realnode.Sweep)
	for _, what := range remains() {
		t.Errorf("the sweep left %s", what)
	}
	if after := settings(t); after != before {
		t.Errorf("the machine was\n%s\nand is\n%s", before, after)
	}
}

// settings are what the kubelet changes of its machine.
func settings(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward"} {
		b, err := os.ReadFile("/proc/sys/" + name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s %s", name, b)
	}
	for _, dir := range []string{"/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers"} {
		_, err := os.Stat(dir)
		fmt.Fprintf(&all, "%s %v\n", dir, err == nil)
	}
	return all.String()
}

func admin(t *testing.T, dir string) *rest.Config {
	t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", filepath.Join(dir, "kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}
