//go:build hardware

package hardware

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/agent/limiter"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/host/device/nvml"
)

// How long each measurement computes.
const long = 10 * time.Second

func TestMain(m *testing.M) {
	if mib := os.Getenv("NEAP_HARDWARE_WORKER"); mib != "" {
		if err := work(mib); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// kernel multiplies and adds, and touches no memory but for its result.
const kernel = `.version 6.0
.target sm_50
.address_size 64
.visible .entry spin(.param .u64 out, .param .u32 n)
{
	.reg .pred %p;
	.reg .f32 %f<3>;
	.reg .u32 %r<3>;
	.reg .u64 %rd<3>;
	ld.param.u32 %r1, [n];
	mov.u32 %r2, 0;
	mov.f32 %f1, 0f3F800000;
	mov.f32 %f2, 0f3F7FFFFF;
LOOP:
	fma.rn.f32 %f1, %f1, %f2, %f2;
	add.u32 %r2, %r2, 1;
	setp.lt.u32 %p, %r2, %r1;
	@%p bra LOOP;
	ld.param.u64 %rd1, [out];
	cvta.to.global.u64 %rd2, %rd1;
	st.global.f32 [%rd2], %f1;
	ret;
}
` + "\x00"

// work takes so many MiB of the first GPU, says so, waits for a line on its input,
// computes for a while, and says how many kernels it finished.
func work(mib string) error {
	size, err := strconv.ParseUint(mib, 10, 32)
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a context belongs to a thread
	lib, err := purego.Dlopen("libcuda.so.1", purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return err
	}
	var (
		cuInit      func(uint32) int32
		getDevice   func(*int32, int32) int32
		newContext  func(*uintptr, uint32, int32) int32
		loadModule  func(*uintptr, *byte) int32
		getFunction func(*uintptr, uintptr, string) int32
		alloc       func(*uint64, uintptr) int32
		launch      func(f uintptr, gx, gy, gz, bx, by, bz, shared uint32, stream uintptr, params, extra unsafe.Pointer) int32
		synchronise func() int32
	)
	for name, f := range map[string]any{
		"cuInit": &cuInit, "cuDeviceGet": &getDevice, "cuCtxCreate_v2": &newContext, "cuModuleLoadData": &loadModule,
		"cuModuleGetFunction": &getFunction, "cuMemAlloc_v2": &alloc, "cuLaunchKernel": &launch, "cuCtxSynchronize": &synchronise,
	} {
		purego.RegisterLibFunc(f, lib, name)
	}
	var dev int32
	var ctx, module, function uintptr
	var memory, out uint64
	text := []byte(kernel)
	for _, step := range []struct {
		name string
		do   func() int32
	}{
		{"cuInit", func() int32 { return cuInit(0) }},
		{"cuDeviceGet", func() int32 { return getDevice(&dev, 0) }},
		{"cuCtxCreate", func() int32 { return newContext(&ctx, 0, dev) }},
		{"cuModuleLoadData", func() int32 { return loadModule(&module, &text[0]) }},
		{"cuModuleGetFunction", func() int32 { return getFunction(&function, module, "spin") }},
		{"cuMemAlloc", func() int32 { return alloc(&out, 4096) }},
		{"cuMemAlloc " + mib + " MiB", func() int32 { return alloc(&memory, uintptr(size)<<20) }},
	} {
		if r := step.do(); r != 0 {
			return fmt.Errorf("%s: CUDA error %d", step.name, r)
		}
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	n := uint32(200_000)
	var pins runtime.Pinner
	pins.Pin(&out)
	pins.Pin(&n)
	params := []unsafe.Pointer{unsafe.Pointer(&out), unsafe.Pointer(&n)}
	pins.Pin(&params[0])
	defer pins.Unpin()
	done := 0
	for began := time.Now(); time.Since(began) < long; done++ {
		if r := launch(function, 1024, 1, 1, 256, 1, 1, 0, 0, unsafe.Pointer(&params[0]), nil); r != 0 {
			return fmt.Errorf("cuLaunchKernel: CUDA error %d", r)
		}
		if r := synchronise(); r != 0 {
			return fmt.Errorf("cuCtxSynchronize: CUDA error %d", r)
		}
	}
	fmt.Println("done", done)
	return nil
}

// A worker is a process that computes.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// hire starts a worker that holds memory; its error is what CUDA said.
func hire(t *testing.T, mib int64, env map[string]string) (*worker, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "NEAP_HARDWARE_WORKER="+strconv.FormatInt(mib, 10))
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	w := &worker{cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := w.out.ReadString('\n')
	if line != "ready\n" {
		return nil, fmt.Errorf("%s %w", strings.TrimSpace(line), errors.Join(err, errors.New("not ready")))
	}
	return w, nil
}

// together has workers compute at once and returns the kernels per second of each.
func together(t *testing.T, workers ...*worker) []float64 {
	t.Helper()
	for _, w := range workers {
		if _, err := fmt.Fprintln(w.in, "go"); err != nil {
			t.Fatal(err)
		}
	}
	var out []float64
	for _, w := range workers {
		line, err := w.out.ReadString('\n')
		var n int
		if _, bad := fmt.Sscanf(line, "done %d", &n); bad != nil {
			t.Fatalf("a worker says %q, %v", line, err)
		}
		out = append(out, float64(n)/long.Seconds())
	}
	return out
}

func must(t *testing.T, mib int64, env map[string]string) *worker {
	t.Helper()
	w, err := hire(t, mib, env)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestTwoProgramsShareAGPU(t *testing.T) {
	finder := device.FirstOf(new(nvml.NVML), device.SMI{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	found, err := finder.Find(ctx)
	if err != nil || len(found.Devices) == 0 {
		t.Fatalf("there is no GPU to try: %v", err)
	}
	d := found.Devices[0]
	t.Logf("seen by %s, driver %s: %+v", found.Source, found.Driver, found.Devices)
	if !d.Healthy {
		t.Fatalf("GPU 0 is sick: %s", d.Reason)
	}
	visible := map[string]string{"CUDA_VISIBLE_DEVICES": d.UUID}
	half := d.Memory / 4

	// 1. Alone, and what the driver says of it.
	w := must(t, half, visible)
	holding, err := finder.Processes(t.Context())
	i := slices.IndexFunc(holding, func(p device.Process) bool { return p.UUID == d.UUID && p.Memory >= half<<20 })
	if err != nil || i < 0 {
		t.Errorf("memory is held by %v, %v; one must hold %d MiB", holding, err, half)
	}
	alone := together(t, w)[0]
	t.Logf("alone: %.1f kernels/s", alone)

	// 2. Two that nothing limits.
	two := together(t, must(t, half, visible), must(t, half, visible))
	t.Logf("WatchOnly, two at once: %.1f and %.1f kernels/s, together %.0f %% of one alone", two[0], two[1], (two[0]+two[1])/alone*100)

	// 3. Two under MPS.
	control, err := exec.LookPath("nvidia-cuda-mps-control")
	if err != nil {
		t.Log("MPS was not tried: there is no nvidia-cuda-mps-control here")
		return
	}
	pipes := filepath.Join(t.TempDir(), "mps")
	if err := os.MkdirAll(pipes, 0o755); err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "CUDA_MPS_PIPE_DIRECTORY="+pipes, "CUDA_MPS_LOG_DIRECTORY="+pipes, "CUDA_VISIBLE_DEVICES="+d.UUID)
	daemon := exec.Command(control, "-d")
	daemon.Env = env
	if out, err := daemon.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	defer func() {
		quit := exec.Command(control)
		quit.Env, quit.Stdin = env, strings.NewReader("quit\n")
		if out, err := quit.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}()
	limits, _, err := limiter.Limiter{MPS: pipes}.Limit(v1alpha1.GPUMPS, []limiter.Piece{{Device: d, Milli: 500, MemoryMiB: 2 * half}})
	if err != nil {
		t.Fatal(err)
	}
	limits["CUDA_MPS_PIPE_DIRECTORY"] = pipes // in a container the folder is mounted
	mps := together(t, must(t, half, limits), must(t, half, limits))
	t.Logf("MPS, two with 500 thousandths each: %.1f and %.1f kernels/s, together %.0f %% of one alone", mps[0], mps[1], (mps[0]+mps[1])/alone*100)
	if _, err := hire(t, 3*half, limits); err == nil {
		t.Errorf("a program that was given %d MiB holds %d", 2*half, 3*half)
	} else {
		t.Logf("one that takes %d MiB of its %d is refused: %v", 3*half, 2*half, err)
	}
}
