package convert

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/core/workload"
)

// Owners finds the top owner of a pod: the Deployment behind its ReplicaSet, the
// CronJob behind its Job, or whatever a chain of controllers ends in. It holds
// the metadata of the objects between the two. It is not safe for concurrent
// use; the zero Owners is empty and ready.
type Owners struct {
	between map[types.UID]between
}

type between struct {
	owner metav1.OwnerReference
	has   bool
}

// Put remembers who controls an object, such as a ReplicaSet or a Job.
func (o *Owners) Put(obj metav1.Object) {
	if o.between == nil {
		o.between = map[types.UID]between{}
	}
	b := between{}
	if c := metav1.GetControllerOf(obj); c != nil {
		b = between{owner: *c, has: true}
	}
	o.between[obj.GetUID()] = b
}

// Forget drops an object. Pods of it that come later are found by their labels.
func (o *Owners) Forget(uid types.UID) { delete(o.between, uid) }

// Len returns how many objects are remembered.
func (o *Owners) Len() int { return len(o.between) }

// Of returns the workload that a pod belongs to; a pod that nobody controls is
// its own. Where a ReplicaSet or a Job is not known, because it is gone or may
// not be read, its owner is told by the way Kubernetes names it.
func (o *Owners) Of(pod metav1.Object) workload.Key {
	key := workload.Key{Namespace: pod.GetNamespace(), Kind: "Pod", Name: pod.GetName()}
	ref := metav1.GetControllerOf(pod)
	for range 8 { // owners in a circle are nonsense, but must not hang us
		if ref == nil {
			return key
		}
		key.Kind, key.Name = ref.Kind, ref.Name
		b, known := o.between[ref.UID]
		if !known {
			return guess(key, pod.GetLabels())
		}
		if !b.has {
			return key
		}
		owner := b.owner
		ref = &owner
	}
	return key
}

// guess strips what the Deployment controller and the CronJob controller add to
// the names of what they make.
func guess(key workload.Key, labels map[string]string) workload.Key {
	switch key.Kind {
	case "ReplicaSet":
		if hash := labels["pod-template-hash"]; hash != "" {
			if name, ok := strings.CutSuffix(key.Name, "-"+hash); ok && name != "" {
				key.Kind, key.Name = "Deployment", name
			}
		}
	case "Job":
		i := strings.LastIndexByte(key.Name, '-')
		if i > 0 && len(key.Name)-i-1 == 8 && strings.Trim(key.Name[i+1:], "0123456789") == "" { // minutes since 1970
			key.Kind, key.Name = "CronJob", key.Name[:i]
		}
	}
	return key
}
