package v1alpha1

// GPUDriver is the name of Neap's driver for dynamic resource allocation, and of
// the DeviceClass of all its GPUs. Its devices are called gpu-0, gpu-1 and so on,
// by [GPUDevice.Index], in a pool with the name of their node.
const GPUDriver = "gpu.neap.dev"

// What a ResourceClaim asks of a GPU of [GPUDriver], and consumes of it. The names
// are short as they stand in claims; whole ones begin with the driver's name.
const (
	// CapacityGPUMilli is thousandths of a GPU's compute.
	CapacityGPUMilli = "milli"
	// CapacityGPUMemory is bytes of its memory, in whole MiB.
	CapacityGPUMemory = "memory"
)

// Attributes of a GPU of [GPUDriver].
const (
	// AttributeGPUModel is [GPUDevice.Model].
	AttributeGPUModel = "model"
	// AttributeGPUUUID is [GPUDevice.UUID].
	AttributeGPUUUID = "uuid"
	// AttributeGPUIndex is [GPUDevice.Index].
	AttributeGPUIndex = "index"
)

// TaintGPUUnhealthy is the taint of a GPU that is sick or gone: nothing new is put
// on it. What runs there stays, until a plan moves it.
const TaintGPUUnhealthy = "neap.dev/gpu-unhealthy"
