package device

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// program returns an nvidia-smi that is a script.
func program(t *testing.T, script string) SMI {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nvidia-smi")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return SMI{Path: path}
}

func testdata(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var two = []Device{
	{
		Index: 0, Ordinal: "0", UUID: "GPU-11111111-2222-3333-4444-555555555555", Model: "Tesla-T4",
		Memory: 15360, Minor: 1, PCI: "00000000:3B:00.0", Healthy: true,
	},
	{
		Index: 1, Ordinal: "1", UUID: "GPU-66666666-7777-8888-9999-000000000000", Model: "NVIDIA-A100-SXM4-40GB",
		Memory: 40960, Minor: 0, PCI: "00000000:AF:00.0", Reason: "remapping of its memory's rows has failed",
	},
}

func TestNVIDIASMIIsUnderstood(t *testing.T) {
	s := program(t, "cat "+testdata(t, "two.xml"))
	got, err := s.Find(t.Context())
	want := Inventory{Source: "nvidia-smi", Driver: "580.65.06", CUDA: 13000, Devices: two}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("it finds (-want +got)\n%s%v", cmp.Diff(want, got), err)
	}
	holding, err := s.Processes(t.Context())
	if want := []Process{{PID: 4242, UUID: two[0].UUID, Memory: 2998 << 20}}; err != nil || !slices.Equal(holding, want) {
		t.Errorf("memory is held by %v, %v, want %v", holding, err, want)
	}
}

func TestMIGInstancesAreDevicesOfTheirOwn(t *testing.T) {
	got, err := program(t, `[ "$1" = -L ] && exec cat `+testdata(t, "mig.list")+"\ncat "+testdata(t, "mig.xml")).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	gpu := Device{PCI: "00000000:3B:00.0", Parent: "GPU-66666666-7777-8888-9999-000000000000", Healthy: true}
	first, second := gpu, gpu
	first.Ordinal, first.UUID, first.Model, first.Memory = "0:0", "MIG-aaaaaaaa-0000-0000-0000-000000000000", "NVIDIA-A100-SXM4-40GB-MIG-2g.10gb", 9856
	second.Ordinal, second.UUID, second.Model, second.Memory = "0:1", "MIG-bbbbbbbb-0000-0000-0000-000000000000", "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864
	second.Index = 1
	if want := []Device{first, second}; !cmp.Equal(got.Devices, want) {
		t.Errorf("the devices are (-want +got)\n%s", cmp.Diff(want, got.Devices))
	}
	if got.CUDA != 13040 {
		t.Errorf("CUDA is %d, want 13040", got.CUDA)
	}
}

func TestNVIDIASMIThatMisbehaves(t *testing.T) {
	cases := map[string]struct {
		script string
		want   string
	}{
		"it writes rubbish":              {"echo NVIDIA-SMI has failed", "not its XML"},
		"it writes nothing":              {"exit 0", "not its XML"},
		"it is cut off":                  {"head -c 700 " + testdata(t, "two.xml"), "not its XML"},
		"it fails and says why":          {"echo 'NVIDIA-SMI has failed because it could not communicate'; exit 9", "could not communicate"},
		"it writes without end":          {"exec yes", "more than 16 MiB"},
		"a GPU has no UUID":              {"sed s/GPU-1.*5/N\\\\/A/ " + testdata(t, "two.xml"), "no UUID"},
		"two GPUs have one UUID":         {"sed s/GPU-.*[05]/GPU-x/ " + testdata(t, "two.xml"), "twice"},
		"a GPU has no name":              {"sed s/Tesla.T4// " + testdata(t, "two.xml"), "no name"},
		"MIG instances nobody can name":  {"[ $1 = -L ] || cat " + testdata(t, "mig.xml"), "no UUID"},
		"the list of instances is wrong": {"[ $1 = -L ] && exit 3; cat " + testdata(t, "mig.xml"), "-L: exit status 3"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := program(t, tc.script).Find(t.Context())
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("it finds %+v and says %v, want an error with %q", got, err, tc.want)
			}
			if errors.Is(err, ErrNoDriver) {
				t.Error("it says that there is no driver")
			}
		})
	}
}

