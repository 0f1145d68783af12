package fleet

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/local/clock"
	"github.com/neap-dev/neap/sim/physics"
	"github.com/neap-dev/neap/sim/scenario"
)

var midnight = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

func asking(i int, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p-%d", i), UID: types.UID(fmt.Sprintf("u-%d", i))},
		Spec: corev1.PodSpec{NodeName: "virtual", Containers: []corev1.Container{{Name: "main", Image: "app", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu)},
		}}}},
	}
}

func TestAProviderRefuses(t *testing.T) {
	burst := newProvider(&scenario.Provider{PerSecond: 20, Burst: 100})
	took := 0
	for i := range 300 {
		if burst.take(asking(i, "1"), midnight, false) == "" {
			took++
		}
	}
	if took != 100 || burst.counts["Throttling"] != 200 {
		t.Errorf("of 300 at once %d are created, want the burst of 100; refused %v", took, burst.counts)
	}
	later := midnight.Add(time.Second)
	if why := burst.take(asking(299, "1"), later, false); !strings.HasPrefix(why, "Throttling: more than 20 pods a second") {
		t.Errorf("a pod that was refused a second ago: %q, want the same again", why)
	}
	for i := 1000; i < 1100; i++ {
		if burst.take(asking(i, "1"), later, false) == "" {
			took++
		}
	}
	if took != 120 {
		t.Errorf("a second later %d are created, want 20 more", took-100)
	}
	if why := burst.take(asking(5000, "1"), later, true); why != "" {
		t.Errorf("a pod that was there before the day began is refused: %s", why)
	}

	limited := newProvider(&scenario.Provider{MaxPod: resource.Vector{resource.CPU: 64_000}, Quota: 100_000})
	for _, tc := range []struct {
		pod  *corev1.Pod
		want string
	}{
		{asking(1, "65"), "InvalidParameter.Size: the pod asks for more cpu than the largest pod may have"},
		{asking(2, "60"), ""},
		{asking(3, "60"), "QuotaExceeded.Cpu: 60 of 100 cores are in use"},
		{asking(4, "40"), ""},
	} {
		if got := limited.take(tc.pod, midnight, false); got != tc.want && got != tc.want+" (simulated provider)" {
			t.Errorf("%s: %q, want %q", tc.pod.Name, got, tc.want)
		}
	}
	limited.leave("u-2", midnight)
	if why := limited.take(asking(3, "60"), midnight.Add(retryAfter), false); why != "" {
		t.Errorf("there is room again: %s", why)
	}
	daemon := asking(6, "0")
	daemon.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "d"}}
	if why := limited.take(daemon, midnight, false); !strings.HasPrefix(why, "NotSupported") {
		t.Errorf("a DaemonSet's pod: %q", why)
	}
}

func TestSandboxesAreWarmForTheirImage(t *testing.T) {
	p := newProvider(&scenario.Provider{PerSecond: 1, Burst: 1, Warm: &scenario.Warm{Sandboxes: 2, Keep: time.Minute}})
	take := func(i int, image string, at time.Time) (warm bool) {
		t.Helper()
		pod := asking(i, "1")
		pod.Spec.Containers[0].Image = image
		if why := p.take(pod, at, false); why != "" {
			t.Fatalf("pod %d: %s", i, why)
		}
		return p.pods[pod.UID].warm
	}
	if !take(1, "a", midnight) || !take(2, "a", midnight) || !take(3, "b", midnight) {
		t.Error("the first two of an image are not warm")
	}
	if take(4, "a", midnight) {
		t.Error("the third of an image is warm")
	}
	p.leave("u-1", midnight)
	if !take(5, "a", midnight.Add(30*time.Second)) {
		t.Error("the sandbox of a pod that left is not used")
	}
	p.leave("u-5", midnight.Add(30*time.Second))
	if take(6, "a", midnight.Add(2*time.Minute)) {
		t.Error("a sandbox was kept too long")
	}
}

// As with virtual-kubelet, a refused pod of a Job has failed, and another is
// tried again.
func TestARefusedPod(t *testing.T) {
	day, err := clock.Open(filepath.Join(t.TempDir(), "clock.json"), clock.Options{Start: midnight, Speed: 600})
	if err != nil {
		t.Fatal(err)
	}
	defer day.Close()
	pod := func(name, owner, cpu string, restart corev1.RestartPolicy) *corev1.Pod {
		p := testPod(name, "a", owner)
		p.Spec.RestartPolicy = restart
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu)}
		return p
	}
	client := fake.NewClientset(testNode("a"), pod("job", "Job", "2", corev1.RestartPolicyNever),
		pod("first", "", "600m", corev1.RestartPolicyAlways), pod("second", "", "600m", corev1.RestartPolicyAlways))
	seller := newProvider(&scenario.Provider{Quota: 1000, Cold: physics.Quantiles{{Share: 1, Value: time.Second}}})
	mine := make(chan struct{}, 1) // the provider is not safe for concurrent use
	mine <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := StartLifecycle(ctx, LifecycleOptions{Client: client, Day: day, Durations: Durations{
		Refuse: func(p *corev1.Pod) string {
			<-mine
			defer func() { mine <- struct{}{} }()
			return seller.take(p, day.Now(), false)
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	get := func(name string) *corev1.Pod {
		p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	poll(t, "the job's pod to fail", func() bool {
		p := get("job")
		return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "ProviderFailed" && strings.Contains(p.Status.Message, "QuotaExceeded")
	})
	var ready, waits *corev1.Pod
	poll(t, "one of two pods to be ready and one to wait", func() bool {
		ready, waits = get("first"), get("second")
		if isReady(waits) {
			ready, waits = waits, ready
		}
		return isReady(ready) && waits.Status.Phase == corev1.PodPending && waits.Status.Reason == "ProviderFailed"
	})
	<-mine
	seller.leave(ready.UID, day.Now())
	mine <- struct{}{}
	poll(t, "the other one to be tried again", func() bool {
		p := get(waits.Name)
		return isReady(p) && p.Status.Reason == ""
	})
	poll(t, "an event", func() bool {
		l, err := client.CoreV1().Events("default").List(ctx, metav1.ListOptions{})
		return err == nil && len(l.Items) > 0 && l.Items[0].Reason == "ProviderCreateFailed"
	})
}
