package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/observe"
)

// A Permission is one thing the controller must be allowed to do in the whole
// cluster. deploy/chart grants exactly these, and a test holds the two together.
type Permission struct {
	Group, Resource string
	Verbs           []string
	// Optional says what is lost without it; "" if nothing works without it.
	Optional string
}

var read = []string{"get", "list", "watch"}

// Permissions lists what the controller does with the API server, and nothing else.
var Permissions = []Permission{
	{Group: "", Resource: "nodes", Verbs: read},
	{Group: "", Resource: "pods", Verbs: read},
	{Group: "neap.dev", Resource: "machinetypes", Verbs: read},
	{Group: "neap.dev", Resource: "resourcepools", Verbs: read},
	{Group: "neap.dev", Resource: "modules", Verbs: read},
	{Group: "neap.dev", Resource: "machinetypes/status", Verbs: []string{"patch"}},
	{Group: "neap.dev", Resource: "resourcepools/status", Verbs: []string{"patch"}},
	{Group: "neap.dev", Resource: "modules/status", Verbs: []string{"patch"}},
	{Group: "neap.dev", Resource: "elasticpolicies", Verbs: read},
	{Group: "neap.dev", Resource: "elasticpolicies/status", Verbs: []string{"patch"}},
	{Group: "neap.dev", Resource: "timetables", Verbs: read},
	{Group: "neap.dev", Resource: "timetables/status", Verbs: []string{"patch"}},
	{Group: "neap.dev", Resource: "holidaycalendars", Verbs: read},
	{Group: "neap.dev", Resource: "repackplans", Verbs: read},
	{Group: "neap.dev", Resource: "colocationpolicies", Verbs: read},
	{Group: "neap.dev", Resource: "colocationpolicies/status", Verbs: []string{"patch"}, Optional: "nobody sees what batch could use"},
	{Group: "neap.dev", Resource: "repackplans", Verbs: []string{"create", "delete"}, Optional: "no plans are made for sick GPUs"},
	{Group: "neap.dev", Resource: "repackplans/status", Verbs: []string{"patch"}, Optional: "no RepackPlan is planned"},
	{Group: "policy", Resource: "poddisruptionbudgets", Verbs: []string{"list"}, Optional: "no RepackPlan is planned"},
	{Group: "resource.k8s.io", Resource: "resourceclaims", Verbs: []string{"list"}, Optional: "RepackPlans do not know what claims hold"},
	{Group: "autoscaling", Resource: "horizontalpodautoscalers", Verbs: read},
	{Group: "apps", Resource: "deployments/scale", Verbs: []string{"get", "update"}, Optional: "no ElasticPolicy can scale a Deployment"},
	{Group: "apps", Resource: "statefulsets/scale", Verbs: []string{"get", "update"}, Optional: "no ElasticPolicy can scale a StatefulSet"},
	{Group: "keda.sh", Resource: "scaledobjects", Verbs: []string{"list"}, Optional: "a ScaledObject on the target of an ElasticPolicy goes unseen"},
	{Group: "autoscaling.alibabacloud.com", Resource: "cronhorizontalpodautoscalers", Verbs: []string{"list"}, Optional: "a CronHPA on the target of an ElasticPolicy goes unseen"},
	{Group: "autoscaling.crane.io", Resource: "effectivehorizontalpodautoscalers", Verbs: []string{"list"}, Optional: "an EHPA on the target of an ElasticPolicy goes unseen"},
	{Group: "autoscaling.kapacitystack.io", Resource: "intelligenthorizontalpodautoscalers", Verbs: []string{"list"}, Optional: "an IHPA on the target of an ElasticPolicy goes unseen"},
	{Group: "apps", Resource: "replicasets", Verbs: read, Optional: "pods of kinds other than Deployment that use ReplicaSets are billed under their ReplicaSet"},
	{Group: "batch", Resource: "jobs", Verbs: read, Optional: "pods of Jobs are billed under a CronJob only where the Job's name tells it"},
	{Group: "apps", Resource: "deployments", Verbs: []string{"get"}, Optional: "a Module's status cannot tell that its Deployment does not exist"},
	{Group: "apps", Resource: "statefulsets", Verbs: []string{"get"}, Optional: "a Module's status cannot tell that its StatefulSet does not exist"},
	{Group: "apps", Resource: "daemonsets", Verbs: []string{"get"}, Optional: "a Module's status cannot tell that its DaemonSet does not exist"},
	{Group: "batch", Resource: "cronjobs", Verbs: []string{"get"}, Optional: "a Module's status cannot tell that its CronJob does not exist"},
	{Group: "", Resource: "pods", Verbs: []string{"patch"}, Optional: "pods of the job class wait at their gate for ever, and pods that another scheduler bound leave in no order"},
	{Group: "", Resource: "pods", Verbs: []string{"delete"}, Optional: "pods that a serverless provider refuses stay where they are"},
	{Group: "", Resource: "pods/status", Verbs: []string{"patch"}, Optional: "replicas are deleted without having been cut off from traffic"},
	{Group: "events.k8s.io", Resource: "events", Verbs: []string{"create", "patch"}, Optional: "replicas that left out of order are counted and not told as events"},
	{Group: "scheduling.alibabacloud.com", Resource: "resourcepolicies", Verbs: []string{"list"}, Optional: "a ResourcePolicy of ACK that orders the pods of an ElasticPolicy goes unseen"},
}

