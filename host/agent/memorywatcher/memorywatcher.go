// Package memorywatcher watches how much memory of each GPU pods really use, tells
// it as a metric, and acts on pods that use more than they were given.
//
// The driver says which process holds how much ([device.Finder]); the process'
// cgroup says whose it is. A pod that is over its piece of a GPU in two looks in a
// row gets an event and, where its class says so, is evicted by the Eviction API,
// which heeds PodDisruptionBudgets; a refusal is tried again at the next look. Who
// has a whole GPU is never over.
//
// Not here: keeping pods from taking more, which host/agent/limiter knows of.
package memorywatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/convert"
)

// ReasonOverrun is the reason of events on pods that use more memory of a GPU than
// they were given.
const ReasonOverrun = "GPUMemoryOverrun"

// Options say what a watcher watches.
type Options struct {
	Node   string        // required: the machine's name in the cluster
	Client client.Client // required: lists pods and gets claims, creates evictions
	Finder device.Finder // required
	Proc   string        // where the machine's /proc is; /proc if empty
	// Overrun says what is done with a pod that is over; required.
	Overrun func(ctx context.Context, pod *corev1.Pod) (v1alpha1.GPUOverrun, error)
	// Event tells a pod something; required.
	Event func(pod *corev1.Pod, reason, message string)
	Log   *slog.Logger // nil logs nothing
}

// A Watcher watches one machine. Its methods may be called from several goroutines,
// but [Watcher.Look] from one at a time. It is a collector of the metric
// neap_gpu_memory_used_bytes.
type Watcher struct {
	opts Options
	pods map[types.UID]*pod // of this machine, as last listed
	over map[on]int         // looks in a row

	mu   sync.Mutex
	used map[on]int64 // bytes
}

// on is a pod on a GPU.
type on struct {
	uid            types.UID
	namespace, pod string
	uuid           string
}

// A pod is what a pod may use.
type pod struct {
	*corev1.Pod
	may map[string]int64 // bytes by GPU; GPUs without limit are not in it
}

// New returns a watcher.
func New(opts Options) *Watcher {
	opts.Proc = cmp.Or(opts.Proc, "/proc")
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Watcher{opts: opts, pods: map[types.UID]*pod{}, over: map[on]int{}}
}

// Look looks once at who uses how much, and acts. devices are those of the machine.
func (w *Watcher) Look(ctx context.Context, devices []device.Device) error {
	processes, err := w.opts.Finder.Processes(ctx)
	if err != nil {
		return fmt.Errorf("who uses memory of GPUs is not known: %w", err)
	}
	bytes := map[types.UID]map[string]int64{}
	for _, p := range processes {
		uid := w.owner(p.PID)
		if bytes[uid] == nil {
			bytes[uid] = map[string]int64{}
		}
		bytes[uid][p.UUID] += p.Memory
	}
	if err := w.know(ctx, bytes, devices); err != nil {
		return err
	}
	used, over := map[on]int64{}, map[on]int{}
	var errs error
	for _, uid := range slices.Sorted(maps.Keys(bytes)) {
		p := w.pods[uid]
		for _, uuid := range slices.Sorted(maps.Keys(bytes[uid])) {
			if p == nil { // a process of the machine itself, or of a pod that just went
				used[on{uuid: uuid}] += bytes[uid][uuid]
				continue
			}
			at := on{uid, p.Namespace, p.Name, uuid}
			used[at] = bytes[uid][uuid]
			if may, limited := p.may[uuid]; limited && used[at] > may {
				over[at] = w.over[at] + 1
				errs = errors.Join(errs, w.act(ctx, p, at, used[at], may, over[at]))
			}
		}
	}
	w.over = over
	w.mu.Lock()
	w.used = used
	w.mu.Unlock()
	return errs
}

// act does what is to be done with a pod that is over for so many looks.
func (w *Watcher) act(ctx context.Context, p *pod, at on, used, may int64, looks int) error {
	if looks < 2 {
		return nil
	}
	if looks == 2 {
		w.opts.Event(p.Pod, ReasonOverrun, fmt.Sprintf("it uses %d MiB of GPU %s and was given %d MiB", used>>20, at.uuid, may>>20))
	}
	what, err := w.opts.Overrun(ctx, p.Pod)
	if err != nil {
		return fmt.Errorf("pod %s/%s uses more memory of a GPU than it has: %w", p.Namespace, p.Name, err)
	}
	if what != v1alpha1.GPUEvict || p.DeletionTimestamp != nil {
		return nil
	}
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))}}
	switch err := w.opts.Client.SubResource("eviction").Create(ctx, p.Pod, eviction); {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err): // it is gone
	case err != nil:
		return fmt.Errorf("evict pod %s/%s, which uses more memory of a GPU than it has: %w", p.Namespace, p.Name, err)
	default:
		w.opts.Log.Info("evicted for its GPU memory", "namespace", p.Namespace, "pod", p.Name, "gpu", at.uuid, "usedMiB", used>>20, "givenMiB", may>>20)
	}
	return nil
}

