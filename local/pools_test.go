package local

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/scenario"
)

// until waits for something, at most as long as a slow machine may need.
func until(ctx context.Context, what string, ok func() error) error {
	deadline := time.Now().Add(poolsPatience)
	for {
		err := ok()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v for %s: %w", poolsPatience, what, err)
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func (m *poolsRun) at(ctx context.Context, owned, spare, serverless, nowhere int) error {
	return until(ctx, fmt.Sprintf("%d, %d and %d replicas in their pools and %d in none", owned, spare, serverless, nowhere), func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		at, all := m.where("web"), 0
		for _, p := range m.pods {
			if p.Labels["app"] == "web" {
				all++
			}
		}
		if at[poolOwned] != owned || at[poolSpare] != spare || at[poolServerless] != serverless || all != owned+spare+serverless+nowhere {
			return fmt.Errorf("%d are there, at %v", all, at)
		}
		return nil
	})
}

func (m *poolsRun) says(ctx context.Context, p *v1alpha1.ElasticPolicy, ready metav1.ConditionStatus, message string) error {
	return until(ctx, "the policy to say "+message, func() error {
		if err := m.up.crds.Get(ctx, client.ObjectKeyFromObject(p), p); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); c == nil || c.Status != ready || !strings.Contains(c.Message, message) {
			return fmt.Errorf("it says %+v", c)
		}
		return nil
	})
}

func TestAServerlessPoolWithoutQuotaAndTheWayBackFromIt(t *testing.T) {
	clustertest.Need(t)
	t.Parallel() // it mostly waits, and holds nothing to a figure that a busy machine moves
	s := poolsScenario()
	for i := range s.Pools {
		switch p := &s.Pools[i]; p.Name {
		case poolOwned:
			p.Count = 2 // 40 replicas
		case poolSpare:
			p.Count = 1 // 32
		case poolServerless:
			p.Provider = &scenario.Provider{Quota: 10_000} // 20
		}
	}
	_, err := MeasureOptions{Log: t.Logf}.onPools(t.Context(), s, 60, func(m *poolsRun, ctx context.Context) error {
		if err := m.begin(ctx); err != nil {
			return err
		}
		// 1. Somebody else has half of the machines. The provider takes 20 replicas and
		// refuses the rest, which wait and are told of.
		other, err := m.up.client.AppsV1().Deployments(poolsNamespace).Create(ctx, &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: poolsNamespace, Name: "other"},
			Spec: appsv1.DeploymentSpec{
				Replicas: ptr.To[int32](2), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "other"}},
					Spec: corev1.PodSpec{
						NodeSelector: map[string]string{v1alpha1.LabelPool: poolOwned}, TerminationGracePeriodSeconds: ptr.To[int64](1),
						Containers: []corev1.Container{{Name: fleet.Container, Image: "simulated.neap.dev/other", Resources: corev1.ResourceRequirements{
							Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse("5")},
						}}},
					},
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		err = until(ctx, "the others to be there", func() error {
			m.mu.Lock()
			defer m.mu.Unlock()
			if n := m.where("other")[poolOwned]; n != 2 {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		if err != nil {
			return err
		}
		web, err := m.workload(ctx, "web", 90, nil)
		if err != nil {
			return err
		}
		if err := m.at(ctx, 20, 32, 20, 18); err != nil {
			return err
		}
		if err := m.says(ctx, web, metav1.ConditionFalse, "18 replicas have no place in the policy's pools"); err != nil {
			return err
		}
		t.Logf("the policy says %q", meta.FindStatusCondition(web.Status.Conditions, v1alpha1.ConditionReady).Message)
		// 2. The others go. What had no place takes theirs first, and then, when the
		// room that is left has lasted for longer than a move costs, serverless replicas do.
		if err := m.up.client.AppsV1().Deployments(poolsNamespace).Delete(ctx, other.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		return m.at(ctx, 40, 32, 18, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}
