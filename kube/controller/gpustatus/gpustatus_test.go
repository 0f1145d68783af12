package gpustatus

import (
	"strings"
	"testing"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
)

func TestMetricsAreThoseOfTheSurvey(t *testing.T) {
	s := &Status{}
	write := func() string {
		t.Helper()
		var text strings.Builder
		if err := s.WriteMetrics(&text); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	if got := write(); got != "" {
		t.Errorf("before the first survey the metrics are\n%s", got)
	}
	s.view = &View{Currency: "USD", Problems: []string{"a pod of which nobody knows the GPU"}, Survey: gpu.Survey{
		Hosts: []gpu.SurveyedHost{{
			Name: "a", Pods: []gpu.SurveyedPod{{Namespace: "ml", Name: "train", GPUs: 1, Milli: 400}},
			Devices: []gpu.SurveyedDevice{
				{Device: gpu.Device{UUID: "GPU-1", Model: "L4", MemoryMiB: 1024, Healthy: true}, IdleMilli: 600, IdleMiB: 1000, Pods: []int{0}},
				{Device: gpu.Device{UUID: "GPU-2", Model: "L4", MemoryMiB: 1024}},
			},
		}},
		Models:     []gpu.SurveyedModel{{Model: "L4", IdleMilli: 600, FragmentMilli: 100}},
		BoundMilli: 900, GapMilli: 500, GapNano: money.Unit / 4, Used: 1, WaitingMilli: 500,
	}}
	got := write()
	for _, want := range []string{
		`neap_gpu_capacity_milli{model="L4",node="a",uuid="GPU-2"} 0`, `neap_gpu_allocated_milli{model="L4",node="a",uuid="GPU-1"} 400`,
		`neap_gpu_pod_milli{namespace="ml",node="a",pod="train",uuid="GPU-1"} 400`, `neap_gpu_gap_cost_per_hour{currency="USD"} 0.25`,
		`neap_gpu_machines{state="used"} 1`, `neap_gpu_problems 1`,
	} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("the metrics lack %s:\n%s", want, got)
		}
	}
}
