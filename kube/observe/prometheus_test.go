package observe_test

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/metrics"
)

// prometheus returns a Prometheus that measured cart-1 at one core and a GiB
// over the window, but for a gap, and 7,200 requests an hour for its module.
func prometheus(t *testing.T, from, to time.Time, gap func(time.Time) bool) *httptest.Server {
	t.Helper()
	db, err := metrics.Open(t.TempDir(), metrics.EmbeddedOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	of := func(name string, v float64) metrics.Sample {
		return metrics.Sample{Labels: map[string]string{"__name__": name, "namespace": "shop", "pod": "cart-1", "container": "main"}, V: v}
	}
	for at := from; !at.After(to); at = at.Add(time.Minute) {
		if gap != nil && gap(at) {
			continue
		}
		age := at.Sub(from).Seconds()
		err := db.Append(context.Background(), at, []metrics.Sample{
			of("container_cpu_usage_seconds_total", age), of("container_memory_working_set_bytes", 1<<30),
			{Labels: map[string]string{"__name__": "http_requests_total", "module": "cart"}, V: 2 * age},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	s := httptest.NewServer(db.Handler())
	t.Cleanup(s.Close)
	return s
}

func remote(t *testing.T, url string, timeout time.Duration) metrics.Source {
	t.Helper()
	r, err := metrics.NewRemote(url, metrics.RemoteOptions{Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pod returns a pod's facts over all hours.
func podFacts(facts []bill.Facts, name string) (use, estimatedMillis, lived int64) {
	for _, f := range facts {
		for _, p := range f.Pods {
			if p.Name == name {
				use += p.UseSeconds[0]
				lived += p.To.Sub(p.From).Milliseconds()
				estimatedMillis += p.EstimatedMillis * p.To.Sub(p.From).Milliseconds() / 1000
			}
		}
	}
	return use, estimatedMillis, lived
}

func TestPrometheus(t *testing.T) {
	from, to := now.Add(-2*time.Hour), now

	t.Run("measured use is not estimated", func(t *testing.T) {
		s := shop(t)
		s.Declared = true
		s.Modules = []v1alpha1.Module{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "cart"}, Spec: v1alpha1.ModuleSpec{
			TargetRef: v1alpha1.TargetRef{Name: "cart"},
			Load:      &v1alpha1.Load{Query: `sum(increase(http_requests_total{module="cart"}[$window]))`}}}}
		opts := options(s)
		opts.Metrics = remote(t, prometheus(t, from.Add(-10*time.Minute), to, nil).URL, time.Minute)
		snap, err := readAll(context.Background(), opts)
		if err != nil {
			t.Fatal(err)
		}
		facts := closeAll(t, snap)
		use, _, _ := podFacts(facts, "cart-1")
		if want := int64(7200 * 1000); math.Abs(float64(use-want)) > 0.01*float64(want) {
			t.Errorf("used %d milli-core-seconds in two hours, want about %d", use, want)
		}
		r, err := bill.Summarise(facts, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		if l := r.Lines[0]; l.Key != "shop/Deployment/cart" || l.Requests < 14300 || l.Requests > 14500 {
			t.Errorf("the load of %s is %d, want about 14400", l.Key, l.Requests)
		}
	})

	t.Run("a gap is estimated, not zero", func(t *testing.T) {
		opts := options(shop(t))
		gap := func(at time.Time) bool {
			return at.After(now.Add(-90*time.Minute)) && at.Before(now.Add(-60*time.Minute))
		}
		opts.Metrics = remote(t, prometheus(t, from.Add(-10*time.Minute), to, gap).URL, time.Minute)
		snap, err := readAll(context.Background(), opts)
		if err != nil {
			t.Fatal(err)
		}
		facts := closeAll(t, snap)
		use, _, _ := podFacts(facts, "cart-1")
		// 90 minutes at one core measured, 30 at the two cores requested.
		if want := float64(90*60*1000 + 30*60*2000); math.Abs(float64(use)-want) > 0.02*want {
			t.Errorf("used %d, want about %.0f", use, want)
		}
		r, err := bill.Summarise(facts, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.EstimatedNano == 0 {
			t.Error("nothing of the bill is estimated")
		}
	})

	t.Run("a Prometheus of another cluster is noticed", func(t *testing.T) {
		s := shop(t)
		s.Pods = s.Pods[1:] // cart-1 is all that it knows
		opts := options(s)
		opts.Metrics = remote(t, prometheus(t, from, to, nil).URL, time.Minute)
		snap, err := readAll(context.Background(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if !hasNote(snap, "know none of the") {
			t.Errorf("notes %q", snap.Notes)
		}
	})

	t.Run("one that fails or does not answer ends the command with a sentence", func(t *testing.T) {
		hang := make(chan struct{})
		for want, answer := range map[string]http.HandlerFunc{
			"no answer within": func(http.ResponseWriter, *http.Request) { <-hang },
			"the server failed": func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "out of memory", http.StatusInternalServerError)
			},
		} {
			p := httptest.NewServer(answer)
			t.Cleanup(p.Close)
			opts := options(shop(t))
			opts.Metrics = remote(t, p.URL, 200*time.Millisecond)
			_, err := readAll(context.Background(), opts)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want one sentence with %q", err, want)
			}
		}
		close(hang) // before the servers wait for their answers to end
	})
}
