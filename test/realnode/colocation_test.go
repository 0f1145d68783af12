package realnode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/deploy"
	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/process"
	"github.com/neap-dev/neap/local/realnode"
)

// The whole of it, on a real kubelet and a real kernel: an online Deployment under
// open-loop load, a batch Job that would take every core, and the agent that holds it
// back, as a process and as a pod. The kubelet and the agent are killed in the
// middle. The kubelet's own writes never fail, no weight is lost, batch is bounded
// without its agent, and in the end every file is as it was found.
func TestBatchBesideOnline(t *testing.T) {
	restarts := 3
	if n, err := strconv.Atoi(os.Getenv("NEAP_KUBELET_RESTARTS")); err == nil {
		restarts = n
	}
	s := newStage(t)
	online := s.online("online", 200)
	batch := s.batch("batch")
	load := s.load(online.Status.PodIP)
	found := s.files() // as the kubelet and the runtime made them

	// 1. The agent as a process.
	a := s.agent()
	s.held("the agent began")
	weight := s.knob(s.pod(batch), cgroup.Weight)
	if weight <= 2 {
		t.Errorf("the batch pod's weight is %d, want one by what it asks for", weight)
	}

	// 2. The kubelet begins again, and writes its weights at its start.
	_, before := s.node.KubeletPID()
	for n := range restarts {
		pid, _ := s.node.KubeletPID()
		s.kill(pid)
		if err := s.node.AwaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.held(fmt.Sprintf("the kubelet began for the %d. time", n+2))
	}
	if _, after := s.node.KubeletPID(); after-before != restarts {
		t.Errorf("the kubelet was killed %d times and began again %d times: its start failed", restarts, after-before)
	}

	// 3. It writes them as pods come, too, and every minute.
	for n := range int64(3) {
		s.online(fmt.Sprintf("more-%d", n), 100)
		s.weighs("an online pod came", 300+100*n)
		s.held("the kubelet counted its pods")
	}
	for n := range 3 {
		s.gone(fmt.Sprintf("more-%d", n))
	}
	s.weighs("online pods went", 200)
	s.held("the kubelet's minute")
	if now := s.knob(s.pod(batch), cgroup.Weight); now != weight {
		t.Errorf("the batch pod's weight was %d and is %d", weight, now)
	}

	// 4. Without its agent batch is bounded, and idle has no end but its holder's.
	a.Kill()
	s.bounded("the agent was killed")
	a = s.agent()
	s.held("another agent began")

	// 5. Uninstalled, every file is as it was found.
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	s.asFound("the agent ended", found)

	// 6. The agent as a pod, which has a weight itself until the kubelet's next minute.
	delete(found, string(s.layout.Class(cgroup.Burstable))+" "+string(cgroup.Weight))
	s.agentPod()
	s.held("the agent's pod began")
	s.killInPod("--colocation")
	s.restarted("agent")
	s.held("the agent's container began again")
	pid, _ := s.node.KubeletPID()
	s.kill(pid)
	if err := s.node.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.held("the kubelet began beside the agent's pod")
	s.gone("agent")
	s.asFound("the agent's pod went", found)

	// 7. What online users had of all that.
	load.end(t)
	if c := s.complaint(); c != "" {
		t.Errorf("the kubelet could not write: %s", c)
	}

	// 8. All that was needed: idle without a holder keeps a kubelet from its start.
	group := s.layout.Class(cgroup.BestEffort)
	if err := s.tree.Set(group, cgroup.Idle, 1); err != nil {
		t.Fatal(err)
	}
	pid, _ = s.node.KubeletPID()
	s.kill(pid)
	clustertest.Eventually(t, "a kubelet that fails", func() error {
		if s.complaint() == "" {
			return errors.New("it has not complained")
		}
		return nil
	})
	if err := s.tree.Set(group, cgroup.Idle, 0); err != nil {
		t.Fatal(err)
	}
	if err := s.node.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// agentAccount is the chart's, which admission policies know.
const agentAccount = "neap-colocation-agent"

// A stage is a cluster with this machine as its node and all that Neap needs there.
type stage struct {
	*testing.T
	cluster *controlplane.Cluster
	node    *realnode.Node
	kube    kubernetes.Interface
	client  client.Client
	ns      string
	image   realnode.Image
	agents  realnode.Image
	bin     string
	dir     string // the agent's

	tree   *cgroup.Tree
	layout cgroup.Layout
}

func newStage(t *testing.T) *stage {
	c, n, kube := join(t)
	s := &stage{T: t, cluster: c, node: n, kube: kube}
	var err error
	if s.bin, err = controlplane.FindBin(); err != nil {
		t.Fatal(err)
	}
	s.dir = fmt.Sprintf("/run/neap-test-%d", os.Getpid())
	t.Cleanup(func() {
		for _, pid := range processes("--state-dir=" + s.dir) { // the deadman outlives its agent
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		os.RemoveAll(s.dir)
		os.RemoveAll(s.dir + "-pod")
	})

	// 1. Neap's definitions, its admission policies, and a policy.
	types := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, v1alpha1.AddToScheme, apiextensionsv1.AddToScheme} {
		if err := add(types); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := c.RESTConfig()
	if err != nil {
		t.Fatal(err)
	}
	if s.client, err = client.New(cfg, client.Options{Scheme: types}); err != nil {
		t.Fatal(err)
	}
	crds, err := deploy.CRDs()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range crds {
		s.create(d)
	}
	rules, err := deploy.Admission()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		s.create(r)
	}
	s.create(&v1alpha1.ColocationPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "real"},
		Spec: v1alpha1.ColocationPolicySpec{
			Mode: v1alpha1.ModeAuto, NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{realnode.LabelReal: "true"}},
			CPUPercent: 90, MemoryPercent: 90,
			Ladder: v1alpha1.ColocationLadder{Idle: v1alpha1.IdleAuto, Quota: true, Memory: true},
		},
	})

	// 2. The agent's rights, and no more.
	s.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "neap-system"}})
	s.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: agentAccount, Namespace: "neap-system"}})
	s.create(&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "neap-agent"}, Rules: slices.Concat(agent.ColocationPermissions, agent.LeasePermissions)})
	s.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "neap-agent"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "neap-agent"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: agentAccount, Namespace: "neap-system"}},
	})

	// 3. What the controller says of the node.
	s.offer()

	// 4. Programs for pods.
	s.ns = clustertest.Namespace(t, c)
	s.image = program(t, n)
	s.agents = realnode.Image{Name: "localhost/neap-agent:local", Program: filepath.Join(s.bin, "neap-agent")}
	if err := n.Import(t.Context(), s.agents); err != nil {
		t.Fatal(err)
	}
	if s.tree, err = cgroup.Open(""); err != nil {
		t.Fatal(err)
	}
	if s.layout, err = s.tree.FindLayout(realnode.CgroupRoot); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *stage) create(o client.Object) {
	s.Helper()
	clustertest.Eventually(s, "the making of "+o.GetName(), func() error { // a kind may not be served yet
		return client.IgnoreAlreadyExists(s.client.Create(s.Context(), o))
	})
}

