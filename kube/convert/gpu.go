package convert

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/resource"
)

// mostGPUMemory is the most MiB that a GPU can have: sixteen times a million.
const mostGPUMemory = 1 << 24

// ErrNoSuchGPU is what [GPURequest] returns, wrapped in a sentence, for a request
// that makes sense but that no GPU of the catalogue can ever serve.
var ErrNoSuchGPU = errors.New("no such GPU")

// GPUModels is a catalogue of the kinds of GPUs in a fleet, and gives each the
// number by which core/gpu knows it. A kind is a model and its memory: an A100 of
// 40 GiB is another than one of 80. Kinds keep their numbers for ever. The zero
// GPUModels is empty and ready; it is not safe for concurrent use.
type GPUModels struct {
	names  []string
	folded []string // as folded, for comparison
	memory []int64
}

// Add returns the number of a kind of GPU, a new one if it was not known.
func (c *GPUModels) Add(model string, memoryMiB int64) (gpu.Model, error) {
	name := GPUModelName(model)
	switch {
	case name == "":
		return 0, errors.New("a GPU without the name of its model")
	case memoryMiB < 0 || memoryMiB > mostGPUMemory:
		return 0, fmt.Errorf("a GPU of model %s with %d MiB of memory: a GPU has 0 to %d MiB", name, memoryMiB, mostGPUMemory)
	}
	f := folded(name)
	for i := range c.names {
		if c.folded[i] == f && c.memory[i] == memoryMiB {
			return gpu.Model(i), nil
		}
	}
	if len(c.names) == gpu.MaxModels {
		return 0, fmt.Errorf("a GPU of model %s with %d MiB is the %dth kind, and a fleet can have %d: it is left out", name, memoryMiB, gpu.MaxModels+1, gpu.MaxModels)
	}
	c.names, c.folded, c.memory = append(c.names, name), append(c.folded, f), append(c.memory, memoryMiB)
	return gpu.Model(len(c.names) - 1), nil
}

// Named returns all kinds that a user means by a model: those in whose name its
// words are, one after the other, whatever their memory. T4 is Tesla-T4; A100 is
// NVIDIA-A100-SXM4-40GB and NVIDIA-A100-SXM4-80GB; A10 is neither.
func (c *GPUModels) Named(model string) gpu.Models {
	var s gpu.Models
	if c != nil {
		f := folded(GPUModelName(model))
		for i := range c.names {
			if strings.Contains(c.folded[i], f) {
				s = s.With(gpu.Model(i))
			}
		}
	}
	return s
}

// folded is a model's name as it is compared, with every word between hyphens.
func folded(name string) string { return "-" + strings.ToLower(name) + "-" }

// Name returns the model of a kind, "" for one that was not given out.
func (c *GPUModels) Name(m gpu.Model) string {
	if c == nil || int(m) >= len(c.names) {
		return ""
	}
	return c.names[m]
}

// Memory returns the MiB of a kind, 0 for one that was not given out.
func (c *GPUModels) Memory(m gpu.Model) int64 {
	if c == nil || int(m) >= len(c.memory) {
		return 0
	}
	return c.memory[m]
}

// Len returns how many kinds there are.
func (c *GPUModels) Len() int {
	if c == nil {
		return 0
	}
	return len(c.names)
}

// all is every kind.
func (c *GPUModels) all() gpu.Models {
	var s gpu.Models
	for i := range c.Len() {
		s = s.With(gpu.Model(i))
	}
	return s
}

// list is the names of the models for people, in the order of the alphabet.
func (c *GPUModels) list() string {
	if c.Len() == 0 {
		return "no machine has a GPU"
	}
	names := slices.Clone(c.names)
	slices.Sort(names)
	return "there are " + strings.Join(slices.CompactFunc(names, strings.EqualFold), ", ")
}

// most is the memory of the largest kind among s.
func (c *GPUModels) most(s gpu.Models) int64 {
	var n int64
	for m := range kinds(s) {
		n = max(n, c.Memory(m))
	}
	return n
}

// kinds yields the kinds of a set in their order.
func kinds(s gpu.Models) func(yield func(gpu.Model) bool) {
	return func(yield func(gpu.Model) bool) {
		for rest := uint64(s); rest != 0; rest &= rest - 1 {
			if !yield(gpu.Model(bits.TrailingZeros64(rest))) {
				return
			}
		}
	}
}

