package elasticfit

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/scheduler/kinds"
)

// byTarget indexes ElasticPolicies by the workload that they name.
const byTarget = "target"

// declared follows the ElasticPolicies and ResourcePools of a cluster.
type declared struct {
	policies cache.SharedIndexInformer
	pools    cache.SharedIndexInformer
	repooled func() // called after a pool came, changed or went

	mu     sync.RWMutex
	known  *convert.Pools
	places map[string]place // by node
}

// place is the pool that a node was found to be in.
type place struct {
	node *v1.Node
	pool convert.Pool
}

func newDeclared(client cache.Getter) *declared {
	d := &declared{
		policies: kinds.Informer(client, "elasticpolicies", &v1alpha1.ElasticPolicy{}, cache.Indexers{byTarget: func(obj any) ([]string, error) {
			return []string{convert.ElasticTarget(obj.(*v1alpha1.ElasticPolicy)).String()}, nil
		}}),
		pools:    kinds.Informer(client, "resourcepools", &v1alpha1.ResourcePool{}, cache.Indexers{}),
		places:   map[string]place{},
		repooled: func() {},
	}
	_, err := d.pools.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { d.forget() },
		UpdateFunc: func(was, is any) {
			if was.(*v1alpha1.ResourcePool).Generation != is.(*v1alpha1.ResourcePool).Generation {
				d.forget()
			}
		},
		DeleteFunc: func(any) { d.forget() },
	})
	if err != nil {
		panic(err) // only of an informer that has stopped
	}
	return d
}

// start follows the cluster until ctx ends. Where it knows Neap's kinds, start
// returns when everything declared is known, so that no pod is placed without
// its policy; where it does not, they are followed once they come.
func (d *declared) start(ctx context.Context, client *rest.RESTClient) error {
	return kinds.Follow(ctx, client, map[string]cache.SharedIndexInformer{"elasticpolicies": d.policies, "resourcepools": d.pools})
}

// forget drops what was derived from the declared pools.
func (d *declared) forget() {
	var list []*v1alpha1.ResourcePool
	for _, obj := range d.pools.GetStore().List() {
		list = append(list, obj.(*v1alpha1.ResourcePool))
	}
	known, err := convert.NewPools(list)
	if err != nil {
		klog.Background().Info("A resource pool is left out", "err", err) // its own status says so too
	}
	d.mu.Lock()
	d.known, d.places = known, map[string]place{}
	d.mu.Unlock()
	d.repooled()
}

// pool returns the pool of a node.
func (d *declared) pool(node *v1.Node) convert.Pool {
	d.mu.RLock()
	p, ok := d.places[node.Name]
	known := d.known
	d.mu.RUnlock()
	if ok && p.node == node {
		return p.pool
	}
	p = place{node, known.Of(node)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known == known { // else what was found is old
		d.places[node.Name] = p
	}
	return p.pool
}

// guards reports whether any pool keeps room for GPU pods.
func (d *declared) guards() bool {
	for _, obj := range d.pools.GetStore().List() {
		if obj.(*v1alpha1.ResourcePool).Spec.Guard != nil {
			return true
		}
	}
	return false
}

// policy returns the ElasticPolicy that decides where the pods of a workload
// go, or nil: it is in mode Auto, not paused, and names pools. Of several for
// one workload the oldest counts.
func (d *declared) policy(of workload.Key) *v1alpha1.ElasticPolicy {
	found, err := d.policies.GetIndexer().ByIndex(byTarget, of.String())
	if err != nil || len(found) == 0 {
		return nil
	}
	p := slices.MinFunc(found, func(a, b any) int {
		x, y := a.(*v1alpha1.ElasticPolicy), b.(*v1alpha1.ElasticPolicy)
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), strings.Compare(x.Name, y.Name))
	}).(*v1alpha1.ElasticPolicy)
	if p.Spec.Mode != v1alpha1.ModeAuto || len(p.Spec.Pools) == 0 || p.Annotations[v1alpha1.AnnotationPause] == "true" {
		return nil
	}
	return p
}
