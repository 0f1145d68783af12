// Package clustertest gives tests a real control plane: etcd, kube-apiserver,
// kube-controller-manager, and the scheduler where asked.
//
// It takes some three seconds to start, so the tests of one binary share one,
// each in a namespace of its own:
//
//	func TestMain(m *testing.M) { clustertest.Main(m) }
//
//	func TestX(t *testing.T) {
//		c := clustertest.Start(t)
//		ns := clustertest.Namespace(t, c)
//
// Where the binaries are not built, a test is skipped with the reason; where
// CI is set, it fails.
package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/neap-dev/neap/local/controlplane"
)

// Patience is how long a test waits for something that a working cluster does
// in well under a second: long, because a machine that is slow is no failure.
const Patience = 2 * time.Minute

var shared struct {
	sync.Mutex
	main      bool // Main runs, and will stop it
	dir       string
	cluster   *controlplane.Cluster
	err       error
	scheduler bool
}

// Main runs the tests and then stops the shared cluster, if one was started.
// Call it from TestMain; it does not return.
func Main(m *testing.M) {
	shared.main = true
	code := m.Run()
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster != nil {
		if err := stop(shared.cluster); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir) // best effort: it lies in the system's temporary folder
	}
	os.Exit(code)
}

// Start returns the cluster that all tests of this binary share. It has no
// machines and no scheduler; see [Scheduler].
func Start(t testing.TB) *controlplane.Cluster {
	t.Helper()
	Need(t)
	shared.Lock()
	defer shared.Unlock()
	if !shared.main {
		t.Fatal("clustertest.Start needs: func TestMain(m *testing.M) { clustertest.Main(m) }")
	}
	if shared.cluster == nil && shared.err == nil {
		if shared.dir, shared.err = os.MkdirTemp("", "neap-clustertest-"); shared.err == nil {
			shared.cluster, shared.err = controlplane.Start(context.Background(), controlplane.Options{Dir: shared.dir})
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.cluster
}

// Scheduler starts the scheduler of the shared cluster, unless it runs.
func Scheduler(t testing.TB) *controlplane.Cluster {
	t.Helper()
	c := Start(t)
	shared.Lock()
	defer shared.Unlock()
	if !shared.scheduler {
		if _, err := c.StartScheduler(context.Background()); err != nil {
			t.Fatal(err)
		}
		shared.scheduler = true
	}
	return c
}

// Own starts a cluster for this test alone, in its own directory unless o
// names one, and stops it when the test ends.
func Own(t testing.TB, o controlplane.Options) *controlplane.Cluster {
	t.Helper()
	Need(t)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	c, err := controlplane.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(c); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Need skips the test where no control plane is built, and in short runs. In
// CI a missing control plane is a failure.
func Need(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a control plane, and -short was given")
	}
	if _, err := controlplane.FindBin(); err != nil {
		if os.Getenv("CI") != "" || !errors.Is(err, controlplane.ErrMissing) {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// Client speaks to the cluster as its administrator.
func Client(t testing.TB, c *controlplane.Cluster) kubernetes.Interface {
	t.Helper()
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Namespace makes a namespace for the test, ready for pods, and asks for its
// deletion when the test ends.
func Namespace(t testing.TB, c *controlplane.Cluster) string {
	t.Helper()
	client := Client(t, c)
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not waited for: the cluster goes away soon after.
		if err := client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Logf("delete namespace %s: %v", ns.Name, err)
		}
	})
	Eventually(t, "the default service account of "+ns.Name, func() error {
		_, err := client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// Eventually calls try until it returns nil, and fails the test with its last
// error when [Patience] has run out.
func Eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.Now().Add(Patience)
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s: %v", Patience, what, err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("wait for %s: %v", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func stop(c *controlplane.Cluster) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return c.Stop(ctx)
}
