package scaler

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/scale"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/forecast"
)

// A hall is a cluster that costs nothing to ask, for measuring what we ourselves take.
type hall struct {
	client.Client
	policies []v1alpha1.ElasticPolicy
	pools    []v1alpha1.ResourcePool
	nodes    []corev1.Node
	pods     []corev1.Pod
	index    map[string]int
	patched  []v1alpha1.ElasticPolicyStatus
}

func (h *hall) List(_ context.Context, l client.ObjectList, _ ...client.ListOption) error {
	switch l := l.(type) {
	case *v1alpha1.ElasticPolicyList:
		l.Items = append(l.Items, h.policies...)
		for i := range l.Items {
			l.Items[i].Status = h.patched[i]
		}
	case *v1alpha1.ResourcePoolList:
		l.Items = h.pools
	case *corev1.NodeList:
		l.Items = h.nodes
	case *corev1.PodList:
		l.Items = h.pods
	case *autoscalingv2.HorizontalPodAutoscalerList, *v1alpha1.ModuleList, *v1alpha1.TimetableList, *v1alpha1.HolidayCalendarList:
	}
	return nil
}

func (h *hall) Get(context.Context, client.ObjectKey, client.Object, ...client.GetOption) error {
	return nil
}

func (h *hall) Status() client.SubResourceWriter { return patches{h: h} }

func (h *hall) Scales(string) scale.ScaleInterface { return scales{} }

type patches struct {
	h *hall
	client.SubResourceWriter
}

func (p patches) Patch(_ context.Context, obj client.Object, _ client.Patch, _ ...client.SubResourcePatchOption) error {
	p.h.patched[p.h.index[obj.GetName()]] = obj.(*v1alpha1.ElasticPolicy).Status
	return nil
}

type scales struct{ scale.ScaleInterface }

func (scales) Get(_ context.Context, _ schema.GroupResource, name string, _ metav1.GetOptions) (*autoscalingv1.Scale, error) {
	return &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 10}, Status: autoscalingv1.ScaleStatus{Replicas: 10, Selector: "app=" + name}}, nil
}

func (scales) Update(_ context.Context, _ schema.GroupResource, s *autoscalingv1.Scale, _ metav1.UpdateOptions) (*autoscalingv1.Scale, error) {
	return s, nil
}

// BenchmarkAMinuteOf1000Policies measures what a minute's decisions for 1,000
// workloads of 10 pods each take on 500 machines in three pools, with forecasts:
// all but what the API server and the metrics take to answer.
func BenchmarkAMinuteOf1000Policies(b *testing.B) {
	const workloads, each, machines = 1000, 10, 500
	h := &hall{index: map[string]int{}, patched: make([]v1alpha1.ElasticPolicyStatus, workloads), pools: []v1alpha1.ResourcePool{
		{ObjectMeta: metav1.ObjectMeta{Name: "own"}},
		{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolSpareOnGPUMachines}},
		{ObjectMeta: metav1.ObjectMeta{Name: "cloud"}, Spec: v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolServerless}},
	}}
	metric := &source{}
	clock := clocktesting.NewFakeClock(monday)
	s, err := New(Options{Client: h, Live: h, Scales: h, Mapper: mapper, Clock: clock, Metrics: metric, Ledger: &book{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	for i := range machines {
		h.nodes = append(h.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{v1alpha1.LabelPool: h.pools[i%3].Name}},
			Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": apiresource.MustParse("96"), "memory": apiresource.MustParse("384Gi"), "pods": apiresource.MustParse("250")}}})
	}
	for i := range workloads {
		name := fmt.Sprint("w", i)
		h.index[name] = i
		p := v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: fmt.Sprint("ns", i%20), Name: name, UID: types.UID(name), Generation: 1}}
		if err := yaml.UnmarshalStrict([]byte(`{targetRef: {kind: Deployment, name: `+name+`}, mode: Auto, min: 2, max: 100, load: {query: "load[$window]", perReplica: "10", target: "50%"}, forecast: {}, reactive: {},
			cron: [{name: evening, start: "18:30", days: [Workday], duration: 4h, timeZone: Asia/Shanghai, floor: 9}], pools: [{name: own}, {name: gpu, max: 20}, {name: cloud}]}`), &p.Spec); err != nil {
			b.Fatal(err)
		}
		h.policies = append(h.policies, p)
		for j := range each {
			h.pods = append(h.pods, corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: fmt.Sprint(name, "-", j), UID: types.UID(fmt.Sprint(name, "-", j)), Labels: map[string]string{"app": name, "pod-template-hash": "a"}, CreationTimestamp: metav1.NewTime(monday)},
				Spec:       corev1.PodSpec{NodeName: fmt.Sprint("n", (i*each+j)%machines), Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": apiresource.MustParse("2"), "memory": apiresource.MustParse("4Gi")}}}}},
				Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(monday.Add(time.Minute))}}},
			})
		}
	}
	for i := range h.pods {
		s.Pod(&h.pods[i])
	}
	if err := s.Minute(b.Context()); err != nil { // makes the states; the metrics have no past yet
		b.Fatal(err)
	}
	// A forecast each, learnt from four days to save the benchmark's time: what a
	// minute takes of it does not depend on that.
	const days = 4
	day := make([]float64, days*1440)
	dice := rand.New(rand.NewPCG(1, 2))
	for i := range day {
		day[i] = (30 + 20*math.Sin(float64(i%1440)/1440*2*math.Pi)) * (0.8 + 0.4*dice.Float64())
	}
	for _, st := range s.states {
		m := forecast.Fit(forecast.Series{Start: monday.Add(-days * 24 * time.Hour), Step: time.Minute, Values: day}, forecast.Options{Horizon: 5 * time.Minute})
		st.demand.learnt = learnt{model: m, at: monday, skill: m.Skill()}
		st.demand.next = monday.Add(1e4 * time.Hour)
	}
	metric.set("load", func(at time.Time) float64 { return 50 + 8*math.Sin(float64(at.Unix())) })

	cpu := func() float64 {
		var r syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
		return float64(r.Utime.Nano()+r.Stime.Nano()) / 1e9
	}
	before := cpu()
	n := 0
	for b.Loop() {
		clock.Step(time.Minute)
		if err := s.Minute(b.Context()); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric((cpu()-before)/float64(n), "cpu-s/minute")
	if st := h.patched[7]; st.Desired == 0 || len(st.Pools) != 3 || st.Forecast == nil || !st.Forecast.Skilled {
		b.Fatalf("status %+v", st)
	}
}
