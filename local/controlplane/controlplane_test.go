package controlplane_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// doomed makes the test binary start a control plane in the directory that the
// variable names, say the process ids, and wait to be killed.
const doomed = "NEAP_CONTROLPLANE_TEST_DOOMED"

func TestMain(m *testing.M) {
	if dir := os.Getenv(doomed); dir != "" {
		c, err := controlplane.Start(context.Background(), controlplane.Options{Dir: dir})
		if err == nil {
			_, err = c.StartScheduler(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready", c.PID(), c.SchedulerPID())
		select {}
	}
	clustertest.Main(m)
}

func TestKilledParentLeavesNothingRunning(t *testing.T) {
	clustertest.Need(t)
	dir := t.TempDir()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), doomed+"="+dir)
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n') // nothing: seen below
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait() // it says that it was killed
	var cluster, scheduler int
	if _, err := fmt.Sscanf(line, "ready %d %d", &cluster, &scheduler); err != nil {
		t.Fatalf("the parent said %q", line)
	}
	for _, pid := range []int{cluster, scheduler} {
		clustertest.Eventually(t, fmt.Sprintf("the end of process %d", pid), func() error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if errors.Is(err, fs.ErrNotExist) || strings.Contains(string(stat), ") Z ") {
				return nil
			}
			return errors.New("it runs on")
		})
	}
	clustertest.Own(t, controlplane.Options{Dir: dir}) // and the directory is free
}

func TestStartIsQuickAndSmall(t *testing.T) {
	c := clustertest.Start(t)
	mib, err := c.ResidentMiB()
	if err != nil {
		t.Fatal(err)
	}
	// Bars belong to the bench, on a machine that is idle; here is no limit
	// that a slow machine could break.
	t.Logf("ready in %.1f s, %.0f MiB resident", c.ReadyIn.Seconds(), mib)
	version, err := clustertest.Client(t, c).Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(version.GitVersion, "v1.36.") {
		t.Errorf("the API server calls itself %s, want v1.36.x: was neap-cluster built without hack/build.sh?", version.GitVersion)
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	c := clustertest.Start(t)
	admin, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	nobody := &rest.Config{Host: admin.Host, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData}}
	stranger, err := c.ConfigFor("stranger", "passers-by")
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := c.ConfigOf("fleet")
	if err != nil {
		t.Fatal(err)
	}
	observer, err := c.ConfigOf("observer")
	if err != nil {
		t.Fatal(err)
	}
	listNodes := func(c kubernetes.Interface) error {
		_, err := c.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return err
	}
	listSecrets := func(c kubernetes.Interface) error {
		_, err := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
		return err
	}
	createNode := func(c kubernetes.Interface) error {
		_, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "made-by-test"}},
			metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	cases := map[string]struct {
		who  *rest.Config
		do   func(kubernetes.Interface) error
		want func(error) bool
	}{
		"without a certificate nothing is listed":     {nobody, listNodes, apierrors.IsUnauthorized},
		"a user without a role is forbidden":          {stranger, listNodes, apierrors.IsForbidden},
		"the administrator may":                       {admin, listSecrets, isNil},
		"the fleet makes machines":                    {fleet, createNode, isNil},
		"the fleet reads no secrets":                  {fleet, listSecrets, apierrors.IsForbidden},
		"an observer reads machines":                  {observer, listNodes, isNil},
		"an observer makes none":                      {observer, createNode, apierrors.IsForbidden},
		"an observer reads no secrets":                {observer, listSecrets, apierrors.IsForbidden},
		"without a certificate there is no discovery": {nobody, func(c kubernetes.Interface) error { _, err := c.Discovery().ServerVersion(); return err }, apierrors.IsUnauthorized},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			client, err := kubernetes.NewForConfig(tc.who)
			if err != nil {
				t.Fatal(err)
			}
			if err := tc.do(client); !tc.want(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("a certificate of another authority is refused", func(t *testing.T) {
		other := clustertest.Own(t, controlplane.Options{})
		cfg, err := other.RESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Host, cfg.CAData = admin.Host, admin.CAData
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := listNodes(client); !apierrors.IsUnauthorized(err) {
			t.Errorf("got %v", err)
		}
	})
}

func isNil(err error) bool { return err == nil }

func TestEverythingOnDiskIsPrivate(t *testing.T) {
	c := clustertest.Start(t)
	err := filepath.WalkDir(string(c.Dir), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // etcd's temporary files come and go
				return nil
			}
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		if mode := info.Mode(); mode.Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, mode)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	c := clustertest.Scheduler(t)
	for name, pid := range map[string]int{"neap-cluster": c.PID(), "neap-scheduler": c.SchedulerPID()} {
		ports := listening(t, pid)
		if len(ports) != 1 || !strings.HasPrefix(ports[0], "0100007F:") { // 127.0.0.1, as /proc writes it
			t.Errorf("%s listens on %v, want one port of 127.0.0.1 and nothing else", name, ports)
		}
	}
}

