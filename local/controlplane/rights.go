package controlplane

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
)

// fleetRules are what the simulated fleet needs: it is the kubelet of every
// machine and the cloud that makes them.
var fleetRules = []*rbacapply.PolicyRuleApplyConfiguration{
	rule([]string{""}, []string{"nodes", "namespaces"}, "get", "list", "watch", "create", "update", "patch", "delete"),
	rule([]string{""}, []string{"nodes/status", "pods/status"}, "get", "update", "patch"),
	rule([]string{""}, []string{"pods"}, "get", "list", "watch", "update", "patch", "delete"),
	rule([]string{"coordination.k8s.io"}, []string{"leases"}, "get", "list", "watch", "create", "update", "patch", "delete"),
	rule([]string{"", "events.k8s.io"}, []string{"events"}, "create", "update", "patch"),
}

// playerRules are what playing a scenario needs: it is everyone who deploys
// something, and what scales it.
var playerRules = []*rbacapply.PolicyRuleApplyConfiguration{
	rule([]string{""}, []string{"namespaces", "nodes", "pods", "services"}, everything...),
	rule([]string{"apps"}, []string{"deployments", "deployments/scale", "replicasets", "statefulsets", "statefulsets/scale", "daemonsets"}, everything...),
	rule([]string{"batch"}, []string{"jobs", "cronjobs"}, everything...),
	rule([]string{"scheduling.k8s.io"}, []string{"priorityclasses"}, everything...),
	rule([]string{"neap.dev"}, []string{"*"}, everything...),
	rule([]string{"", "events.k8s.io"}, []string{"events"}, "create", "update", "patch"),
}

var everything = []string{"get", "list", "watch", "create", "update", "patch", "delete"}

// grantOwn gives the identities of the local cluster their rights, and only
// those: RBAC in the cluster is as it would be anywhere else.
func (c *Cluster) grantOwn(ctx context.Context) error {
	cfg, err := c.RESTConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("grant rights: %w", err)
	}
	opts := metav1.ApplyOptions{FieldManager: "neap-local", Force: true}
	for name, rules := range map[string][]*rbacapply.PolicyRuleApplyConfiguration{
		"neap:fleet":     fleetRules,
		"neap:players":   playerRules,
		"neap:machines":  {rule([]string{""}, []string{"nodes", "namespaces"}, "get", "list", "watch")},
		"neap:scheduler": {rule([]string{"neap.dev"}, []string{"colocationpolicies", "elasticpolicies", "repackplans", "resourcepools"}, "get", "list", "watch")},
	} {
		if _, err := client.RbacV1().ClusterRoles().Apply(ctx, rbacapply.ClusterRole(name).WithRules(rules...), opts); err != nil {
			return fmt.Errorf("grant rights to %s: %w", name, err)
		}
	}
	for _, b := range []struct{ name, role, kind, subject string }{
		{"neap:fleet", "neap:fleet", rbacv1.GroupKind, "neap:fleet"},
		{"neap:players", "neap:players", rbacv1.GroupKind, "neap:players"},
		{"neap:observers", "view", rbacv1.GroupKind, "neap:observers"},
		{"neap:machines", "neap:machines", rbacv1.GroupKind, "neap:observers"}, // view leaves machines out, and a bill needs them
		{"neap:scheduler", "neap:scheduler", rbacv1.UserKind, "system:kube-scheduler"},
	} {
		if err := bind(ctx, client, b.name, b.role, b.kind, b.subject, opts); err != nil {
			return err
		}
	}
	return nil
}

func bind(ctx context.Context, client kubernetes.Interface, name, role, kind, subject string, opts metav1.ApplyOptions) error {
	_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, rbacapply.ClusterRoleBinding(name).
		WithRoleRef(rbacapply.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(role)).
		WithSubjects(rbacapply.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(kind).WithName(subject)), opts)
	if err != nil {
		return fmt.Errorf("grant rights to %s: %w", subject, err)
	}
	return nil
}

func rule(groups, resources []string, verbs ...string) *rbacapply.PolicyRuleApplyConfiguration {
	return rbacapply.PolicyRule().WithAPIGroups(groups...).WithResources(resources...).WithVerbs(verbs...)
}
