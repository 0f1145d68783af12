package player

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/scenario"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// book is a ledger and a memory that lasts as long as the test.
type book struct {
	mu    sync.Mutex
	rows  []bill.Decision
	ids   map[string]bool
	state map[string]string
}

func newBook() *book { return &book{ids: map[string]bool{}, state: map[string]string{}} }

func (b *book) AppendDecision(_ context.Context, d bill.Decision) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ids[d.ID] {
		b.ids[d.ID] = true
		b.rows = append(b.rows, d)
	}
	return nil
}

func (b *book) SetState(_ context.Context, k, v string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state[k] = v
	return nil
}

func (b *book) State(_ context.Context, k string) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state[k], nil
}

func (b *book) actions() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, d := range b.rows {
		out = append(out, d.Action+" "+d.Subject)
	}
	return out
}

func applyCRDs(t *testing.T, c *controlplane.Cluster) {
	t.Helper()
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	ext, err := apiextensionsclient.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	crds, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		if _, err := ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, crd := range crds {
		clustertest.Eventually(t, crd.Name, func() error {
			got, err := ext.ApiextensionsV1().CustomResourceDefinitions().Get(t.Context(), crd.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, cond := range got.Status.Conditions {
				if cond.Type == "Established" && cond.Status == "True" {
					return nil
				}
			}
			return fmt.Errorf("not established")
		})
	}
}

// theatre is a cluster with a fleet and a player in it.
type theatre struct {
	client  kubernetes.Interface
	day     *clock.Clock
	player  *Player
	factory informers.SharedInformerFactory
	stop    func()
}

func open(t *testing.T, c *controlplane.Cluster, s *scenario.Scenario, clockFile string, b *book, speed float64) *theatre {
	t.Helper()
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	crds, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	day, err := clock.Open(clockFile, clock.Options{Start: s.Start, Speed: speed, Held: true})
	if err != nil {
		t.Fatal(err)
	}
	th := &theatre{client: clustertest.Client(t, c), day: day}
	th.factory = informers.NewSharedInformerFactory(th.client, 0)
	f := fleet.New(fleet.Options{Scenario: s, Clock: day})
	th.player, err = New(Options{Scenario: s, Clock: day, Client: th.client, CRDs: crds, Informers: th.factory, Ledger: b, Memory: b, Fleet: f,
		Problem: func(err error) { t.Log(err) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := fleet.StartLifecycle(ctx, fleet.LifecycleOptions{Client: th.client, REST: th.client.CoreV1().RESTClient(), Day: day, Durations: f.Durations()})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Watch(th.factory, l); err != nil {
		t.Fatal(err)
	}
	th.factory.Start(ctx.Done())
	th.factory.WaitForCacheSync(ctx.Done())
	if err := th.player.Setup(ctx); err != nil {
		t.Fatal(err)
	}
	day.Resume()
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.Run(ctx) })
	wg.Go(func() { _ = th.player.Run(ctx) })
	th.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		th.factory.Shutdown()
		l.Close()
		if err := day.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(th.stop)
	return th
}

// running counts the ready pods of a module, and what they ask for.
func (th *theatre) running(namespace, name string) (n int, cpu string) {
	pods, err := th.factory.Core().V1().Pods().Lister().Pods(namespace).List(labels.SelectorFromSet(labels.Set{fleet.ModuleLabel: name}))
	if err != nil {
		return -1, ""
	}
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				n++
				cpu = p.Spec.Containers[0].Resources.Requests.Cpu().String()
			}
		}
	}
	return n, cpu
}

func (th *theatre) eventually(t *testing.T, namespace, name string, want int) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("%d ready pods of %s/%s", want, namespace, name), func() error {
		if n, _ := th.running(namespace, name); n != want {
			return fmt.Errorf("there are %d at %v", n, th.day.Now())
		}
		return nil
	})
}

func TestTheSmallScenarioPlaysInARealCluster(t *testing.T) {
	c := clustertest.Scheduler(t)
	applyCRDs(t, c)
	s, err := scenario.Load("small", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b := newBook()
	clockFile := filepath.Join(t.TempDir(), "clock.json")

	// 1. From nothing to a running school.
	th := open(t, c, s, clockFile, b, 60)
	th.eventually(t, "homework", "feed", 24)
	th.eventually(t, "pay", "shop", 16)
	th.eventually(t, "ai", "ocr", 2)
	if got := b.actions(); !slices.Contains(got, "begin small") {
		t.Errorf("the ledger has %v", got)
	}

	// 2. The schedule steps at 17:30, an event buys a machine at 18:00.
	th.day.SetSpeed(600)
	th.eventually(t, "homework", "api", 36)
	clustertest.Eventually(t, "eight machines and a virtual one", func() error {
		nodes, err := th.factory.Core().V1().Nodes().Lister().List(labels.Everything())
		if err == nil && len(nodes) != 9 {
			err = fmt.Errorf("there are %d", len(nodes))
		}
		return err
	})
	clustertest.Eventually(t, "jobs that are done", func() error {
		jobs, err := th.client.BatchV1().Jobs("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, j := range jobs.Items {
			if j.Status.Succeeded > 0 {
				return nil
			}
		}
		return fmt.Errorf("none of %d is", len(jobs.Items))
	})

	// 3. Stopped over a deploy and a resize, it makes up for them.
	th.stop()
	day, err := clock.Open(clockFile, clock.Options{Speed: 3600 * 3600})
	if err != nil {
		t.Fatal(err)
	}
	for day.Now().Before(s.Start.Add(4*time.Hour + 30*time.Minute)) {
	}
	if err := day.Close(); err != nil {
		t.Fatal(err)
	}
	th = open(t, c, s, clockFile, b, 60)
	clustertest.Eventually(t, "the resized pods of the shop", func() error {
		n, cpu := th.running("pay", "shop")
		if n != 16 || cpu != "400m" {
			return fmt.Errorf("%d pods ask for %s", n, cpu)
		}
		return nil
	})
	d, err := th.client.AppsV1().Deployments("homework").Get(t.Context(), "feed", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if v := d.Spec.Template.Annotations[VersionAnnotation]; v != "2" {
		t.Errorf("version %s of the feed is deployed, want 2", v)
	}
	th.eventually(t, "homework", "feed", 24)
	for _, row := range b.rows {
		if row.Outcome != "done" || row.Reason == "" || row.Actor != "scenario" {
			t.Errorf("a row of the ledger is %+v", row)
		}
	}
	if !slices.Contains(b.actions(), "buy general") || !slices.Contains(b.actions(), "scale homework/Deployment/api") {
		t.Errorf("the ledger has %v", b.actions())
	}
}
