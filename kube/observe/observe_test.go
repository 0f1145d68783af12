package observe_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"crypto/ecdsa"
	"crypto/elliptic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/kube/observe/observetest"
)

var now = time.Date(2026, 3, 4, 15, 30, 0, 0, time.UTC)

// shop is a cluster of two machines for ten days, with a Deployment of two pods.
func shop(t *testing.T) *observetest.Server {
	s := observetest.New(t)
	born := now.AddDate(0, 0, -10)
	s.Nodes = []corev1.Node{observetest.Node("n1", "big.8", born), observetest.Node("n2", "big.8", born)}
	s.Pods = []corev1.Pod{
		observetest.Pod("shop", "cart-1", "cart", "n1", born, "2", "4Gi"),
		observetest.Pod("shop", "cart-2", "cart", "n2", now.Add(-30*time.Minute), "2", "4Gi"),
	}
	s.ReplicaSets = []metav1.PartialObjectMetadata{observetest.ReplicaSet("shop", "cart")}
	return s
}

func options(s *observetest.Server) observe.Options {
	if s == nil {
		s = &observetest.Server{Server: &httptest.Server{}}
	}
	return observe.Options{
		Config: &rest.Config{Host: s.URL}, From: now.Add(-2 * time.Hour), To: now, Now: now,
		Types: []machine.Type{{Name: "big.8", List: 384_000_000, Currency: "USD"}},
	}
}

// A snapshot is one with its hours.
type snapshot struct {
	*observe.Snapshot
	hours []bill.Hour
}

func readAll(ctx context.Context, opts observe.Options) (snapshot, error) {
	s, err := observe.Cluster(ctx, opts)
	if err != nil {
		return snapshot{}, err
	}
	all := snapshot{Snapshot: s}
	return all, s.EachHour(ctx, func(h bill.Hour) error {
		all.hours = append(all.hours, h)
		return nil
	})
}

func closeAll(t *testing.T, s snapshot) []bill.Facts {
	t.Helper()
	var all []bill.Facts
	for _, h := range s.hours {
		f, err := bill.Close(h, s.Book, bill.Options{})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, f)
	}
	return all
}

