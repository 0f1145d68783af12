package deploy

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

// server is what the API server does with objects of one kind, by its own code.
type server struct {
	schema  *structural.Structural
	openapi schemavalidation.SchemaValidator
	rules   *cel.Validator
}

func servers(t *testing.T) map[string]server {
	t.Helper()
	list, err := CRDs()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]server{}
	for _, v1 := range list {
		apiextensionsv1.SetDefaults_CustomResourceDefinition(v1)
		apiextensionsv1.SetDefaults_CustomResourceDefinitionSpec(&v1.Spec)
		v1.Status.StoredVersions = []string{"v1alpha1"} // as the server itself records
		var crd apiextensions.CustomResourceDefinition
		if err := apiextensionsv1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(v1, &crd, nil); err != nil {
			t.Fatal(err)
		}
		if errs := validation.ValidateCustomResourceDefinition(t.Context(), &crd); len(errs) > 0 {
			t.Fatalf("%s is not a definition the API server takes: %v", v1.Name, errs.ToAggregate())
		}
		props := crd.Spec.Validation
		if props == nil {
			props = crd.Spec.Versions[0].Schema
		}
		s, err := structural.NewStructural(props.OpenAPIV3Schema)
		if err != nil {
			t.Fatal(err)
		}
		v, _, err := schemavalidation.NewSchemaValidator(props.OpenAPIV3Schema)
		if err != nil {
			t.Fatal(err)
		}
		out[crd.Spec.Names.Kind] = server{schema: s, openapi: v, rules: cel.NewValidator(s, true, celconfig.PerCallLimit)}
	}
	return out
}

func (s server) write(t *testing.T, obj, old map[string]any) field.ErrorList {
	t.Helper()
	defaulting.Default(obj, s.schema)
	errs := schemavalidation.ValidateCustomResource(nil, obj, s.openapi)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, s.schema, obj)...)
	var before any
	if old != nil {
		before = old
	}
	more, _ := s.rules.Validate(t.Context(), nil, s.schema, obj, before, celconfig.RuntimeCELCostBudget)
	return append(errs, more...)
}

// object reads YAML as the API server does: whole numbers stay whole.
func object(t *testing.T, doc string) map[string]any {
	t.Helper()
	raw, err := yaml.YAMLToJSON([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := utiljson.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// The rules are tried with the API server's own code, so that this runs
// everywhere in a second; test/kube tries them again on a real API server.
func TestRules(t *testing.T) {
	kinds := servers(t)
	archive, err := txtar.ParseFile("testdata/rules.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range archive.Files {
		t.Run(f.Name, func(t *testing.T) {
			head, body, _ := bytes.Cut(f.Data, []byte("\n"))
			want, refused := strings.CutPrefix(string(head), "# refused: ")
			if !refused && string(head) != "# accepted" {
				t.Fatalf("the first line is %q, want # accepted or # refused: …", head)
			}
			var old map[string]any
			docs := strings.Split(string(body), "\n---\n")
			for i, doc := range docs {
				obj := object(t, doc)
				s, ok := kinds[obj["kind"].(string)]
				if !ok {
					t.Fatalf("no definition of kind %v", obj["kind"])
				}
				errs := s.write(t, obj, old)
				switch last := i == len(docs)-1; {
				case !last && len(errs) > 0:
					t.Fatalf("the first document is refused: %v", errs.ToAggregate())
				case last && !refused && len(errs) > 0:
					t.Fatalf("refused: %v", errs.ToAggregate())
				case last && refused && len(errs) == 0:
					t.Fatalf("accepted, want refused with %q", want)
				case last && refused && !strings.Contains(errs.ToAggregate().Error(), want):
					t.Errorf("refused with %v, want %q", errs.ToAggregate(), want)
				}
				old = obj
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	kinds := servers(t)
	cases := map[string]struct {
		kind, object, want string
	}{
		"a price is in dollars and without discount": {
			"MachineType",
			`{spec: {capacity: {cpu: 1, memory: 1Gi}, price: {list: "1"}}}`,
			`{spec: {capacity: {cpu: 1, memory: 1Gi}, price: {list: "1", currency: USD, discountPercent: 0}}}`,
		},
		"a pool is of machines and comes first": {
			"ResourcePool", `{spec: {}}`, `{spec: {kind: Machines, order: 0}}`,
		},
		"a target is a Deployment and a single feature takes all of it": {
			"Module",
			`{spec: {targetRef: {name: api}, features: [{name: homework}]}}`,
			`{spec: {targetRef: {apiVersion: apps/v1, kind: Deployment, name: api}, features: [{name: homework, share: 1000}]}}`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, want := object(t, tc.object), object(t, tc.want)
			defaulting.Default(got, kinds[tc.kind].schema)
			g, _ := yaml.Marshal(got)
			w, _ := yaml.Marshal(want)
			if !bytes.Equal(g, w) {
				t.Errorf("got\n%s\nwant\n%s", g, w)
			}
		})
	}
}

// Every field that a user can write explains itself in kubectl explain.
func TestEveryFieldIsExplained(t *testing.T) {
	list, err := CRDs()
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, p apiextensionsv1.JSONSchemaProps)
	walk = func(path string, p apiextensionsv1.JSONSchemaProps) {
		if p.Description == "" && !strings.HasSuffix(path, ".metadata") && !strings.HasSuffix(path, "[]") {
			t.Errorf("%s has no description", path)
		}
		for name, sub := range p.Properties {
			walk(path+"."+name, sub)
		}
		if p.Items != nil && p.Items.Schema != nil {
			walk(path+"[]", *p.Items.Schema)
		}
	}
	for _, crd := range list {
		walk(crd.Spec.Names.Kind, *crd.Spec.Versions[0].Schema.OpenAPIV3Schema)
		if len(crd.Spec.Versions[0].AdditionalPrinterColumns) == 0 {
			t.Errorf("%s has no printer columns", crd.Spec.Names.Kind)
		}
	}
}
