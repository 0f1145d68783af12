package observe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
)

// noGPU says that kubelets do not measure GPUs.
var noGPU = [resource.Kinds]bool{resource.GPU: true}

// kubeletsAtOnce bounds how many kubelets are asked at the same time.
const kubeletsAtOnce = 8

// silentKubelets is after how many that gave nothing, and none that gave
// anything, no more are asked: each may take its whole timeout to fail.
const silentKubelets = 16

// A podName names a pod as metrics do.
type podName struct{ namespace, name string }

// A running is what a kubelet knows of one pod: the average of its CPU since its
// containers started and the memory it holds now.
type running struct {
	since time.Time // the youngest container's start
	use   resource.Vector
}

// askKubelets asks every kubelet for its resource metrics. They are counters
// since each container's start and memory now, not history, so what follows from
// them is marked estimated.
func (s *Snapshot) askKubelets(ctx context.Context, r *reader, nodes []corev1.Node) error {
	var (
		mu        sync.Mutex
		wait      sync.WaitGroup
		forbidden *ForbiddenError
		failed    []string
		found     = map[podName]running{}
		gate      = make(chan struct{}, kubeletsAtOnce)
	)
	ask := func(node string) {
		pods, err := r.kubelet(ctx, node, s.opts.Now)
		mu.Lock()
		defer mu.Unlock()
		var f *ForbiddenError
		switch {
		case errors.As(err, &f):
			forbidden = f
		case err != nil:
			failed = append(failed, node)
		}
		for name, u := range pods {
			found[name] = u
		}
	}
	for i := range nodes {
		gate <- struct{}{}
		mu.Lock()
		stop := forbidden != nil || ctx.Err() != nil || len(found) == 0 && len(failed) >= silentKubelets
		mu.Unlock()
		if stop {
			<-gate
			break
		}
		wait.Go(func() {
			defer func() { <-gate }()
			ask(nodes[i].Name)
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if forbidden != nil {
		s.note("All use is estimated as what was requested, for %s; or give --prometheus.", forbidden.Error())
		return nil
	}
	s.running = found
	if len(found) > 0 {
		s.note("Use is estimated from the kubelets: each container's average since it started, and its memory now; give --prometheus to have it measured.")
	} else {
		s.note("All use is estimated as what was requested, for no kubelet gave its metrics; give --prometheus to have it measured.")
	}
	if len(failed) > 0 && len(found) > 0 {
		s.note("%s gave no metrics (%s); use there is estimated as what was requested.", count(len(failed), "kubelet", "kubelets"), few(failed))
	}
	return nil
}

// fromKubelets gives the pods of an hour the averages that their kubelets know.
func (s *Snapshot) fromKubelets(h *bill.Hour) {
	for i := range h.Pods {
		pod := &h.Pods[i]
		if u, ok := s.running[podName{pod.Namespace, pod.Name}]; ok && u.since.Before(pod.To) {
			pod.Usage = []bill.Sample{{From: later(u.since, pod.From), To: pod.To, Use: u.use, Estimated: true, Missing: noGPU}}
		}
	}
}

// kubelet asks one kubelet through the API server.
func (r *reader) kubelet(ctx context.Context, node string, now time.Time) (map[podName]running, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	body, err := r.core.Get().Resource("nodes").Name(node).SubResource("proxy").Suffix("metrics", "resource").MaxRetries(0).Stream(ctx)
	if err != nil {
		return nil, explain(err, r.server, "get", "", "nodes/proxy")
	}
	defer body.Close()
	return parseKubelet(io.LimitReader(body, 64<<20), now)
}

// parseKubelet reads a kubelet's /metrics/resource.
func parseKubelet(in io.Reader, now time.Time) (map[podName]running, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(in)
	if err != nil {
		return nil, fmt.Errorf("understand the kubelet's metrics: %w", err)
	}
	type containerName struct {
		podName
		container string
	}
	gather := func(name string) map[containerName]float64 {
		values := map[containerName]float64{}
		for _, m := range families[name].GetMetric() {
			labels := map[string]string{}
			for _, l := range m.Label {
				labels[l.GetName()] = l.GetValue()
			}
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			values[containerName{podName{labels["namespace"], labels["pod"]}, labels["container"]}] = v
		}
		return values
	}
	cpu, memory := gather("container_cpu_usage_seconds_total"), gather("container_memory_working_set_bytes")
	out := map[podName]running{}
	for name, started := range gather("container_start_time_seconds") {
		start := time.Unix(0, int64(started*1e9))
		age := now.Sub(start).Seconds()
		if started <= 0 || age < 1 {
			continue
		}
		u := out[name.podName]
		u.since = later(u.since, start)
		u.use[resource.CPU] += bounded(cpu[name] / age * 1000)
		u.use[resource.Memory] += bounded(memory[name])
		out[name.podName] = u
	}
	return out, nil
}

func bounded(v float64) int64 {
	if !(v > 0) {
		return 0
	}
	return int64(min(v, 1e15))
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// few names at most three of a list.
func few(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
}