func TestCluster(t *testing.T) {
	t.Run("a live cluster becomes hours that close to the last unit", func(t *testing.T) {
		s := shop(t)
		job := observetest.Pod("shop", "report", "report", "n1", now.Add(-50*time.Minute), "1", "1Gi")
		observetest.Finish(&job, now.Add(-50*time.Minute+30*time.Second))
		s.Pods = append(s.Pods, job)
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		if len(snap.hours) != 3 { // 13:30, 14:00, 15:00
			t.Errorf("the window is cut into %d hours, want 3", len(snap.hours))
		}
		facts := closeAll(t, snap)
		r, err := bill.Summarise(facts, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := 4 * money.Amount(384_000_000); r.BillNano != want {
			t.Errorf("the bill is %s, want %s: two machines for two hours", r.BillNano, want)
		}
		sum := r.AllocatedNano
		for _, a := range r.IdleNano {
			sum += a
		}
		if sum != r.BillNano || r.UnexplainedNano != 0 {
			t.Errorf("used and idle are %s of %s, unexplained %s", sum, r.BillNano, r.UnexplainedNano)
		}
		if !slices.ContainsFunc(r.Lines, func(l bill.Line) bool { return l.Key == "shop/Deployment/cart" }) {
			t.Errorf("the lines lack shop/Deployment/cart: %+v", r.Lines)
		}
		for _, f := range facts {
			for _, p := range f.Pods {
				if p.Name == "report" && p.To.Sub(p.From) != 30*time.Second {
					t.Errorf("a pod of 30 seconds is billed for %v", p.To.Sub(p.From))
				}
			}
		}
		for _, q := range s.Requests {
			if !strings.HasPrefix(q, "GET ") {
				t.Errorf("the cluster was not only read: %s", q)
			}
		}
	})

	t.Run("lists longer than a page are read whole", func(t *testing.T) {
		s := shop(t)
		for i := range 1201 {
			s.Pods = append(s.Pods, observetest.Pod("many", fmt.Sprintf("p%d", i), "p", "n1", now.Add(-time.Hour), "1m", "1Mi"))
		}
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		if got := len(snap.hours[len(snap.hours)-1].Pods); got != 1203 {
			t.Errorf("%d pods in the last hour, want 1203", got)
		}
	})

	t.Run("a machine type nobody priced is estimated by its shape and named", func(t *testing.T) {
		s := shop(t)
		opts := options(s)
		opts.Types = nil
		snap, err := readAll(context.Background(), opts)
		if err != nil {
			t.Fatal(err)
		}
		price, err := snap.Book.At("big.8", resource.Vector{}, now)
		if want := money.PerHour(8*31_611_000 + 32*4_237_000); err != nil || price.Effective != want {
			t.Errorf("priced at %d, %v, want %d", price.Effective, err, want)
		}
		if !hasNote(snap, "Nobody has priced big.8 (2 machines)") {
			t.Errorf("no note names the type: %q", snap.Notes)
		}
		opts.Strict = true
		if _, err := readAll(context.Background(), opts); err == nil || !strings.Contains(err.Error(), `machine type "big.8" of 2 machines has no price; declare`) {
			t.Errorf("strict gives %v", err)
		}
	})

	t.Run("machines without a type label are named after their shape", func(t *testing.T) {
		s := shop(t)
		delete(s.Nodes[0].Labels, corev1.LabelInstanceTypeStable)
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		closeAll(t, snap)
		if got := snap.hours[0].Machines[0].Type; got != "8-cores-32-GiB" {
			t.Errorf("the type is %q", got)
		}
	})

	t.Run("declared types, pools and modules count where the cluster knows them", func(t *testing.T) {
		s := shop(t)
		s.Declared = true
		list := v1alpha1.Money("0.5")
		s.MachineTypes = []v1alpha1.MachineType{{ObjectMeta: metav1.ObjectMeta{Name: "big.8"}, Spec: v1alpha1.MachineTypeSpec{
			Capacity: &v1alpha1.Capacity{}, Price: v1alpha1.Price{Currency: "CNY", List: &list}}}}
		s.Nodes[0].Labels["neap.dev/pool"] = "online"
		s.Pools = []v1alpha1.ResourcePool{{ObjectMeta: metav1.ObjectMeta{Name: "online"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolMachines}}}
		s.Modules = []v1alpha1.Module{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: v1alpha1.ModuleSpec{
			TargetRef: v1alpha1.TargetRef{Name: "cart"}, Features: []v1alpha1.Feature{{Name: "checkout", Share: 1000}}}}}
		opts := options(s)
		opts.Types = nil
		snap, err := readAll(context.Background(), opts)
		if err != nil {
			t.Fatal(err)
		}
		r, err := bill.Summarise(closeAll(t, snap), bill.ByFeature, snap.Features)
		if err != nil {
			t.Fatal(err)
		}
		if r.Currency != "CNY" || r.BillNano != 2*money.Unit {
			t.Errorf("the bill is %s %s, want 2 CNY", r.BillNano, r.Currency)
		}
		if len(r.Lines) == 0 || r.Lines[0].Key != "checkout" {
			t.Errorf("the lines are %+v, want checkout first", r.Lines)
		}
		if snap.hours[0].Machines[0].Pool != "online" {
			t.Errorf("the pool is %q", snap.hours[0].Machines[0].Pool)
		}
	})

	t.Run("kubelets give averages, marked estimated", func(t *testing.T) {
		s := shop(t)
		start := now.Add(-time.Hour)
		s.Kubelet["n1"] = fmt.Sprintf(`# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="main",namespace="shop",pod="cart-1"} 1800 %d
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="main",namespace="shop",pod="cart-1"} 1.073741824e+09 %[1]d
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="main",namespace="shop",pod="cart-1"} %d
`, now.UnixMilli(), start.Unix())
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		last := snap.hours[2]
		for _, p := range last.Pods {
			if p.Name != "cart-1" {
				continue
			}
			if len(p.Usage) != 1 || p.Usage[0].Use[resource.CPU] != 500 || p.Usage[0].Use[resource.Memory] != resource.GiB || !p.Usage[0].Estimated {
				t.Errorf("the use is %+v, want half a core and a GiB, estimated", p.Usage)
			}
		}
		if !hasNote(snap, "Use is estimated from the kubelets") || !hasNote(snap, "1 kubelet gave no metrics (n2)") {
			t.Errorf("notes %q", snap.Notes)
		}
	})

	t.Run("kubelets that all stay silent are not asked for ever", func(t *testing.T) {
		s := shop(t)
		for i := range 200 {
			s.Nodes = append(s.Nodes, observetest.Node(fmt.Sprintf("x%d", i), "big.8", now.Add(-time.Hour)))
		}
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		for _, q := range s.Requests {
			if strings.Contains(q, "/proxy/") {
				asked++
			}
		}
		if asked == 0 || asked > 40 {
			t.Errorf("%d kubelets were asked", asked)
		}
		if !hasNote(snap, "no kubelet gave its metrics") {
			t.Errorf("notes %q", snap.Notes)
		}
	})

	t.Run("simulated machines are called simulated", func(t *testing.T) {
		s := shop(t)
		for i := range s.Nodes {
			s.Nodes[i].Labels["neap.dev/simulated"] = "true"
		}
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		if !hasNote(snap, "2 machines of this cluster are simulated") {
			t.Errorf("notes %q", snap.Notes)
		}
	})

	t.Run("a pod evicted without a word from its containers ends when it was last there", func(t *testing.T) {
		s := shop(t)
		p := observetest.Pod("shop", "gone", "gone", "n1", now.Add(-20*time.Minute), "1", "1Gi")
		p.Status.Phase, p.Status.ContainerStatuses = corev1.PodFailed, nil
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-15 * time.Minute))})
		s.Pods = append(s.Pods, p)
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range snap.hours[2].Pods {
			if p.Name == "gone" && p.To.Sub(p.From) != 5*time.Minute {
				t.Errorf("it is billed for %v, want 5m", p.To.Sub(p.From))
			}
		}
	})
}

