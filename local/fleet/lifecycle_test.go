package fleet

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/neap-dev/neap/local/clock"
)

// poll waits until ok says so, at most as long as a slow machine may need.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited a minute for %s", what)
}

func testNode(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{SimulatedLabel: "true"}}}
}

func testPod(name, node, owner string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "main", Image: "simulated"}}},
		Status:     corev1.PodStatus{Phase: corev1.PodPending},
	}
	if owner != "" {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: owner, Name: "x"}}
	}
	return p
}

func TestPodsLiveAsTheTimetableSays(t *testing.T) {
	day, err := clock.Open(filepath.Join(t.TempDir(), "clock.json"), clock.Options{Start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), Speed: 600})
	if err != nil {
		t.Fatal(err)
	}
	defer day.Close()
	service, job := testPod("service", "a", "ReplicaSet"), testPod("job", "a", "Job")
	elsewhere := testPod("elsewhere", "real", "Job")
	client := fake.NewClientset(testNode("a"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "real"}}, service, job, elsewhere)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := StartLifecycle(ctx, LifecycleOptions{
		Client: client, Day: day, Log: os.Stderr,
		Durations: Durations{
			Start: func(p *corev1.Pod) time.Duration { return 30 * time.Second },
			Run:   func(p *corev1.Pod) time.Duration { return 10 * time.Minute },
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	get := func(name string) *corev1.Pod {
		p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return p
	}
	poll(t, "the service to be ready", func() bool { return isReady(get("service")) })
	poll(t, "the job to be done", func() bool { return get("job").Status.Phase == corev1.PodSucceeded })
	poll(t, "the node to be ready", func() bool {
		n, err := client.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{})
		return err == nil && len(n.Status.Conditions) > 0
	})
	ran := get("job")
	at, err := time.Parse(time.RFC3339Nano, ran.Annotations[ReadyAtAnnotation])
	if err != nil {
		t.Fatalf("the job does not say when it was ready: %v", err)
	}
	if took := day.Now().Sub(at); took < 10*time.Minute {
		t.Errorf("the job ran %v of the day, want 10m at least", took)
	}
	if ran.Annotations[SimulatedLabel] != "true" {
		t.Error("the pod is not marked as simulated")
	}
	if ran.Status.PodIP == "" {
		t.Error("the pod has no address")
	}
	if p := get("elsewhere"); p.Status.Phase != corev1.PodPending {
		t.Errorf("a pod on a real machine is %s: the fleet touched it", p.Status.Phase)
	}
}

func TestAPodThatKWOKForgotIsRemembered(t *testing.T) {
	day, err := clock.Open(filepath.Join(t.TempDir(), "clock.json"), clock.Options{Start: time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC), Speed: 60})
	if err != nil {
		t.Fatal(err)
	}
	defer day.Close()
	real := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "real"}}
	client := fake.NewClientset(testNode("a"), real, testPod("forgotten", "a", ""), testPod("elsewhere", "real", ""), testPod("pending", "", ""))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	factory := informers.NewSharedInformerFactory(client, 0)
	l := &Lifecycle{client: client, day: day, table: timetable{pods: map[types.UID]due{}, sent: map[sending]time.Time{}}} // no KWOK at all
	factory.Core().V1().Nodes().Informer()
	factory.Core().V1().Pods().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	done := make(chan error, 1)
	go func() { done <- l.Watch(ctx, factory) }()
	nudged := func(name string) bool {
		p, err := client.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
		return err == nil && p.Annotations["neap.dev/simulated-nudge"] != ""
	}
	poll(t, "a nudge", func() bool { return nudged("forgotten") })
	if nudged("elsewhere") || nudged("pending") {
		t.Error("a pod that is not on a simulated machine was touched")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNextIsTheFirstThingThatIsDue(t *testing.T) {
	now := metav1.Now()
	zero, two := int64(0), int64(2)
	running := func(p *corev1.Pod) *corev1.Pod {
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return p
	}
	deleted := func(p *corev1.Pod, grace *int64) *corev1.Pod {
		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, grace
		return p
	}
	resized := func(p *corev1.Pod, spec, status string) *corev1.Pod {
		list := func(cpu string) corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu)}
		}
		p.Spec.Containers[0].Resources.Requests = list(spec)
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", Resources: &corev1.ResourceRequirements{Requests: list(status)}}}
		return p
	}
	done := func(p *corev1.Pod) *corev1.Pod { p.Status.Phase = corev1.PodSucceeded; return p }
	cases := map[string]struct {
		pod  *corev1.Pod
		want Stage
	}{
		"a pod without a machine waits for the scheduler":            {testPod("p", "", ""), None},
		"a bound pod starts":                                         {testPod("p", "a", ""), Ready},
		"a service runs on":                                          {running(testPod("p", "a", "ReplicaSet")), None},
		"a job's pod ends":                                           {running(testPod("p", "a", "Job")), Complete},
		"a job's pod that ended stays":                               {done(testPod("p", "a", "Job")), None},
		"a pod that asks for more gets it":                           {resized(running(testPod("p", "a", "ReplicaSet")), "2", "1"), Resized},
		"the same written another way is the same":                   {resized(running(testPod("p", "a", "ReplicaSet")), "1", "1000m"), None},
		"a deleted pod goes":                                         {deleted(running(testPod("p", "a", "Job")), &two), Gone},
		"a deleted pod that only a finalizer keeps is not ours":      {deleted(done(testPod("p", "a", "Job")), &zero), None},
		"a pod that is deleted before it was ready never becomes so": {deleted(testPod("p", "a", ""), &two), Gone},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := next(tc.pod); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