func TestALostGPUDoesNotHideTheOthers(t *testing.T) {
	got, err := program(t, "sed 's/>15360 MiB/>ERR!/' "+testdata(t, "two.xml")+"; exit 15").Find(t.Context())
	if err != nil || len(got.Devices) != 2 {
		t.Fatalf("it finds %+v, %v", got, err)
	}
	if d := got.Devices[0]; d.Healthy || d.Reason != `nvidia-smi says its memory is "ERR!"` {
		t.Errorf("the lost one is %+v", d)
	}
}

func TestAProgramThatHangsIsLeftBehind(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	// The grandchild keeps the pipe open, as a process stuck in the kernel would.
	_, err := program(t, "sleep 600 & wait").Find(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "did not answer in time") {
		t.Errorf("the error is %v", err)
	}
}

func TestNoProgramIsNoDriver(t *testing.T) {
	for _, path := range []string{"/nowhere/nvidia-smi", "no-such-nvidia-smi"} {
		if _, err := (SMI{Path: path}).Find(t.Context()); !errors.Is(err, ErrNoDriver) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestTheFirstThatAnswersIsBelieved(t *testing.T) {
	broken := new(Fake)
	broken.Fail(fmt.Errorf("%w: no library", ErrNoDriver))
	f := FirstOf(broken, NewFake("m", "Tesla T4", 15360))
	if got, err := f.Find(t.Context()); err != nil || len(got.Devices) != 1 {
		t.Errorf("it finds %v, %v", got, err)
	}
	if _, err := f.Processes(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := FirstOf(broken, broken).Find(t.Context()); !errors.Is(err, ErrNoDriver) {
		t.Errorf("when nobody answers the error is %v", err)
	}
	if _, err := FirstOf().Find(t.Context()); !errors.Is(err, ErrNoDriver) {
		t.Errorf("with nobody to ask the error is %v", err)
	}
}

func TestAFinderThatHangsLeavesTimeForTheNext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	if got, err := FirstOf(program(t, "sleep 600"), NewFake("m", "Tesla T4", 15360)).Find(ctx); err != nil || got.Source != "fake" {
		t.Errorf("it finds %v, %v", got, err)
	}
}

// FuzzSMI: whatever nvidia-smi writes, what is made of it is an inventory whose
// devices are distinct, numbered and possible, or an error.
func FuzzSMI(f *testing.F) {
	for _, name := range []string{"two.xml", "mig.xml"} {
		raw, err := os.ReadFile(testdata(f, name))
		if err != nil {
			f.Fatal(err)
		}
		list, err := os.ReadFile(testdata(f, "mig.list"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, list)
	}
	f.Add([]byte("<nvidia_smi_log><gpu/></nvidia_smi_log>"), []byte("GPU 0: x\n  MIG y  Device 0: (UUID: MIG-z)"))
	f.Fuzz(func(t *testing.T, raw, list []byte) {
		log, err := parseSMI(raw)
		if err != nil {
			return
		}
		for _, p := range log.processes() {
			if p.PID <= 0 || p.Memory < 0 || p.UUID == "" {
				t.Errorf("process %+v", p)
			}
		}
		inv, err := log.inventory(list)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for i, d := range inv.Devices {
			if d.Index != i || d.UUID == "" || seen[d.UUID] || d.Model == "" || d.Memory < 0 && d.Healthy || d.Minor < 0 || d.Healthy != (d.Reason == "") {
				t.Errorf("device %d is %+v", i, d)
			}
			if d.Model != ModelName(d.Model) || len(d.Model) > 63 {
				t.Errorf("model %q is no label", d.Model)
			}
			seen[d.UUID] = true
		}
	})
}
