package device

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARollForgetsNoDevice(t *testing.T) {
	var r Roll
	a, b, c := Device{Index: 0, UUID: "a", Healthy: true}, Device{Index: 1, UUID: "b", Healthy: true}, Device{Index: 1, UUID: "c", Healthy: true}
	r.Look(Inventory{Devices: []Device{a, b}}, nil)

	// b vanishes, and c takes its number.
	got := r.Look(Inventory{Devices: []Device{a, c}}, nil)
	lost := b
	lost.Index, lost.Healthy, lost.Reason = 2, false, "the driver does not find it any more"
	if want := []Device{a, c, lost}; !cmp.Equal(got, want) {
		t.Errorf("after b went and c came (-want +got)\n%s", cmp.Diff(want, got))
	}
	// It comes back where it was.
	b.Index = 2
	if got := r.Look(Inventory{Devices: []Device{a, c, b}}, nil); !cmp.Equal(got, []Device{a, c, b}) {
		t.Errorf("after b came back: %v", got)
	}
	r.Look(Inventory{Devices: []Device{a}}, nil)
	r.Forget(Inventory{Devices: []Device{a}}, func(uuid string) bool { return uuid == "c" })
	if got := r.Look(Inventory{Devices: []Device{a}}, nil); len(got) != 2 || got[1].UUID != "c" {
		t.Errorf("with c in use and b not: %v", got)
	}
}

func TestADriverMayFailTwice(t *testing.T) {
	r := NewRoll([]Device{{UUID: "a", Healthy: true}})
	fail := errors.New("it hangs")
	if got := r.Look(Inventory{}, fail); got[0].Healthy {
		t.Error("a device that was only remembered is healthy")
	}
	a := Device{UUID: "a", Healthy: true}
	r.Look(Inventory{Devices: []Device{a}}, nil)
	for range 2 {
		if got := r.Look(Inventory{}, fail); !got[0].Healthy || !r.Waiting() {
			t.Fatal("one failure makes it sick")
		}
	}
	if got := r.Look(Inventory{}, fail); got[0].Healthy || r.Waiting() || !strings.Contains(got[0].Reason, "does not answer: it hangs") {
		t.Errorf("after three failures: %+v", got)
	}
	if got := r.Look(Inventory{Devices: []Device{a}}, nil); !got[0].Healthy {
		t.Error("it does not get well again")
	}
}

func TestModelNamesAreLabels(t *testing.T) {
	for product, want := range map[string]string{
		"Tesla T4":                 "Tesla-T4",
		" NVIDIA  H100 80GB HBM3 ": "NVIDIA-H100-80GB-HBM3",
		"GTX 9800/9800+":           "GTX-98009800",
		"-x-":                      "x",
		"":                         "",
		strings.Repeat("a", 80):    strings.Repeat("a", 63),
	} {
		if got := ModelName(product); got != want {
			t.Errorf("ModelName(%q) = %q, want %q", product, got, want)
		}
	}
}
