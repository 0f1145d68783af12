package probe

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/colocate"
)

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// made returns a machine with cgroup v2, a kubelet and pods, and nothing special.
func made(t *testing.T) string {
	root := t.TempDir()
	write(t, root, "proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
	write(t, root, "proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu cat_l3 mba\n")
	write(t, root, "proc/filesystems", "nodev\tproc\nnodev\tresctrl\n")
	write(t, root, "sys/devices/system/cpu/smt/active", "1\n")
	write(t, root, "sys/devices/system/node/online", "0-1\n")
	write(t, root, "proc/812/cmdline", "/usr/bin/kubelet\x00--config\x00/etc/kubelet.yaml\x00")
	write(t, root, "etc/kubelet.yaml", "featureGates:\n  MemoryQoS: true\n")
	return root
}

func TestAMadeMachineIsReadAsItIs(t *testing.T) {
	p := Look(Options{FilesOnly: true, Root: made(t), Now: time.Unix(1e9, 0)})
	for name, want := range map[string]colocate.State{"smt": colocate.Yes, "resctrl": colocate.Yes, "numa": colocate.Yes,
		"psi": colocate.No, "kubelet.memory-qos": colocate.Yes, "kubelet.cpu-idle": colocate.No, "never heard of": colocate.Unknown} {
		if got := p.Feature(name); got.State != want {
			t.Errorf("%s is %s (%s), want %s", name, got.State, got.Detail, want)
		}
	}
	if p.Kernel != "6.8.0-45-generic" {
		t.Errorf("kernel %q", p.Kernel)
	}
	if ok, reason, message := p.Verdict(); ok || reason != "NoAvoidance" {
		t.Errorf("a machine without cgroups is judged %v %s: %s", ok, reason, message)
	}
}

func TestAnotherSystemIsNamed(t *testing.T) {
	root := made(t)
	write(t, root, "proc/99/cmdline", "/usr/local/bin/koordlet\x00-v=4\x00")
	write(t, root, "proc/98/cmdline", "rubik\x00")
	p := Look(Options{FilesOnly: true, Root: root})
	if !slices.Equal(p.Others, []string{"Koordinator", "rubik"}) {
		t.Errorf("found %q", p.Others)
	}
	if ok, reason, message := p.Verdict(); ok || reason != "OtherSystem" || !strings.Contains(message, "Koordinator") {
		t.Errorf("judged %v %s: %s", ok, reason, message)
	}
}

func TestABrokenKubeletConfigurationIsUnknown(t *testing.T) {
	root := made(t)
	write(t, root, "etc/kubelet.yaml", "featureGates: [1, 2\n")
	if got := Look(Options{FilesOnly: true, Root: root}).Feature("kubelet.config"); got.State != colocate.Unknown || got.Detail == "" {
		t.Errorf("got %+v", got)
	}
	os.Remove(filepath.Join(root, "etc/kubelet.yaml"))
	if got := Look(Options{FilesOnly: true, Root: root}).Feature("kubelet.config"); got.State != colocate.Unknown || got.Detail == "" {
		t.Errorf("got %+v", got)
	}
}

func TestThisMachineIsProbedTwiceAlike(t *testing.T) {
	a, b := Look(Options{}), Look(Options{})
	x, _ := json.Marshal(a.Features)
	y, _ := json.Marshal(b.Features)
	if string(x) != string(y) {
		t.Errorf("first %s\nthen %s", x, y)
	}
	if len(x) > 8<<10 {
		t.Errorf("%d bytes are much for an annotation", len(x))
	}
	seen := map[string]bool{}
	for _, f := range a.Features {
		if seen[f.Name] || f.Name == "" || f.Use == "" || f.State == "" {
			t.Errorf("%+v", f)
		}
		seen[f.Name] = true
	}
}

func FuzzFeatureGates(f *testing.F) {
	f.Add([]byte("featureGates:\n  MemoryQoS: true\n"))
	f.Add([]byte("featureGates: [1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if g, err := featureGates(data); err != nil && g != nil {
			t.Errorf("%q gives both %v and %v", data, g, err)
		}
	})
}