// know lists the machine's pods if a process belongs to one that is not known, and
// forgets those that use no GPU any more.
func (w *Watcher) know(ctx context.Context, using map[types.UID]map[string]int64, devices []device.Device) error {
	maps.DeleteFunc(w.pods, func(uid types.UID, p *pod) bool { return using[uid] == nil || p == nil })
	unknown := false
	for uid := range using {
		unknown = unknown || uid != "" && w.pods[uid] == nil
	}
	if !unknown {
		return nil
	}
	var list corev1.PodList
	if err := w.opts.Client.List(ctx, &list, client.MatchingFields{"spec.nodeName": w.opts.Node}); err != nil {
		return fmt.Errorf("list the pods of node %s: %w", w.opts.Node, err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		if using[p.UID] == nil {
			continue
		}
		may, err := w.may(ctx, p, devices)
		if err != nil {
			w.opts.Log.Warn("what a pod may use of its GPUs is not known", "namespace", p.Namespace, "pod", p.Name, "error", err)
			continue // asked again at the next look
		}
		w.pods[p.UID] = &pod{Pod: p, may: may}
	}
	return nil
}

// may returns what a pod may use of each GPU, by its annotation or its claims.
func (w *Watcher) may(ctx context.Context, p *corev1.Pod, devices []device.Device) (map[string]int64, error) {
	out := map[string]int64{}
	given, err := convert.GPUAllocation(p)
	if err != nil {
		return nil, err
	}
	if given != nil {
		for _, d := range given.Devices {
			if d.Milli < gpu.Whole {
				out[d.UUID] += d.MemoryMiB << 20
			}
		}
		return out, nil
	}
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.ResourceClaimName == nil {
			continue
		}
		claim := new(resourceapi.ResourceClaim)
		if err := w.opts.Client.Get(ctx, client.ObjectKey{Namespace: p.Namespace, Name: *s.ResourceClaimName}, claim); err != nil {
			return nil, err
		}
		_, shares, err := convert.GPUClaimShares(claim)
		if err != nil {
			return nil, err
		}
		for _, share := range shares {
			i := slices.IndexFunc(devices, func(d device.Device) bool { return d.Index == share.Index })
			if i >= 0 && 0 < share.Milli && share.Milli < gpu.Whole {
				out[devices[i].UUID] += share.MemoryMiB << 20
			}
		}
	}
	return out, nil
}

// owner returns the pod that a process belongs to, empty if none.
func (w *Watcher) owner(pid int) types.UID {
	raw, err := os.ReadFile(filepath.Join(w.opts.Proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "" // it ended
	}
	return podOf(string(raw))
}

// cgroup finds the pod in the path of a cgroup, as the kubelet names them with
// either driver: kubepods-burstable-pod1b2c_….slice or /kubepods/burstable/pod1b2c-…
var cgroup = regexp.MustCompile(`[-/]pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})(?:\.slice)?(?:/|$)`)

func podOf(lines string) types.UID {
	for line := range strings.Lines(lines) {
		if m := cgroup.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			return types.UID(strings.ReplaceAll(m[1], "_", "-"))
		}
	}
	return ""
}

var usedBytes = prometheus.NewDesc("neap_gpu_memory_used_bytes",
	"Memory of a GPU that the processes of a pod hold; those without a pod are the machine's own.", []string{"uuid", "namespace", "pod"}, nil)

// Describe implements [prometheus.Collector].
func (w *Watcher) Describe(ch chan<- *prometheus.Desc) { ch <- usedBytes }

// Collect implements [prometheus.Collector].
func (w *Watcher) Collect(ch chan<- prometheus.Metric) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sums := map[[3]string]int64{} // two pods of one name may be here for a moment
	for at, bytes := range w.used {
		sums[[3]string{at.uuid, at.namespace, at.pod}] += bytes
	}
	for labels, bytes := range sums {
		ch <- prometheus.MustNewConstMetric(usedBytes, prometheus.GaugeValue, float64(bytes), labels[:]...)
	}
}