func TestDeploymentBecomesPodsOnMachines(t *testing.T) {
	c := clustertest.Scheduler(t)
	client, ns := clustertest.Client(t, c), clustertest.Namespace(t, c)
	makeNode(t, client, "machine-"+ns)
	d := deployment("web", 3)
	if _, err := client.AppsV1().Deployments(ns).Create(t.Context(), d, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "three pods on a machine", func() error {
		pods, err := client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		bound := 0
		for _, p := range pods.Items {
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		if bound != 3 {
			return fmt.Errorf("%d of %d pods have a machine", bound, len(pods.Items))
		}
		return nil
	})
}

func TestSchedulerPrefersThePoolThatComesFirst(t *testing.T) {
	c := clustertest.Scheduler(t)
	client, ns := clustertest.Client(t, c), clustertest.Namespace(t, c)
	const label = "test.neap.dev/for"
	for i, order := range []string{"2", "0", "1"} {
		makeNode(t, client, fmt.Sprintf("pool-%s-%d-%s", order, i, ns), label, ns, "neap.dev/pool-order", order)
	}
	for i := range 3 {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)},
			Spec:       deployment("web", 1).Spec.Template.Spec,
		}
		pod.Spec.NodeSelector = map[string]string{label: ns}
		if _, err := client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		clustertest.Eventually(t, "a machine for "+pod.Name, func() error {
			pod, err := client.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{})
			if err == nil && pod.Spec.NodeName == "" {
				err = errors.New("it has none")
			}
			if err == nil && !strings.HasPrefix(pod.Spec.NodeName, "pool-0-") {
				t.Errorf("%s went to %s, want the pool with order 0", pod.Name, pod.Spec.NodeName)
			}
			return err
		})
	}
}