// offer lends all of the machine to batch.
func (s *stage) offer() {
	now := time.Now().UTC()
	clustertest.Eventually(s, "the node to offer batch resources", func() error {
		node := new(corev1.Node)
		if err := s.client.Get(s.Context(), client.ObjectKey{Name: s.node.Name}, node); err != nil {
			return err
		}
		before := node.DeepCopy()
		metav1.SetMetaDataAnnotation(&node.ObjectMeta, v1alpha1.AnnotationBatchCapacity, convert.BatchCapacity{
			Policy: "real", At: now, Until: now.Add(time.Hour), Start: now.Truncate(time.Hour), Step: convert.Span(time.Hour),
			CPUMilli: []int64{8000, 8000}, MemoryMiB: []int64{4096, 4096}, OnlineMilli: []int64{0, 0},
		}.String())
		if err := s.client.Patch(s.Context(), node, client.MergeFrom(before)); err != nil {
			return err
		}
		before = node.DeepCopy()
		lent := corev1.ResourceList{v1alpha1.ResourceBatchCPU: resource.MustParse("8000"), v1alpha1.ResourceBatchMemory: resource.MustParse("4Gi")}
		maps.Copy(node.Status.Capacity, lent)
		maps.Copy(node.Status.Allocatable, lent)
		return s.client.Status().Patch(s.Context(), node, client.MergeFrom(before))
	})
}

// online runs a Deployment of the real node that serves, and returns its pod.
func (s *stage) online(name string, milli int64) *corev1.Pod {
	s.Helper()
	pod := real(name, s.image, "serve")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(milli, resource.DecimalSI)}
	pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{
		PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(servePort)}},
	}
	s.create(&appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.ns},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
		},
	})
	return s.ready(name)
}

