// Package deploy holds what a cluster needs before Neap can run on it: the
// custom resource definitions, written by hack/generate.sh, and the Helm chart.
package deploy

import (
	"embed"
	"fmt"
	"io/fs"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
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
