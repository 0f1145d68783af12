// Package binding lets several scheduler plugins write annotations in the one
// request that binds a pod. The API server copies the annotations of a Binding to
// the pod, so a pod is bound and what was decided about it is written, or neither;
// and it costs no request of its own.
//
// A plugin calls [Annotate] and [Before] when it reserves, and returns [Bind] from
// its own Bind: whichever plugin is asked first binds for all.
package binding

import (
	"context"
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

const stateKey = "neap.dev/Binding"

// A plan is what is to come of one scheduling cycle. Plugins reserve one after the
// other, and the binding comes after all of them.
type plan struct {
	annotations map[string]string
	before      []func(context.Context) error
	err         error
}

// Clone implements [fwk.StateData]; nobody clones a state that is being reserved.
func (p *plan) Clone() fwk.StateData { return p }

func of(state fwk.CycleState) *plan {
	if d, err := state.Read(stateKey); err == nil {
		return d.(*plan)
	}
	p := &plan{annotations: map[string]string{}}
	state.Write(stateKey, p)
	return p
}

// Annotate says what is to be written on the pod when it is bound.
func Annotate(state fwk.CycleState, key, value string) { of(state).annotations[key] = value }

// Before says what is to be done just before the pod is bound. An error keeps it
// from being bound now.
func Before(state fwk.CycleState, do func(context.Context) error) {
	p := of(state)
	p.before = append(p.before, do)
}

// Bind does what comes before, and binds the pod with what was annotated; it skips
// if nothing was.
func Bind(ctx context.Context, h fwk.Handle, state fwk.CycleState, pod *v1.Pod, node string) *fwk.Status {
	p := of(state)
	for _, do := range p.before {
		if err := do(ctx); err != nil {
			return fwk.AsStatus(err)
		}
	}
	p.before = nil
	if len(p.annotations) == 0 {
		return fwk.NewStatus(fwk.Skip)
	}
	p.err = bind(ctx, h, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, Annotations: maps.Clone(p.annotations)},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	})
	return fwk.AsStatus(p.err)
}

func bind(ctx context.Context, h fwk.Handle, b *v1.Binding) error {
	api := h.APICacher()
	if api == nil {
		return h.ClientSet().CoreV1().Pods(b.Namespace).Bind(ctx, b, metav1.CreateOptions{})
	}
	done, err := api.BindPod(b)
	if err == nil {
		err = api.WaitOnFinish(ctx, done)
	}
	return err
}

// Err returns what the API server answered when the pod was to be bound; nil if it
// was not asked, or bound it.
func Err(state fwk.CycleState) error { return of(state).err }