// batch runs a Job that burns all CPUs, by its label of the batch class.
func (s *stage) batch(name string) *corev1.Pod {
	s.Helper()
	pod := real(name, s.image, "burn")
	pod.Labels[v1alpha1.LabelClass] = v1alpha1.ClassBatch
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("128Mi")}
	try := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "try", Namespace: s.ns, Labels: pod.Labels}, Spec: pod.Spec}
	clustertest.Eventually(s, "the batch class to be known", func() error {
		got := try.DeepCopy()
		if err := s.client.Create(s.Context(), got, client.DryRunAll); err != nil {
			return err
		}
		if convert.BatchRequest(got).CPUMilli != 2000 {
			return fmt.Errorf("the pod asks for %v", got.Spec.Containers[0].Resources.Requests)
		}
		return nil
	})
	s.create(&batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: s.ns},
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(0)),
			Template:     corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec},
		},
	})
	got := s.ready(name)
	if got.Status.QOSClass != corev1.PodQOSBestEffort {
		s.Errorf("the batch pod is %s, want BestEffort", got.Status.QOSClass)
	}
	return got
}

// ready waits for the pod of an app.
func (s *stage) ready(app string) *corev1.Pod {
	s.Helper()
	var pod *corev1.Pod
	clustertest.Eventually(s, "the pod of "+app, func() error {
		pods, err := s.kube.CoreV1().Pods("").List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		err = fmt.Errorf("there is none")
		for _, p := range pods.Items {
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
					pod = &p
					return nil
				}
			}
			err = fmt.Errorf("%s is %s: %+v", p.Name, p.Status.Phase, p.Status)
		}
		return err
	})
	return pod
}

// gone deletes an app, and waits until its pods are no more.
func (s *stage) gone(app string) {
	s.Helper()
	background := metav1.DeletePropagationBackground
	clustertest.Eventually(s, app+" to be gone", func() error {
		_ = s.kube.AppsV1().Deployments(s.ns).Delete(s.Context(), app, metav1.DeleteOptions{PropagationPolicy: &background}) // gone already
		pods, err := s.kube.CoreV1().Pods("").List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil || len(pods.Items) == 0 {
			return err
		}
		for _, p := range pods.Items {
			if p.OwnerReferences == nil {
				_ = s.kube.CoreV1().Pods(p.Namespace).Delete(s.Context(), p.Name, metav1.DeleteOptions{})
			}
		}
		return fmt.Errorf("%d pods", len(pods.Items))
	})
}

func (s *stage) pod(p *corev1.Pod) cgroup.Group {
	class := cgroup.Burstable
	if p.Status.QOSClass == corev1.PodQOSBestEffort {
		class = cgroup.BestEffort
	}
	return s.layout.Pod(class, string(p.UID))
}

func (s *stage) knob(g cgroup.Group, k cgroup.Knob) int64 {
	s.Helper()
	v, err := s.tree.Get(g, k)
	if err != nil {
		s.Fatal(err)
	}
	return v
}

