package gpufit

import (
	"fmt"

	"k8s.io/client-go/tools/cache"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/gpubook"
)

// followPlans keeps the places that RepackPlans hold.
func (b *books) followPlans() error {
	handler, err := b.plans.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { b.planned(obj.(*v1alpha1.RepackPlan), nil) },
		UpdateFunc: func(was, is any) { b.planned(is.(*v1alpha1.RepackPlan), was.(*v1alpha1.RepackPlan)) },
		DeleteFunc: func(obj any) {
			if p, ok := last(obj).(*v1alpha1.RepackPlan); ok {
				b.planned(nil, p)
			}
		},
	})
	_ = handler // Follow waits for the informer, and what is held is never more than a wish
	return err
}

// planned takes in the holds of a plan in place of those before; either can be nil.
func (b *books) planned(is, was *v1alpha1.RepackPlan) {
	b.mu.Lock()
	var before, after []v1alpha1.RepackHold
	if was != nil {
		before = was.Status.Holds
		for i := range before {
			b.now.DeleteHold(holdKey(was, i))
		}
	}
	if is != nil {
		after = is.Status.Holds
		for i, h := range after {
			b.now.SetHold(holdKey(is, i), gpubook.Hold{Pod: h.Pod, Node: h.Machine, Devices: h.Devices, Milli: h.Milli, MemoryMiB: h.MemoryMiB})
		}
	}
	b.mu.Unlock()
	if len(before) > 0 { // some may be free now
		b.wake()
	}
}

func holdKey(p *v1alpha1.RepackPlan, i int) string { return fmt.Sprintf("plan/%s/%d", p.UID, i) }
