package chart

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/host/device"
	"github.com/neap-dev/neap/kube/controller"
)

const (
	chartDir    = "../../deploy/chart/neap"
	kubeVersion = "1.36.3" // a helm built from source takes 1.20 for granted
)

// helm is the real program, built from the module in hack/tools/helm so that the
// chart is tried with what users have. Its first build takes minutes.
var helm = sync.OnceValues(func() (string, error) {
	bin, err := filepath.Abs("../../bin/tools/helm")
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", bin, "helm.sh/helm/v3/cmd/helm")
	cmd.Dir = "../../hack/tools/helm"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build helm: %w\n%s", err, out)
	}
	return bin, nil
})

func runHelm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds helm, and -short was given")
	}
	bin, err := helm()
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	cmd := exec.Command(bin, args...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home, "KUBECONFIG="+filepath.Join(home, "none"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// render returns what the chart makes of values.
func render(t *testing.T, values ...string) []*unstructured.Unstructured {
	t.Helper()
	args := []string{"template", "neap", chartDir, "--namespace", "neap-system", "--kube-version", kubeVersion}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	out, err := runHelm(t, args...)
	if err != nil {
		t.Fatalf("helm template: %v\n%s", err, out)
	}
	var objs []*unstructured.Unstructured
	for _, doc := range strings.Split("\n"+out, "\n---\n") {
		raw, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if string(raw) == "null" {
			continue
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(raw); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objs = append(objs, u)
	}
	return objs
}

// all returns the rendered objects of one kind, read strictly: a field that the
// kind does not have fails the test.
func all[T any](t *testing.T, objs []*unstructured.Unstructured, kind string) []*T {
	t.Helper()
	var out []*T
	for _, u := range objs {
		if u.GetKind() != kind {
			continue
		}
		o := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, o, true); err != nil {
			t.Fatalf("%s %s: %v", kind, u.GetName(), err)
		}
		out = append(out, o)
	}
	return out
}

func TestTheChartPassesHelmLint(t *testing.T) {
	for _, set := range []string{"scheduler.enabled=false", "scheduler.enabled=true,controller.prometheus.url=http://prometheus:9090,controller.prometheus.tokenSecret.name=token"} {
		out, err := runHelm(t, "lint", "--strict", chartDir, "--kube-version", kubeVersion, "--set", set)
		if err != nil {
			t.Errorf("helm lint with %s: %v\n%s", set, err, out)
		}
	}
}

func TestTheChartRefusesValuesThatMakeNoSense(t *testing.T) {
	for _, set := range []string{
		"controller.prometheus.url=prometheus:9090", "controller.currency=dollars", "persistence.size=lots",
		"controller.grace=soon", "scheduler.replicas=0", "agent.enforcement=Hope", "agent.interval=soon", "controler.currency=USD", "image.pullPolicy=Sometimes",
	} {
		if out, err := runHelm(t, "template", "neap", chartDir, "--kube-version", kubeVersion, "--set", set); err == nil || !strings.Contains(out, "values don't meet the specifications") {
			t.Errorf("%s: %v\n%s", set, err, out)
		}
	}
}

// rules writes each right of a role on a line of its own.
func rules(list []rbacv1.PolicyRule) []string {
	var out []string
	for _, r := range list {
		for _, g := range r.APIGroups {
			for _, res := range r.Resources {
				for _, v := range r.Verbs {
					out = append(out, strings.Join([]string{g, res, v, strings.Join(r.ResourceNames, ",")}, " "))
				}
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func TestTheControllersRightsAreThoseTheCodeNames(t *testing.T) {
	objs := render(t)
	var want []string
	for _, p := range controller.Permissions {
		want = append(want, rules([]rbacv1.PolicyRule{{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs}})...)
	}
	slices.Sort(want)
	found := false
	for _, r := range all[rbacv1.ClusterRole](t, objs, "ClusterRole") {
		if r.Name != "neap-controller" {
			continue
		}
		found = true
		if got := rules(r.Rules); !slices.Equal(got, want) {
			t.Errorf("the chart grants\n%s\nthe code needs\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if !found {
		t.Fatal("there is no ClusterRole neap-controller")
	}
	for _, r := range all[rbacv1.Role](t, objs, "Role") {
		want := []string{
			" events create ", " events patch ", "coordination.k8s.io leases create ",
			"coordination.k8s.io leases get neap-controller.neap.dev", "coordination.k8s.io leases update neap-controller.neap.dev",
			"events.k8s.io events create ", "events.k8s.io events patch ",
		}
		if got := rules(r.Rules); !slices.Equal(got, want) {
			t.Errorf("in its namespace the chart grants %q, want %q", got, want)
		}
	}
}

func TestWhatLetsRunAnythingIsGrantedOnRequest(t *testing.T) {
	for name, needs := range map[string][]controller.Permission{"headroom": controller.HeadroomPermissions, "repack": controller.RepackPermissions, "colocation": controller.ColocationPermissions} {
		var want []string
		for _, p := range needs {
			want = append(want, rules([]rbacv1.PolicyRule{{APIGroups: []string{p.Group}, Resources: []string{p.Resource}, Verbs: p.Verbs}})...)
		}
		slices.Sort(want)
		granted := func(values ...string) (got []string) {
			for _, r := range all[rbacv1.ClusterRole](t, render(t, values...), "ClusterRole") {
				if r.Name == "neap-"+name {
					got = rules(r.Rules)
				}
			}
			return got
		}
		if got := granted(); len(got) > 0 {
			t.Errorf("without having been asked the chart grants for %s\n%s", name, strings.Join(got, "\n"))
		}
		if got := granted(name + ".enabled=true"); !slices.Equal(got, want) {
			t.Errorf("for %s the chart grants\n%s\nthe code needs\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestNoRightIsAWildcardOrASecret(t *testing.T) {
	objs := render(t, "scheduler.enabled=true", "headroom.enabled=true", "repack.enabled=true", "colocation.enabled=true", "bridge.enabled=true", "agent.enabled=true", "agent.claims=true", "colocation.agent.enabled=true")
	check := func(name string, list []rbacv1.PolicyRule) {
		for _, r := range rules(list) {
			if strings.Contains(r, "*") || strings.Contains(r, "secrets") || strings.Contains(r, "configmaps") || strings.Contains(r, "escalate") || strings.Contains(r, "impersonate") {
				t.Errorf("%s grants %q", name, r)
			}
		}
		for _, r := range list {
			if len(r.NonResourceURLs) > 0 {
				t.Errorf("%s grants URLs %q", name, r.NonResourceURLs)
			}
		}
	}
	for _, r := range all[rbacv1.ClusterRole](t, objs, "ClusterRole") {
		check(r.Name, r.Rules)
	}
	for _, r := range all[rbacv1.Role](t, objs, "Role") {
		check(r.Name, r.Rules)
	}
	builtIn := []string{"system:kube-scheduler", "system:volume-scheduler", "system:auth-delegator"}
	own := []string{"neap-controller", "neap-scheduler", "neap-headroom", "neap-repack", "neap-colocation", "neap-bridge", "neap-agent", "neap-colocation-agent"}
	for _, b := range all[rbacv1.ClusterRoleBinding](t, objs, "ClusterRoleBinding") {
		if !slices.Contains(own, b.RoleRef.Name) && !slices.Contains(builtIn, b.RoleRef.Name) {
			t.Errorf("%s binds %s", b.Name, b.RoleRef.Name)
		}
		for _, s := range b.Subjects {
			if s.Kind != rbacv1.ServiceAccountKind || s.Namespace != "neap-system" {
				t.Errorf("%s gives rights to %+v", b.Name, s)
			}
		}
	}
}

func TestPodsAreRestricted(t *testing.T) {
	objs := render(t, "scheduler.enabled=true")
	deployments := all[appsv1.Deployment](t, objs, "Deployment")
	if len(deployments) != 2 {
		t.Fatalf("%d Deployments, want controller and scheduler", len(deployments))
	}
	for _, d := range deployments {
		spec := d.Spec.Template.Spec
		p := spec.SecurityContext
		if p == nil || p.RunAsNonRoot == nil || !*p.RunAsNonRoot || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: pod security %+v", d.Name, p)
		}
		if spec.HostNetwork || spec.HostPID || spec.HostIPC {
			t.Errorf("%s uses the host", d.Name)
		}
		for _, v := range spec.Volumes {
			if v.HostPath != nil {
				t.Errorf("%s mounts %s of the host", d.Name, v.HostPath.Path)
			}
		}
		for _, c := range spec.Containers {
			s := c.SecurityContext
			if s == nil || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
				t.Errorf("%s: container security %+v", d.Name, s)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s has no requests or no memory limit", d.Name)
			}
			if c.LivenessProbe == nil || c.ReadinessProbe == nil {
				t.Errorf("%s has no probes", d.Name)
			}
		}
		selector, err := metav1.LabelSelectorAsMap(d.Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range selector {
			if d.Spec.Template.Labels[k] != v {
				t.Errorf("%s does not select its own pods: %s=%s", d.Name, k, v)
			}
		}
	}
}

// The Deployment's arguments are given to the program's own flags.
func TestTheControllerTakesItsArguments(t *testing.T) {
	objs := render(t, "controller.prometheus.url=http://prometheus:9090", "controller.prometheus.tokenSecret.name=tok", "controller.currency=CNY", "controller.metrics.enabled=false")
	d := all[appsv1.Deployment](t, objs, "Deployment")[0]
	args := d.Spec.Template.Spec.Containers[0].Args
	flags := controller.NewCommand(nil).Flags()
	if err := flags.Parse(args); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	for name, want := range map[string]string{
		"prometheus": "http://prometheus:9090", "prometheus-token-file": "/var/run/secrets/prometheus/token",
		"currency": "CNY", "metrics-address": "", "leader-elect-namespace": "neap-system", "listen": "127.0.0.1:8088",
	} {
		if got := flags.Lookup(name).Value.String(); got != want {
			t.Errorf("--%s is %q, want %q", name, got, want)
		}
	}
}

func TestTheColocationAgentMayDoWhatItsCodeNeeds(t *testing.T) {
	for traced, added := range map[string]int{"true": 2, "false": 0} {
		objs := render(t, "colocation.agent.enabled=true", "controller.prometheus.url=http://p:9090", "colocation.agent.runQueue="+traced)
		var granted []string
		for _, r := range all[rbacv1.ClusterRole](t, objs, "ClusterRole") {
			if r.Name == "neap-colocation-agent" {
				granted = append(granted, rules(r.Rules)...)
			}
		}
		for _, r := range all[rbacv1.Role](t, objs, "Role") {
			if r.Name == "neap-colocation-agent" {
				granted = append(granted, rules(r.Rules)...)
			}
		}
		if want := slices.Concat(rules(agent.ColocationPermissions), rules(agent.LeasePermissions)); !slices.Equal(granted, want) {
			t.Errorf("the chart grants\n%s\nthe code needs\n%s", strings.Join(granted, "\n"), strings.Join(want, "\n"))
		}
		sets := all[appsv1.DaemonSet](t, objs, "DaemonSet")
		if len(sets) != 1 {
			t.Fatalf("%d DaemonSets", len(sets))
		}
		spec := sets[0].Spec.Template.Spec
		cmd := agent.NewCommand(func(string, string) device.Finder { return nil })
		for _, c := range spec.Containers {
			at, args, err := cmd.Find(c.Args)
			if err == nil {
				err = at.ParseFlags(args)
			}
			if err != nil {
				t.Errorf("%s: %q: %v", c.Name, c.Args, err)
			}
			if s := c.SecurityContext; spec.HostNetwork || spec.HostPID || spec.HostIPC || *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || c.Name == "agent" && len(s.Capabilities.Add) != added || c.Name != "agent" && len(s.Capabilities.Add) > 0 {
				t.Errorf("the security of %s is %+v", c.Name, c.SecurityContext)
			}
			var writable []string
			for _, m := range c.VolumeMounts {
				if !m.ReadOnly {
					writable = append(writable, m.MountPath)
				}
			}
			if got := strings.Join(writable, " "); got != "/host/sys/fs/cgroup /run/neap" {
				t.Errorf("%s can write in %s", c.Name, got)
			}
		}
	}
	if sets := all[appsv1.DaemonSet](t, render(t, "colocation.enabled=true"), "DaemonSet"); len(sets) > 0 {
		t.Error("without having been asked the chart installs the agent of colocation")
	}
}

func TestTheAgentMayDoWhatItsCodeNeeds(t *testing.T) {
	for claims, want := range map[string][]string{
		"false": rules(agent.Permissions), "true": rules(slices.Concat(agent.Permissions, agent.ClaimPermissions)),
	} {
		objs := render(t, "agent.enabled=true", "agent.claims="+claims)
		for _, r := range all[rbacv1.ClusterRole](t, objs, "ClusterRole") {
			if got := rules(r.Rules); r.Name == "neap-agent" && !slices.Equal(got, want) {
				t.Errorf("with claims %s the chart grants\n%s\nthe code needs\n%s", claims, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		sets := all[appsv1.DaemonSet](t, objs, "DaemonSet")
		if len(sets) != 1 {
			t.Fatalf("%d DaemonSets", len(sets))
		}
		spec := sets[0].Spec.Template.Spec
		c := spec.Containers[0]
		flags := agent.NewCommand(func(string, string) device.Finder { return nil }).Flags()
		flags.AddFlagSet(agent.NewCommand(nil).PersistentFlags())
		if err := flags.Parse(c.Args); err != nil {
			t.Errorf("%q: %v", c.Args, err)
		}
		// It needs the host's files, and nothing else of the host.
		if s := c.SecurityContext; spec.HostNetwork || spec.HostPID || spec.HostIPC || *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem ||
			!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 {
			t.Errorf("the agent's security is %+v", c.SecurityContext)
		}
		var writable []string
		for _, m := range c.VolumeMounts {
			if !m.ReadOnly {
				writable = append(writable, m.MountPath)
			}
		}
		mounts := "/var/lib/kubelet/device-plugins /host/var/run/cdi"
		if claims == "true" {
			mounts = "/var/lib/kubelet/device-plugins /var/lib/kubelet/plugins_registry /var/lib/kubelet/plugins/gpu.neap.dev /host/var/run/cdi"
		}
		if got := strings.Join(writable, " "); got != mounts {
			t.Errorf("with claims %s it can write in %s, want %s", claims, got, mounts)
		}
	}
	if sets := all[appsv1.DaemonSet](t, render(t), "DaemonSet"); len(sets) > 0 {
		t.Error("without having been asked the chart installs the agent")
	}
}

func TestTheNetworkPolicyLetsNothingInUnlessAsked(t *testing.T) {
	p := all[networkingv1.NetworkPolicy](t, render(t), "NetworkPolicy")
	if len(p) != 1 || len(p[0].Spec.Ingress) != 0 || len(p[0].Spec.PolicyTypes) != 2 {
		t.Fatalf("network policies %+v", p)
	}
	p = all[networkingv1.NetworkPolicy](t, render(t, "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring"), "NetworkPolicy")
	if len(p[0].Spec.Ingress) != 1 || len(p[0].Spec.Ingress[0].From) != 1 {
		t.Errorf("network policy %+v", p[0].Spec.Ingress)
	}
	if p := all[networkingv1.NetworkPolicy](t, render(t, "networkPolicy.enabled=false"), "NetworkPolicy"); len(p) != 0 {
		t.Errorf("a policy that was turned off is there: %+v", p)
	}
}

func TestTheHistoryOutlivesTheRelease(t *testing.T) {
	c := all[corev1.PersistentVolumeClaim](t, render(t), "PersistentVolumeClaim")
	if len(c) != 1 || c[0].Annotations["helm.sh/resource-policy"] != "keep" {
		t.Errorf("claims %+v", c)
	}
	objs := render(t, "persistence.existingClaim=mine")
	if c := all[corev1.PersistentVolumeClaim](t, objs, "PersistentVolumeClaim"); len(c) != 0 {
		t.Errorf("a claim is made although one exists: %+v", c)
	}
	d := all[appsv1.Deployment](t, objs, "Deployment")[0]
	if got := d.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim.ClaimName; got != "mine" {
		t.Errorf("the pod mounts the claim %q", got)
	}
}

// Templating must not change a character of what test/jobs tries.
func TestTheAdmissionPoliciesAreThoseThatAreTried(t *testing.T) {
	want, err := deploy.Admission()
	if err != nil {
		t.Fatal(err)
	}
	objs := render(t)
	for _, w := range want {
		raw, err := w.MarshalJSON()
		if err == nil { // which only a laptop has
			raw = bytes.ReplaceAll(raw, []byte("'neap-controller', "), nil)
			err = w.UnmarshalJSON(bytes.ReplaceAll(raw, []byte("'neap-fleet', "), nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool { return reflect.DeepEqual(o.Object, w.Object) }) {
			t.Errorf("the chart does not install the %s %s as it is", w.GetKind(), w.GetName())
		}
	}
	for _, o := range render(t, "admission.enabled=false") {
		if o.GroupVersionKind().Group == "admissionregistration.k8s.io" {
			t.Errorf("%s is there although it was turned off", o.GetName())
		}
	}
}

// The policies that keep hands off know the service accounts of the release.
func TestTheAdmissionPoliciesKnowWhoMayWrite(t *testing.T) {
	objs := render(t, "fullnameOverride=other", "admission.gpuWriters.schedulers={mine,yours}", "admission.gpuWriters.agents={theirs}",
		"scheduler.enabled=true", "scheduler.name=other-scheduler")
	want := map[string]string{
		"gpu-allocation.neap.dev": "['system:kube-scheduler', 'system:serviceaccount:neap-system:other-scheduler', 'mine', 'yours']",
		"gpu-devices.neap.dev":    "['system:serviceaccount:neap-system:other-agent', 'theirs']",
	}
	for _, p := range all[admissionv1.ValidatingAdmissionPolicy](t, objs, "ValidatingAdmissionPolicy") {
		for _, v := range p.Spec.Variables {
			if w := want[p.Name]; v.Name == "writers" && w != "" {
				if v.Expression != w {
					t.Errorf("%s: %s may write, want %s", p.Name, v.Expression, w)
				}
				delete(want, p.Name)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("nothing keeps hands off: %v", want)
	}
	for name, want := range map[string]string{
		"controllers": "['system:serviceaccount:neap-system:other-controller']",
		"agents":      "['system:serviceaccount:neap-system:other-colocation-agent']",
		"scheduler":   "'other-scheduler'",
	} {
		if !slices.ContainsFunc(objs, func(o *unstructured.Unstructured) bool {
			list, _, _ := unstructured.NestedSlice(o.Object, "spec", "variables")
			return slices.ContainsFunc(list, func(v any) bool {
				return v.(map[string]any)["name"] == name && v.(map[string]any)["expression"] == want
			})
		}) {
			t.Errorf("no policy of the batch class has the %s %s", name, want)
		}
	}
}

// Before Kubernetes 1.36 there is what refuses, and nothing that changes a pod.
func TestAnOlderKubernetesGetsThePoliciesThatRefuse(t *testing.T) {
	out, err := runHelm(t, "template", "neap", chartDir, "--kube-version", "1.34.0")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(out, "MutatingAdmissionPolicy") || !strings.Contains(out, "name: gpu-allocation.neap.dev") {
		t.Error("it gets what it does not know, or nothing")
	}
}

func TestTheReadmeNamesEveryTopValue(t *testing.T) {
	raw, err := os.ReadFile(chartDir + "/values.yaml")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(chartDir + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := yaml.Unmarshal(raw, &values); err != nil {
		t.Fatal(err)
	}
	for name := range values {
		if !bytes.Contains(readme, []byte(name)) && !strings.HasSuffix(name, "Override") && name != "imagePullSecrets" {
			t.Errorf("README.md does not name %s", name)
		}
	}
}
