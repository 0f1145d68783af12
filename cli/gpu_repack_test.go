package cli

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func TestARepackPlanIsShown(t *testing.T) {
	p := v1alpha1.RepackPlan{
		ObjectMeta: metav1.ObjectMeta{Name: "night"},
		Spec:       v1alpha1.RepackPlanSpec{Goal: v1alpha1.RepackEmpty, Mode: v1alpha1.RepackExecute},
		Status: v1alpha1.RepackPlanStatus{
			Phase: v1alpha1.RepackRunning, Reason: "pod live/chat-1: the replacement is not ready yet", Planned: 1,
			Before: &v1alpha1.RepackLevel{GPUs: 4, Machines: 2}, Peak: &v1alpha1.RepackLevel{GPUs: 4, Machines: 2}, After: &v1alpha1.RepackLevel{GPUs: 2, Machines: 1},
			Freed: &v1alpha1.RepackFreed{Machines: 1, GPUs: 2, Names: []string{"gpu-7"}, PerHour: "3.2000", Cost: "0.0100"},
			Gap:   &v1alpha1.RepackGap{GPUs: 0, PerHour: "0.0000"},
			Moves: []v1alpha1.RepackMove{{
				Pod: "live/chat-1", From: v1alpha1.RepackSpot{Machine: "gpu-7", Devices: []string{"GPU-abcdef-0"}}, To: v1alpha1.RepackSpot{Machine: "gpu-8", Devices: []string{"GPU-1"}},
				Milli: 300, MemoryMiB: 8192, LoadSeconds: 95, State: v1alpha1.MoveSurging, Message: "the replacement is not ready yet",
			}},
			Left: []v1alpha1.RepackLeft{{Pod: "live/db-0", Reason: "it is a StatefulSet's"}},
		},
	}
	var out strings.Builder
	if err := writeRepackPlan(&out, &p); err != nil {
		t.Fatal(err)
	}
	if err := writeRepackPlans(&out, []v1alpha1.RepackPlan{p}, "here"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"night, goal Empty, mode Execute: Running", "2 before, 2 at most on the way, 1 after; with 4, 4 and 2 GPUs",
		"Given back: 1 machines with 2 GPUs (gpu-7), 3.2000 an hour, for moves that cost 0.0100 once", "at most 0 GPUs less than after this plan, 0.0000 an hour",
		"gpu-7 …cdef-0", "gpu-8 …GPU-1", "30.0 %", "8192 MiB", "1m35s", "Surging", "live/db-0", "SAVED/H",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := writeRepackPlans(&out, nil, "here"); err != nil || !strings.Contains(out.String(), "No RepackPlan in here") {
		t.Errorf("nothing is shown as %q, %v", out.String(), err)
	}
}
