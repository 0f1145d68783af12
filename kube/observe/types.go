package observe

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/kube/convert"
)

// ReadTypes reads MachineTypes as YAML or JSON, one or more documents, lists of
// them included; name is the file's, for messages. Documents of other kinds are
// an error, for a price file that prices nothing is a mistake.
func ReadTypes(r io.Reader, name string) ([]machine.Type, error) {
	var types []machine.Type
	docs := yaml.NewYAMLReader(bufio.NewReader(r))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		var l struct {
			Kind  string                 `json:"kind"`
			Items []v1alpha1.MachineType `json:"items"`
		}
		if err := sigsyaml.Unmarshal(doc, &l); err != nil {
			return nil, fmt.Errorf("%s: document %d is not YAML that describes MachineTypes (%s)", name, n, cause(err))
		}
		switch l.Kind {
		case "":
			continue // between two separators
		case "MachineType":
			var t v1alpha1.MachineType
			if err := sigsyaml.UnmarshalStrict(doc, &t); err != nil {
				return nil, fmt.Errorf("%s: document %d: %s", name, n, cause(err))
			}
			l.Items = []v1alpha1.MachineType{t}
		case "MachineTypeList", "List":
		default:
			return nil, fmt.Errorf("%s: document %d is a %s; a price file holds MachineTypes", name, n, l.Kind)
		}
		for i := range l.Items {
			t, err := convert.Type(&l.Items[i])
			if err != nil {
				return nil, fmt.Errorf("%s: document %d: %s", name, n, oneLine(err))
			}
			types = append(types, t)
		}
	}
	if len(types) == 0 {
		return nil, fmt.Errorf("%s holds no MachineType", name)
	}
	return types, nil
}