// GPUModelName returns the name of a model as it is shown and compared: without
// space around it, with '-' for the spaces in it. Case does not matter where two
// are compared.
func GPUModelName(s string) string { return strings.Join(strings.Fields(s), "-") }

// An ask is what containers ask for of each GPU. What asks for compute only gets
// memory in proportion, and the other way round.
type ask struct {
	milli, memory         int64 // said
	milliOnly, memoryOnly int64 // what of them was said alone
}

func (a ask) plus(b ask) ask {
	return ask{a.milli + b.milli, a.memory + b.memory, a.milliOnly + b.milliOnly, a.memoryOnly + b.memoryOnly}
}

// on returns the ask on a GPU with so much memory: compute rounded up, memory
// rounded down, so that pieces which fill the one never lack the other.
func (a ask) on(memory int64) (milli, mem int64) {
	milli, mem = a.milli, a.memory+a.milliOnly*memory/gpu.Whole
	if a.memoryOnly > 0 {
		if memory == 0 {
			return gpu.Whole + 1, mem // not on a GPU whose memory nobody knows
		}
		milli += (a.memoryOnly*gpu.Whole + memory - 1) / memory
	}
	return milli, mem
}

// An asking is a pod's wish for GPUs as its resources and annotations say it.
type asking struct {
	devices int64
	parts   []part
	phases  []ask // what is held at once, one after the other
}

type part struct {
	name string
	ask  ask
}

// on returns the most that the phases hold of a GPU with so much memory.
func (a *asking) on(memory int64) (milli, mem int64) {
	for _, p := range a.phases {
		m, g := p.on(memory)
		milli, mem = max(milli, m), max(mem, g)
	}
	return milli, mem
}

// least is on, but of what was said, not of what follows from it.
func (a *asking) least() (milli, mem int64) {
	for _, p := range a.phases {
		milli, mem = max(milli, p.milli), max(mem, p.memory)
	}
	return milli, mem
}

// proportional reports whether something follows from the size of the GPU.
func (a *asking) proportional() bool {
	return slices.ContainsFunc(a.parts, func(p part) bool { return p.ask.milliOnly > 0 || p.ask.memoryOnly > 0 })
}

// asked reads what a pod asks for; nil if it asks for no GPU.
func asked(pod *corev1.Pod) (*asking, error) {
	a := new(asking)
	var together ask
	var inits []ask
	add := func(c *corev1.Container, initial bool) error {
		milli, err := amount(c, v1alpha1.ResourceGPUMilli, gpu.MaxDevices*gpu.Whole)
		if err != nil {
			return err
		}
		memory, err := amount(c, v1alpha1.ResourceGPUMemory, gpu.MaxDevices*mostGPUMemory)
		if err != nil {
			return err
		}
		if milli == 1 && memory > 0 {
			milli = 0 // there for the kubelet only
		}
		p := ask{milli: milli, memory: memory}
		if memory == 0 {
			p.milliOnly = milli
		}
		if milli == 0 {
			p.memoryOnly = memory
		}
		if p != (ask{}) {
			a.parts = append(a.parts, part{c.Name, p})
		}
		if initial && (c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways) {
			inits = append(inits, p.plus(together))
		} else {
			together = together.plus(p) // a sidecar stays
		}
		return nil
	}
	for i := range pod.Spec.InitContainers {
		if err := add(&pod.Spec.InitContainers[i], true); err != nil {
			return nil, err
		}
	}
	for i := range pod.Spec.Containers {
		if err := add(&pod.Spec.Containers[i], false); err != nil {
			return nil, err
		}
	}
	if len(a.parts) == 0 {
		return nil, nil
	}
	a.phases = append(inits, together)
	if err := a.divide(pod); err != nil {
		return nil, err
	}
	return a, nil
}

