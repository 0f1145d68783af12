package chart

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	resourceapi "k8s.io/api/resource/v1"

	"github.com/neap-dev/neap/kube/convert"
)

func TestTheDeviceClassIsTheDriversOwn(t *testing.T) {
	classes := all[resourceapi.DeviceClass](t, render(t, "agent.enabled=true", "agent.claims=true"), "DeviceClass")
	if len(classes) != 1 || classes[0].Name != convert.GPUDeviceClass().Name {
		t.Fatalf("device classes %+v", classes)
	}
	if diff := cmp.Diff(convert.GPUDeviceClass().Spec, classes[0].Spec); diff != "" {
		t.Error(diff)
	}
	if classes := all[resourceapi.DeviceClass](t, render(t, "agent.enabled=true"), "DeviceClass"); len(classes) > 0 {
		t.Error("there is a class that nobody serves")
	}
}
