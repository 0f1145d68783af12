package convert

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
)

// catalogue has T4 (0), G3 (1) and an A100 of each size (2, 3).
func catalogue(t testing.TB) *GPUModels {
	t.Helper()
	c := new(GPUModels)
	for _, k := range []struct {
		name   string
		memory int64
	}{{"Tesla T4", 16384}, {"G3", 24576}, {"A100", 40960}, {"A100", 81920}} {
		if _, err := c.Add(k.name, k.memory); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// container asks for "milli/memory"; either may be left out.
func gpuContainer(name, ask string) corev1.Container {
	c := corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
	milli, memory, _ := strings.Cut(ask, "/")
	if milli != "" {
		c.Resources.Requests[v1alpha1.ResourceGPUMilli] = apiresource.MustParse(milli)
	}
	if memory != "" {
		c.Resources.Requests[v1alpha1.ResourceGPUMemory] = apiresource.MustParse(memory)
	}
	return c
}

// gpuPod has a container for each ask: those that begin with "init " are init
// containers, those with "sidecar " init containers that stay.
func gpuPod(annotations map[string]string, asks ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Annotations: annotations}}
	for i, a := range asks {
		name := fmt.Sprintf("c%d", i)
		if s, ok := strings.CutPrefix(a, "init "); ok {
			p.Spec.InitContainers = append(p.Spec.InitContainers, gpuContainer(name, s))
		} else if s, ok := strings.CutPrefix(a, "sidecar "); ok {
			c, always := gpuContainer(name, s), corev1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		} else {
			p.Spec.Containers = append(p.Spec.Containers, gpuContainer(name, a))
		}
	}
	return p
}

func set(models ...gpu.Model) gpu.Models {
	var s gpu.Models
	for _, m := range models {
		s = s.With(m)
	}
	return s
}

