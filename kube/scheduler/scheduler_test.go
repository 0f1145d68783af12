package scheduler

import (
	"context"
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/scheduler"
	"k8s.io/kubernetes/pkg/scheduler/profile"
	"sigs.k8s.io/yaml"
)

func parse[T any](t *testing.T, doc string) *T {
	t.Helper()
	out := new(T)
	if err := yaml.UnmarshalStrict([]byte(doc), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// Two pods hold a machine. When a third is to have their place, both have left
// before they are asked to, as they do when others preempt them too.
func TestAPodWhoseVictimsHaveLeftIsScheduled(t *testing.T) {
	NewCommand()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	balloon := `{metadata: {name: balloon-%[1]d, namespace: live, uid: balloon-%[1]d}, spec: {schedulerName: default-scheduler, nodeName: machine, priority: -10,
		containers: [{name: main, image: none, resources: {requests: {cpu: 1}}}]}, status: {phase: Running}}`
	client := fake.NewClientset(
		parse[v1.Node](t, `{metadata: {name: machine}, status: {allocatable: {cpu: 2, memory: 1Gi, pods: 10}}}`),
		parse[v1.Pod](t, fmt.Sprintf(balloon, 0)), parse[v1.Pod](t, fmt.Sprintf(balloon, 1)))
	factory := informers.NewSharedInformerFactory(client, 0)
	pods := factory.Core().V1().Pods().Lister().Pods("live")

	// 1. Who is asked to leave has left, and the scheduler has seen it.
	client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		patch := a.(clienttesting.PatchAction)
		if patch.GetName() == "web" {
			return false, nil, nil
		}
		for i := range 2 {
			_ = client.Tracker().Delete(patch.GetResource(), "live", fmt.Sprintf("balloon-%d", i))
		}
		err := wait.PollUntilContextCancel(ctx, time.Millisecond, true, func(context.Context) (bool, error) {
			_, one := pods.Get("balloon-0")
			_, two := pods.Get("balloon-1")
			return one != nil && two != nil, nil
		})
		if err == nil {
			time.Sleep(100 * time.Millisecond) // the queue hears of it after the lister
			err = apierrors.NewNotFound(v1.Resource("pods"), patch.GetName())
		}
		return true, nil, err
	})
	bound := make(chan string, 1)
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		bound <- a.(clienttesting.CreateAction).GetObject().(*v1.Binding).Target.Name
		return true, nil, nil
	})

	// 2. A scheduler as the command would start it.
	recorders := events.NewBroadcaster(&events.EventSinkImpl{Interface: client.EventsV1()})
	s, err := scheduler.New(ctx, client, factory, nil, profile.NewRecorderFactory(recorders), scheduler.WithPodInitialBackoffSeconds(1))
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	if err := s.WaitForHandlersSync(ctx); err != nil {
		t.Fatal(err)
	}
	go s.Run(ctx)

	web := parse[v1.Pod](t, `{metadata: {name: web, namespace: live, uid: web}, spec: {schedulerName: default-scheduler, priority: 0, containers: [{name: main, image: none, resources: {requests: {cpu: 2}}}]}}`)
	if _, err := client.CoreV1().Pods("live").Create(ctx, web, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case node := <-bound:
		if node != "machine" {
			t.Errorf("the pod is bound to %q", node)
		}
	case <-ctx.Done():
		t.Error("the machine is empty, and the pod waits")
	}
}
