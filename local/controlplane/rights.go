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
// machine and the cloud that makes them, and plays the load by scaling
// workloads and firing jobs.
var fleetRules = []*rbacapply.PolicyRuleApplyConfiguration{
	rule([]string{""}, []string{"nodes", "namespaces"}, "get", "list", "watch", "create", "update", "patch", "delete"),
	rule([]string{""}, []string{"nodes/status", "pods/status"}, "get", "update", "patch"),
	rule([]string{""}, []string{"pods"}, "get", "list", "watch", "update", "patch", "delete"),
	rule([]string{"coordination.k8s.io"}, []string{"leases"}, "get", "list", "watch", "create", "update", "patch", "delete"),
	rule([]string{"", "events.k8s.io"}, []string{"events"}, "create", "update", "patch"),
}

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
	rbac := client.RbacV1()
	const fleet = "neap:fleet"
	if _, err := rbac.ClusterRoles().Apply(ctx, rbacapply.ClusterRole(fleet).WithRules(fleetRules...), opts); err != nil {
		return fmt.Errorf("grant rights to %s: %w", fleet, err)
	}
	for name, role := range map[string]string{
		fleet:            fleet,
		"neap:observers": "view", // and nodes, below: a bill needs the machines
	} {
		if err := bind(ctx, client, name, role, name, opts); err != nil {
			return err
		}
	}
	const machines = "neap:machines"
	if _, err := rbac.ClusterRoles().Apply(ctx, rbacapply.ClusterRole(machines).WithRules(
		rule([]string{""}, []string{"nodes", "namespaces"}, "get", "list", "watch"),
	), opts); err != nil {
		return fmt.Errorf("grant rights to %s: %w", machines, err)
	}
	return bind(ctx, client, machines, machines, "neap:observers", opts)
}

func bind(ctx context.Context, client kubernetes.Interface, name, role, group string, opts metav1.ApplyOptions) error {
	_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, rbacapply.ClusterRoleBinding(name).
		WithRoleRef(rbacapply.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(role)).
		WithSubjects(rbacapply.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.GroupKind).WithName(group)), opts)
	if err != nil {
		return fmt.Errorf("grant rights to %s: %w", group, err)
	}
	return nil
}

func rule(groups, resources []string, verbs ...string) *rbacapply.PolicyRuleApplyConfiguration {
	return rbacapply.PolicyRule().WithAPIGroups(groups...).WithResources(resources...).WithVerbs(verbs...)
}