// divide finds the number of GPUs and makes every amount one of each GPU.
func (a *asking) divide(pod *corev1.Pod) error {
	milli, _ := a.least()
	count, said := pod.Annotations[v1alpha1.AnnotationGPUCount]
	switch {
	case said:
		n, err := strconv.ParseInt(strings.TrimSpace(count), 10, 64)
		if err != nil || n < 1 || n > gpu.MaxDevices {
			return fmt.Errorf("annotation %s is %q: give a whole number of GPUs from 1 to %d", v1alpha1.AnnotationGPUCount, count, gpu.MaxDevices)
		}
		if milli > n*gpu.Whole {
			return fmt.Errorf("%s is %d and annotation %s is %d: %d GPUs have %d", v1alpha1.ResourceGPUMilli, milli, v1alpha1.AnnotationGPUCount, n, n, n*gpu.Whole)
		}
		a.devices = n
	case milli <= gpu.Whole:
		a.devices = 1
	case milli > gpu.MaxDevices*gpu.Whole:
		return fmt.Errorf("the pod's containers ask for %d of %s together: the most that a machine can have is %d", milli, v1alpha1.ResourceGPUMilli, gpu.MaxDevices*gpu.Whole)
	case milli%gpu.Whole == 0:
		a.devices = milli / gpu.Whole
	default:
		return fmt.Errorf("%s is %d: up to %d is a piece of one GPU, a multiple of %d is that many whole ones, and pieces of several need the annotation %s",
			v1alpha1.ResourceGPUMilli, milli, gpu.Whole, gpu.Whole, v1alpha1.AnnotationGPUCount)
	}
	if a.devices == 1 {
		return nil
	}
	each := func(p *ask) bool {
		whole := p.milli%a.devices == 0 && p.memory%a.devices == 0
		*p = ask{p.milli / a.devices, p.memory / a.devices, p.milliOnly / a.devices, p.memoryOnly / a.devices}
		return whole
	}
	for i := range a.parts {
		if !each(&a.parts[i].ask) {
			return fmt.Errorf("what container %s asks for cannot be divided evenly by %d GPUs: give multiples of %d for %s and %s",
				a.parts[i].name, a.devices, a.devices, v1alpha1.ResourceGPUMilli, v1alpha1.ResourceGPUMemory)
		}
	}
	for i := range a.phases {
		each(&a.phases[i])
	}
	return nil
}

// amount reads one extended resource of a container.
func amount(c *corev1.Container, name corev1.ResourceName, most int64) (int64, error) {
	q, ok := c.Resources.Requests[name]
	if !ok {
		q, ok = c.Resources.Limits[name]
	}
	switch {
	case !ok:
		return 0, nil
	case q.Sign() < 0:
		return 0, fmt.Errorf("container %s asks for %s of %s: it cannot be negative", c.Name, q.String(), name)
	case q.AsApproximateFloat64() > float64(most): // an exact comparison writes all zeros of 1e6666615 out
		return 0, fmt.Errorf("container %s asks for %s of %s: the most that a machine can have is %d", c.Name, q.String(), name, most)
	case q.Cmp(*apiresource.NewQuantity(q.Value(), apiresource.DecimalSI)) != 0:
		return 0, fmt.Errorf("container %s asks for %s of %s: give a whole number", c.Name, q.String(), name)
	default:
		return q.Value(), nil
	}
}

// A wish is one acceptable model of the annotation.
type wish struct {
	name          string
	milli, memory int64 // of each GPU; 0 where not said
}

// wishes reads the annotation [v1alpha1.AnnotationGPUModels].
func wishes(s string) ([]wish, error) {
	fail := func(entry, why string) error {
		return fmt.Errorf("annotation %s has %q: %s, as in T4=650/8192, G3=300, A10", v1alpha1.AnnotationGPUModels, strings.TrimSpace(entry), why)
	}
	var out []wish
	for entry := range strings.SplitSeq(s, ",") {
		name, demand, figures := strings.Cut(entry, "=")
		w := wish{name: GPUModelName(name)}
		if w.name == "" {
			return nil, fail(entry, "give a model")
		}
		if figures {
			milli, memory, both := strings.Cut(demand, "/")
			var err error
			if w.milli, err = strconv.ParseInt(strings.TrimSpace(milli), 10, 64); err != nil || w.milli < 1 || w.milli > gpu.Whole {
				return nil, fail(entry, fmt.Sprintf("give 1 to %d thousandths of a GPU after the sign", gpu.Whole))
			}
			if both {
				if w.memory, err = strconv.ParseInt(strings.TrimSpace(memory), 10, 64); err != nil || w.memory < 1 || w.memory > mostGPUMemory {
					return nil, fail(entry, fmt.Sprintf("give 1 to %d MiB after the stroke", mostGPUMemory))
				}
			}
		}
		if slices.ContainsFunc(out, func(o wish) bool { return strings.EqualFold(o.name, w.name) }) {
			return nil, fail(entry, "the model is named twice: name it once")
		}
		out = append(out, w)
	}
	return out, nil
}

