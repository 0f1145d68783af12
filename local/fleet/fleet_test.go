package fleet

import (
	"math"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/sim/scenario"
)

func small(t *testing.T) *scenario.Scenario {
	t.Helper()
	s, err := scenario.Load("small", scenario.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func quantities(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu), corev1.ResourceMemory: apiresource.MustParse(memory)}
}

func machine(name string) *corev1.Node {
	n := testNode(name)
	n.Labels["neap.dev/pool"], n.Labels[corev1.LabelInstanceTypeStable] = "general", "m6a.2xlarge"
	n.Status.Capacity = quantities("8", "32Gi")
	return n
}

func feed(name string) *corev1.Pod {
	p := testPod(name, "a", "ReplicaSet")
	p.Namespace, p.Labels = "homework", map[string]string{ModuleLabel: "feed"}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: quantities("500m", "1Gi"), Limits: quantities("1", "2Gi")}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return p
}

// The clock needs a real disk and synctest gives it fake time, so the day is
// exact: 60 simulated seconds are one second of the bubble.
func TestWhatAPodUsesIsExportedFromItsFirstToItsLastSecond(t *testing.T) {
	s := small(t)
	m, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		day, err := clock.Open(filepath.Join(dir, "clock.json"), clock.Options{Start: s.Start.UTC(), Speed: 60})
		if err != nil {
			t.Fatal(err)
		}
		defer day.Close()
		f := New(Options{Scenario: s, Clock: day, Metrics: m})
		f.putPod(feed("early")) // before its machine is known
		f.putNode(machine("a"))
		minute := func() {
			time.Sleep(time.Second)
			if err := f.advance(t.Context(), day.Now().Truncate(time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		f.last = day.Now()
		minute()
		time.Sleep(250 * time.Millisecond) // 15 s of the day
		from := day.Now()
		late := feed("late")
		f.putPod(late)
		time.Sleep(750 * time.Millisecond)
		for range 3 {
			if err := f.advance(t.Context(), day.Now().Truncate(time.Minute)); err != nil {
				t.Fatal(err)
			}
			minute()
		}
		time.Sleep(500 * time.Millisecond)
		f.dropPod(late)
		to := day.Now()
		time.Sleep(500 * time.Millisecond)
		minute()
		minute()
		samples, err := m.Range(t.Context(), `container_cpu_usage_seconds_total{pod="late"}`, from, day.Now(), time.Second)
		if err != nil || len(samples) != 1 {
			t.Fatalf("got %d series, %v", len(samples), err)
		}
		points := samples[0].Points
		first, last := points[0], points[len(points)-1]
		if !first.T.Equal(from) || first.V != 0 {
			t.Errorf("the counter begins at %v with %v, want %v with 0", first.T, first.V, from)
		}
		if !last.T.Equal(to) {
			t.Errorf("the counter ends at %v, want %v", last.T, to)
		}
		if last.V < 1 || math.IsNaN(last.V) {
			t.Errorf("the pod used %v core-seconds", last.V)
		}
	})

	// The exposition is what a Prometheus would scrape.
	day, err := clock.Open(filepath.Join(t.TempDir(), "clock.json"), clock.Options{Start: s.Start.UTC(), Speed: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer day.Close()
	f := New(Options{Scenario: s, Clock: day})
	f.putNode(machine("a"))
	f.putPod(feed("x"))
	f.last = day.Now().Add(-time.Minute)
	if err := f.advance(t.Context(), day.Now()); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	f.ServeHTTP(rec, nil)
	m2, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m2.Close()
	text := rec.Body.String()
	if err := m2.AppendText(t.Context(), day.Now(), strings.NewReader(text), nil); err != nil {
		t.Errorf("Prometheus can't read the exposition: %v", err)
	}
	for _, want := range []string{`http_requests_total{namespace="homework",module="feed",code="200"} `, `le="+Inf"`, `container_memory_working_set_bytes{namespace="homework",pod="x",container="main",node="a"} `} {
		if !strings.Contains(text, want) {
			t.Errorf("the exposition lacks %s", want)
		}
	}
}
