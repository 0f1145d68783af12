package gpuaudit

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

func pod(t *testing.T, name string, milli, memory int, node, devices string) *v1.Pod {
	t.Helper()
	return parse[v1.Pod](t, fmt.Sprintf(`{metadata: {name: %s, namespace: live, uid: %[1]s, annotations: {neap.dev/gpu-allocation: '{"node":"%[4]s","devices":[%[5]s]}'}},
		spec: {nodeName: %[4]s, containers: [{name: main, resources: {limits: {neap.dev/gpu-milli: %[2]d, neap.dev/gpu-memory: %[3]d}}}]}}`, name, milli, memory, node, devices))
}

// An auditor that finds nothing proves nothing: each kind of fault is made once.
func TestTheAuditorFindsEveryFault(t *testing.T) {
	const half = `{"uuid":"a","milli":500,"memoryMiB":1000}`
	cases := map[string]struct {
		pods []func(*testing.T) *v1.Pod
		want string // "" no fault
	}{
		"two halves of a GPU": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod { return pod(t, "q", 500, 1000, "one", half) },
		}, ""},
		"three halves": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod { return pod(t, "q", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod { return pod(t, "r", 500, 1000, "one", half) },
		}, "GPU a of node one has 1500 thousandths and 3000 of 4000 MiB given away, to live/p, live/q, live/r"},
		"a third when one has gone": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod { return pod(t, "q", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod {
				p := pod(t, "q", 500, 1000, "one", half)
				p.Status.Phase = v1.PodSucceeded
				return p
			},
			func(t *testing.T) *v1.Pod { return pod(t, "r", 500, 1000, "one", half) },
		}, ""},
		"memory beyond what there is": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod {
				return pod(t, "p", 100, 5000, "one", `{"uuid":"a","milli":100,"memoryMiB":5000}`)
			},
		}, "5000 of 4000 MiB"},
		"less than was asked": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 600, 1000, "one", half) },
		}, "asks for 600"},
		"more than was asked": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 400, 1000, "one", half) },
		}, "more than the 400"},
		"one GPU of two": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod {
				return pod(t, "p", 2000, 0, "one", `{"uuid":"a","milli":1000,"memoryMiB":0}`)
			},
		}, "has 1 GPUs, and asks for 2"},
		"the same GPU twice": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod {
				return pod(t, "p", 2000, 0, "one", `{"uuid":"a","milli":1000,"memoryMiB":0},{"uuid":"a","milli":1000,"memoryMiB":0}`)
			},
		}, "has GPU a twice"},
		"a GPU that is not there": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod {
				return pod(t, "p", 500, 1000, "one", `{"uuid":"z","milli":500,"memoryMiB":1000}`)
			},
		}, "has GPU z, which node one does not"},
		"no GPU": {[]func(*testing.T) *v1.Pod{func(t *testing.T) *v1.Pod {
			p := pod(t, "p", 500, 1000, "one", half)
			p.Annotations = nil
			return p
		}}, "bound to node one with the GPUs"},
		"a GPU of another node": {[]func(*testing.T) *v1.Pod{func(t *testing.T) *v1.Pod {
			p := pod(t, "p", 500, 1000, "one", half)
			p.Spec.NodeName = "two"
			return p
		}}, "pod live/p is on node two, its GPUs are on node one"},
		"another GPU afterwards": {[]func(*testing.T) *v1.Pod{
			func(t *testing.T) *v1.Pod { return pod(t, "p", 500, 1000, "one", half) },
			func(t *testing.T) *v1.Pod {
				return pod(t, "p", 500, 1000, "one", strings.Replace(half, `"a"`, `"b"`, 1))
			},
		}, "was on node one"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := New()
			a.Node(parse[v1.Node](t, `{metadata: {name: one, annotations: {neap.dev/gpu-devices: '[{"uuid":"a","memoryMiB":4000},{"uuid":"b","memoryMiB":4000}]'}}}`))
			for _, p := range tc.pods {
				a.Pod(p(t))
			}
			got, _ := a.Faults()
			if all := strings.Join(got, "\n"); tc.want == "" && all != "" || !strings.Contains(all, tc.want) {
				t.Errorf("found %q, want %q", all, tc.want)
			}
		})
	}
}
