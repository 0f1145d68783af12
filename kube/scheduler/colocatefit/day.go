package colocatefit

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/kube/convert"
)

// A day is what is known of the clock by which a simulated node's curve is decided:
// it may run many times as fast as the wall, by which Kubernetes writes its own times.
type day struct {
	at, seen time.Time // of the newest curve, by its own clock and by the wall
	speed    float64
}

// tell follows the clock of a simulated node.
func (f *ColocateFit) tell(node *v1.Node) {
	if node.Labels[v1alpha1.LabelSimulated] != "true" {
		return
	}
	c, err := convert.NodeBatchCapacity(node)
	if err != nil {
		return
	}
	wall := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	was, known := f.days[node.Name]
	if known && c.At.Equal(was.at) {
		return
	}
	is := day{at: c.At, seen: wall, speed: 1}
	if passed := wall.Sub(was.seen); known && passed > 0 && c.At.After(was.at) {
		is.speed = float64(c.At.Sub(was.at)) / float64(passed)
	}
	f.days[node.Name] = is
}

// clock returns the moment by which a node's curve is to be read, those that run
// there by the same clock, and whether the curve still holds.
func (f *ColocateFit) clock(node *v1.Node, c convert.BatchCapacity, running []colocate.Task) (time.Time, []colocate.Task, bool) {
	wall := f.now()
	if node.Labels[v1alpha1.LabelSimulated] != "true" {
		return wall, running, c.Fresh(wall)
	}
	d := f.day(node.Name, c, wall)
	now := d.at.Add(d.since(wall))
	running = slices.Clone(running)
	for i := range running {
		if t := &running[i]; !t.Started.IsZero() {
			t.Started = now.Add(-time.Duration(d.speed * float64(wall.Sub(t.Started))))
		}
	}
	return now, running, wall.Sub(d.seen) < convert.BatchLasts
}

// decided is when a node's curve was decided, by the clock of Kubernetes.
func (f *ColocateFit) decided(node *v1.Node, c convert.BatchCapacity) time.Time {
	if node.Labels[v1alpha1.LabelSimulated] != "true" {
		return c.At
	}
	return f.day(node.Name, c, f.now()).seen
}

func (f *ColocateFit) day(node string, c convert.BatchCapacity, wall time.Time) day {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if d, ok := f.days[node]; ok {
		return d
	}
	return day{at: c.At, seen: wall, speed: 1}
}

// since is how much of the day has passed since the newest curve.
func (d day) since(wall time.Time) time.Duration {
	return time.Duration(d.speed * float64(max(wall.Sub(d.seen), 0)))
}