func TestKillLosesNothingAcknowledged(t *testing.T) {
	clustertest.Need(t)
	dir := t.TempDir()
	c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	client := clustertest.Client(t, c)

	// Write from many sides at once, and pull the plug in the middle of it.
	const writers, enough = 8, 400
	var (
		mu    sync.Mutex
		acked = map[string]bool{}
		wg    sync.WaitGroup
		plug  = make(chan struct{})
	)
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("written-%d-%d", w, i)
				_, err := client.CoreV1().ConfigMaps("default").Create(context.Background(),
					&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
				if err != nil {
					return // the plug is pulled; this one was never acknowledged
				}
				mu.Lock()
				acked[name] = true
				if len(acked) == enough {
					close(plug)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-plug:
	case <-time.After(clustertest.Patience):
		t.Error("writes take for ever")
	}
	c.Kill()
	wg.Wait()

	again := clustertest.Own(t, controlplane.Options{Dir: dir})
	if again.URL != c.URL {
		t.Errorf("the API server moved from %s to %s: kubeconfigs in use are broken", c.URL, again.URL)
	}
	list, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, cm := range list.Items {
		have[cm.Name] = true
	}
	for name := range acked {
		if !have[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	t.Logf("%d writes were acknowledged, %d objects are there", len(acked), len(have))
}

func TestSecondStartOnTheSameDirectoryIsRefused(t *testing.T) {
	c := clustertest.Start(t)
	_, err := controlplane.Start(t.Context(), controlplane.Options{Dir: string(c.Dir)})
	if !errors.Is(err, controlplane.ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
	if want := fmt.Sprintf("process %d runs a cluster in %s", c.PID(), c.Dir); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
	if _, err := clustertest.Client(t, c).Discovery().ServerVersion(); err != nil {
		t.Errorf("the running cluster was disturbed: %v", err)
	}
}

func TestPortInUseIsNamed(t *testing.T) {
	c := clustertest.Start(t)
	var port int
	if _, err := fmt.Sscanf(c.URL, "https://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	_, err := controlplane.Start(t.Context(), controlplane.Options{Dir: t.TempDir(), Port: port})
	if !errors.Is(err, controlplane.ErrPort) || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("got %v, want ErrPort that names %d", err, port)
	}
}

func TestMissingBinarySaysWhatToDo(t *testing.T) {
	_, err := controlplane.Start(t.Context(), controlplane.Options{Dir: t.TempDir(), BinDir: t.TempDir()})
	if !errors.Is(err, controlplane.ErrMissing) || !strings.Contains(err.Error(), "make build") {
		t.Errorf("got %v, want ErrMissing that names `make build`", err)
	}
}

func TestCorruptStateIsNamedAndKept(t *testing.T) {
	clustertest.Need(t)
	dir := t.TempDir()
	c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(c.Dir.Etcd(), "member", "snap", "db")
	c.Kill()
	nonsense := []byte(strings.Repeat("nonsense", 1<<13))
	cases := map[string]string{
		"the database": db,
		"the write-ahead log": func() string {
			logs, err := filepath.Glob(filepath.Join(c.Dir.Etcd(), "member", "wal", "*-*.wal"))
			if err != nil || len(logs) == 0 {
				t.Fatalf("no write-ahead log: %v", err)
			}
			return logs[0]
		}(),
	}
	for name, path := range cases {
		t.Run(name, func(t *testing.T) {
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			torn := append(append([]byte{}, nonsense...), whole[min(len(nonsense), len(whole)):]...)
			if err := os.WriteFile(path, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err = controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
			if !errors.Is(err, controlplane.ErrCorrupt) || strings.Contains(fmt.Sprint(err), "goroutine") {
				t.Errorf("got %v, want ErrCorrupt and no stack", err)
			}
			if st, err := os.Stat(path); err != nil || st.Size() == 0 {
				t.Errorf("the file was not left as it is: %v", err)
			}
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	clustertest.Own(t, controlplane.Options{Dir: dir}) // and with the copy back, it runs
}

func TestStopLeavesNothingRunning(t *testing.T) {
	clustertest.Need(t)
	c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	scheduled, err := c.StartScheduler(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	<-scheduled
	if err := c.Err(); err != nil {
		t.Errorf("a stop that was asked for says %v", err)
	}
	if err := syscall.Kill(c.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d: %v", c.PID(), err)
	}
	if _, err := http.Get(strings.Replace(c.URL, "https", "http", 1)); err == nil {
		t.Errorf("%s still answers", c.URL)
	}
	if err := c.Stop(ctx); err != nil {
		t.Errorf("stopping twice: %v", err)
	}
}

func TestSIGTERMStopsTheControlPlane(t *testing.T) {
	clustertest.Need(t)
	c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(c.PID(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Done():
	case <-time.After(clustertest.Patience):
		c.Kill()
		t.Fatal("it runs on")
	}
	if err := c.Err(); err != nil {
		t.Errorf("a stop that was asked for says %v", err)
	}
}

// deployment is the smallest one that a scheduler has work with.
func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{
					Name: name, Image: "simulated",
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
				}}},
			},
		},
	}
}

// makeNode makes a machine that says it is ready, as a kubelet would, with
// labels given as key, value.
func makeNode(t *testing.T, client kubernetes.Interface, name string, labels ...string) {
	t.Helper()
	meta := metav1.ObjectMeta{Name: name, Labels: map[string]string{}}
	for i := 0; i < len(labels); i += 2 {
		meta.Labels[labels[i]] = labels[i+1]
	}
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Logf("delete machine: %v", err)
		}
	})
	clustertest.Eventually(t, "the machine's status", func() error {
		node, err = client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		node.Status.Capacity, node.Status.Allocatable = capacity, capacity
		node.Status.Conditions = []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		}}
		_, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	// A machine is born tainted "not ready"; until a controller takes that away,
	// pods go elsewhere.
	clustertest.Eventually(t, "the machine open to pods", func() error {
		node, err = client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err == nil && len(node.Spec.Taints) > 0 {
			err = fmt.Errorf("%s has the taints %v", name, node.Spec.Taints)
		}
		return err
	})
}
