package cgroup

import (
	"errors"
	"testing"
)

func TestTheKubeletsNames(t *testing.T) {
	const uid = "0b6e9a6e-3f7c-4a51-9d3e-1f2f3c4d5e6f"
	for name, tc := range map[string]struct {
		layout                              Layout
		wantPods, wantClass, wantPod, wantG Group
	}{
		"cgroupfs": {Layout{}, "/kubepods", "/kubepods/besteffort", "/kubepods/besteffort/pod" + uid, "/kubepods/pod" + uid},
		"cgroupfs below a root of its own": {Layout{Parent: "/neap"}, "/neap/kubepods", "/neap/kubepods/besteffort",
			"/neap/kubepods/besteffort/pod" + uid, "/neap/kubepods/pod" + uid},
		"systemd": {Layout{Systemd: true}, "/kubepods.slice", "/kubepods.slice/kubepods-besteffort.slice",
			"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0b6e9a6e_3f7c_4a51_9d3e_1f2f3c4d5e6f.slice",
			"/kubepods.slice/kubepods-pod0b6e9a6e_3f7c_4a51_9d3e_1f2f3c4d5e6f.slice"},
	} {
		t.Run(name, func(t *testing.T) {
			l := tc.layout
			for what, pair := range map[string][2]Group{
				"pods":             {l.Pods(), tc.wantPods},
				"class":            {l.Class(BestEffort), tc.wantClass},
				"class guaranteed": {l.Class(Guaranteed), tc.wantPods},
				"pod":              {l.Pod(BestEffort, uid), tc.wantPod},
				"guaranteed pod":   {l.Pod(Guaranteed, uid), tc.wantG},
			} {
				if pair[0] != pair[1] {
					t.Errorf("%s is in %s, want %s", what, pair[0], pair[1])
				}
			}
			for _, g := range []Group{tc.wantPod, tc.wantG} {
				if got, ok := l.UID(g); !ok || got != uid {
					t.Errorf("the pod of %s is %q, %v", g, got, ok)
				}
			}
			for _, g := range []Group{tc.wantPods, tc.wantClass, "/system.slice", "/"} {
				if got, ok := l.UID(g); ok {
					t.Errorf("%s is the group of pod %q", g, got)
				}
			}
			tree := NewFake(V2).Tree()
			if _, err := tree.FindLayout(l.Parent); !errors.Is(err, ErrGone) {
				t.Errorf("without a kubelet: %v", err)
			}
			if err := tree.Make(tc.wantPod); err != nil {
				t.Fatal(err)
			}
			if got, err := tree.FindLayout(l.Parent); err != nil || got.Pods() != tc.wantPods || got.Systemd != l.Systemd {
				t.Errorf("found %+v, %v", got, err)
			}
		})
	}
}

func TestCurves(t *testing.T) {
	for _, tc := range []struct{ shares, linear, quadratic int64 }{
		{2, 1, 1}, {1024, 39, 100}, {2048, 79, 174}, {262144, 10000, 10000}, {0, 1, 1}, {1 << 40, 10000, 10000},
	} {
		if got := Linear.weight(tc.shares); got != tc.linear {
			t.Errorf("the kubelet's weight of %d shares is %d, want %d", tc.shares, got, tc.linear)
		}
		if got := Quadratic.weight(tc.shares); got != tc.quadratic {
			t.Errorf("the runtimes' weight of %d shares is %d, want %d", tc.shares, got, tc.quadratic)
		}
	}
	for _, c := range []Curve{Linear, Quadratic} {
		for shares, last := int64(2), int64(0); shares <= 262144; shares += 1 + shares/50 {
			w := c.weight(shares)
			if w < last || c.weight(c.shares(w)) != w {
				t.Fatalf("curve %d: %d shares have weight %d after %d, which is %d shares", c, shares, w, last, c.shares(w))
			}
			last = w
		}
	}
}

// FuzzParse: whatever a file holds, nothing breaks, and no ceiling is below none.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"max 100000", "20000 50000", "-1", "9223372036854771712", "max", "default 100\n8:0 50", "FROZEN", "1", "", "9223372036854775807 1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, v := range []Version{V1, V2} {
			tree := NewFake(v).Tree()
			for _, k := range Knobs {
				if value, err := tree.parse(k, text, 100000); err == nil && k == Quota && value < Unlimited {
					t.Errorf("%v %s: %q is %d", v, k, text, value)
				}
			}
		}
		if n, ok := number([]byte(text)); ok && n < 0 {
			t.Errorf("%q is %d", text, n)
		}
		field([]byte(text), "nr_periods")
	})
}
