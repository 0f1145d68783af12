package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// A batchWorld is machines that lend to batch pods, in a real cluster with Neap's
// scheduler. No kubelet is there: a pod that is bound stays so.
type batchWorld struct {
	t  *testing.T
	c  client.Client
	ns string
}

func newBatchWorld(t *testing.T) *batchWorld {
	t.Helper()
	_, cfg := cluster(t)
	c := clustertest.Scheduler(t)
	w := &batchWorld{t: t, c: newClient(t, cfg), ns: clustertest.Namespace(t, c)}
	t.Cleanup(func() {
		_ = w.c.DeleteAllOf(context.Background(), &corev1.Pod{}, client.InNamespace(w.ns), client.GracePeriodSeconds(0))
	})
	return w
}

// lends is a curve that holds for as long as a test may take: so many milli in the
// first hour, and in the rest of the day, and the peak of online.
func lends(now, later, peak int64) string {
	at := time.Now()
	o := colocate.Offer{At: at, Curve: colocate.Curve{Start: at.Truncate(15 * time.Minute), Step: 15 * time.Minute}}
	for i := range 96 {
		milli := now
		if i >= 5 { // an hour at least is left
			milli = later
		}
		o.Curve.CPUMilli, o.Curve.MemoryMiB = append(o.Curve.CPUMilli, milli), append(o.Curve.MemoryMiB, 65536)
		o.Online.CPUMilli = append(o.Online.CPUMilli, peak)
	}
	c := convert.NewBatchCapacity("live", o)
	c.Until = c.At.Add(time.Hour)
	return c.String()
}

// machine makes a machine of eight cores whose status offers far more than it lends.
func (w *batchWorld) machine(name, capacity string) string {
	w.t.Helper()
	n := &corev1.Node{}
	name += "-" + w.ns
	const has = "cpu: 8, memory: 64Gi, pods: 110, neap.dev/batch-cpu: 1000000, neap.dev/batch-memory: 1Ti"
	unmarshal(w.t, fmt.Sprintf(`{metadata: {name: %s, labels: {world: %s}, annotations: {}}, status: {allocatable: {%s}, capacity: {%[3]s}, conditions: [{type: Ready, status: "True", reason: KubeletReady}]}}`, name, w.ns, has), n)
	if capacity != "" {
		n.Annotations[v1alpha1.AnnotationBatchCapacity] = capacity
	}
	if err := w.c.Create(w.t.Context(), n); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.c.Delete(context.Background(), n) })
	return name
}

func (w *batchWorld) lend(machine, capacity string) {
	w.t.Helper()
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationBatchCapacity, capacity))
	n := &corev1.Node{}
	n.Name = machine
	if err := w.c.Patch(w.t.Context(), n, patch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *batchWorld) pod(name, labels, annotations, amounts string) *corev1.Pod {
	p := &corev1.Pod{}
	unmarshal(w.t, fmt.Sprintf(`{metadata: {name: %s, namespace: %s, labels: {%s}, annotations: {%s}}, spec: {nodeSelector: {world: %[2]s}, tolerations: [{operator: Exists}], automountServiceAccountToken: false,
		containers: [{name: main, image: none, resources: {requests: {%[5]s}, limits: {%[5]s}}}]}}`, name, w.ns, labels, annotations, amounts), p)
	return p
}

func (w *batchWorld) batch(name string, milli int, run string) *corev1.Pod {
	return w.pod(name, "neap.dev/class: batch", "neap.dev/batch-run-time: "+run, fmt.Sprintf("neap.dev/batch-cpu: %d, neap.dev/batch-memory: 1Gi", milli))
}

func (w *batchWorld) create(p *corev1.Pod) {
	w.t.Helper()
	if err := w.c.Create(w.t.Context(), p); err != nil {
		w.t.Fatal(err)
	}
}

// await waits until so many pods are bound and so many have been refused, and says
// how many milli there are on every machine.
func (w *batchWorld) await(bound, refused int) map[string]int64 {
	w.t.Helper()
	on := map[string]int64{}
	clustertest.Eventually(w.t, fmt.Sprintf("%d pods to be bound and %d to be refused", bound, refused), func() error {
		var list corev1.PodList
		if err := w.c.List(w.t.Context(), &list, client.InNamespace(w.ns)); err != nil {
			return err
		}
		b, n := 0, 0
		clear(on)
		for i := range list.Items {
			p := &list.Items[i]
			if p.Spec.NodeName != "" {
				b++
				on[p.Spec.NodeName] += convert.BatchRequest(p).CPUMilli
			} else if message(p) != "" {
				n++
			}
		}
		if b != bound || n != refused {
			return fmt.Errorf("%d are bound, %d are refused", b, n)
		}
		return nil
	})
	return on
}