// GPURequest returns the demands of which a pod needs one, in the order in which
// it names its models: several where kinds of GPUs known differ in what the pod
// needs of them. A pod that asks for no GPU has none. CPU is in milli-cores and
// Memory in bytes, as [Request] says.
//
// A demand for whole GPUs without a word about memory has no DeviceMemory: nobody
// else can be on them, and all of it is the pod's.
//
// The error says in one sentence what is wrong with the request, or, as an
// [ErrNoSuchGPU], that it is fine but that no GPU known is of such a model or as
// large.
func GPURequest(pod *corev1.Pod, known *GPUModels) ([]gpu.Demand, error) {
	a, err := asked(pod)
	if err != nil {
		return nil, err
	}
	models, named := pod.Annotations[v1alpha1.AnnotationGPUModels]
	if a == nil {
		return nil, nil
	}
	list := []wish{{}} // any model
	if named {
		if list, err = wishes(models); err != nil {
			return nil, err
		}
	}
	total := Request(pod)
	base := gpu.Demand{CPU: total[resource.CPU], Memory: total[resource.Memory], Devices: int(a.devices)}
	var out []gpu.Demand
	var short error
	for _, w := range list {
		set := known.all()
		if w.name != "" {
			set = known.Named(w.name)
			for _, o := range list { // a name that says more goes before
				if strings.Count(o.name, "-") > strings.Count(w.name, "-") {
					set &^= known.Named(o.name)
				}
			}
		}
		more, err := a.alternatives(base, w, set, known)
		if err != nil {
			return nil, err
		}
		if len(more) == 0 && short == nil {
			short = a.none(w, set, known)
		}
		for _, d := range more {
			out = addDemand(out, d)
		}
	}
	if len(out) == 0 {
		return nil, short
	}
	return out, nil
}

// alternatives returns the demands that a wish comes to on the kinds of a set.
func (a *asking) alternatives(base gpu.Demand, w wish, set gpu.Models, known *GPUModels) ([]gpu.Demand, error) {
	milli, memory := a.least()
	switch {
	case w.milli > 0 && w.milli < milli:
		return nil, fmt.Errorf("annotation %s asks for %d thousandths of each %s, less than the %d that the resource %s asks for: the resource holds the least of all models",
			v1alpha1.AnnotationGPUModels, w.milli, w.name, milli, v1alpha1.ResourceGPUMilli)
	case w.memory > 0 && w.memory < memory:
		return nil, fmt.Errorf("annotation %s asks for %d MiB of each %s, less than the %d that the resource %s asks for: the resource holds the least of all models",
			v1alpha1.AnnotationGPUModels, w.memory, w.name, memory, v1alpha1.ResourceGPUMemory)
	}
	var out []gpu.Demand
	for m := range kinds(set) {
		size := known.Memory(m)
		d := base
		milli, memory := a.on(size)
		if w.milli > 0 {
			milli = w.milli
			if _, said := a.least(); said == 0 { // memory follows compute
				memory = milli * size / gpu.Whole
			}
		}
		if w.memory > 0 {
			memory = w.memory
		}
		if milli > gpu.Whole || memory > size {
			continue
		}
		d.Milli, d.DeviceMemory, d.Models = milli, memory, gpu.Models(0).With(m)
		if _, said := a.least(); said == 0 && w.memory == 0 && milli == gpu.Whole {
			d.DeviceMemory = 0
		}
		out = addDemand(out, d)
	}
	if len(out) == 1 && w.name == "" && (out[0].Models == set || !a.proportional()) {
		out[0].Models = 0 // any: a GPU that is too small is seen from its memory
	}
	return out, nil
}

