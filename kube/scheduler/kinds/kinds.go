// Package kinds follows Neap's own objects for scheduler plugins, in clusters that
// have their definitions already, get them later, or never do.
package kinds

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/neap-dev/neap/api/v1alpha1"
)

const (
	// patience is how long a scheduler waits at its start for what is declared.
	patience = 30 * time.Second
	// pollEvery is how often it looks whether Neap's kinds have come.
	pollEvery = time.Second
)

// Connect returns a client of Neap's group. A scheduler's own configuration speaks
// Protobuf, which declared kinds do not.
func Connect(kubeConfig *rest.Config) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	cfg := rest.CopyConfig(kubeConfig)
	gv := v1alpha1.GroupVersion
	cfg.APIPath = "/apis"
	cfg.ContentConfig = rest.ContentConfig{GroupVersion: &gv, NegotiatedSerializer: serializer.NewCodecFactory(scheme).WithoutConversion()}
	return rest.RESTClientFor(cfg)
}

// Informer returns an informer of a resource, such as elasticpolicies, which is not
// started.
func Informer(client cache.Getter, resource string, of runtime.Object, index cache.Indexers) cache.SharedIndexInformer {
	return cache.NewSharedIndexInformer(cache.NewFilteredListWatchFromClient(client, resource, metav1.NamespaceAll, func(*metav1.ListOptions) {}), of, 0, index)
}

// Follow starts informers, by the name of their resource, until ctx ends. Where the
// API server knows their kinds, it returns when everything declared is known; where
// it does not, they are followed once all of them come.
func Follow(ctx context.Context, client *rest.RESTClient, informers map[string]cache.SharedIndexInformer) error {
	var names []string
	var synced []cache.InformerSynced
	for name, i := range informers {
		names, synced = append(names, name), append(synced, i.HasSynced)
	}
	slices.Sort(names)
	run := func() {
		for _, i := range informers {
			go i.RunWithContext(ctx)
		}
	}
	deadline := time.Now().Add(patience)
	there, err := served(ctx, client, names)
	for err != nil && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(pollEvery)
		there, err = served(ctx, client, names)
	}
	if err != nil {
		return err
	}
	if !there {
		go func() {
			for !there {
				select {
				case <-ctx.Done():
					return
				case <-time.After(pollEvery):
				}
				if there, err = served(ctx, client, names); err != nil {
					klog.FromContext(ctx).V(2).Info("Neap's kinds cannot be asked for yet", "err", err)
				}
			}
			run()
		}()
		return nil
	}
	run()
	bounded, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if !cache.WaitForCacheSync(bounded.Done(), synced...) {
		list := strings.Join(names, " and ")
		return fmt.Errorf("read %s: no answer in %v; the scheduler's user needs get, list and watch on %s of %s", list, patience, list, v1alpha1.GroupVersion.Group)
	}
	return nil
}

// served reports whether the API server knows all of some resources.
func served(ctx context.Context, client *rest.RESTClient, names []string) (bool, error) {
	var list metav1.APIResourceList
	raw, err := client.Get().AbsPath("/apis", v1alpha1.GroupVersion.Group, v1alpha1.GroupVersion.Version).Do(ctx).Raw()
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &list)
	}
	if err != nil {
		return false, fmt.Errorf("ask for Neap's kinds: %w", err)
	}
	return !slices.ContainsFunc(names, func(name string) bool {
		return !slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == name })
	}), nil
}
