package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// gpuPod reads what a pod asks for: each container a line "name: resource=amount,
// resource=amount", init containers with "init " before; annotations begin with "@".
func gpuPod(t *testing.T, ns, asks string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, GenerateName: "gpu-", Annotations: map[string]string{}}}
	for line := range strings.SplitSeq(asks, "\n") {
		line = strings.TrimSpace(line)
		name, rest, _ := strings.Cut(line, ":")
		if a, ok := strings.CutPrefix(name, "@"); ok {
			p.Annotations[a] = strings.TrimSpace(rest)
			continue
		}
		initial := strings.HasPrefix(name, "init ")
		c := corev1.Container{Name: strings.TrimPrefix(name, "init "), Image: "simulated"}
		for ask := range strings.SplitSeq(rest, ",") {
			if k, v, ok := strings.Cut(strings.TrimSpace(ask), "="); ok {
				if c.Resources.Limits == nil {
					c.Resources.Limits = corev1.ResourceList{}
				}
				c.Resources.Limits[corev1.ResourceName(k)] = apiresource.MustParse(v)
			}
		}
		if initial {
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		} else {
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

// asked writes a pod as gpuPod reads it, with its scheduler if it is not the default.
func asked(p *corev1.Pod) string {
	var lines []string
	add := func(before string, c corev1.Container) {
		line := before + c.Name + ":"
		var asks []string
		for k, v := range c.Resources.Limits {
			ask := fmt.Sprintf("%s=%s", k, v.String())
			if r := c.Resources.Requests[k]; r.Cmp(v) != 0 {
				ask += " but requests " + r.String()
			}
			asks = append(asks, ask)
		}
		for k := range c.Resources.Requests {
			if _, ok := c.Resources.Limits[k]; !ok {
				asks = append(asks, "requests "+string(k))
			}
		}
		slices.Sort(asks)
		if len(asks) > 0 {
			line += " " + strings.Join(asks, ", ")
		}
		lines = append(lines, line)
	}
	for _, c := range p.Spec.Containers {
		add("", c)
	}
	for _, c := range p.Spec.InitContainers {
		add("init ", c)
	}
	for k, v := range p.Annotations {
		if k != v1alpha1.AnnotationTranslatedFrom && k != v1alpha1.AnnotationGPUClass {
			lines = append(lines, "@"+k+": "+v)
		}
	}
	slices.Sort(lines)
	if p.Spec.SchedulerName != corev1.DefaultSchedulerName {
		lines = append(lines, "by "+p.Spec.SchedulerName)
	}
	return strings.Join(lines, "\n")
}

func lines(s string) string {
	all := strings.Split(s, "\n")
	for i := range all {
		all[i] = strings.TrimSpace(all[i])
	}
	return strings.Join(all, "\n")
}

// gpuClasses are the classes of these tests.
var gpuClasses = map[string]v1alpha1.GPUClassSpec{
	"all": {Translate: &v1alpha1.GPUTranslation{
		GPUShare: &v1alpha1.GPUShareWords{}, HAMi: &v1alpha1.GPUWords{}, KAI: &v1alpha1.GPUWords{}, Volcano: &v1alpha1.GPUWords{},
	}},
	"mib": {Models: []string{"Tesla T4", "A10"}, SchedulerName: "mine", Translate: &v1alpha1.GPUTranslation{
		GPUShare: &v1alpha1.GPUShareWords{Unit: "MiB"}, WholeGPUs: true,
	}},
	"sliced": {Backend: v1alpha1.GPUReplicas, Replicas: &v1alpha1.GPUReplica{Resource: "nvidia.com/gpu.shared", PerGPU: 10, MemoryMiB: 15360},
		Translate: &v1alpha1.GPUTranslation{GPUShare: &v1alpha1.GPUShareWords{}, KAI: &v1alpha1.GPUWords{}}},
	"unsized": {Backend: v1alpha1.GPUReplicas, Replicas: &v1alpha1.GPUReplica{Resource: "nvidia.com/gpu", PerGPU: 4}},
	"claims":  {Backend: v1alpha1.GPUDynamicResources},
}

// gpuCluster has the classes, and a namespace for each with its label.
func gpuCluster(t *testing.T) (*controlplane.Cluster, client.Client, map[string]string) {
	t.Helper()
	c := clustertest.Start(t)
	cl := admin(t, c)
	spaces := map[string]string{"": clustertest.Namespace(t, c)}
	for name, spec := range gpuClasses {
		create(t, cl, &v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec})
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: clustertest.Namespace(t, c)}}
		spaces[name] = ns.Name
		label := fmt.Appendf(nil, `{"metadata":{"labels":{%q:%q}}}`, v1alpha1.AnnotationGPUClass, name)
		if err := cl.Patch(t.Context(), ns, client.RawPatch("application/merge-patch+json", label)); err != nil {
			t.Fatal(err)
		}
	}
	for name := range gpuClasses {
		clustertest.Eventually(t, "class "+name+" to be known", func() error {
			p := gpuPod(t, spaces[name], "main: neap.dev/gpu-milli=100\n@neap.dev/gpu-class: "+name)
			if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
				return err
			}
			if got := p.Spec.SchedulerName; got == corev1.DefaultSchedulerName && p.Annotations[v1alpha1.AnnotationTranslatedFrom] == "" {
				return errors.New("the pod is as it was")
			}
			return nil
		})
	}
	return c, cl, spaces
}