func hasNote(s snapshot, text string) bool {
	return slices.ContainsFunc(s.Notes, func(n string) bool { return strings.Contains(n, text) })
}

func TestForbidden(t *testing.T) {
	t.Run("nodes and pods cannot be done without", func(t *testing.T) {
		for _, res := range []string{"nodes", "pods"} {
			s := shop(t)
			s.Forbidden[res] = true
			_, err := readAll(context.Background(), options(s))
			var f *observe.ForbiddenError
			if !errors.As(err, &f) {
				t.Fatalf("got %v", err)
			}
			want := fmt.Sprintf(`user "jane" may not list %s at %s; add this rule to a ClusterRole bound to it: {apiGroups: [""], resources: [%q], verbs: ["list"]}`, res, s.URL, res)
			if err.Error() != want {
				t.Errorf("got  %s\nwant %s", err, want)
			}
		}
	})
	t.Run("declared prices that may not be read are an error, not an estimate", func(t *testing.T) {
		s := shop(t)
		s.Declared = true
		s.Forbidden["machinetypes"] = true
		if _, err := readAll(context.Background(), options(s)); err == nil || !strings.Contains(err.Error(), `{apiGroups: ["neap.dev"], resources: ["machinetypes"], verbs: ["list"]}`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("owners and kubelets can be done without, and the notes say so", func(t *testing.T) {
		s := shop(t)
		s.Forbidden["replicasets"], s.Forbidden["jobs"], s.Forbidden["nodes/proxy"] = true, true, true
		snap, err := readAll(context.Background(), options(s))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{`resources: ["replicasets"]`, `resources: ["jobs"]`, `resources: ["nodes/proxy"], verbs: ["get"]`} {
			if !hasNote(snap, want) {
				t.Errorf("no note has %s: %q", want, snap.Notes)
			}
		}
	})
}

func TestUnreachable(t *testing.T) {
	read := func(t *testing.T, cfg *rest.Config) string {
		t.Helper()
		_, err := readAll(context.Background(), observe.Options{Config: cfg, From: now.Add(-time.Hour), To: now, Now: now})
		if err == nil {
			t.Fatal("no error")
		}
		if strings.Contains(err.Error(), "\n") {
			t.Errorf("more than one line: %s", err)
		}
		return err.Error()
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		if got := read(t, &rest.Config{Host: "http://" + l.Addr().String()}); !strings.Contains(got, "cannot be reached (connection refused); see whether the cluster runs") {
			t.Error(got)
		}
	})
	t.Run("it does not answer", func(t *testing.T) {
		s := shop(t)
		s.Hang = make(chan struct{})
		if got := read(t, &rest.Config{Host: s.URL, Timeout: 50 * time.Millisecond}); !strings.Contains(got, "did not answer in time") {
			t.Error(got)
		}
	})
	t.Run("it does not know the user", func(t *testing.T) {
		s := shop(t)
		s.Status = 401
		if got := read(t, &rest.Config{Host: s.URL}); !strings.Contains(got, "does not accept the credentials") {
			t.Error(got)
		}
	})
	t.Run("it is not ready", func(t *testing.T) {
		s := shop(t)
		s.Status = 500
		if got := read(t, &rest.Config{Host: s.URL}); !strings.Contains(got, "could not list nodes") {
			t.Error(got)
		}
	})
	t.Run("its certificate has expired", func(t *testing.T) {
		s := observetest.Unstarted(t)
		cert, ca := certificate(t, time.Now().Add(-time.Hour))
		s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		s.StartTLS()
		got := read(t, &rest.Config{Host: s.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}})
		if !strings.Contains(got, "expired at ") || !strings.Contains(got, "must renew it") {
			t.Error(got)
		}
	})
	t.Run("its certificate is from nobody known", func(t *testing.T) {
		s := observetest.Unstarted(t)
		s.StartTLS()
		if got := read(t, &rest.Config{Host: s.URL}); !strings.Contains(got, "an authority that the kubeconfig does not trust") {
			t.Error(got)
		}
	})
	t.Run("it speaks no TLS", func(t *testing.T) {
		s := shop(t)
		if got := read(t, &rest.Config{Host: "https://" + s.Listener.Addr().String()}); !strings.Contains(got, "does not speak TLS") {
			t.Error(got)
		}
	})
	t.Run("it has no nodes", func(t *testing.T) {
		s := observetest.New(t)
		if got := read(t, &rest.Config{Host: s.URL}); !strings.Contains(got, "has no nodes") {
			t.Error(got)
		}
	})
}

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := `apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: a, user: {%s}}]
`
	expired, _ := certificate(t, time.Now().Add(-time.Hour))
	pemCert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: expired.Certificate[0]}))
	certFile := write("client.crt", pemCert)

	cases := map[string]struct {
		target observe.Target
		want   string
	}{
		"a file that is not there":        {observe.Target{Kubeconfig: filepath.Join(dir, "none")}, "there is no kubeconfig at"},
		"a file that is no kubeconfig":    {observe.Target{Kubeconfig: write("bad", "{{{")}, "cannot be understood"},
		"a file that names no cluster":    {observe.Target{Kubeconfig: write("empty", "apiVersion: v1\nkind: Config\n")}, "no cluster is configured"},
		"a context that is not there":     {observe.Target{Kubeconfig: write("good", fmt.Sprintf(good, "token: x")), Context: "b"}, `has no context "b"`},
		"a certificate that has expired":  {observe.Target{Kubeconfig: write("old", fmt.Sprintf(good, fmt.Sprintf("client-certificate: %q, client-key: %[1]q", certFile)))}, "the client certificate in the kubeconfig"},
		"a certificate that is not there": {observe.Target{Kubeconfig: write("nocert", fmt.Sprintf(good, `client-certificate: "gone.crt", client-key: "gone.key"`))}, "no such file"},
	}
	t.Setenv("KUBECONFIG", "")
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := observe.Config(tc.target, time.Now())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
	t.Run("nothing configured is told apart", func(t *testing.T) {
		t.Setenv("HOME", dir)
		t.Setenv("KUBECONFIG", filepath.Join(dir, "none"))
		if _, _, err := observe.Config(observe.Target{}, time.Now()); !errors.Is(err, observe.ErrNoCluster) {
			t.Errorf("got %v, want ErrNoCluster", err)
		}
	})
	t.Run("a good one", func(t *testing.T) {
		cfg, name, err := observe.Config(observe.Target{Kubeconfig: filepath.Join(dir, "good")}, time.Now())
		if err != nil || name != "a" || cfg.Host != "https://127.0.0.1:1" {
			t.Errorf("got %v, %q, %v", cfg, name, err)
		}
	})
}

// certificate returns a self-signed certificate for 127.0.0.1 that is valid until
// an instant, and itself as the CA in PEM.
func certificate(t *testing.T, until time.Time) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