// held waits until batch is idle and below a ceiling, and the node says so.
func (s *stage) held(when string) {
	s.Helper()
	group := s.layout.Class(cgroup.BestEffort)
	clustertest.Eventually(s, "batch to be held after "+when, func() error {
		idle, err := s.tree.Get(group, cgroup.Idle)
		if err != nil {
			return err
		}
		quota, err := s.tree.Get(group, cgroup.Quota)
		if err != nil {
			return err
		}
		if idle != 1 || quota == cgroup.Unlimited {
			return fmt.Errorf("idle %d, quota %d", idle, quota)
		}
		node, err := s.kube.CoreV1().Nodes().Get(s.Context(), s.node.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range node.Status.Conditions {
			if c.Type == v1alpha1.NodeConditionColocation && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("the node says %s", node.Annotations[v1alpha1.AnnotationColocation])
	})
}

// bounded waits until batch has a ceiling and is not idle, which needs its holder.
func (s *stage) bounded(when string) {
	s.Helper()
	group, began := s.layout.Class(cgroup.BestEffort), time.Now()
	clustertest.Eventually(s, "batch to be bounded after "+when, func() error {
		idle, quota := s.knob(group, cgroup.Idle), s.knob(group, cgroup.Quota)
		if idle != 0 || quota == cgroup.Unlimited || quota > 1000 {
			return fmt.Errorf("idle %d, quota %d", idle, quota)
		}
		return nil
	})
	s.Logf("batch is bounded to %d thousandths of a core %.1f s after %s", s.knob(group, cgroup.Quota), time.Since(began).Seconds(), when)
}

// weighs waits until the kubelet has given its burstable group the weight of what
// online pods ask for.
func (s *stage) weighs(when string, milli int64) {
	s.Helper()
	clustertest.Eventually(s, "the kubelet's weight after "+when, func() error {
		if got := s.knob(s.layout.Class(cgroup.Burstable), cgroup.Weight); got != milli*1024/1000 {
			return fmt.Errorf("it is %d, want %d", got, milli*1024/1000)
		}
		return nil
	})
}

// files are what the groups of pods hold, by group and knob.
func (s *stage) files() map[string]int64 {
	s.Helper()
	out := map[string]int64{}
	var walk func(g cgroup.Group)
	walk = func(g cgroup.Group) {
		for _, k := range cgroup.Knobs {
			if v, err := s.tree.Get(g, k); err == nil {
				out[string(g)+" "+string(k)] = v
			}
		}
		children, err := s.tree.Children(g)
		if err != nil {
			s.Fatal(err)
		}
		for _, c := range children {
			walk(c)
		}
	}
	walk(s.layout.Pods())
	return out
}

// asFound waits until the files are as they were, those of groups that are still there.
func (s *stage) asFound(when string, found map[string]int64) {
	s.Helper()
	clustertest.Eventually(s, "all files to be as found after "+when, func() error {
		now := s.files()
		for _, name := range slices.Sorted(maps.Keys(found)) {
			if v, ok := now[name]; ok && v != found[name] {
				return fmt.Errorf("%s was %d and is %d", name, found[name], v)
			}
		}
		return nil
	})
}

// agent starts the agent as a process with the rights of its service account.
func (s *stage) agent() *process.Process {
	s.Helper()
	cfg, err := s.cluster.ConfigFor("system:serviceaccount:neap-system:" + agentAccount)
	if err != nil {
		s.Fatal(err)
	}
	kubeconfig := filepath.Join(s.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(clientcmdapi.Config{
		CurrentContext: "x",
		Clusters:       map[string]*clientcmdapi.Cluster{"x": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"x": {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "x", AuthInfo: "x"}},
	}, kubeconfig); err != nil {
		s.Fatal(err)
	}
	log := filepath.Join(filepath.Dir(kubeconfig), "agent.log")
	p, err := process.Start(process.Options{
		Path: filepath.Join(s.bin, "neap-agent"), LogFile: log,
		Args: append(agentArgs(s.dir), "--node="+s.node.Name, "--kubeconfig="+kubeconfig),
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_ = p.Stop(ctx) // the second time, mostly
		if s.Failed() {
			s.Logf("agent:\n%s", tail(log))
		}
	})
	return p
}

func agentArgs(stateDir string) []string {
	return []string{
		"--gpu=false", "--colocation", "--cgroups-parent=" + realnode.CgroupRoot, "--state-dir=" + stateDir, "--metrics-address=",
	}
}

// agentPod runs the agent as the chart does: the agent and its deadman, each a
// container of one pod, with the machine's cgroups and no capability.
func (s *stage) agentPod() {
	s.Helper()
	dir := s.dir + "-pod"
	pod := real("agent", s.agents)
	pod.Namespace = "neap-system"
	pod.Spec.TerminationGracePeriodSeconds = nil
	pod.Spec.ServiceAccountName, pod.Spec.ShareProcessNamespace = agentAccount, new(true)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsUser: new(int64(0)), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	mounts := []corev1.VolumeMount{
		{Name: "cgroups", MountPath: "/host/sys/fs/cgroup"}, {Name: "proc", MountPath: "/host/proc", ReadOnly: true}, {Name: "state", MountPath: agent.DefaultStateDir},
	}
	container := func(name string, args ...string) corev1.Container {
		return corev1.Container{
			Name: name, Image: s.agents.Name, ImagePullPolicy: corev1.PullNever, VolumeMounts: mounts, Args: args,
			Env: []corev1.EnvVar{{Name: "NODE_NAME", Value: s.node.Name}},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("20m")}},
		}
	}
	pod.Spec.Containers = []corev1.Container{
		container("agent", append(agentArgs(agent.DefaultStateDir), "--root=/host", "--proc=/host/proc", "--deadman=false")...),
		container("deadman", "deadman", "--root=/host"),
	}
	folder := func(path string) corev1.VolumeSource {
		return corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: new(corev1.HostPathDirectoryOrCreate)}}
	}
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "cgroups", VolumeSource: folder("/sys/fs/cgroup")}, {Name: "proc", VolumeSource: folder("/proc")}, {Name: "state", VolumeSource: folder(dir)},
	}
	s.create(pod)
	s.ready("agent")
	s.Cleanup(func() {
		if s.Failed() {
			logs, _ := filepath.Glob("/var/lib/neap-node/logs/neap-system_agent*/*/*.log")
			for _, l := range logs {
				s.Logf("%s:\n%s", l, tail(l))
			}
		}
	})
}

