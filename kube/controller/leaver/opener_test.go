package leaver

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func TestWhoNobodyOrdersGetsTraffic(t *testing.T) {
	scheme := runtime.NewScheme()
	_ = clientgoscheme.AddToScheme(scheme)
	_ = v1alpha1.AddToScheme(scheme)
	policy := func(change func(*v1alpha1.ElasticPolicy)) *v1alpha1.ElasticPolicy {
		p := &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat"}, Spec: v1alpha1.ElasticPolicySpec{Mode: v1alpha1.ModeAuto}, Status: v1alpha1.ElasticPolicyStatus{Selector: "app=chat"}}
		change(p)
		return p
	}
	same := func(*v1alpha1.ElasticPolicy) {}
	cases := map[string]struct {
		policy *v1alpha1.ElasticPolicy
		serves corev1.ConditionStatus
		want   corev1.ConditionStatus
	}{
		"the policy is in charge: what it cut off stays so":    {policy(same), corev1.ConditionFalse, corev1.ConditionFalse},
		"there is no policy any more":                          {nil, corev1.ConditionFalse, corev1.ConditionTrue},
		"there was never one, and the gate was not opened yet": {nil, "", corev1.ConditionTrue},
		"the policy is of other pods":                          {policy(func(p *v1alpha1.ElasticPolicy) { p.Status.Selector = "app=shop" }), corev1.ConditionFalse, corev1.ConditionTrue},
		"the policy only previews now":                         {policy(func(p *v1alpha1.ElasticPolicy) { p.Spec.Mode = v1alpha1.ModePreview }), corev1.ConditionFalse, corev1.ConditionTrue},
		"the policy is paused, and a rollout makes a pod":      {policy(func(p *v1alpha1.ElasticPolicy) { p.Annotations = map[string]string{v1alpha1.AnnotationPause: "true"} }), "", corev1.ConditionTrue},
		"somebody else sets the replicas": {policy(func(p *v1alpha1.ElasticPolicy) {
			p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Reason: "OtherOwner"}}
		}), corev1.ConditionFalse, corev1.ConditionTrue},
		"the policy has not found its target yet, but a pod is there": {policy(func(p *v1alpha1.ElasticPolicy) { p.Status.Selector = "" }), "", corev1.ConditionTrue},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "live", Name: "chat-0", Labels: map[string]string{"app": "chat"}},
				Spec: corev1.PodSpec{NodeName: "n1", ReadinessGates: []corev1.PodReadinessGate{{ConditionType: v1alpha1.ReadinessServing}}}}
			if tc.serves != "" {
				pod.Status.Conditions = []corev1.PodCondition{{Type: v1alpha1.ReadinessServing, Status: tc.serves}}
			}
			objects := []client.Object{pod}
			if tc.policy != nil {
				objects = append(objects, tc.policy)
			}
			o := &opener{fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&corev1.Pod{}).Build()}
			if _, err := o.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)}); err != nil {
				t.Fatal(err)
			}
			if err := o.c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
				t.Fatal(err)
			}
			if got := status(pod, v1alpha1.ReadinessServing); got != tc.want {
				t.Errorf("serves: %q, want %q", got, tc.want)
			}
		})
	}
	in := policy(same)
	out := policy(func(p *v1alpha1.ElasticPolicy) { p.Spec.Mode = v1alpha1.ModeObserve })
	if !stopped.Update(event.UpdateEvent{ObjectOld: in, ObjectNew: out}) || stopped.Update(event.UpdateEvent{ObjectOld: in, ObjectNew: in}) || !stopped.Delete(event.DeleteEvent{Object: in}) {
		t.Error("a policy that stops, or goes, lets its pods go; one that goes on does not")
	}
}
