package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

func TestMain(m *testing.M) { clustertest.Main(m) }

// cluster returns the shared cluster with Neap's definitions in it.
func cluster(t *testing.T) (*controlplane.Cluster, *rest.Config) {
	t.Helper()
	c := clustertest.Start(t)
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1
	crds, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	ext, err := apiextensions.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, crd := range crds {
		_, err := ext.ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), crd, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("the API server does not take %s: %v", crd.Name, err)
		}
		clustertest.Eventually(t, crd.Name+" to be served", func() error {
			got, err := ext.ApiextensionsV1().CustomResourceDefinitions().Get(t.Context(), crd.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			for _, c := range got.Status.Conditions {
				switch {
				case c.Type == apiextensionsv1.NonStructuralSchema && c.Status == apiextensionsv1.ConditionTrue:
					t.Fatalf("%s: %s", crd.Name, c.Message)
				case c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue:
					return nil
				}
			}
			return errors.New("not established yet")
		})
	}
	return c, cfg
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(s), v1alpha1.AddToScheme(s)); err != nil {
		t.Fatal(err)
	}
	return s
}

func newClient(t *testing.T, cfg *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(cfg, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func resourceOf(dyn dynamic.Interface, obj *unstructured.Unstructured) dynamic.ResourceInterface {
	plural, _ := meta.UnsafeGuessKindToResource(obj.GroupVersionKind())
	r := dyn.Resource(plural)
	if ns := obj.GetNamespace(); ns != "" {
		return r.Namespace(ns)
	}
	return r
}

func TestTheAPIServerAppliesTheRules(t *testing.T) {
	_, cfg := cluster(t)
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	archive, err := txtar.ParseFile("../../deploy/testdata/rules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			head, body, _ := bytes.Cut(f.Data, []byte("\n"))
			want, refused := strings.CutPrefix(string(head), "# refused: ")
			docs := strings.Split(string(body), "\n---\n")
			var made *unstructured.Unstructured
			var err error
			for n, doc := range docs {
				obj := &unstructured.Unstructured{}
				raw, yerr := yaml.YAMLToJSON([]byte(doc))
				if yerr != nil {
					t.Fatal(yerr)
				}
				if jerr := obj.UnmarshalJSON(raw); jerr != nil {
					t.Fatal(jerr)
				}
				obj.SetName(fmt.Sprintf("%s-%d", obj.GetName(), i))
				r := resourceOf(dyn, obj)
				var dry []string
				if n == len(docs)-1 {
					dry = []string{metav1.DryRunAll}
				}
				if made == nil {
					made, err = r.Create(t.Context(), obj, metav1.CreateOptions{DryRun: dry})
				} else {
					obj.SetResourceVersion(made.GetResourceVersion())
					_, err = r.Update(t.Context(), obj, metav1.UpdateOptions{DryRun: dry})
				}
				if err != nil && dry == nil {
					t.Fatalf("the first document is refused: %v", err)
				}
				if dry == nil {
					t.Cleanup(func() { _ = r.Delete(context.Background(), obj.GetName(), metav1.DeleteOptions{}) })
				}
			}
			switch {
			case !refused && err != nil:
				t.Errorf("refused: %v", err)
			case refused && err == nil:
				t.Errorf("accepted, want refused with %q", want)
			case refused && !strings.Contains(err.Error(), want):
				t.Errorf("refused with %q, want %q", err, want)
			}
		})
	}
}

func TestTheAPIServerFillsInDefaults(t *testing.T) {
	_, cfg := cluster(t)
	c := newClient(t, cfg)
	list := v1alpha1.Money("1")
	typ := &v1alpha1.MachineType{ObjectMeta: metav1.ObjectMeta{GenerateName: "default-"}}
	if err := yaml.Unmarshal([]byte(`{capacity: {cpu: 1, memory: 1Gi}}`), &typ.Spec); err != nil {
		t.Fatal(err)
	}
	typ.Spec.Price.List = &list
	pool := &v1alpha1.ResourcePool{ObjectMeta: metav1.ObjectMeta{GenerateName: "default-"}}
	module := &v1alpha1.Module{ObjectMeta: metav1.ObjectMeta{GenerateName: "default-", Namespace: "default"}, Spec: v1alpha1.ModuleSpec{
		TargetRef: v1alpha1.TargetRef{Name: "api"}, Features: []v1alpha1.Feature{{Name: "f"}},
	}}
	for _, obj := range []client.Object{typ, pool, module} {
		if err := c.Create(t.Context(), obj, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
	}
	if p := typ.Spec.Price; p.Currency != "USD" || p.DiscountPercent == nil || p.DiscountPercent.IntValue() != 0 {
		t.Errorf("price %+v", p)
	}
	if pool.Spec.Kind != v1alpha1.PoolMachines {
		t.Errorf("pool kind %q", pool.Spec.Kind)
	}
	if r := module.Spec.TargetRef; r.Kind != "Deployment" || r.APIVersion != "apps/v1" || module.Spec.Features[0].Share != 1000 {
		t.Errorf("target %+v, features %+v", r, module.Spec.Features)
	}
}

// table asks for objects as kubectl get does.
func table(t *testing.T, cfg *rest.Config, path string) *metav1.Table {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := client.RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out metav1.Table
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return &out
}

func TestKubectlGetShowsWhatMatters(t *testing.T) {
	_, cfg := cluster(t)
	for resource, want := range map[string][]string{
		"machinetypes":  {"Name", "CPU", "Memory", "GPU", "List/h", "Price/h", "Currency", "NCU/core", "Machines", "Age"},
		"resourcepools": {"Name", "Kind", "Order", "Machines", "CPU", "Cost/h", "Idle/h", "Start", "Guard", "Age"},
		"modules":       {"Name", "Kind", "Target", "Pods", "Cost/h", "Requests", "Guard", "Age"},
	} {
		var got []string
		for _, c := range table(t, cfg, "/apis/neap.dev/v1alpha1/"+resource).ColumnDefinitions {
			if c.Priority == 0 {
				got = append(got, c.Name)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("kubectl get %s shows %q, want %q", resource, got, want)
		}
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	list, err := client.Discovery().ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
	if err != nil {
		t.Fatal(err)
	}
	short := map[string]string{}
	for _, r := range list.APIResources {
		if len(r.ShortNames) > 0 {
			short[r.Name] = r.ShortNames[0]
			if !slices.Contains(r.Categories, "neap") {
				t.Errorf("kubectl get neap leaves out %s", r.Name)
			}
		}
	}
	if short["machinetypes"] != "mt" || short["resourcepools"] != "rp" || short["modules"] != "mod" {
		t.Errorf("short names %v", short)
	}
}

// What kubectl explain prints comes from the API server's OpenAPI.
func TestKubectlExplainHasTheTexts(t *testing.T) {
	_, cfg := cluster(t)
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var raw []byte
	clustertest.Eventually(t, "the API server to publish Neap's OpenAPI", func() error {
		raw, err = client.RESTClient().Get().AbsPath("/openapi/v3/apis/neap.dev/v1alpha1").DoRaw(t.Context())
		return err
	})
	for _, text := range []string{
		"A MachineType says what one kind of machine has, costs and can do.",
		"DiscountPercent is taken off the list price: 0 to 100 with at most one",
		"A ResourcePool says which machines belong together",
		"Spare is capacity kept free on purpose for a sudden need.",
		"A Module says what a workload is to the bill",
		"Query counts the requests in $window",
	} {
		if !bytes.Contains(raw, []byte(text)) {
			t.Errorf("kubectl explain will not say %q", text)
		}
	}
}
