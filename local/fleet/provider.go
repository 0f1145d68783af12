package fleet

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/sim/scenario"
)

// RunAnnotation on a Job's pod of no module is how long it works, in simulated
// time, such as 30s; without it its work is done at once.
const RunAnnotation = "neap.dev/simulated-run"

// retryAfter is how long a virtual node waits before it asks the provider again
// for a pod that was refused, in simulated time.
const retryAfter = 10 * time.Second

// A provider plays the seller of a serverless pool.
type provider struct {
	spec    *scenario.Provider
	tokens  *rate.Limiter
	inUse   int64                  // milli-cores
	idle    map[string][]time.Time // until when each idle sandbox is kept, by image
	pods    map[types.UID]bought
	refused map[types.UID]refusal
	counts  map[string]int // refusals by code
}

// bought is a pod that the provider took.
type bought struct {
	image string
	cpu   int64
	warm  bool
}

type refusal struct {
	text  string
	until time.Time // when it may be asked again
}

func newProvider(spec *scenario.Provider) *provider {
	p := &provider{
		spec: spec, tokens: rate.NewLimiter(rate.Inf, 0), idle: map[string][]time.Time{},
		pods: map[types.UID]bought{}, refused: map[types.UID]refusal{}, counts: map[string]int{},
	}
	if spec.PerSecond > 0 {
		p.tokens = rate.NewLimiter(rate.Limit(spec.PerSecond), spec.Burst)
	}
	return p
}

// take asks for a pod at a moment of the day. It returns why the provider does
// not create it, "" if it does; asked again soon it says the same. A free pod
// takes no token: it was there before the day began.
func (p *provider) take(pod *corev1.Pod, now time.Time, free bool) string {
	if _, ok := p.pods[pod.UID]; ok {
		return ""
	}
	if r, ok := p.refused[pod.UID]; ok && now.Before(r.until) {
		return r.text
	}
	code, text := p.refuse(pod, now, free)
	if code == "" {
		delete(p.refused, pod.UID)
		return ""
	}
	p.counts[code]++
	text = code + ": " + text + " (simulated provider)"
	p.refused[pod.UID] = refusal{text, now.Add(retryAfter)}
	return text
}

func (p *provider) refuse(pod *corev1.Pod, now time.Time, free bool) (code, text string) {
	asks, _ := podResources(pod)
	for _, o := range pod.OwnerReferences {
		if o.Kind == "DaemonSet" {
			return "NotSupported", "a virtual node runs no DaemonSets"
		}
	}
	for k, most := range p.spec.MaxPod {
		if most > 0 && asks[k] > most {
			return "InvalidParameter.Size", fmt.Sprintf("the pod asks for more %s than the largest pod may have", resource.Kind(k))
		}
	}
	if q := p.spec.Quota; q > 0 && p.inUse+asks[resource.CPU] > q {
		return "QuotaExceeded.Cpu", fmt.Sprintf("%s of %s cores are in use", cores(p.inUse), cores(q))
	}
	got := bought{image: pod.Spec.Containers[0].Image, cpu: asks[resource.CPU]}
	if p.spec.Warm != nil && p.warm(got.image, now) {
		got.warm = true
	} else if !free && !p.tokens.AllowN(now, 1) {
		return "Throttling", fmt.Sprintf("more than %d pods a second, after %d at once", p.spec.PerSecond, p.spec.Burst)
	}
	p.pods[pod.UID] = got
	p.inUse += got.cpu
	return "", ""
}

func cores(milli int64) string { return fmt.Sprintf("%g", float64(milli)/1000) }

// warm takes an idle sandbox of an image, if there is one.
func (p *provider) warm(image string, now time.Time) bool {
	idle, known := p.idle[image]
	if !known {
		idle = slices.Repeat([]time.Time{now.Add(p.spec.Warm.Keep)}, p.spec.Warm.Sandboxes)
	}
	gone := 0 // those that waited longest come first
	for gone < len(idle) && idle[gone].Before(now) {
		gone++
	}
	idle = idle[gone:]
	if len(idle) > 0 {
		p.idle[image] = idle[:len(idle)-1]
		return true
	}
	p.idle[image] = nil
	return false
}

// hold counts a pod that ran before this process began.
func (p *provider) hold(pod *corev1.Pod, cpu int64) {
	if _, ok := p.pods[pod.UID]; !ok {
		p.pods[pod.UID] = bought{cpu: cpu}
		p.inUse += cpu
	}
}

// leave gives back what a pod had; its sandbox waits for the next one.
func (p *provider) leave(uid types.UID, now time.Time) {
	delete(p.refused, uid)
	got, ok := p.pods[uid]
	if !ok {
		return
	}
	delete(p.pods, uid)
	p.inUse -= got.cpu
	if p.spec.Warm != nil && got.image != "" {
		p.idle[got.image] = append(p.idle[got.image], now.Add(p.spec.Warm.Keep))
	}
}

// provider returns the provider of a node's pool, or nil. The caller holds the lock.
func (f *Fleet) provider(node string) *provider { return f.providers[f.nodePools[node]] }

// refuse asks the provider of a pod's node for it, if there is one.
func (f *Fleet) refuse(p *corev1.Pod) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	seller := f.provider(p.Spec.NodeName)
	if seller == nil {
		return ""
	}
	return seller.take(p, f.opts.Clock.Now(), f.opts.Warm && !f.runs.Load())
}

// sandbox returns how long a pod takes to start because of its provider. ok is
// false where that is the module's to say.
func (f *Fleet) sandbox(p *corev1.Pod) (took time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seller := f.provider(p.Spec.NodeName)
	if seller == nil {
		return 0, false
	}
	if seller.pods[p.UID].warm {
		return seller.spec.Warm.Start.At(f.dice(p, 3).Float64()), true
	}
	if f.modules[moduleName{p.Namespace, p.Labels[ModuleLabel]}] == nil && seller.spec.Cold != nil {
		return seller.spec.Cold.At(f.dice(p, 3).Float64()), true
	}
	return 0, false
}

// Refused counts what the providers refused, by the code they gave for it.
func (f *Fleet) Refused() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	sum := map[string]int{}
	for _, p := range f.providers {
		for code, n := range p.counts {
			sum[code] += n
		}
	}
	return sum
}

// work returns how long a Job's pod of no module works.
func work(p *corev1.Pod) time.Duration {
	d, err := time.ParseDuration(p.Annotations[RunAnnotation])
	if err != nil || d < 0 {
		return 0
	}
	return d
}

// cpu returns the milli-cores that a pod asks for.
func cpu(p *corev1.Pod) int64 {
	asks, _ := podResources(p)
	return asks[resource.CPU]
}