// HeadroomPermissions lists what the controller needs besides to keep the headroom
// of ElasticPolicies. Who may make Deployments may run anything, so the chart
// grants it only where headroom.enabled says so.
var HeadroomPermissions = []Permission{
	{Group: "apps", Resource: "deployments", Verbs: []string{"get", "create", "patch", "delete"}, Optional: "no balloons"},
	{Group: "scheduling.k8s.io", Resource: "priorityclasses", Verbs: []string{"get", "create"}, Optional: "no balloons"},
	{Group: "", Resource: "podtemplates", Verbs: []string{"get", "create", "patch", "delete"}, Optional: "no CapacityBuffers"},
	{Group: "autoscaling.x-k8s.io", Resource: "capacitybuffers", Verbs: []string{"get", "create", "patch", "delete"}, Optional: "no CapacityBuffers"},
}

// RepackPermissions lists what the controller needs besides to carry RepackPlans
// out. Who may make pods may run anything, so the chart grants it only where
// repack.enabled says so; without it plans stay plans.
var RepackPermissions = []Permission{
	{Group: "", Resource: "pods", Verbs: []string{"create"}, Optional: "no replacements"},
	{Group: "", Resource: "pods/eviction", Verbs: []string{"create"}, Optional: "no pod goes"},
	{Group: "", Resource: "services", Verbs: []string{"list"}, Optional: "no replacements"},
}

// ColocationPermissions lists what the controller needs besides for ColocationPolicies
// in mode Auto. The chart grants it only where colocation.enabled says so, and beside
// it to list the agents' Leases in its own namespace; without it policies show what
// batch could use.
var ColocationPermissions = []Permission{
	{Group: "", Resource: "nodes", Verbs: []string{"patch"}, Optional: "no batch capacity"},
	{Group: "", Resource: "nodes/status", Verbs: []string{"patch"}, Optional: "no batch capacity"},
	{Group: "", Resource: "pods/eviction", Verbs: []string{"create"}, Optional: "batch is not led out before a window"},
}

var versions = map[string]string{"": "v1", "apps": "v1", "batch": "v1", "autoscaling": "v2", v1alpha1.GroupVersion.Group: v1alpha1.GroupVersion.Version}

// access is what the API server lets us read.
type access struct {
	replicaSets, jobs bool
}

// check reads one object of everything that is watched. The error is one
// sentence that says what is missing; what can be done without is left to warn.
func check(ctx context.Context, cfg *rest.Config, warn func(error, string)) (access, error) {
	a := access{replicaSets: true, jobs: true}
	c, err := metadata.NewForConfig(cfg)
	if err != nil {
		return a, fmt.Errorf("connect to the API server: %w", err)
	}
	for _, p := range Permissions {
		if !slices.Contains(p.Verbs, "watch") { // statuses and single workloads show by themselves
			continue
		}
		gvr := schema.GroupVersionResource{Group: p.Group, Version: versions[p.Group], Resource: p.Resource}
		_, err := c.Resource(gvr).List(ctx, metav1.ListOptions{Limit: 1})
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return a, ctx.Err()
		}
		if p.Group == v1alpha1.GroupVersion.Group && (apierrors.IsNotFound(err) || meta.IsNoMatchError(err)) {
			return a, fmt.Errorf("%s does not know %s.neap.dev; install Neap's definitions first: kubectl apply -f deploy/chart/neap/crds, or the Helm chart", cfg.Host, p.Resource)
		}
		err = observe.Explain(err, cfg.Host, "list", p.Group, p.Resource)
		var forbidden *observe.ForbiddenError
		if p.Optional == "" || !errors.As(err, &forbidden) {
			return a, err
		}
		warn(err, p.Optional)
		switch p.Resource {
		case "replicasets":
			a.replicaSets = false
		case "jobs":
			a.jobs = false
		}
	}
	return a, nil
}
