// Package device says which GPUs this machine has, how they are, and which
// processes hold how much of their memory.
//
// A [Finder] looks; there are three: NVML by host/device/nvml, which calls the
// driver's library without cgo; [SMI], which reads the XML of nvidia-smi; and
// [Fake] for machines without GPUs. [FirstOf] takes the first that answers. One
// look gives an [Inventory]; a [Roll] keeps what was seen from look to look, so
// that a GPU that vanishes is not forgotten but said to be lost.
//
// A GPU that is cut into MIG instances is not in the inventory; its instances are,
// each as a device of its own with its own memory.
//
// Not here: what is done with a sick GPU, and anything of Kubernetes.
package device