// message is what the scheduler says of a pod.
func message(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return ""
}

func (w *batchWorld) awaitMessage(name string, want ...string) {
	w.t.Helper()
	clustertest.Eventually(w.t, "the scheduler to say why "+name+" waits", func() error {
		p := &corev1.Pod{}
		if err := w.c.Get(w.t.Context(), client.ObjectKey{Namespace: w.ns, Name: name}, p); err != nil {
			return err
		}
		for _, s := range want {
			if !strings.Contains(message(p), s) {
				return errors.New("it says " + message(p))
			}
		}
		return nil
	})
}

func TestRacingBatchPodsNeverOverfillACurve(t *testing.T) {
	w := newBatchWorld(t)
	var machines []string
	for i := range 3 {
		machines = append(machines, w.machine(fmt.Sprintf("m%d", i), lends(4000, 4000, 0)))
	}

	// 1. Thirty at once, and room for twenty-four.
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			if err := w.c.Create(t.Context(), w.batch(fmt.Sprintf("p%d", i), 500, "30m")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for machine, milli := range w.await(24, 6) {
		if milli > 4000 {
			t.Errorf("%s lends 4000 and has %d", machine, milli)
		}
	}

	// 2. One machine lends more: those who wait are tried again, and two still wait.
	w.lend(machines[1], lends(6000, 6000, 0))
	if on := w.await(28, 2); on[machines[1]] != 6000 {
		t.Errorf("there are %v", on)
	}

	// 3. One leaves: the next takes its place.
	var list corev1.PodList
	if err := w.c.List(t.Context(), &list, client.InNamespace(w.ns)); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].Spec.NodeName == machines[2] {
			if err := w.c.Delete(t.Context(), &list.Items[i], client.GracePeriodSeconds(0)); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	w.await(28, 1)

	// 4. Nobody renews the curves: nothing more is placed, whatever room there was.
	old := capacity(t, lends(100000, 100000, 0))
	old.At, old.Until = old.At.Add(-2*time.Hour), old.Until.Add(-2*time.Hour)
	for _, m := range machines {
		w.lend(m, old.String())
	}
	w.create(w.batch("late", 1, "1m"))
	w.awaitMessage("late", "3 machine(s) whose batch capacity nobody renews", "comes closest: what it lends was decided at")
}

func capacity(t *testing.T, raw string) convert.BatchCapacity {
	t.Helper()
	c, err := convert.ParseBatchCapacity(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestABatchPodEndsBeforeThePeakOrWaits(t *testing.T) {
	w := newBatchWorld(t)
	w.machine("silent", "")
	peaky := w.machine("peaky", lends(4000, 500, 0))
	w.create(w.batch("short", 2000, "30m"))
	w.create(w.batch("small", 500, "20h"))
	w.create(w.batch("long", 1000, "3h"))
	if on := w.await(2, 1); on[peaky] != 2500 {
		t.Errorf("there are %v", on)
	}
	w.awaitMessage("long", "1 machine(s) that lend nothing to batch pods", "1 machine(s) whose room for batch ends before the pod would",
		peaky+" comes closest: short of 1 cores from ")
	w.create(w.batch("huge", 5000, "1m"))
	w.awaitMessage("huge", "1 machine(s) without room for a batch pod of this size now", "short of 3.5 cores now")
}

func TestOnlinePodsAvoidTheForeseenPeak(t *testing.T) {
	w := newBatchWorld(t)
	w.machine("busy-tonight", lends(1000, 1000, 7000))
	quiet := w.machine("quiet", lends(1000, 1000, 1000))
	w.machine("middling", lends(1000, 1000, 5000))
	w.create(w.pod("web", "app: web", "", "cpu: 500m, memory: 256Mi"))
	if on := w.await(1, 0); len(on) != 1 {
		t.Fatalf("%v", on)
	} else if _, ok := on[quiet]; !ok {
		t.Errorf("it is on %v, want %s", on, quiet)
	}
}
