// Package deploy holds what a cluster needs before Neap can run on it: the
// custom resource definitions, written by hack/generate.sh, the admission
// policies, and the Helm chart.
package deploy

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

//go:embed chart/neap/crds/*.yaml
var crds embed.FS

// CRDs returns Neap's custom resource definitions in the order of their names.
// The caller owns them.
func CRDs() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	files, err := fs.Glob(crds, "chart/neap/crds/*.yaml") // sorted
	if err != nil {
		return nil, err
	}
	var out []*apiextensionsv1.CustomResourceDefinition
	for _, name := range files {
		raw, err := crds.ReadFile(name)
		if err != nil {
			return nil, err
		}
		crd := new(apiextensionsv1.CustomResourceDefinition)
		if err := yaml.UnmarshalStrict(raw, crd); err != nil {
			return nil, fmt.Errorf("read embedded %s: %w", name, err)
		}
		out = append(out, crd)
	}
	return out, nil
}

//go:embed chart/neap/admission/*.yaml
var admission embed.FS

// Admission returns Neap's admission policies, their bindings and the priority
// class that they give, in the order to install them. An API server before
// Kubernetes 1.36 does not know their kind. The caller owns them.
func Admission() ([]*unstructured.Unstructured, error) {
	files, err := fs.Glob(admission, "chart/neap/admission/*.yaml") // sorted
	if err != nil {
		return nil, err
	}
	var classes, out []*unstructured.Unstructured
	for _, name := range files {
		raw, err := admission.ReadFile(name)
		if err != nil {
			return nil, err
		}
		for doc := range bytes.SplitSeq(raw, []byte("\n---\n")) {
			o := new(unstructured.Unstructured)
			doc, err := yaml.YAMLToJSONStrict(doc)
			if err == nil {
				err = o.UnmarshalJSON(doc)
			}
			if err != nil {
				return nil, fmt.Errorf("read embedded %s: %w", name, err)
			}
			if o.GetKind() == "PriorityClass" { // a pod with a class that is missing would be refused
				classes = append(classes, o)
			} else {
				out = append(out, o)
			}
		}
	}
	return append(classes, out...), nil
}