func TestGPURequest(t *testing.T) {
	count := func(s string) map[string]string { return map[string]string{v1alpha1.AnnotationGPUCount: s} }
	models := func(s string) map[string]string { return map[string]string{v1alpha1.AnnotationGPUModels: s} }
	piece := func(milli, memory int64, m gpu.Models) gpu.Demand {
		return gpu.Demand{Devices: 1, Milli: milli, DeviceMemory: memory, Models: m}
	}
	cases := map[string]struct {
		pod  *corev1.Pod
		want []gpu.Demand
	}{
		"a pod without GPUs":              {gpuPod(models("T4"), ""), nil},
		"both amounts are one demand":     {gpuPod(nil, "300/4096"), []gpu.Demand{piece(300, 4096, 0)}},
		"also where a small GPU has less": {gpuPod(nil, "300/20000"), []gpu.Demand{piece(300, 20000, 0)}},
		"compute alone brings memory in proportion to each kind": {gpuPod(nil, "250"), []gpu.Demand{
			piece(250, 4096, set(0)), piece(250, 6144, set(1)), piece(250, 10240, set(2)), piece(250, 20480, set(3))}},
		"memory alone brings compute, rounded up": {gpuPod(nil, "/10000"), []gpu.Demand{
			piece(611, 10000, set(0)), piece(407, 10000, set(1)), piece(245, 10000, set(2)), piece(123, 10000, set(3))}},
		"with compute for the kubelet only, too":         {gpuPod(models("G3"), "1/10000", "1/2288"), []gpu.Demand{piece(500, 12288, set(1))}},
		"a thousandth alone is one":                      {gpuPod(models("G3"), "1"), []gpu.Demand{piece(1, 24, set(1))}},
		"memory that only some have":                     {gpuPod(nil, "/40960"), []gpu.Demand{piece(1000, 40960, set(2)), piece(500, 40960, set(3))}},
		"a whole GPU has all its memory, whatever it is": {gpuPod(nil, "1000"), []gpu.Demand{piece(1000, 0, 0)}},
		"several whole ones":                             {gpuPod(nil, "4000"), []gpu.Demand{{Devices: 4, Milli: 1000}}},
		"memory of several whole ones is divided":        {gpuPod(nil, "2000/16000"), []gpu.Demand{{Devices: 2, Milli: 1000, DeviceMemory: 8000}}},
		"pieces of several":                              {gpuPod(count("2"), "600/8192"), []gpu.Demand{{Devices: 2, Milli: 300, DeviceMemory: 4096}}},
		"containers share, and one kind of figure is rounded once": {gpuPod(models("Tesla T4"), "/5461", "/5461", "/5462"),
			[]gpu.Demand{piece(1000, 16384, set(0))}},
		"each container's missing figure follows": {gpuPod(models("Tesla T4"), "500", "/4096"),
			[]gpu.Demand{piece(750, 12288, set(0))}},
		"init containers run before: the larger counts": {gpuPod(nil, "init 700/100", "init 100/9000", "300/4096"),
			[]gpu.Demand{piece(700, 9000, 0)}},
		"a sidecar stays, and the init container after it comes on top": {gpuPod(nil, "sidecar 100/1000", "init 500/1000", "200/3000"),
			[]gpu.Demand{piece(600, 4000, 0)}},
		"a demand for each model": {gpuPod(models("tesla-t4=650/8192, G3 = 300 / 6144"), "300/6144"),
			[]gpu.Demand{piece(650, 8192, set(0)), piece(300, 6144, set(1))}},
		"a model without figures has the resources'": {gpuPod(models("Tesla T4=650/8192,A100"), "300/6144"),
			[]gpu.Demand{piece(650, 8192, set(0)), piece(300, 6144, set(2, 3))}},
		"a model with compute only has the resources' memory": {gpuPod(models("Tesla T4=650"), "300/6144"),
			[]gpu.Demand{piece(650, 6144, set(0))}},
		"or memory in proportion":      {gpuPod(models("Tesla T4=500"), "300"), []gpu.Demand{piece(500, 8192, set(0))}},
		"a model's own word is enough": {gpuPod(models("t4"), "300/4096"), []gpu.Demand{piece(300, 4096, set(0))}},
		"models that agree are one demand, in the order of the first": {gpuPod(models("G3, Tesla T4=300/4096"), "300/4096"),
			[]gpu.Demand{piece(300, 4096, set(0, 1))}},
		"a model nobody has is left out beside others": {gpuPod(models("H100, G3"), "300/4096"), []gpu.Demand{piece(300, 4096, set(1))}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := GPURequest(tc.pod, catalogue(t))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGPURequestSaysWhatIsWrong(t *testing.T) {
	with := func(k, v string) map[string]string { return map[string]string{k: v} }
	count, models := v1alpha1.AnnotationGPUCount, v1alpha1.AnnotationGPUModels
	cases := map[string]struct {
		pod  *corev1.Pod
		want string
		none bool // it is an ErrNoSuchGPU
	}{
		"negative":                         {gpuPod(nil, "-5"), "container c0 asks for -5 of neap.dev/gpu-milli: it cannot be negative", false},
		"half a thousandth":                {gpuPod(nil, "500m"), "give a whole number", false},
		"more than a machine":              {gpuPod(nil, "17000"), "the most that a machine can have is 16000", false},
		"more than a machine together":     {gpuPod(nil, "16000", "1000"), "the most that a machine can have is 16000", false},
		"one and a half GPUs":              {gpuPod(nil, "1500"), "neap.dev/gpu-milli is 1500: up to 1000 is a piece of one GPU, a multiple of 1000 is that many whole ones, and pieces of several need the annotation neap.dev/gpu-count", false},
		"an amount with millions of zeros": {gpuPod(nil, "1e6666615"), "the most that a machine can have is 16000", false},
		"a count in words":                 {gpuPod(with(count, "two"), "600"), `annotation neap.dev/gpu-count is "two": give a whole number of GPUs from 1 to 16`, false},
		"no GPUs":                          {gpuPod(with(count, "0"), "600"), "give a whole number of GPUs from 1 to 16", false},
		"more than the GPUs have":          {gpuPod(with(count, "2"), "2001"), "2 GPUs have 2000", false},
		"what does not divide":             {gpuPod(with(count, "2"), "501", "499"), "what container c0 asks for cannot be divided evenly by 2 GPUs", false},
		"a model without name":             {gpuPod(with(models, "T4,,A10"), "300"), `annotation neap.dev/gpu-models has "": give a model`, false},
		"figures that are none":            {gpuPod(with(models, "T4=many"), "300"), `annotation neap.dev/gpu-models has "T4=many": give 1 to 1000 thousandths`, false},
		"negative figures":                 {gpuPod(with(models, "T4=-1"), "300"), "give 1 to 1000 thousandths", false},
		"memory that is none":              {gpuPod(with(models, "T4=300/8Gi"), "300"), `has "T4=300/8Gi": give 1 to 16777216 MiB`, false},
		"a model twice":                    {gpuPod(with(models, "T4, t4"), "300"), "named twice", false},
		"less than the resources":          {gpuPod(with(models, "G3=200"), "300"), "asks for 200 thousandths of each G3, less than the 300", false},
		"less memory than the resources":   {gpuPod(with(models, "G3=300/100"), "300/200"), "asks for 100 MiB of each G3, less than the 200", false},
		"a model nobody has":               {gpuPod(with(models, "H100"), "300"), "no machine has a GPU of model H100: there are A100, G3, Tesla-T4", true},
		"memory that no GPU has":           {gpuPod(nil, "300/90000"), "the pod asks for 90000 MiB of one GPU, and the largest has 81920", true},
		"memory alone that no GPU has":     {gpuPod(nil, "/90000"), "the pod asks for 90000 MiB of one GPU, and the largest has 81920", true},
		"memory that a model has not":      {gpuPod(with(models, "G3=300/90000"), "300"), "the pod asks for 90000 MiB of one GPU of model G3, and the largest has 24576", true},
		"containers that do not fit together": {gpuPod(with(models, "Tesla T4"), "900/100", "/8192"),
			"ask for 1400 thousandths of one GPU of model Tesla-T4 together", true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := GPURequest(tc.pod, catalogue(t))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("got %v, %v; want %q", got, err, tc.want)
			}
			if errors.Is(err, ErrNoSuchGPU) != tc.none {
				t.Errorf("ErrNoSuchGPU: %t", !tc.none)
			}
		})
	}
	if _, err := GPURequest(gpuPod(nil, "300"), nil); !errors.Is(err, ErrNoSuchGPU) || !strings.Contains(err.Error(), "no machine has a GPU") {
		t.Errorf("without any GPU: %v", err)
	}
}

func TestGPUModels(t *testing.T) {
	c := catalogue(t)
	if m, err := c.Add(" tesla  T4 ", 16384); err != nil || m != 0 {
		t.Errorf("the same model in other letters is %d, %v; want 0", m, err)
	}
	if got := c.Named("a100"); got != set(2, 3) {
		t.Errorf("the kinds of A100 are %b", got)
	}
	if c.Name(0) != "Tesla-T4" || c.Memory(3) != 81920 || c.Name(9) != "" || c.Memory(9) != 0 {
		t.Errorf("got %q %d %q %d", c.Name(0), c.Memory(3), c.Name(9), c.Memory(9))
	}
	n := new(GPUModels)
	for i, name := range []string{"NVIDIA A10", "NVIDIA A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB", "NVIDIA A10G"} {
		if m, err := n.Add(name, int64(i)); err != nil || m != gpu.Model(i) {
			t.Fatal(m, err)
		}
	}
	for name, want := range map[string]gpu.Models{
		"A10": set(0), "a100": set(1, 2), "A100 SXM4 80GB": set(2), "A100-80GB": 0, "nvidia": set(0, 1, 2, 3), "NVIDIA-A10": set(0), "10": 0,
	} {
		if got := n.Named(name); got != want {
			t.Errorf("%s means %b, want %b", name, got, want)
		}
	}
	own, err := GPURequest(gpuPod(map[string]string{v1alpha1.AnnotationGPUModels: "A100=500/1, A100-SXM4-80GB=250/1"}, "250/1"), n)
	want := []gpu.Demand{{Devices: 1, Milli: 500, DeviceMemory: 1, Models: set(1)}, {Devices: 1, Milli: 250, DeviceMemory: 1, Models: set(2)}}
	if diff := cmp.Diff(want, own); diff != "" || err != nil {
		t.Errorf("what says more does not go before: %s %v", diff, err)
	}
	for i := c.Len(); i < gpu.MaxModels; i++ {
		if _, err := c.Add(fmt.Sprint("M", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.Add("one more", 1)
	if want := "a GPU of model one-more with 1 MiB is the 65th kind, and a fleet can have 64: it is left out"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if m, err := c.Add("G3", 24576); err != nil || m != 1 {
		t.Errorf("a known one is %d, %v in a full catalogue", m, err)
	}
}

func TestGPUParts(t *testing.T) {
	cases := map[string]struct {
		pod  *corev1.Pod
		want []GPUPart
	}{
		"what they asked for": {gpuPod(nil, "init 700/9000", "500/4000", "", "200/5000"),
			[]GPUPart{{"c0", 700, 9000}, {"c1", 500, 4000}, {"c3", 200, 5000}}},
		"a model's own demand is divided as the resources are": {gpuPod(nil, "200/3000", "100/1500"),
			[]GPUPart{{"c0", 466, 6000}, {"c1", 233, 3000}}},
		"what was not asked for follows": {gpuPod(nil, "500", "200/1000"), []GPUPart{{"c0", 500, 8000}, {"c1", 200, 1000}}},
		"none asks":                      {gpuPod(nil, ""), nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := GPUParts(tc.pod, v1alpha1.GPUShare{UUID: "u", Milli: 700, MemoryMiB: 9000}, 16000)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGPUDevices(t *testing.T) {
	annotated := func(s string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: s}}}
	}
	nvidia := func(capacity string, labels ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{}}}
		n.Status.Capacity = corev1.ResourceList{v1alpha1.ResourceGPU: apiresource.MustParse(capacity)}
		for i := 0; i < len(labels); i += 2 {
			n.Labels["nvidia.com/gpu."+labels[i]] = labels[i+1]
		}
		return n
	}
	two := []v1alpha1.GPUDevice{
		{Index: 0, UUID: "n-gpu-0", Model: "Tesla-T4", MemoryMiB: 15360, Healthy: true},
		{Index: 1, UUID: "n-gpu-1", Model: "Tesla-T4", MemoryMiB: 15360, Healthy: true},
	}
	cases := map[string]struct {
		node *corev1.Node
		want []v1alpha1.GPUDevice
		err  string
	}{
		"no GPUs": {&corev1.Node{}, nil, ""},
		"as the agent wrote them, by index": {annotated(`[{"index":1,"uuid":"b","model":"G3","memoryMiB":100,"healthy":false,"reason":"Xid 79"},
			{"index":0,"uuid":"a","model":"Tesla T4","memoryMiB":200,"healthy":true}]`),
			[]v1alpha1.GPUDevice{{UUID: "a", Model: "Tesla-T4", MemoryMiB: 200, Healthy: true}, {Index: 1, UUID: "b", Model: "G3", MemoryMiB: 100, Reason: "Xid 79"}}, ""},
		"none left":                        {annotated(`[]`), []v1alpha1.GPUDevice{}, ""},
		"of NVIDIA's plugin":               {nvidia("2", "product", "Tesla-T4", "memory", "15360"), two, ""},
		"of NVIDIA's plugin with replicas": {nvidia("20", "product", "Tesla-T4", "memory", "15360", "count", "2"), two, ""},
		"without a product nobody knows":   {nvidia("2"), nil, ""},
		"written by hand":                  {annotated(`two`), nil, "node n: annotation neap.dev/gpu-devices: "},
		"an index twice":                   {annotated(`[{"uuid":"a","model":"m"},{"uuid":"b","model":"m"}]`), nil, "GPU 0 is there twice"},
		"an index beyond":                  {annotated(`[{"index":16,"uuid":"a","model":"m"}]`), nil, "a machine has GPUs 0 to 15"},
		"a uuid twice":                     {annotated(`[{"uuid":"a","model":"m"},{"index":1,"uuid":"a","model":"m"}]`), nil, "uuid a is there twice"},
		"negative memory":                  {annotated(`[{"uuid":"a","model":"m","memoryMiB":-1}]`), nil, "GPU 0 has -1 MiB"},
		"memory in words":                  {nvidia("2", "product", "T4", "memory", "16Gi"), nil, `label nvidia.com/gpu.memory is "16Gi"`},
		"a hundred GPUs":                   {nvidia("100", "product", "T4", "memory", "16"), nil, "node n has 100 GPUs: a machine can have 16"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := GPUDevices(tc.node)
			if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) || tc.err == "" && err != nil {
				t.Fatalf("got %v, want %q", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestGPUAllocation(t *testing.T) {
	pod := func(s string) *corev1.Pod {
		return gpuPod(map[string]string{v1alpha1.AnnotationGPUAllocation: s}, "300")
	}
	want := v1alpha1.GPUAllocation{Node: "n", Devices: []v1alpha1.GPUShare{{UUID: "a", Milli: 300, MemoryMiB: 4096}}}
	text := WriteGPUAllocation(want)
	if s := `{"node":"n","devices":[{"uuid":"a","milli":300,"memoryMiB":4096}]}`; text != s {
		t.Errorf("got %s, want %s", text, s)
	}
	got, err := GPUAllocation(pod(text))
	if err != nil || !cmp.Equal(got, &want) {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := GPUAllocation(gpuPod(nil)); got != nil || err != nil {
		t.Errorf("without the annotation: %v, %v", got, err)
	}
	for s, why := range map[string]string{
		`x`:                                    "pod ns/p: annotation neap.dev/gpu-allocation: invalid character",
		`{}`:                                   "it names no node",
		`{"node":"n"}`:                         "it has 0 GPUs",
		`{"node":"n","devices":[{"milli":1}]}`: "a GPU has no uuid",
		`{"node":"n","devices":[{"uuid":"a","milli":1001}]}`:                     "1001 thousandths of GPU a",
		`{"node":"n","devices":[{"uuid":"a"}]}`:                                  "0 thousandths of GPU a",
		`{"node":"n","devices":[{"uuid":"a","milli":1,"memoryMiB":-1}]}`:         "-1 MiB of GPU a",
		`{"node":"n","devices":[{"uuid":"a","milli":1},{"uuid":"a","milli":1}]}`: "GPU a is there twice",
	} {
		if got, err := GPUAllocation(pod(s)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s is %v, %v; want %q", s, got, err, why)
		}
	}
}

// Whatever is asked for, every demand is one that core/gpu takes, on a kind that
// has as much, and the parts of the containers stay within what the pod is given.
func FuzzGPURequest(f *testing.F) {
	f.Add("", "", "300", "4096", "", "", false)
	f.Add("2", "T4=650/8192, G3=300, A10", "600", "", "", "8192", false)
	f.Add(" 16 ", "tesla t4", "16000", "1Gi", "1k", "", true)
	f.Add("", "", "1e666", "1e-9", "-1e999", "0.5", true)
	f.Add("", "A100=1000/81920", "1", "1", "-1", "1e30", true)
	f.Fuzz(func(t *testing.T, count, models, milli1, memory1, milli2, memory2 string, initial bool) {
		c := catalogue(t)
		annotations := map[string]string{}
		if count != "" {
			annotations[v1alpha1.AnnotationGPUCount] = count
		}
		if models != "" {
			annotations[v1alpha1.AnnotationGPUModels] = models
		}
		p := gpuPod(annotations)
		container := func(name string, amounts ...string) corev1.Container {
			r := corev1.ResourceList{}
			for i, n := range []corev1.ResourceName{v1alpha1.ResourceGPUMilli, v1alpha1.ResourceGPUMemory} {
				if e := strings.IndexAny(amounts[i], "eE"); e >= 0 && len(amounts[i])-e > 5 {
					continue // reading 1e-9999999 takes the API server's own code seconds
				}
				if q, err := apiresource.ParseQuantity(amounts[i]); err == nil {
					r[n] = q
				}
			}
			return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: r}}
		}
		first, second := container("a", milli1, memory1), container("b", milli2, memory2)
		if p.Spec.Containers = []corev1.Container{first}; initial {
			p.Spec.InitContainers = []corev1.Container{second}
		} else {
			p.Spec.Containers = append(p.Spec.Containers, second)
		}
		demands, err := GPURequest(p, c)
		if err != nil {
			if err.Error() == "" || len(demands) > 0 {
				t.Errorf("got %v beside the error %q", demands, err)
			}
			return
		}
		seen := map[gpu.Demand]bool{}
		for _, d := range demands {
			if err := d.Validate(); err != nil || d.Devices == 0 || seen[d] {
				t.Fatalf("%+v: %v", d, err)
			}
			seen[d] = true
			for m := range kinds(d.Models) {
				size := c.Memory(m)
				if d.DeviceMemory > size {
					t.Fatalf("%+v is not on %d MiB", d, size)
				}
				memory := d.DeviceMemory
				if memory == 0 && d.Milli == gpu.Whole {
					memory = size
				}
				parts, err := GPUParts(p, v1alpha1.GPUShare{UUID: "u", Milli: d.Milli, MemoryMiB: memory}, size)
				if err != nil || len(parts) == 0 {
					t.Fatalf("no parts: %v", err)
				}
				var milli, mem int64
				for _, part := range parts {
					if initial && part.Container == "b" {
						if part.Milli > d.Milli || part.MemoryMiB > memory {
							t.Fatalf("%+v is more than %+v", part, d)
						}
						continue
					}
					milli, mem = milli+part.Milli, mem+part.MemoryMiB
				}
				if slack := int64(len(parts)); milli > d.Milli+slack || mem > memory+slack {
					t.Fatalf("parts %+v of %+v with %d MiB", parts, d, memory)
				}
			}
		}
	})
}

// What can be read, and written again, is the same.
func FuzzGPUAnnotations(f *testing.F) {
	f.Add(`[{"index":1,"uuid":"b","model":"G3","memoryMiB":100,"healthy":false,"reason":"Xid 79"}]`)
	f.Add(`{"node":"n","devices":[{"uuid":"a","milli":300,"memoryMiB":4096}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationGPUDevices: s}}}
		if devices, err := GPUDevices(node); err == nil {
			node.Annotations[v1alpha1.AnnotationGPUDevices] = WriteGPUDevices(devices)
			again, err := GPUDevices(node)
			if err != nil || !cmp.Equal(devices, again) {
				t.Errorf("%v became %v, %v", devices, again, err)
			}
		}
		pod := gpuPod(map[string]string{v1alpha1.AnnotationGPUAllocation: s})
		if a, err := GPUAllocation(pod); err == nil && a != nil {
			pod.Annotations[v1alpha1.AnnotationGPUAllocation] = WriteGPUAllocation(*a)
			again, err := GPUAllocation(pod)
			if err != nil || !cmp.Equal(a, again) {
				t.Errorf("%v became %v, %v", a, again, err)
			}
		}
	})
}