// addDemand adds d to the list, to the models of its equal if there is one.
func addDemand(list []gpu.Demand, d gpu.Demand) []gpu.Demand {
	for i := range list {
		o := list[i]
		o.Models = d.Models
		if o == d {
			if list[i].Models != 0 && d.Models != 0 {
				list[i].Models |= d.Models
			} else {
				list[i].Models = 0
			}
			return list
		}
	}
	return append(list, d)
}

// none says why no kind of a set serves the wish.
func (a *asking) none(w wish, set gpu.Models, known *GPUModels) error {
	if set == 0 {
		if w.name == "" {
			return fmt.Errorf("%w: %s", ErrNoSuchGPU, known.list())
		}
		return fmt.Errorf("%w: no machine has a GPU of model %s: %s", ErrNoSuchGPU, w.name, known.list())
	}
	model := ""
	if w.name != "" {
		model = " of model " + w.name
	}
	largest := known.most(set)
	if milli, memory := a.on(largest); w.milli == 0 && milli > gpu.Whole && memory <= largest {
		return fmt.Errorf("%w: the pod's containers ask for %d thousandths of one GPU%s together", ErrNoSuchGPU, milli, model)
	}
	_, memory := a.on(largest)
	return fmt.Errorf("%w: the pod asks for %d MiB of one GPU%s, and the largest has %d", ErrNoSuchGPU, max(memory, w.memory), model, largest)
}

// A GPUPart is what one container may use of each GPU of its pod.
type GPUPart struct {
	Container string
	Milli     int64
	MemoryMiB int64
}

// GPUParts returns the part of every container that asks for GPUs, init containers
// first, in what the pod was given of each GPU. deviceMemoryMiB is what those GPUs
// have. Where the pod was given other than what its resources say, because a model
// has a demand of its own, every part grows alike.
func GPUParts(pod *corev1.Pod, given v1alpha1.GPUShare, deviceMemoryMiB int64) ([]GPUPart, error) {
	a, err := asked(pod)
	if err != nil || a == nil {
		return nil, err
	}
	allMilli, allMemory := a.on(deviceMemoryMiB)
	out := make([]GPUPart, len(a.parts))
	for i, p := range a.parts {
		milli, memory := p.ask.on(deviceMemoryMiB)
		out[i] = GPUPart{p.name, scaled(milli, given.Milli, allMilli), scaled(memory, given.MemoryMiB, allMemory)}
	}
	return out, nil
}

// scaled returns n·to/from, rounded down but not to nothing, and no more than to.
func scaled(n, to, from int64) int64 {
	if n <= 0 || to <= 0 || from <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(to))
	if hi >= uint64(from) {
		return to
	}
	q, _ := bits.Div64(hi, lo, uint64(from))
	return int64(min(max(q, 1), uint64(to)))
}

// GPUDevices returns the GPUs of a node in the order of their indices: those that
// its agent wrote down, or else those that the capacity and labels of NVIDIA's
// plugin tell, which then are called after the node. The error names the node; it
// has no GPUs that anything may be put on.
func GPUDevices(node *corev1.Node) ([]v1alpha1.GPUDevice, error) {
	raw, ok := node.Annotations[v1alpha1.AnnotationGPUDevices]
	if !ok {
		return replicated(node)
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("node %s: annotation %s: %s", node.Name, v1alpha1.AnnotationGPUDevices, fmt.Sprintf(format, args...))
	}
	var out []v1alpha1.GPUDevice
	if err := json.Unmarshal([]byte(raw), &out); err != nil {
		return nil, fail("%v", err)
	}
	slices.SortStableFunc(out, func(a, b v1alpha1.GPUDevice) int { return int(a.Index) - int(b.Index) })
	uuids := map[string]bool{}
	for i := range out {
		d := &out[i]
		d.Model = GPUModelName(d.Model)
		switch {
		case d.Index < 0 || d.Index >= gpu.MaxDevices:
			return nil, fail("GPU %d: a machine has GPUs 0 to %d", d.Index, gpu.MaxDevices-1)
		case i > 0 && out[i-1].Index == d.Index:
			return nil, fail("GPU %d is there twice", d.Index)
		case d.UUID == "":
			return nil, fail("GPU %d has no uuid", d.Index)
		case uuids[d.UUID]:
			return nil, fail("uuid %s is there twice", d.UUID)
		case d.Model == "":
			return nil, fail("GPU %d has no model", d.Index)
		case d.MemoryMiB < 0 || d.MemoryMiB > mostGPUMemory:
			return nil, fail("GPU %d has %d MiB of memory: a GPU has 0 to %d", d.Index, d.MemoryMiB, mostGPUMemory)
		}
		uuids[d.UUID] = true
	}
	return out, nil
}