// kill ends a process of the test's own at once.
func (s *stage) kill(pid int) {
	s.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.Fatalf("kill %d: %v", pid, err)
	}
}

// killInPod ends the process of the node's pods that has this argument.
func (s *stage) killInPod(arg string) {
	s.Helper()
	for _, pid := range processes(arg) {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if strings.Contains(string(b), string(s.layout.Pods())+"/") {
			s.kill(pid)
			return
		}
	}
	s.Fatalf("no process of a pod has the argument %s", arg)
}

// processes are those of this machine that have an argument.
func processes(arg string) []int {
	var found []int
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p))); err == nil && slices.Contains(strings.Split(string(b), "\x00"), arg) {
			found = append(found, pid)
		}
	}
	return found
}

// restarted waits until the kubelet has started a container of an app again.
func (s *stage) restarted(app string) {
	s.Helper()
	clustertest.Eventually(s, app+" to begin again", func() error {
		pods, err := s.kube.CoreV1().Pods("").List(s.Context(), metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return err
		}
		for _, p := range pods.Items {
			for _, c := range p.Status.ContainerStatuses {
				if c.RestartCount > 0 && c.Ready {
					return nil
				}
			}
		}
		return fmt.Errorf("it has not")
	})
}

// complaint is the first line in which the kubelet says that it could not write its
// groups, empty if it always could.
func (s *stage) complaint() string {
	s.Helper()
	b, err := os.ReadFile(s.cluster.Dir.Log("kubelet"))
	if err != nil {
		s.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		for _, about := range []string{"Failed to reserve QoS requests", "Failed to update QoS cgroup", "failed to update top level", "cpu.shares", "cpu.weight"} {
			if strings.Contains(line, about) {
				return strings.TrimSpace(line)
			}
		}
	}
	return ""
}

const servePort = 8080

// serve answers every request after half a millisecond of work.
func serve([]string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		for until := time.Now().Add(500 * time.Microsecond); time.Now().Before(until); {
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return http.ListenAndServe(":"+strconv.Itoa(servePort), mux)
}

// burn keeps more threads busy than there are CPUs.
func burn([]string) error {
	for range 8 {
		go func() {
			for x := uint64(1); ; x = x*6364136223846793005 + 1 {
				busy.Store(x)
			}
		}()
	}
	select {}
}

var busy atomic.Uint64

// A load is requests at random moments, whether those before were answered or not.
type load struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	took   []time.Duration
	failed []error
}

func (s *stage) load(ip string) *load {
	ctx, stop := context.WithCancel(context.Background())
	s.Cleanup(stop)
	l := &load{stop: stop}
	url := "http://" + net.JoinHostPort(ip, strconv.Itoa(servePort)) + "/"
	web := &http.Client{Timeout: clustertest.Patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	dice := rand.New(rand.NewPCG(1, 2))
	l.running.Go(func() {
		const perSecond = 100
		for next := time.Now(); ctx.Err() == nil; {
			next = next.Add(time.Duration(dice.ExpFloat64() * float64(time.Second) / perSecond))
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(next)):
			}
			meant := next
			l.running.Go(func() {
				res, err := web.Get(url)
				if err == nil {
					res.Body.Close()
					if res.StatusCode != http.StatusNoContent {
						err = fmt.Errorf("status %s", res.Status)
					}
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if err != nil {
					l.failed = append(l.failed, err)
				}
				l.took = append(l.took, time.Since(meant))
			})
		}
	})
	return l
}

// end stops the load: every request was answered. How fast is told, and not judged:
// other programs use this machine.
func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.running.Wait()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(l.failed), len(l.took), l.failed[0])
	}
	if len(l.took) == 0 {
		t.Fatal("no request was sent")
	}
	slices.Sort(l.took)
	t.Logf("%d requests: p50 %v, p99 %v", len(l.took), l.took[len(l.took)/2], l.took[len(l.took)*99/100])
}