func TestPodsMoveOverToNeap(t *testing.T) {
	_, cl, spaces := gpuCluster(t)
	cases := map[string]struct{ class, pod, want string }{
		"gpushare counts GiB":             {"all", "main: aliyun.com/gpu-mem=3", "main: neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"or MiB, and the class has words": {"mib", "main: aliyun.com/gpu-mem=3", "@neap.dev/gpu-models: Tesla T4, A10\nmain: neap.dev/gpu-memory=3, neap.dev/gpu-milli=1\nby mine"},
		"every container and init container": {"all", "a: aliyun.com/gpu-mem=3, cpu=1\nb: cpu=1\ninit c: aliyun.com/gpu-mem=2",
			"a: cpu=1, neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1\nb: cpu=1\ninit c: neap.dev/gpu-memory=2048, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"HAMi with memory": {"all", "main: nvidia.com/gpu=1, nvidia.com/gpumem=3000", "main: neap.dev/gpu-memory=3k, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"HAMi with all": {"all", "main: nvidia.com/gpu=2, nvidia.com/gpumem=3000, nvidia.com/gpucores=30, nvidia.com/priority=0\n@nvidia.com/use-gputype: A100,V100",
			"@neap.dev/gpu-count: 2\n@neap.dev/gpu-models: A100,V100\n@nvidia.com/use-gputype: A100,V100\nmain: neap.dev/gpu-memory=6k, neap.dev/gpu-milli=600\nby neap-scheduler"},
		"HAMi without a number is one":                          {"all", "main: nvidia.com/gpumem=3000", "main: neap.dev/gpu-memory=3k, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"HAMi with a share of the memory":                       {"all", "main: nvidia.com/gpu=1, nvidia.com/gpumem-percentage=50", "main: neap.dev/gpu-milli=500\nby neap-scheduler"},
		"HAMi with a share of the memory and more compute":      {"all", "main: nvidia.com/gpu=1, nvidia.com/gpumem-percentage=50, nvidia.com/gpucores=60", "main: neap.dev/gpu-milli=600\nby neap-scheduler"},
		"HAMi without memory has all of it":                     {"all", "main: nvidia.com/gpu=2, nvidia.com/gpucores=60", "@neap.dev/gpu-count: 2\nmain: neap.dev/gpu-milli=2k\nby neap-scheduler"},
		"KAI with a fraction, in a container without resources": {"all", "main:\n@gpu-fraction: 0.5", "main: neap.dev/gpu-milli=500\nby neap-scheduler"},
		"KAI with memory":                                       {"all", "main: cpu=1\n@gpu-memory: 2000", "main: cpu=1, neap.dev/gpu-memory=2k, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"KAI with fractions of two":                             {"all", "main:\n@gpu-fraction: 0.255\n@gpu-fraction-num-devices: 2", "@neap.dev/gpu-count: 2\nmain: neap.dev/gpu-milli=510\nby neap-scheduler"},
		"KAI with an init container":                            {"all", "main:\ninit load:\n@gpu-fraction: .5\n@gpu-fraction-container-name: load", "init load: neap.dev/gpu-milli=500\nmain:\nby neap-scheduler"},
		"Volcano":                                               {"all", "main: volcano.sh/vgpu-number=2, volcano.sh/vgpu-memory=3000, volcano.sh/vgpu-cores=50", "@neap.dev/gpu-count: 2\nmain: neap.dev/gpu-memory=6k, neap.dev/gpu-milli=1k\nby neap-scheduler"},
		"Neap's own words are given the scheduler":              {"all", "main: neap.dev/gpu-milli=300", "main: neap.dev/gpu-milli=300\nby neap-scheduler"},
		"and the models of the class, if they name none":        {"mib", "main: neap.dev/gpu-milli=300", "@neap.dev/gpu-models: Tesla T4, A10\nmain: neap.dev/gpu-milli=300\nby mine"},
		"what they name is kept":                                {"mib", "main: neap.dev/gpu-milli=300\n@neap.dev/gpu-models: G3=300", "@neap.dev/gpu-models: G3=300\nmain: neap.dev/gpu-milli=300\nby mine"},
		"a whole GPU is NVIDIA's":                               {"all", "main: nvidia.com/gpu=1", "main: nvidia.com/gpu=1"},
		"unless the class says so":                              {"mib", "main: nvidia.com/gpu=2", "@neap.dev/gpu-count: 2\n@neap.dev/gpu-models: Tesla T4, A10\nmain: neap.dev/gpu-milli=2k\nby mine"},
		"what the class does not know stays":                    {"mib", "main: nvidia.com/gpumem=3000", "main: nvidia.com/gpumem=3k"},
		"what is not about GPUs stays":                          {"all", "main: cpu=1", "main: cpu=1"},
		"memory alone, with a class or without": {"", "main: neap.dev/gpu-memory=3072\nb: cpu=1\ninit c: neap.dev/gpu-memory=1",
			"b: cpu=1\ninit c: neap.dev/gpu-memory=1, neap.dev/gpu-milli=1\nmain: neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1"},
		"a namespace without a class":                                  {"", "main: aliyun.com/gpu-mem=3", "main: aliyun.com/gpu-mem=3"},
		"a pod that names the class":                                   {"", "main: aliyun.com/gpu-mem=3\n@neap.dev/gpu-class: all", "main: neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"the pod's own class goes before the namespace's":              {"mib", "main: aliyun.com/gpu-mem=3\n@neap.dev/gpu-class: all", "main: neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"a class that is not there":                                    {"all", "main: aliyun.com/gpu-mem=3\n@neap.dev/gpu-class: none", "main: aliyun.com/gpu-mem=3"},
		"replicas by memory, rounded up":                               {"sliced", "main: aliyun.com/gpu-mem=3", "main: nvidia.com/gpu.shared=2"},
		"replicas by a fraction":                                       {"sliced", "main:\n@gpu-fraction: 0.25", "main: nvidia.com/gpu.shared=3"},
		"replicas by the larger of both":                               {"sliced", "main: neap.dev/gpu-milli=300, neap.dev/gpu-memory=10000\nb: neap.dev/gpu-milli=300, neap.dev/gpu-memory=100", "b: nvidia.com/gpu.shared=3\nmain: nvidia.com/gpu.shared=7"},
		"replicas that are called as whole ones":                       {"unsized", "main: neap.dev/gpu-milli=300", "main: nvidia.com/gpu=2"},
		"those are not translated again":                               {"unsized", "main: nvidia.com/gpu=3", "main: nvidia.com/gpu=3"},
		"claims are left alone, and given the scheduler if it is said": {"claims", "main: aliyun.com/gpu-mem=3", "main: aliyun.com/gpu-mem=3"},
	}
	var many, become []string // what CEL may cost is bounded
	for i := range 100 {
		many = append(many, fmt.Sprintf("c%03d: nvidia.com/gpu=2, nvidia.com/gpumem=10, nvidia.com/gpucores=1, cpu=1, memory=1Gi", i))
		become = append(become, fmt.Sprintf("c%03d: cpu=1, memory=1Gi, neap.dev/gpu-memory=20, neap.dev/gpu-milli=20", i))
	}
	cases["a hundred containers"] = struct{ class, pod, want string }{"all", strings.Join(many, "\n"),
		"@neap.dev/gpu-count: 2\n" + strings.Join(become, "\n") + "\nby neap-scheduler"}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := gpuPod(t, spaces[tc.class], tc.pod)
			if err := cl.Create(t.Context(), p, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(lines(tc.want), asked(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWhatAPodAskedForIsKept(t *testing.T) {
	_, cl, spaces := gpuCluster(t)
	p := gpuPod(t, spaces["all"], "main: cpu=1\nhelper: cpu=1\n@gpu-fraction: 0.5\n@gpu-fraction-container-name: helper")
	p.Spec.SchedulerName = "kai-scheduler"
	h := gpuPod(t, spaces["all"], "main: nvidia.com/gpu=1, nvidia.com/gpumem=3000\nother: cpu=1")
	for _, tc := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{p, `{"product":"KAI","schedulerName":"kai-scheduler","containers":{},"annotations":{"gpu-fraction":"0.5","gpu-fraction-container-name":"helper"}}`},
		{h, `{"product":"HAMi","schedulerName":"default-scheduler","containers":{"main":{"nvidia.com/gpu":"1","nvidia.com/gpumem":"3k"}},"annotations":{}}`},
	} {
		if err := cl.Create(t.Context(), tc.pod, client.DryRunAll); err != nil {
			t.Fatal(err)
		}
		got := tc.pod.Annotations[v1alpha1.AnnotationTranslatedFrom]
		if got != tc.want || !json.Valid([]byte(got)) {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
		if got := tc.pod.Annotations[v1alpha1.AnnotationGPUClass]; got != "all" {
			t.Errorf("the class is %q", got)
		}
	}
}

func TestWhatCannotBeTranslatedIsRefused(t *testing.T) {
	_, cl, spaces := gpuCluster(t)
	cases := map[string]struct{ class, pod, want string }{
		"two products":                {"all", "main: aliyun.com/gpu-mem=3\n@gpu-fraction: 0.5", "in the words of gpushare and KAI: use those of one"},
		"Neap's and another's":        {"all", "main: aliyun.com/gpu-mem=3, neap.dev/gpu-milli=100", "in the words of Neap and gpushare: use those of one"},
		"an enormous amount":          {"all", "main: aliyun.com/gpu-mem=1T", "container main asks for 1T of aliyun.com/gpu-mem: give a whole number from 0 to 268435456"},
		"bytes for MiB":               {"all", "main: nvidia.com/gpumem=3Gi", "container main asks for 3Gi of nvidia.com/gpumem: give a whole number"},
		"a negative amount":           {"all", "main: aliyun.com/gpu-mem=-3", "-3"},
		"half a GPU as a resource":    {"all", "main: nvidia.com/gpu=500m, nvidia.com/gpumem=3", "must be an integer"},
		"several GPUs of gpushare":    {"all", "main: aliyun.com/gpu-mem=3, aliyun.com/gpu-count=2", "aliyun.com/gpu-count has no counterpart"},
		"more than a GPU's cores":     {"all", "main: nvidia.com/gpu=1, nvidia.com/gpucores=120", "container main asks for more than 100 of nvidia.com/gpucores or nvidia.com/gpumem-percentage"},
		"a model that is not wanted":  {"all", "main: nvidia.com/gpumem=120\n@nvidia.com/nouse-gputype: T4", "annotation nvidia.com/nouse-gputype has no counterpart"},
		"a model that is none":        {"all", "main: nvidia.com/gpumem=120\n@nvidia.com/use-gputype: A100,,=3", `annotation nvidia.com/use-gputype is "A100,,=3": give models divided by commas`},
		"different numbers":           {"all", "a: nvidia.com/gpu=2, nvidia.com/gpumem=100\nb: nvidia.com/gpu=1", "ask for different numbers of GPUs"},
		"a hundred GPUs":              {"all", "a: nvidia.com/gpu=100, nvidia.com/gpumem=100", "more GPUs than the 16"},
		"a fraction in words":         {"all", "main:\n@gpu-fraction: half", `annotation gpu-fraction is "half": give a part of a GPU above 0 and up to 1, such as 0.5`},
		"a negative fraction":         {"all", "main:\n@gpu-fraction: -0.5", `annotation gpu-fraction is "-0.5"`},
		"a fraction above one":        {"all", "main:\n@gpu-fraction: 1.5", `annotation gpu-fraction is "1.5"`},
		"a fraction of nothing":       {"all", "main:\n@gpu-fraction: 0.0", `annotation gpu-fraction is "0.0"`},
		"memory in Gi":                {"all", "main:\n@gpu-memory: 2Gi", `annotation gpu-memory is "2Gi": give whole MiB, such as 2000`},
		"a fraction and memory":       {"all", "main:\n@gpu-memory: 2\n@gpu-fraction: 0.5", "give one"},
		"a container nobody has":      {"all", "main:\n@gpu-fraction: 0.5\n@gpu-fraction-container-name: load", `is "load": the pod has no such container`},
		"fractions of zero GPUs":      {"all", "main:\n@gpu-fraction: 0.5\n@gpu-fraction-num-devices: 0", "more GPUs than the 16"},
		"replicas of two GPUs":        {"sliced", "main: neap.dev/gpu-milli=2000", "a pod can have a piece of one GPU only"},
		"replicas of counted GPUs":    {"sliced", "main: neap.dev/gpu-milli=200\n@neap.dev/gpu-count: 2", "a pod can have a piece of one GPU only"},
		"memory of unknown replicas":  {"unsized", "main: neap.dev/gpu-memory=2000", "set spec.replicas.memoryMiB of the GPUClass"},
		"more memory than a GPU has":  {"sliced", "main: aliyun.com/gpu-mem=16", "more memory of a GPU than the 15360 MiB of class sliced"},
		"one and a half GPUs":         {"", "main: neap.dev/gpu-milli=1500", "the pod asks for 1500 of neap.dev/gpu-milli: up to 1000 is a piece of one GPU"},
		"also over containers":        {"", "a: neap.dev/gpu-milli=800\nb: neap.dev/gpu-milli=700", "the pod asks for 1500 of neap.dev/gpu-milli"},
		"also in an init container":   {"", "a: neap.dev/gpu-milli=800\ninit b: neap.dev/gpu-milli=1700", "the pod asks for 1700 of neap.dev/gpu-milli"},
		"a count in words":            {"", "main: neap.dev/gpu-milli=600\n@neap.dev/gpu-count: two", `annotation neap.dev/gpu-count is "two": give a whole number of GPUs from 1 to 16`},
		"more than counted":           {"", "main: neap.dev/gpu-milli=2600\n@neap.dev/gpu-count: 2", "for 2 GPUs, which have 2000"},
		"models without sense":        {"", "main: neap.dev/gpu-milli=600\n@neap.dev/gpu-models: T4=x", `annotation neap.dev/gpu-models is "T4=x": give models`},
		"models with an end missing":  {"", "main: neap.dev/gpu-milli=600\n@neap.dev/gpu-models: T4,", "give models"},
		"more than any machine":       {"", "main: neap.dev/gpu-milli=17000", "a machine has at most 16 GPUs"},
		"bytes of Neap's":             {"", "main: neap.dev/gpu-memory=8Gi", "it counts MiB, so write 8192 for 8 GiB"},
		"an amount beyond all limits": {"", "main: neap.dev/gpu-milli=9E", "a machine has at most 16 GPUs"},
		"a negative one of Neap's":    {"", "main: neap.dev/gpu-milli=-1", "must be greater than or equal to 0"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := gpuPod(t, spaces[tc.class], tc.pod)
			err := cl.Create(t.Context(), p.DeepCopy(), client.DryRunAll)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the pod: %v, want %q", err, tc.want)
			}
			d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: "d"}, Spec: appsv1.DeploymentSpec{
				Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
				Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}, Annotations: p.Annotations}, Spec: p.Spec},
			}}
			if err := cl.Create(t.Context(), d, client.DryRunAll); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("its Deployment: %v, want %q", err, tc.want)
			}
		})
	}
	for _, pod := range []string{
		"main: neap.dev/gpu-milli=3000", "main: neap.dev/gpu-milli=300, neap.dev/gpu-memory=8192\n@neap.dev/gpu-count: 2",
		"main: neap.dev/gpu-milli=300\n@neap.dev/gpu-models: Tesla T4=650/8192, G3 = 300 / 6144, A10", "a: neap.dev/gpu-milli=800\nb: neap.dev/gpu-milli=1200",
		"a: neap.dev/gpu-milli=300\ninit b: neap.dev/gpu-milli=2000", "main: neap.dev/gpu-memory=80000",
	} {
		if err := cl.Create(t.Context(), gpuPod(t, spaces[""], pod), client.DryRunAll); err != nil {
			t.Errorf("%s: %v", pod, err)
		}
	}
}

// The manifests are as those of the projects' own documents: only the images are not.
func TestManifestsOfOtherProductsRunUnchanged(t *testing.T) {
	_, cl, spaces := gpuCluster(t)
	for name, tc := range map[string]struct{ manifest, want string }{
		"gpushare": {`
metadata: {name: binpack-1, labels: {app: binpack-1}}
spec:
  replicas: 3
  selector: {matchLabels: {app: binpack-1}}
  template:
    metadata: {labels: {app: binpack-1}}
    spec:
      containers:
        - {name: binpack-1, image: simulated, resources: {limits: {aliyun.com/gpu-mem: 3}}}`,
			"binpack-1: neap.dev/gpu-memory=3072, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"HAMi": {`
metadata: {name: vector-add, labels: {app: vector-add}}
spec:
  replicas: 1
  selector: {matchLabels: {app: vector-add}}
  template:
    metadata: {labels: {app: vector-add}}
    spec:
      schedulerName: default-scheduler
      tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
      containers:
        - {name: vector-add, image: simulated, resources: {limits: {nvidia.com/gpu: 1, nvidia.com/gpumem: 3000}}}`,
			"vector-add: neap.dev/gpu-memory=3k, neap.dev/gpu-milli=1\nby neap-scheduler"},
		"KAI": {`
metadata: {name: gpu-sharing}
spec:
  replicas: 2
  selector: {matchLabels: {kai.scheduler/queue: default-queue}}
  template:
    metadata: {labels: {kai.scheduler/queue: default-queue}, annotations: {gpu-fraction: "0.5"}}
    spec:
      schedulerName: kai-scheduler
      containers: [{name: gpu-workload, image: simulated, command: [nvidia-smi], args: [-L]}]`,
			"gpu-workload: neap.dev/gpu-milli=500\nby neap-scheduler"},
	} {
		t.Run(name, func(t *testing.T) {
			d := new(appsv1.Deployment)
			if err := yaml.UnmarshalStrict([]byte(tc.manifest), d); err != nil {
				t.Fatal(err)
			}
			d.Namespace = spaces["all"]
			create(t, cl, d)
			var pods corev1.PodList
			clustertest.Eventually(t, "its pods", func() error {
				err := cl.List(t.Context(), &pods, client.InNamespace(d.Namespace), client.MatchingLabels(d.Spec.Selector.MatchLabels))
				if err == nil && len(pods.Items) != int(*d.Spec.Replicas) {
					err = fmt.Errorf("there are %d", len(pods.Items))
				}
				return err
			})
			for _, p := range pods.Items {
				if got := asked(&p); got != tc.want {
					t.Errorf("got %s, want %s", got, tc.want)
				}
			}
			if err := cl.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil || len(d.Spec.Template.Annotations[v1alpha1.AnnotationTranslatedFrom]) > 0 {
				t.Errorf("the Deployment itself is changed: %v", err)
			}
		})
	}
}

func TestOnlyNeapWritesWhereGPUsAre(t *testing.T) {
	c, cl, spaces := gpuCluster(t)
	as := func(user string, extra map[string][]string) client.Client {
		cfg, err := c.RESTConfig()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:masters"}, Extra: extra}
		out, err := client.New(cfg, client.Options{Scheme: cl.Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	pod := gpuPod(t, spaces[""], "main: neap.dev/gpu-milli=100")
	create(t, cl, pod)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gpu-node"}}
	create(t, cl, node)
	write := func(cl client.Client, o client.Object, key, value string, sub ...string) error {
		body, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{key: value}}})
		if err != nil {
			return err
		}
		o = o.DeepCopyObject().(client.Object)
		p := client.RawPatch("application/merge-patch+json", body)
		if len(sub) > 0 {
			return cl.SubResource(sub[0]).Patch(context.Background(), o, p)
		}
		return cl.Patch(context.Background(), o, p)
	}
	allocation, devices := v1alpha1.AnnotationGPUAllocation, v1alpha1.AnnotationGPUDevices
	clustertest.Eventually(t, "the policies to hold", func() error {
		for _, try := range []error{write(cl, pod, allocation, "by hand"), write(cl, node, devices, "by hand")} {
			if try == nil {
				return errors.New("a hand may write")
			}
		}
		return nil
	})
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"a pod by hand":                  {write(cl, pod, allocation, "{}"), "only the scheduler writes it"},
		"a pod's status by hand":         {write(cl, pod, allocation, "{}", "status"), "only the scheduler writes it"},
		"a node by hand":                 {write(cl, node, devices, "[]"), "only its agent writes it"},
		"a node's status by hand":        {write(cl, node, devices, "[]", "status"), "only its agent writes it"},
		"another node's agent":           {write(as("system:serviceaccount:neap-system:neap-agent", map[string][]string{"authentication.kubernetes.io/node-name": {"other"}}), node, devices, "[]"), "to the node that it runs on"},
		"whatever it writes":             {write(as("system:serviceaccount:neap-system:neap-agent", map[string][]string{"authentication.kubernetes.io/node-name": {"other"}}), node, "example.com/note", "x"), "to the node that it runs on"},
		"an agent at a pod":              {write(as("system:serviceaccount:neap-system:neap-agent", nil), pod, allocation, "{}"), "only the scheduler writes it"},
		"a pod that is born with it":     {cl.Create(t.Context(), gpuPod(t, spaces[""], "main: neap.dev/gpu-milli=100\n@"+allocation+": {}")), "only the scheduler writes it"},
		"a pod that is bound with it":    {cl.SubResource("binding").Create(t.Context(), pod.DeepCopy(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{allocation: "{}"}}, Target: corev1.ObjectReference{Kind: "Node", Name: "gpu-node"}}), "only the scheduler writes it"},
		"the scheduler":                  {write(as("system:serviceaccount:neap-system:neap-scheduler", nil), pod, allocation, "{}"), ""},
		"Neap in the scheduler's place":  {write(as("system:kube-scheduler", nil), pod, allocation, "{}"), ""},
		"the node's agent":               {write(as("system:serviceaccount:neap-system:neap-agent", map[string][]string{"authentication.kubernetes.io/node-name": {"gpu-node"}}), node, devices, "[]"), ""},
		"the fleet of a laptop":          {write(as("neap-fleet", nil), node, devices, "[]"), ""},
		"other annotations are anyone's": {write(cl, pod, "example.com/note", "x"), ""},
	} {
		switch {
		case tc.want == "" && tc.err != nil:
			t.Errorf("%s: %v", name, tc.err)
		case tc.want != "" && (tc.err == nil || !strings.Contains(tc.err.Error(), tc.want)):
			t.Errorf("%s: %v, want %q", name, tc.err, tc.want)
		}
	}
}
