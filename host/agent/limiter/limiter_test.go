package limiter

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/cdi"
	"github.com/neap-dev/neap/host/device"
)

func write(t *testing.T, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const hooked = `{"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": "0", "containerEdits": {
"hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-ctk", "args": ["nvidia-ctk", "hook", "apply-cuda-memory-limits"]}]}}]}`

func TestWhatEnforcesAPiece(t *testing.T) {
	a, b := device.Device{UUID: "GPU-a"}, device.Device{UUID: "GPU-b"}
	half := []Piece{{Device: a, Milli: 455, MemoryMiB: 7000}}
	cases := map[string]struct {
		how    v1alpha1.GPUEnforcement
		pieces []Piece
		files  map[string]string
		driver string
		want   map[string]string
		mount  string
		err    string
	}{
		"nobody": {how: v1alpha1.GPUWatchOnly, pieces: half},
		"a whole GPU needs none": {
			how: v1alpha1.GPUMPS, pieces: []Piece{{Device: a, Milli: 1000, MemoryMiB: 15360}},
		},
		"the driver": {
			how: v1alpha1.GPUNativeLimits, pieces: half, driver: "615.10", files: map[string]string{"etc/cdi/nvidia.json": hooked},
			want: map[string]string{"NVIDIA_GPU_MEMORY_REQUEST": "7000", "NVIDIA_GPU_MEMORY_LIMIT": "7000"},
		},
		"an old driver":            {how: v1alpha1.GPUNativeLimits, pieces: half, driver: "580.65.06", err: "need driver 615 and CUDA 13.4"},
		"a driver nobody knows":    {how: v1alpha1.GPUNativeLimits, pieces: half, err: "need driver 615"},
		"an old container toolkit": {how: v1alpha1.GPUNativeLimits, pieces: half, driver: "615.10", err: "nvidia-ctk cdi generate"},
		"MPS of the machine": {
			how: v1alpha1.GPUMPS, pieces: []Piece{{a, 455, 7000}, {b, 455, 8000}}, files: map[string]string{"run/nvidia-mps/control": "", "run/nvidia-mps/shm/x": ""},
			want:  map[string]string{"CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-mps", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "45", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=7000M,1=8000M"},
			mount: "/run/nvidia-mps /run/nvidia-mps/shm",
		},
		"MPS of the GPU": {
			how: v1alpha1.GPUMPS, pieces: []Piece{{a, 5, 0}}, files: map[string]string{"run/nvidia-mps/GPU-a/control": ""},
			want:  map[string]string{"CUDA_MPS_PIPE_DIRECTORY": "/run/nvidia-mps", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "1"},
			mount: "/run/nvidia-mps/GPU-a",
		},
		"MPS without its daemon": {how: v1alpha1.GPUMPS, pieces: half, err: "start nvidia-cuda-mps-control"},
		"part of a slice":        {how: v1alpha1.GPUMIG, pieces: half, err: "ask for 1000"},
		"something unheard of":   {how: "Hope", pieces: half, err: "Hope"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range tc.files {
				write(t, root, path, text)
			}
			env, mounts, err := Limiter{Driver: tc.driver, CUDA: 13040, CDI: cdi.Folder{Root: root}}.Limit(tc.how, tc.pieces)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("the error is %v, want one with %q", err, tc.err)
				}
				return
			}
			var hosts []string
			for _, m := range mounts {
				hosts = append(hosts, m.Host)
			}
			if err != nil || !maps.Equal(env, tc.want) || strings.Join(hosts, " ") != tc.mount {
				t.Errorf("it sets %v and mounts %v, %v; want %v and %q", env, hosts, err, tc.want, tc.mount)
			}
		})
	}
}

func TestWhatIsInForceIsSaid(t *testing.T) {
	root := t.TempDir()
	write(t, root, "run/nvidia-mps/GPU-a/control", "")
	l := Limiter{Driver: "580.65.06", CUDA: 13000, CDI: cdi.Folder{Root: root}}
	got := l.InForce([]device.Device{{UUID: "GPU-a"}, {UUID: "GPU-b", Parent: "GPU-x"}})
	if got[v1alpha1.GPUWatchOnly] != "" || got[v1alpha1.GPUMIG] != "" || !strings.HasSuffix(got[v1alpha1.GPUMPS], "for GPU-b") || got[v1alpha1.GPUNativeLimits] == "" {
		t.Errorf("in force: %q", got)
	}
	if got := l.InForce(nil); got[v1alpha1.GPUMPS] == "" || got[v1alpha1.GPUMIG] == "" {
		t.Errorf("without a GPU: %q", got)
	}
}
