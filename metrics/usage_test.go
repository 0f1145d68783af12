package metrics_test

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/metrics/metricstest"
)

// seconds adds up a resource over samples: unit-seconds measured, and how long.
func seconds(samples []bill.Sample, k resource.Kind) (total float64, covered time.Duration) {
	for _, s := range samples {
		if !s.Missing[k] {
			d := s.To.Sub(s.From)
			total += float64(s.Use[k]) * d.Seconds()
			covered += d
		}
	}
	return total, covered
}

func TestUsage(t *testing.T) {
	e := filled(t)
	srv := httptest.NewServer(e.Handler())
	defer srv.Close()
	from, to := metricstest.Start, metricstest.Start.Add(10*time.Minute)
	for name, source := range map[string]metrics.Source{
		"embedded": e, "remote": remote(t, srv.URL, metrics.RemoteOptions{}),
	} {
		for stepName, opts := range map[string]metrics.UsageOptions{
			"every point":           {},
			"a point a minute":      {Step: time.Minute},
			"chunks of two minutes": {Chunk: 2 * time.Minute},
		} {
			t.Run(name+", "+stepName, func(t *testing.T) {
				use, err := metrics.Usage(t.Context(), source, from, to, opts)
				if err != nil {
					t.Fatal(err)
				}
				a, b := use["school/a"], use["school/b"]
				// Two cores for ten minutes; what grew between the last point before
				// the counter started anew and the start cannot be known.
				cpu, covered := seconds(a, resource.CPU)
				if covered != 10*time.Minute || cpu < 2000*(600-15) || cpu > 2000*600 {
					t.Errorf("pod a used %v milli-core-seconds over %v, want nearly 1200000 over 10m", cpu, covered)
				}
				if mem, _ := seconds(a, resource.Memory); mem != float64(resource.GiB)*600 {
					t.Errorf("pod a held %v byte-seconds, want 1 GiB for 600 s", mem)
				}
				// Six minutes of silence and the step before them are a gap.
				if _, covered := seconds(b, resource.CPU); covered != 3*time.Minute+45*time.Second {
					t.Errorf("pod b is covered for %v, want the time up to 2m45s and from 9m", covered)
				}
				for _, s := range b {
					if !s.Missing[resource.Memory] || !s.Missing[resource.GPU] {
						t.Errorf("memory and GPU of pod b are not said to be missing: %+v", s)
						break
					}
				}
			})
		}
	}
	t.Run("cAdvisor's sums over the pod are not counted twice, and two containers are added up", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		for d := time.Duration(0); d <= 2*time.Minute; d += 15 * time.Second {
			var samples []metrics.Sample
			for container, cores := range map[string]float64{"": 3, "POD": 0.5, "app": 2, "sidecar": 1} {
				samples = append(samples, metrics.Sample{V: 100 + cores*d.Seconds(), Labels: map[string]string{
					"__name__": metrics.CPUSeconds, "namespace": "n", "pod": "p", "container": container, "image": "i", "id": "/x"}})
			}
			for gpu, percent := range map[string]float64{"0": 50, "1": 100} {
				samples = append(samples, metrics.Sample{V: percent, Labels: map[string]string{
					"__name__": metrics.GPUPercent, "namespace": "n", "pod": "p", "gpu": gpu}})
			}
			if err := e.Append(t.Context(), from.Add(d), samples); err != nil {
				t.Fatal(err)
			}
		}
		use, err := metrics.Usage(t.Context(), e, from, from.Add(2*time.Minute), metrics.UsageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range use["n/p"] {
			if s.Use[resource.CPU] != 3000 || s.Use[resource.GPU] != 1500 {
				t.Errorf("sample %+v, want 3000 milli-cores and 1500 GPU-milli", s)
			}
		}
		if len(use) != 1 || len(use["n/p"]) == 0 {
			t.Errorf("got %v", use)
		}
	})
	t.Run("a container that is scraped twice counts once, and one that restarts goes on", func(t *testing.T) {
		e := open(t, t.TempDir(), metrics.EmbeddedOptions{})
		cpu := func(pod, path, id string, v float64) metrics.Sample {
			return metrics.Sample{V: v, Labels: map[string]string{"__name__": metrics.CPUSeconds, "namespace": "n", "pod": pod, "container": "app", "metrics_path": path, "id": id}}
		}
		for d := time.Duration(0); d <= 10*time.Minute; d += 15 * time.Second {
			samples := []metrics.Sample{cpu("twice", "/metrics/cadvisor", "/x", d.Seconds()), cpu("twice", "/metrics/resource", "", d.Seconds())}
			if d < 5*time.Minute {
				samples = append(samples, cpu("again", "/metrics/cadvisor", "/1", d.Seconds()))
			} else {
				samples = append(samples, cpu("again", "/metrics/cadvisor", "/2", (d-5*time.Minute).Seconds()))
			}
			if err := e.Append(t.Context(), from.Add(d), samples); err != nil {
				t.Fatal(err)
			}
		}
		use, err := metrics.Usage(t.Context(), e, from, to, metrics.UsageOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for pod, want := range map[string]time.Duration{"n/twice": 10 * time.Minute, "n/again": 10*time.Minute - 15*time.Second} {
			if got, covered := seconds(use[pod], resource.CPU); got != 1000*want.Seconds() || covered != want {
				t.Errorf("%s used %v milli-core-seconds over %v, want a core for %v", pod, got, covered, want)
			}
		}
	})
	t.Run("an unanswered query is the error, not an absence of use", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := metrics.Usage(ctx, e, from, to, metrics.UsageOptions{})
		wantError(t, err, "read the use of pods", "cancelled")
	})
	t.Run("a window that ends before it starts is refused", func(t *testing.T) {
		_, err := metrics.Usage(t.Context(), e, to, from, metrics.UsageOptions{})
		wantError(t, err, "before it starts")
	})
}
