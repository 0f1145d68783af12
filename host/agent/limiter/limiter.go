// Package limiter decides what the container runtime must set so that a container
// keeps within its piece of a GPU, and says what of that is in force on a machine.
//
// No call of CUDA is interposed. In the order of their strength:
//
//	NativeLimits  the driver counts the container's memory: driver 615 and CUDA 13.4
//	              or later, and NVIDIA's hook apply-cuda-memory-limits; compute is shared by time
//	MPS           the Multi-Process Service limits threads and memory; a fatal fault
//	              of one client ends all clients of its GPU
//	MIG           the piece is a slice of the hardware, and whole
//	WatchOnly     nothing: memory is watched, and acted on
//
// Whoever has a GPU for itself needs no limit. [Limiter.Limit] never says that a
// limit is in force where it is not: it fails, and says what is missing.
//
// Not here: watching memory, which host/agent/memorywatcher does.
package limiter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
)

// What the driver must be for limits of its own.
const (
	nativeDriver = 615
	nativeCUDA   = 13040
)

// DefaultMPS is where the control daemon of MPS keeps its pipes.
const DefaultMPS = "/run/nvidia-mps"

// memoryHook is the part of NVIDIA's container toolkit that gives the driver a
// container's limit; it reads the variables that [Limiter.Limit] sets.
const memoryHook = "apply-cuda-memory-limits"

// A Piece is what a container may use of one GPU.
type Piece struct {
	Device    device.Device
	Milli     int64 // thousandths of its compute
	MemoryMiB int64 // 0: no limit was asked for
}

// A Limiter knows what a machine can enforce.
type Limiter struct {
	Driver string     // version of the driver
	CUDA   int        // as in [device.Inventory]
	MPS    string     // folder of MPS' pipes on the machine, or with a folder for each GPU by its UUID; empty means [DefaultMPS]
	CDI    cdi.Folder // where NVIDIA's hooks are described
}

// Limit returns what the runtime must set so that a container keeps within pieces.
func (l Limiter) Limit(how v1alpha1.GPUEnforcement, pieces []Piece) (map[string]string, []cdi.Mount, error) {
	shared := false
	for _, p := range pieces {
		shared = shared || p.Milli < gpu.Whole
	}
	if !shared || how == v1alpha1.GPUWatchOnly || how == "" {
		return nil, nil, nil
	}
	switch how {
	case v1alpha1.GPUMIG:
		return nil, nil, errors.New("MIG is to enforce its piece, and it asks for a part of a slice: ask for 1000 thousandths of it")
	case v1alpha1.GPUNativeLimits:
		if err := l.native(); err != nil {
			return nil, nil, err
		}
		if least := least(pieces); least > 0 {
			mib := strconv.FormatInt(least, 10)
			return map[string]string{"NVIDIA_GPU_MEMORY_REQUEST": mib, "NVIDIA_GPU_MEMORY_LIMIT": mib}, nil, nil
		}
		return nil, nil, nil
	case v1alpha1.GPUMPS:
		return l.mps(pieces)
	}
	return nil, nil, fmt.Errorf("%q is no way to enforce a piece of a GPU", how)
}

// least is the smallest piece of memory, for limits that hold of every GPU alike.
func least(pieces []Piece) int64 {
	n := pieces[0].MemoryMiB
	for _, p := range pieces {
		n = min(n, p.MemoryMiB)
	}
	return n
}

func (l Limiter) native() error {
	major, _, _ := strings.Cut(l.Driver, ".")
	if v, err := strconv.Atoi(major); err != nil || v < nativeDriver || l.CUDA < nativeCUDA {
		return fmt.Errorf("the driver's own limits need driver %d and CUDA %d.%d, and this is driver %q with CUDA %d.%d",
			nativeDriver, nativeCUDA/1000, nativeCUDA%1000/10, l.Driver, l.CUDA/1000, l.CUDA%1000/10)
	}
	if !l.CDI.Hooked(memoryHook) {
		return fmt.Errorf("the driver's own limits need the hook %s in NVIDIA's CDI specification, and it is not there: update NVIDIA's container toolkit and run nvidia-ctk cdi generate", memoryHook)
	}
	return nil
}

// mps finds the daemon of a container's GPUs and returns its limits there.
func (l Limiter) mps(pieces []Piece) (map[string]string, []cdi.Mount, error) {
	folder, err := l.daemon(pieces)
	if err != nil {
		return nil, nil, err
	}
	var memory []string
	milli := pieces[0].Milli
	for i, p := range pieces {
		milli = min(milli, p.Milli)
		if p.MemoryMiB > 0 {
			memory = append(memory, fmt.Sprintf("%d=%dM", i, p.MemoryMiB)) // by the order in which the container sees them
		}
	}
	env := map[string]string{
		"CUDA_MPS_PIPE_DIRECTORY":           DefaultMPS,
		"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": strconv.FormatInt(max(milli/10, 1), 10),
	}
	if len(memory) > 0 {
		env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = strings.Join(memory, ",")
	}
	mounts := []cdi.Mount{{Host: folder, Container: DefaultMPS}}
	if shm := filepath.Join(folder, "shm"); l.there(shm) {
		mounts = append(mounts, cdi.Mount{Host: shm, Container: "/dev/shm"})
	}
	return env, mounts, nil
}

// daemon returns the pipes of the MPS daemon that serves all of a container's GPUs.
func (l Limiter) daemon(pieces []Piece) (string, error) {
	base := l.MPS
	if base == "" {
		base = DefaultMPS
	}
	if len(pieces) == 1 {
		if own := filepath.Join(base, pieces[0].Device.UUID); l.there(filepath.Join(own, "control")) {
			return own, nil
		}
	}
	if !l.there(filepath.Join(base, "control")) {
		return "", fmt.Errorf("MPS is to enforce its piece, and no control daemon of MPS keeps its pipes in %s: start nvidia-cuda-mps-control -d with CUDA_MPS_PIPE_DIRECTORY=%s on the machine", base, base)
	}
	return base, nil
}

func (l Limiter) there(path string) bool {
	_, err := os.Stat(filepath.Join("/", l.CDI.Root, path))
	return err == nil
}

// InForce returns for every way to enforce whether this machine has it: an empty
// text if so, or else why not.
func (l Limiter) InForce(devices []device.Device) map[v1alpha1.GPUEnforcement]string {
	out := map[v1alpha1.GPUEnforcement]string{v1alpha1.GPUWatchOnly: ""}
	if err := l.native(); err != nil {
		out[v1alpha1.GPUNativeLimits] = err.Error()
	} else {
		out[v1alpha1.GPUNativeLimits] = ""
	}
	out[v1alpha1.GPUMIG] = "no GPU is cut into MIG instances"
	var without []string
	for _, d := range devices {
		if d.Parent != "" {
			out[v1alpha1.GPUMIG] = ""
		}
		if _, err := l.daemon([]Piece{{Device: d}}); err != nil {
			without = append(without, d.UUID)
		}
	}
	switch {
	case len(devices) == 0:
		out[v1alpha1.GPUMPS] = "there is no GPU"
	case len(without) > 0:
		out[v1alpha1.GPUMPS] = "no control daemon of MPS for " + strings.Join(without, ", ")
	default:
		out[v1alpha1.GPUMPS] = ""
	}
	return out
}