// replicated makes up the devices of a node whose GPUs an existing plugin serves.
func replicated(node *corev1.Node) ([]v1alpha1.GPUDevice, error) {
	model := GPUModelName(node.Labels[v1alpha1.LabelNVIDIAProduct])
	n, ok := node.Status.Capacity[v1alpha1.ResourceGPU]
	count := whole(&n)
	if s, there := node.Labels[v1alpha1.LabelNVIDIACount]; there { // with replicas the capacity counts those
		c, err := strconv.ParseInt(s, 10, 64)
		if err != nil || c < 0 {
			return nil, fmt.Errorf("node %s: label %s is %q, not a number of GPUs", node.Name, v1alpha1.LabelNVIDIACount, s)
		}
		count, ok = c, true
	}
	if !ok || count == 0 || model == "" {
		return nil, nil
	}
	memory, err := strconv.ParseInt(node.Labels[v1alpha1.LabelNVIDIAMemory], 10, 64)
	switch {
	case err != nil || memory < 0 || memory > mostGPUMemory:
		return nil, fmt.Errorf("node %s: label %s is %q, not an amount of MiB", node.Name, v1alpha1.LabelNVIDIAMemory, node.Labels[v1alpha1.LabelNVIDIAMemory])
	case count > gpu.MaxDevices:
		return nil, fmt.Errorf("node %s has %d GPUs: a machine can have %d", node.Name, count, gpu.MaxDevices)
	}
	out := make([]v1alpha1.GPUDevice, count)
	for i := range out {
		out[i] = v1alpha1.GPUDevice{
			Index: int32(i), UUID: fmt.Sprintf("%s-gpu-%d", node.Name, i), Model: model, MemoryMiB: memory, Healthy: true,
		}
	}
	return out, nil
}

// WriteGPUDevices returns the annotation that [GPUDevices] reads.
func WriteGPUDevices(devices []v1alpha1.GPUDevice) string { return compact(devices) }

// GPUAllocation returns what the scheduler wrote on a pod, nil if nothing. The
// error says what is wrong with it.
func GPUAllocation(pod *corev1.Pod) (*v1alpha1.GPUAllocation, error) {
	raw, ok := pod.Annotations[v1alpha1.AnnotationGPUAllocation]
	if !ok {
		return nil, nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("pod %s/%s: annotation %s: %s", pod.Namespace, pod.Name, v1alpha1.AnnotationGPUAllocation, fmt.Sprintf(format, args...))
	}
	var a v1alpha1.GPUAllocation
	if err := json.Unmarshal([]byte(raw), &a); err != nil {
		return nil, fail("%v", err)
	}
	if a.Node == "" {
		return nil, fail("it names no node")
	}
	if n := len(a.Devices); n < 1 || n > gpu.MaxDevices {
		return nil, fail("it has %d GPUs: a pod has 1 to %d", n, gpu.MaxDevices)
	}
	uuids := map[string]bool{}
	for _, d := range a.Devices {
		switch {
		case d.UUID == "":
			return nil, fail("a GPU has no uuid")
		case uuids[d.UUID]:
			return nil, fail("GPU %s is there twice", d.UUID)
		case d.Milli < 1 || d.Milli > gpu.Whole:
			return nil, fail("%d thousandths of GPU %s: it has %d", d.Milli, d.UUID, gpu.Whole)
		case d.MemoryMiB < 0 || d.MemoryMiB > mostGPUMemory:
			return nil, fail("%d MiB of GPU %s: a GPU has 0 to %d", d.MemoryMiB, d.UUID, mostGPUMemory)
		}
		uuids[d.UUID] = true
	}
	return &a, nil
}

// WriteGPUAllocation returns the annotation that [GPUAllocation] reads.
func WriteGPUAllocation(a v1alpha1.GPUAllocation) string { return compact(a) }

func compact(v any) string {
	out, err := json.Marshal(v)
	if err != nil { // strings and numbers only
		panic(err)
	}
	return string(out)
}
