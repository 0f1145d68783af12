package observe

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
)

// pageSize is how many objects one answer holds. Kubernetes' own clients use 500:
// small enough that the API server need not build a list of all pods at once.
const pageSize = 500

// A reader lists objects of a cluster, and does nothing else to it.
type reader struct {
	server string
	core   *rest.RESTClient
	neap   *rest.RESTClient
	meta   metadata.Interface
}

func newReader(base *rest.Config) (*reader, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	codecs := serializer.NewCodecFactory(scheme)
	cfg := rest.CopyConfig(base)
	if cfg.UserAgent == "" {
		cfg.UserAgent = "neap"
	}
	cfg.QPS, cfg.Burst = 50, 100
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.NegotiatedSerializer = codecs.WithoutConversion()
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("the way to %s cannot be set up: %s", cfg.Host, cause(err))
	}
	r := &reader{server: cfg.Host}

	c := rest.CopyConfig(cfg)
	c.APIPath, c.GroupVersion = "/api", &corev1.SchemeGroupVersion
	c.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	if r.core, err = rest.RESTClientForConfigAndClient(c, client); err != nil {
		return nil, err
	}
	c = rest.CopyConfig(cfg)
	c.APIPath, c.GroupVersion = "/apis", &v1alpha1.GroupVersion
	if r.neap, err = rest.RESTClientForConfigAndClient(c, client); err != nil {
		return nil, err
	}
	c = metadata.ConfigFor(cfg)
	if r.meta, err = metadata.NewForConfigAndClient(c, client); err != nil {
		return nil, err
	}
	return r, nil
}

// everything calls page until a list has no more pages. A list that took so long
// that its next page is gone begins anew, once; begin is called before each try.
func everything(begin func(), page func(o metav1.ListOptions) (next string, err error)) error {
	for try := 0; ; try++ {
		begin()
		opts := metav1.ListOptions{Limit: pageSize}
		for {
			next, err := page(opts)
			if err != nil {
				if apierrors.IsResourceExpired(err) && opts.Continue != "" && try == 0 {
					break
				}
				return err
			}
			if next == "" {
				return nil
			}
			opts.Continue = next
		}
	}
}

// list lists one kind of one group over all namespaces, object by object.
func list[L any, O any](ctx context.Context, r *reader, c *rest.RESTClient, resource string, items func(*L) ([]O, string)) ([]O, error) {
	var all []O
	err := everything(func() { all = nil }, func(o metav1.ListOptions) (string, error) {
		var l L
		obj, ok := any(&l).(runtime.Object)
		if !ok {
			panic("observe: not a list of objects")
		}
		req := c.Get().Resource(resource).Param("limit", fmt.Sprint(o.Limit))
		if o.Continue != "" {
			req = req.Param("continue", o.Continue)
		}
		if err := req.Do(ctx).Into(obj); err != nil {
			return "", err
		}
		page, next := items(&l)
		all = append(all, page...)
		return next, nil
	})
	if err != nil {
		return nil, explain(err, r.server, "list", c.APIVersion().Group, resource)
	}
	return all, nil
}

func (r *reader) nodes(ctx context.Context) ([]corev1.Node, error) {
	return list(ctx, r, r.core, "nodes", func(l *corev1.NodeList) ([]corev1.Node, string) {
		for i := range l.Items {
			convert.TrimNode(&l.Items[i])
		}
		return l.Items, l.Continue
	})
}

// pods lists every pod that is bound or was, those that ended and are still
// there included.
func (r *reader) pods(ctx context.Context) ([]corev1.Pod, error) {
	return list(ctx, r, r.core, "pods", func(l *corev1.PodList) ([]corev1.Pod, string) {
		kept := l.Items[:0]
		for i := range l.Items {
			if p := &l.Items[i]; p.Spec.NodeName != "" {
				end(p)
				convert.TrimPod(p)
				kept = append(kept, *p)
			}
		}
		return kept, l.Continue
	})
}

// end writes down when a pod that is over without a word from its containers (it
// was evicted, or its node was lost) was last known to be there, as the end of a
// container, before the conditions that say so are dropped.
func end(p *corev1.Pod) {
	if !convert.Over(p) {
		return
	}
	if _, known := convert.Ended(p); known {
		return
	}
	var last time.Time
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case corev1.DisruptionTarget, corev1.PodReady, corev1.ContainersReady:
			if c.LastTransitionTime.After(last) {
				last = c.LastTransitionTime.Time
			}
		}
	}
	if d := p.DeletionTimestamp; d != nil && (last.IsZero() || d.After(last)) {
		last = d.Time
	}
	if bound, ok := convert.Bound(p); ok && last.Before(bound) {
		last = bound
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(last)}},
	}}
}

// between is what stands between a pod and its top owner.
var between = []schema.GroupVersionResource{
	{Group: "apps", Version: "v1", Resource: "replicasets"},
	{Group: "batch", Version: "v1", Resource: "jobs"},
}

// owners lists the metadata of ReplicaSets and Jobs. Where that is forbidden,
// pods are told by the way Kubernetes names them, and the rule that would help
// is returned.
func (r *reader) owners(ctx context.Context) (*convert.Owners, []*ForbiddenError, error) {
	var owners convert.Owners
	var missing []*ForbiddenError
	for _, gvr := range between {
		err := everything(func() {}, func(o metav1.ListOptions) (string, error) {
			l, err := r.meta.Resource(gvr).List(ctx, o)
			if err != nil {
				return "", err
			}
			for i := range l.Items {
				owners.Put(&l.Items[i])
			}
			return l.Continue, nil
		})
		if err == nil {
			continue
		}
		err = explain(err, r.server, "list", gvr.Group, gvr.Resource)
		if f, ok := err.(*ForbiddenError); ok {
			missing = append(missing, f)
			continue
		}
		return nil, nil, err
	}
	return &owners, missing, nil
}

// declared lists what users declared to Neap; all of it is empty in a cluster
// that does not know Neap's kinds.
func (r *reader) declared(ctx context.Context) (types []v1alpha1.MachineType, pools []v1alpha1.ResourcePool, modules []v1alpha1.Module, err error) {
	// Asked first, for a list of a kind that is not there may be forbidden.
	err = r.neap.Get().AbsPath("/apis/" + v1alpha1.GroupVersion.String()).Do(ctx).Error()
	if apierrors.IsNotFound(err) {
		return nil, nil, nil, nil
	}
	if err != nil {
		return nil, nil, nil, explain(err, r.server, "get", v1alpha1.GroupVersion.Group, "API group "+v1alpha1.GroupVersion.String())
	}
	if types, err = list(ctx, r, r.neap, "machinetypes", func(l *v1alpha1.MachineTypeList) ([]v1alpha1.MachineType, string) { return l.Items, l.Continue }); err != nil {
		return nil, nil, nil, err
	}
	if pools, err = list(ctx, r, r.neap, "resourcepools", func(l *v1alpha1.ResourcePoolList) ([]v1alpha1.ResourcePool, string) { return l.Items, l.Continue }); err != nil {
		return nil, nil, nil, err
	}
	modules, err = list(ctx, r, r.neap, "modules", func(l *v1alpha1.ModuleList) ([]v1alpha1.Module, string) { return l.Items, l.Continue })
	return types, pools, modules, err
}
