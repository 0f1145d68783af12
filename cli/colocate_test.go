package cli

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

func TestColocationIsExplainedNodeByNode(t *testing.T) {
	now := time.Date(2026, 3, 4, 14, 0, 0, 0, time.UTC)
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, corev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	capacity := func(at time.Time) string {
		c := convert.BatchCapacity{
			Policy: "night", At: at, Until: at.Add(convert.BatchLasts), Start: at, Step: convert.Span(15 * time.Minute),
			CPUMilli: []int64{8000, 7000, 6500, 6000, 0, 0}, MemoryMiB: make([]int64, 6), OnlineMilli: []int64{3000, 3500, 4000, 4200, 9000, 9900},
			Terms: convert.BatchTerms{Machine: 16000, Allowed: 12800, Online: 4800, Risen: 9100}, Binds: "window", Why: "the window evening begins at 15:00",
		}
		return c.String()
	}
	node := func(name string, marks map[string]string, conditions ...corev1.NodeCondition) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: marks}, Status: corev1.NodeStatus{
			Conditions: conditions, Allocatable: corev1.ResourceList{v1alpha1.ResourceBatchCPU: apiresource.MustParse("6000")},
		}}
	}
	pod := func(name, on string) *corev1.Pod {
		amounts := corev1.ResourceList{v1alpha1.ResourceBatchCPU: apiresource.MustParse("1500"), v1alpha1.ResourceBatchMemory: apiresource.MustParse("2Gi")}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "etl", Name: name, Labels: map[string]string{v1alpha1.LabelClass: v1alpha1.ClassBatch},
			Annotations: map[string]string{v1alpha1.AnnotationBatchRunTime: "40m"},
		}, Spec: corev1.PodSpec{NodeName: on, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: amounts, Limits: amounts}}}}}
	}
	waits := pod("late", "")
	waits.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Message: "0/2 nodes: the curve falls below it at 15:00"}}
	k := fake.NewClientBuilder().WithScheme(scheme).WithObjects(
		&v1alpha1.ColocationPolicy{ObjectMeta: metav1.ObjectMeta{Name: "night"}, Spec: v1alpha1.ColocationPolicySpec{Mode: v1alpha1.ModeAuto}, Status: v1alpha1.ColocationPolicyStatus{Nodes: 2, CapacityMilli: 6000, EarnedPerDay: "12.50", Currency: "USD", Reason: "the evening binds"}},
		node("a", map[string]string{
			v1alpha1.AnnotationBatchCapacity: capacity(now.Add(-time.Minute)),
			v1alpha1.AnnotationColocation:    `{"at":"2026-03-04T14:00:00Z","policy":"night","avoidance":"idle","step":"Quota","onlineMilli":2500,"batchMilli":3100,"systemMilli":200,"budgetMilli":3200,"why":"online rose by 2.0 cores","foreignWrites":3}`,
		}),
		node("b", map[string]string{v1alpha1.AnnotationBatchCapacity: capacity(now.Add(-time.Hour)), v1alpha1.AnnotationColocation: "{"},
			corev1.NodeCondition{Type: v1alpha1.NodeConditionColocation, Status: corev1.ConditionFalse, Message: "koordlet runs on this node; take one of the two away"}),
		pod("sort-1", "a"), waits,
	).Build()
	v, err := readColocation(t.Context(), k, now)
	if err != nil {
		t.Fatal(err)
	}
	say := func(detail bool) string {
		var out strings.Builder
		if err := writeColocation(&out, v, "here", detail); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	for text, wants := range map[string][]string{
		say(false): {"night", "12.50 USD", "the evening binds", "Quota", "window", "ran out at 13:03:00 UTC", "etl/late", "the curve falls below it at 15:00", "! b: koordlet runs", "! b: the annotation neap.dev/colocation"},
		say(true):  {"a, policy night", "online 2.5, system 0.2, batch 3.1 of a budget of 3.2 cores; step Quota, avoidance idle", "online rose by 2.0 cores", "somebody else wrote 3 times", "offered: 8.0 cores. the window evening begins", "of it online and batch may use", "12.8", "14:59", "etl/sort-1", "40m0s", "offered: nothing: the capacity ran out at 2026-03-04T13:03:00Z"},
	} {
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	}
	if text := say(true); strings.Contains(text, "may have risen to") {
		t.Errorf("a rise that holds nothing back is shown in\n%s", text)
	}
	for i := range v.Nodes {
		if c := v.Nodes[i].Capacity; c != nil {
			c.Binds = "rise"
		}
	}
	if text := say(true); !strings.Contains(text, "may have risen to by now") || !strings.Contains(text, " 9.1\n") {
		t.Errorf("the rise that binds is not in\n%s", text)
	}
	none, err := readColocation(t.Context(), fake.NewClientBuilder().WithScheme(scheme).Build(), now)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := writeColocation(&out, none, "here", false); err != nil || !strings.Contains(out.String(), "No ColocationPolicy in here") {
		t.Errorf("nothing is shown as %q, %v", out.String(), err)
	}
}
