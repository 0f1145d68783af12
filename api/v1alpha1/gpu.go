package v1alpha1

// Resources by which a container asks for GPUs. The amounts of a container are
// totals over the GPUs that its pod gets, and are divided evenly between them.
const (
	// ResourceGPUMilli is compute, in thousandths of a GPU. It is also what the
	// kubelet hands GPUs out by, so that a container which asks for memory alone
	// must have 1 of it, which means: as much as follows from the memory. Admission
	// adds it.
	ResourceGPUMilli = "neap.dev/gpu-milli"
	// ResourceGPUMemory is memory of GPUs in MiB.
	ResourceGPUMemory = "neap.dev/gpu-memory"
)

// What users say about GPUs on a pod, beside the resources of its containers.
const (
	// AnnotationGPUCount is the number of GPUs that the pod wants, such as 2.
	// Without it up to 1000 thousandths are a piece of one GPU, and a multiple of
	// 1000 is that many whole ones.
	AnnotationGPUCount = "neap.dev/gpu-count"
	// AnnotationGPUModels names the acceptable models, each with its own demand of
	// thousandths and MiB of every GPU, such as "T4=650/8192, G3=300, A10". Where a
	// model has no figures those of the resources hold, which are the least of all.
	// A name stands for every model in whose name its words are, one after the other:
	// T4 for Tesla-T4, A100 for NVIDIA-A100-SXM4-80GB; one that says more goes before.
	AnnotationGPUModels = "neap.dev/gpu-models"
	// AnnotationGPUClass names the pod's [GPUClass].
	AnnotationGPUClass = "neap.dev/gpu-class"
)

// What Neap writes about GPUs. Nobody else may.
const (
	// AnnotationGPUAllocation on a pod is a [GPUAllocation] in JSON: where the
	// scheduler put it.
	AnnotationGPUAllocation = "neap.dev/gpu-allocation"
	// AnnotationGPUDevices on a node is a list of [GPUDevice] in JSON: what the
	// agent found there.
	AnnotationGPUDevices = "neap.dev/gpu-devices"
	// LabelGPUModel on a node is the model of its GPUs, if all are of one.
	LabelGPUModel = "neap.dev/gpu-model"
	// AnnotationTranslatedFrom on a pod is what it asked for in the words of
	// another product, in JSON, before admission wrote it in Neap's.
	AnnotationTranslatedFrom = "neap.dev/translated-from"
)

// Where NVIDIA's device plugin and its feature discovery describe the GPUs of a
// node.
const (
	// LabelNVIDIAProduct is the model of a node's GPUs.
	LabelNVIDIAProduct = "nvidia.com/gpu.product"
	// LabelNVIDIAMemory is the memory of each of a node's GPUs in MiB.
	LabelNVIDIAMemory = "nvidia.com/gpu.memory"
	// LabelNVIDIACount is how many GPUs a node has.
	LabelNVIDIACount = "nvidia.com/gpu.count"
)

// A GPUDevice is one GPU of a node.
type GPUDevice struct {
	// Index is its place on the node, from 0.
	Index int32 `json:"index"`
	// UUID is its name in the whole fleet.
	UUID string `json:"uuid"`
	// Model is its name without spaces, such as NVIDIA-A10.
	Model string `json:"model"`
	// MemoryMiB is how much memory it has.
	MemoryMiB int64 `json:"memoryMiB"`
	// Healthy is false where nothing may be put on it.
	Healthy bool `json:"healthy"`
	// Reason says why it is not healthy.
	Reason string `json:"reason,omitempty"`
}

// A GPUAllocation is the GPUs that a pod holds.
type GPUAllocation struct {
	// Node is the node they are on.
	Node string `json:"node"`
	// Devices are what the pod, with all its containers, holds of each.
	Devices []GPUShare `json:"devices"`
}

// A GPUShare is a piece of one GPU.
type GPUShare struct {
	// UUID names the GPU.
	UUID string `json:"uuid"`
	// Milli is thousandths of its compute.
	Milli int64 `json:"milli"`
	// MemoryMiB is how much of its memory.
	MemoryMiB int64 `json:"memoryMiB"`
}
