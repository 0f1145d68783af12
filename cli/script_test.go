package cli_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/cli"
	"github.com/neap-dev/neap/kube/observe/observetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"neap": func() { os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

// TestScripts runs the scripts in testdata/script: commands as a user types
// them, in an empty folder with an empty home.
func TestScripts(t *testing.T) {
	shop := cluster(t)
	forbidden := cluster(t)
	forbidden.Forbidden["pods"] = true
	over := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	t.Cleanup(silent.Close)
	t.Cleanup(func() { close(over) })
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of memory", http.StatusInternalServerError)
	}))
	t.Cleanup(broken.Close)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_STATE_HOME", "")
			env.Setenv("KUBECONFIG", "")
			env.Setenv("TZ", "UTC")
			env.Setenv("PROM_SILENT", silent.URL)
			env.Setenv("PROM_BROKEN", broken.URL)
			for name, kubeconfig := range map[string]string{
				"KUBE": shop.Kubeconfig(), "KUBE_FORBIDDEN": forbidden.Kubeconfig(), "KUBE_SILENT": strings.ReplaceAll(shop.Kubeconfig(), shop.URL, silent.URL),
			} {
				path := filepath.Join(env.WorkDir, name+".kubeconfig")
				if err := os.WriteFile(path, []byte(kubeconfig), 0o600); err != nil {
					return err
				}
				env.Setenv(name, path)
			}
			return nil
		},
	})
}

// cluster returns a fake API server with two machines and a Deployment of two
// pods, all ten days old.
func cluster(t *testing.T) *observetest.Server {
	s := observetest.New(t)
	born := time.Now().AddDate(0, 0, -10)
	s.Nodes = []corev1.Node{observetest.Node("n1", "big.8", born), observetest.Node("n2", "big.8", born)}
	s.Pods = []corev1.Pod{
		observetest.Pod("shop", "cart-1", "cart", "n1", born, "2", "4Gi"),
		observetest.Pod("shop", "cart-2", "cart", "n2", born, "2", "4Gi"),
	}
	s.ReplicaSets = []metav1.PartialObjectMetadata{observetest.ReplicaSet("shop", "cart")}
	return s
}
