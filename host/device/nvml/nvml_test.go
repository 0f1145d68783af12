package nvml

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/host/device"
)

// compiled is the path of the library of testdata/fake.c.
var compiled = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nvml")
	if err != nil {
		return "", err
	}
	lib := filepath.Join(dir, Library)
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", lib, "testdata/fake.c").CombinedOutput()
	if err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	return lib, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if lib, err := compiled(); err == nil {
		os.RemoveAll(filepath.Dir(lib))
	}
	os.Exit(code)
}

// library returns a fresh copy of the stand-in, for it has state, that misbehaves so.
func stand(t *testing.T, how string) *NVML {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("CI") == "" {
		t.Skip("no C compiler: the driver's stand-in cannot be made")
	}
	lib, err := compiled()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(lib)
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(t.TempDir(), Library)
	if err := os.WriteFile(own, raw, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("FAKE_NVML", how)
	if how == "" {
		return &NVML{Path: own}
	}
	// The library asks the C environment, which t.Setenv does not reach in a program
	// without cgo: it runs in a process of its own.
	if os.Getenv("NEAP_TEST_NVML") == how {
		return &NVML{Path: own}
	}
	child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	child.Env = append(os.Environ(), "FAKE_NVML="+how, "NEAP_TEST_NVML="+how)
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("%v\n%s", err, out)
	}
	return nil
}

var (
	t4  = device.Device{Index: 0, Ordinal: "0", UUID: "GPU-0", Model: "Tesla-T4", Memory: 15360, Minor: 1, PCI: "00000000:3B:00.0", Healthy: true}
	big = device.Device{Index: 1, Ordinal: "1:0", UUID: "MIG-a", Model: "NVIDIA-A100-SXM4-40GB-MIG-2g.10gb", Memory: 9856, PCI: "00000000:AF:00.0", Parent: "GPU-1", Healthy: true}
	wee = device.Device{Index: 2, Ordinal: "1:1", UUID: "MIG-b", Model: "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", Memory: 4864, PCI: "00000000:AF:00.0", Parent: "GPU-1", Healthy: true}
)

func TestTheLibraryIsUnderstood(t *testing.T) {
	n := stand(t, "")
	want := device.Inventory{Source: "nvml", Driver: "615.10.01", CUDA: 13040, Devices: []device.Device{t4, big, wee}}
	for range 2 {
		if got, err := n.Find(t.Context()); err != nil || !gocmp.Equal(got, want) {
			t.Fatalf("it finds (-want +got)\n%s%v", gocmp.Diff(want, got), err)
		}
	}
	got, err := n.Processes(t.Context())
	slices.SortFunc(got, func(a, b device.Process) int { return cmp.Compare(a.PID, b.PID) })
	if err != nil || len(got) != 19 || got[0] != (device.Process{PID: 100, UUID: "GPU-0", Memory: 5 << 20}) || got[18].Memory != 19<<20 {
		t.Errorf("memory is held by %v, %v", got, err)
	}
}

func TestALostGPUIsMissing(t *testing.T) {
	if n := stand(t, "lost"); n != nil {
		got, err := n.Find(t.Context())
		if err != nil || len(got.Devices) != 2 || got.Devices[0].UUID != "MIG-a" || got.Devices[0].Index != 0 {
			t.Errorf("it finds %+v, %v", got, err)
		}
	}
}

func TestAnErrorOfTheGPUMakesItSickAndOneOfAProgramDoesNot(t *testing.T) {
	if n := stand(t, "xid"); n != nil {
		if got, err := n.Find(t.Context()); err != nil || !got.Devices[0].Healthy {
			t.Fatalf("at first it finds %+v, %v", got, err)
		}
		for range 2 {
			got, err := n.Find(t.Context())
			if err != nil || got.Devices[0].Healthy || got.Devices[0].Reason != "Xid error 79" || !got.Devices[1].Healthy {
				t.Errorf("after the errors it finds %+v, %v", got, err)
			}
		}
	}
}

func TestAGPUThatCannotRemapIsSick(t *testing.T) {
	if n := stand(t, "remap"); n != nil {
		got, err := n.Find(t.Context())
		for _, d := range got.Devices {
			if d.Healthy || d.Reason != "remapping of its memory's rows has failed" {
				t.Errorf("it finds %+v, %v", d, err)
			}
		}
	}
}

func TestADriverThatHangsHoldsUpNobody(t *testing.T) {
	if n := stand(t, "hang"); n != nil {
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			if _, err := n.Find(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("the error is %v", err)
			}
			cancel()
		}
	}
}

func refused(t *testing.T, how, want string) {
	t.Helper()
	if n := stand(t, how); n != nil {
		if got, err := n.Find(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it finds %+v, %v; want an error with %q", got, err, want)
		}
	}
}

func TestTwoGPUsWithOneUUID(t *testing.T) { refused(t, "twins", "twice") }
func TestGPUsWithoutAName(t *testing.T)   { refused(t, "nameless", "no name") }
func TestGPUsThatAnswerErrors(t *testing.T) {
	refused(t, "broken", "memory of GPU 0: Unknown Error")
}

func TestADriverThatIsNotLoadedIsNoDriver(t *testing.T) {
	if n := stand(t, "unloaded"); n != nil {
		if _, err := n.Find(t.Context()); !errors.Is(err, device.ErrNoDriver) || !strings.Contains(err.Error(), "Driver Not Loaded") {
			t.Errorf("the error is %v", err)
		}
	}
}

func TestNoLibraryIsNoDriver(t *testing.T) {
	n := &NVML{Path: filepath.Join(t.TempDir(), Library)}
	if _, err := n.Find(t.Context()); !errors.Is(err, device.ErrNoDriver) {
		t.Errorf("without the library the error is %v", err)
	}
	if _, err := (&NVML{Path: "libc.so.6"}).Find(t.Context()); err == nil || errors.Is(err, device.ErrNoDriver) {
		t.Errorf("with another library the error is %v", err)
	}
}
