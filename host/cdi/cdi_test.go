package cdi

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/neap-dev/neap/host/device"
)

// machine returns a folder below a machine's root with the driver's device nodes,
// plain files here, and GPUs 0 and 1.
func machine(t *testing.T) (Folder, []device.Device) {
	t.Helper()
	root := t.TempDir()
	for _, node := range []string{"nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"} {
		write(t, filepath.Join(root, "dev", node), "")
	}
	return Folder{Dir: filepath.Join(root, "var/run/cdi"), Kind: "neap.dev/gpu", Root: root}, []device.Device{
		{Index: 0, Ordinal: "0", Minor: 0, UUID: "GPU-a", Healthy: true},
		{Index: 1, Ordinal: "1", Minor: 1, UUID: "GPU-b", Healthy: true},
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// resolved returns what the runtime's own code finds a device to mean.
func resolved(t *testing.T, f Folder, name string) *cdi.Device {
	t.Helper()
	cache, err := cdi.NewCache(cdi.WithSpecDirs(f.Dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	if errs := cache.GetErrors(); len(errs) > 0 {
		t.Fatalf("the runtime finds fault: %v", errs)
	}
	return cache.GetDevice(f.Qualified(name))
}

func TestTheRuntimeReadsWhatWeWrite(t *testing.T) {
	f := Folder{Dir: filepath.Join(t.TempDir(), "cdi"), Kind: "neap.dev/gpu"}
	simulated, err := device.NewFake("m", "Tesla T4", 15360, 15360).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	g := Grant{
		Name: "c0ffee", Devices: simulated.Devices, Env: map[string]string{"B": "2", "A": "1"},
		Mounts: []Mount{{Host: "/run/mps", Container: "/tmp/mps"}},
		Note:   map[string]string{"neap.dev/pod": "default/a"},
	}
	if err := f.Write(g); err != nil {
		t.Fatal(err)
	}
	var container oci.Spec
	cache, err := cdi.NewCache(cdi.WithSpecDirs(f.Dir), cdi.WithAutoRefresh(false))
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := cache.InjectDevices(&container, f.Qualified("c0ffee")); err != nil {
		t.Fatalf("the runtime cannot inject %v: %v", missing, err)
	}
	if want := []string{"NVIDIA_VISIBLE_DEVICES=GPU-m-0,GPU-m-1", "A=1", "B=2"}; !slices.Equal(container.Process.Env, want) {
		t.Errorf("the container's environment is %q, want %q", container.Process.Env, want)
	}
	if len(container.Mounts) != 1 || container.Mounts[0].Destination != "/tmp/mps" {
		t.Errorf("the container's mounts are %+v", container.Mounts)
	}
	grants, err := f.Grants()
	if err != nil || len(grants) != 1 || grants["c0ffee"]["neap.dev/pod"] != "default/a" {
		t.Errorf("the folder's grants are %v, %v", grants, err)
	}
	if info, err := os.Stat(f.path("c0ffee")); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}

	// Written again with less, it says the new thing alone; removed, nothing.
	g.Devices, g.Env = g.Devices[:1], nil
	if err := f.Write(g); err != nil {
		t.Fatal(err)
	}
	if got := resolved(t, f, "c0ffee").ContainerEdits.Env; !slices.Equal(got, []string{"NVIDIA_VISIBLE_DEVICES=GPU-m-0"}) {
		t.Errorf("after the second writing the environment is %q", got)
	}
	if err := errors.Join(f.Remove("c0ffee"), f.Remove("c0ffee")); err != nil {
		t.Error(err)
	}
	if grants, err := f.Grants(); err != nil || len(grants) != 0 {
		t.Errorf("after its removal the folder's grants are %v, %v", grants, err)
	}
}

func TestOnlyTheDevicesGrantedAreSeen(t *testing.T) {
	f, gpus := machine(t)
	if err := f.Write(Grant{Name: "one", Devices: gpus[1:]}); err != nil {
		t.Fatal(err)
	}
	var nodes []string
	for _, n := range resolved(t, f, "one").ContainerEdits.DeviceNodes {
		nodes = append(nodes, n.Path)
	}
	if want := []string{"/dev/nvidia1", "/dev/nvidiactl", "/dev/nvidia-uvm"}; !slices.Equal(nodes, want) {
		t.Errorf("the device nodes are %q, want %q", nodes, want)
	}
}

const nvidia = `---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes: [{path: /dev/nvidia0}]
- name: GPU-b
  containerEdits:
    deviceNodes: [{path: /dev/nvidia1}]
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  deviceNodes: [{path: /dev/nvidiactl}]
  mounts: [{hostPath: /usr/lib/libcuda.so.1, containerPath: /usr/lib/libcuda.so.1, options: [ro, bind]}]
  hooks: [{hookName: createContainer, path: /usr/bin/nvidia-ctk, args: [nvidia-ctk, hook, update-ldcache]}]
`

func TestNVIDIAsOwnDescriptionIsTakenOver(t *testing.T) {
	f, gpus := machine(t)
	write(t, filepath.Join(f.Root, "etc/cdi/nvidia.yaml"), nvidia)
	write(t, filepath.Join(f.Root, "etc/cdi/torn.yaml"), nvidia[:60])
	if err := f.Write(Grant{Name: "both", Devices: gpus}); err != nil {
		t.Fatal(err)
	}
	e := resolved(t, f, "both").ContainerEdits
	if len(e.DeviceNodes) != 3 || len(e.Mounts) != 1 || len(e.Hooks) != 1 || !slices.Equal(e.Env, []string{"NVIDIA_VISIBLE_DEVICES=void"}) {
		t.Errorf("the edits are %d nodes, %d mounts, %d hooks and %q; want 3, 1, 1 and void", len(e.DeviceNodes), len(e.Mounts), len(e.Hooks), e.Env)
	}
}

func TestADescriptionThatIsInDoubtIsRefused(t *testing.T) {
	cases := map[string]struct {
		edit func(*device.Device)
		want string
	}{
		"the number is another GPU's by now":    {func(d *device.Device) { d.Minor = 1 }, "out of date"},
		"a GPU came later than the description": {func(d *device.Device) { d.Ordinal, d.UUID = "7", "GPU-c" }, "run nvidia-ctk cdi generate again"},
		"a MIG instance nobody described":       {func(d *device.Device) { d.Ordinal, d.Parent = "0:1", "GPU-x" }, "run nvidia-ctk cdi generate"},
		"the driver's device node is not there": {func(d *device.Device) { d.Ordinal, d.Minor = "", 5 }, "nvidia5"},
		"a simulated GPU beside a real one":     {func(d *device.Device) { d.Minor = -1 }, "though others are"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f, gpus := machine(t)
			write(t, filepath.Join(f.Root, "etc/cdi/nvidia.yaml"), nvidia)
			tc.edit(&gpus[0])
			err := f.Write(Grant{Name: "x", Devices: gpus})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want one with %q", err, tc.want)
			}
			if files, _ := os.ReadDir(f.Dir); len(files) > 0 {
				t.Errorf("%v was left", files)
			}
		})
	}
}

func TestGrantsThatMakeNoSenseAreNotWritten(t *testing.T) {
	f := Folder{Dir: t.TempDir(), Kind: "neap.dev/gpu"}
	gpu := []device.Device{{UUID: "GPU-a", Minor: -1}}
	for name, g := range map[string]Grant{
		"no GPU":            {Name: "x"},
		"a name with slash": {Name: "../x", Devices: gpu},
		"no name":           {Devices: gpu},
		"an empty variable": {Name: "x", Devices: gpu, Env: map[string]string{"": "1"}},
	} {
		if err := f.Write(g); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if files, _ := os.ReadDir(f.Dir); len(files) > 0 {
		t.Errorf("%v was left", files)
	}
}

func TestAFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	f := Folder{Dir: filepath.Join(file, "cdi"), Kind: "neap.dev/gpu"}
	err := f.Write(Grant{Name: "x", Devices: []device.Device{{UUID: "GPU-a", Minor: -1}}})
	if err == nil || !strings.Contains(err.Error(), f.Dir) && !strings.Contains(err.Error(), file) {
		t.Errorf("the error is %v", err)
	}
}

// TestAFullDiskLeavesWhatWasThere limits the size of files in a process of its own:
// to a program it looks like a full disk.
func TestAFullDiskLeavesWhatWasThere(t *testing.T) {
	g := Grant{Name: "x", Devices: []device.Device{{UUID: "GPU-a", Minor: -1}}}
	if dir := os.Getenv("NEAP_TEST_FULL_DISK"); dir != "" {
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 16, Max: 16}); err != nil {
			t.Fatal(err)
		}
		g.Devices[0].UUID = "GPU-b"
		if err := (Folder{Dir: dir, Kind: "neap.dev/gpu"}).Write(g); err == nil || !strings.Contains(err.Error(), "the container runtime reads its devices from there") {
			t.Fatalf("the error is %v", err)
		}
		return
	}
	f := Folder{Dir: t.TempDir(), Kind: "neap.dev/gpu"}
	if err := f.Write(g); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestAFullDiskLeavesWhatWasThere$")
	child.Env = append(os.Environ(), "NEAP_TEST_FULL_DISK="+f.Dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if files, _ := os.ReadDir(f.Dir); len(files) != 1 {
		t.Errorf("the folder holds %v, want the first grant alone", files)
	}
	if got := resolved(t, f, "x").ContainerEdits.Env; !slices.Equal(got, []string{"NVIDIA_VISIBLE_DEVICES=GPU-a"}) {
		t.Errorf("the grant is now %q", got)
	}
}

func TestWhatACrashLeftIsTakenAway(t *testing.T) {
	f := Folder{Dir: t.TempDir(), Kind: "neap.dev/gpu"}
	old, fresh := filepath.Join(f.Dir, ".neap-1.tmp"), filepath.Join(f.Dir, ".neap-2.tmp")
	write(t, old, "{")
	write(t, fresh, "{")
	write(t, filepath.Join(f.Dir, "neap.dev-gpu-torn.json"), "{")
	write(t, filepath.Join(f.Dir, "nvidia.yaml"), nvidia)
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	grants, err := f.Grants()
	if notes, ok := grants["torn"]; err != nil || len(grants) != 1 || !ok || notes != nil {
		t.Errorf("the grants are %v, %v; want torn alone, without notes", grants, err)
	}
	if _, err := os.Stat(old); err == nil {
		t.Error("the old rest is still there")
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("the file that is being written: %v", err)
	}
}
