package deploy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What is refused is what could not be translated: the policy that translates and
// the one that refuses come to their word by the same variables.
func TestTheGPUPoliciesAgree(t *testing.T) {
	all, err := Admission()
	if err != nil {
		t.Fatal(err)
	}
	variables := func(kind string) []any {
		i := slices.IndexFunc(all, func(o *unstructured.Unstructured) bool {
			return o.GetKind() == kind && o.GetName() == "gpu.neap.dev"
		})
		if i < 0 {
			t.Fatalf("there is no %s gpu.neap.dev", kind)
		}
		v, _, err := unstructured.NestedSlice(all[i].Object, "spec", "variables")
		if err != nil || len(v) == 0 {
			t.Fatalf("%s: %v", kind, err)
		}
		return v
	}
	refuses, translates := variables("ValidatingAdmissionPolicy"), variables("MutatingAdmissionPolicy")
	if len(translates) < len(refuses) {
		t.Fatalf("%d variables of %d", len(translates), len(refuses))
	}
	if diff := cmp.Diff(refuses, translates[:len(refuses)]); diff != "" {
		t.Error(diff)
	}
}
