package player

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/local/fleet"
	"github.com/neap-dev/neap/sim/scenario"
)

const (
	// PoolTaint keeps pods off the machines of a pool that only modules naming
	// the pool may use; its value is the pool's name.
	PoolTaint = "neap.dev/pool-only"
	// orderLabel is what the scheduler's plugin poolorder reads.
	orderLabel = "neap.dev/pool-order"
	// VersionAnnotation on a pod template counts the versions deployed.
	VersionAnnotation = "neap.dev/version"
	// FieldManager owns what the player applies.
	FieldManager = "neap-player"
)

func simulated() map[string]string { return map[string]string{fleet.SimulatedLabel: "true"} }

// nodeName returns the name of machine i of a pool.
func nodeName(pool string, i int) string { return fmt.Sprintf("%s-%03d", pool, i) }

// virtualName returns the name of a serverless pool's node.
func virtualName(pool string) string { return "virtual-" + pool }

func quantities(v resource.Vector) corev1.ResourceList {
	l := corev1.ResourceList{}
	if v[resource.CPU] > 0 {
		l[corev1.ResourceCPU] = *apiresource.NewMilliQuantity(v[resource.CPU], apiresource.DecimalSI)
	}
	if v[resource.Memory] > 0 {
		l[corev1.ResourceMemory] = *apiresource.NewQuantity(v[resource.Memory], apiresource.BinarySI)
	}
	if v[resource.GPU] > 0 {
		// Extended resources are whole.
		l[v1alpha1.ResourceGPU] = *apiresource.NewQuantity((v[resource.GPU]+999)/1000, apiresource.DecimalSI)
	}
	return l
}

// endless is what a virtual node offers: more than any scenario asks for.
var endless = resource.Vector{resource.CPU: 100_000_000, resource.Memory: 400 << 40, resource.GPU: 10_000_000}

// node returns machine i of a pool. A positive startsAfter, on the wall, keeps it
// from being ready.
func node(s *scenario.Scenario, p *scenario.Pool, i int, startsAfter time.Duration) *corev1.Node {
	name := nodeName(p.Name, i)
	capacity, allocatable, pods := p.Capacity, p.Allocatable, p.MaxPods
	if pods == 0 {
		pods = 250
	}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: simulated(), Labels: map[string]string{
		fleet.SimulatedLabel:           "true",
		v1alpha1.LabelPool:             p.Name,
		corev1.LabelInstanceTypeStable: p.MachineType,
		corev1.LabelOSStable:           "linux",
		corev1.LabelArchStable:         "amd64",
		orderLabel:                     strconv.Itoa(p.Order),
	}}}
	if p.Kind == scenario.Serverless {
		n.Name = virtualName(p.Name)
		capacity, allocatable, pods = endless, endless, 10_000
		if p.Limit > 0 {
			pods = p.Limit
		}
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: v1alpha1.TaintServerless, Value: "true", Effect: corev1.TaintEffectNoSchedule})
	} else if p.Taint {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: PoolTaint, Value: p.Name, Effect: corev1.TaintEffectNoSchedule})
	}
	n.Labels[corev1.LabelHostname] = n.Name
	if len(p.Zones) > 0 {
		n.Labels[corev1.LabelTopologyZone] = p.Zones[i%len(p.Zones)]
	}
	n.Status.Capacity, n.Status.Allocatable = quantities(capacity), quantities(allocatable)
	if p.GPUModel != "" {
		sharing(n.Status.Capacity)
		sharing(n.Status.Allocatable)
	}
	n.Status.Capacity[corev1.ResourcePods] = *apiresource.NewQuantity(int64(pods), apiresource.DecimalSI)
	n.Status.Allocatable[corev1.ResourcePods] = n.Status.Capacity[corev1.ResourcePods]
	n.Status.NodeInfo = corev1.NodeSystemInfo{
		Architecture: "amd64", OperatingSystem: "linux", OSImage: "simulated", KernelVersion: "simulated",
		KubeletVersion: "simulated", ContainerRuntimeVersion: "simulated",
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name}}
	if startsAfter > 0 {
		n.Annotations[fleet.StartAfterAnnotation] = startsAfter.String()
		return n
	}
	now := metav1.Now()
	n.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "the machine is simulated",
		LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	return n
}

// podSpec returns the pods of a module.
func podSpec(s *scenario.Scenario, m *scenario.Module, requests, limits resource.Vector) corev1.PodSpec {
	no := false
	grace := int64(5)
	spec := corev1.PodSpec{
		AutomountServiceAccountToken: &no, EnableServiceLinks: &no, TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{
			Name: fleet.Container, Image: "simulated.neap.dev/" + m.Namespace + "/" + m.Name,
			Resources: corev1.ResourceRequirements{Requests: quantities(requests), Limits: quantities(limits)},
		}},
	}
	if g, ok := spec.Containers[0].Resources.Requests[v1alpha1.ResourceGPU]; ok {
		spec.Containers[0].Resources.Limits[v1alpha1.ResourceGPU] = g // must be equal
	} else {
		delete(spec.Containers[0].Resources.Limits, v1alpha1.ResourceGPU)
	}
	places := m.Places()
	affinity := &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
			{Key: v1alpha1.LabelPool, Operator: corev1.NodeSelectorOpIn, Values: slices.Sorted(slices.Values(places))},
		}}},
	}}
	serverless := false
	for i, name := range places {
		// On which GPU is cheapest the scheduler knows; the order of pools says nothing of it.
		if len(places) > 1 && i < len(places)-1 && m.GPU == nil {
			affinity.PreferredDuringSchedulingIgnoredDuringExecution = append(affinity.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{
				Weight: int32(100 * (len(places) - 1 - i) / (len(places) - 1)),
				Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
					{Key: v1alpha1.LabelPool, Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
				}},
			})
		}
		p := s.Pool(name)
		switch {
		case p == nil:
		case p.Kind == scenario.Serverless:
			serverless = true
		case p.Taint:
			spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Key: PoolTaint, Operator: corev1.TolerationOpEqual, Value: name, Effect: corev1.TaintEffectNoSchedule})
		}
	}
	if serverless {
		spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Key: v1alpha1.TaintServerless, Operator: corev1.TolerationOpEqual, Value: "true", Effect: corev1.TaintEffectNoSchedule})
	}
	spec.Affinity = &corev1.Affinity{NodeAffinity: affinity}
	if m.Alone {
		spec.Affinity.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: selector(m)},
		}}}
	}
	return spec
}

func selector(m *scenario.Module) map[string]string {
	return map[string]string{fleet.ModuleLabel: m.Name}
}

// podLabels are what the bill can be grouped by.
func podLabels(m *scenario.Module) map[string]string {
	l := selector(m)
	l["app.kubernetes.io/name"] = m.Name
	l["neap.dev/kind"] = string(m.Kind)
	if m.Colocate {
		l[v1alpha1.LabelClass] = v1alpha1.ClassBatch
	}
	return l
}

func deployment(s *scenario.Scenario, m scenario.ModuleState) *appsv1.Deployment {
	spec := m.Spec
	replicas, history, one, none := int32(m.Replicas), int32(1), intstr.FromInt32(1), intstr.FromInt32(0)
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: spec.Namespace, Name: spec.Name, Labels: podLabels(spec), Annotations: simulated()},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, RevisionHistoryLimit: &history,
			Selector: &metav1.LabelSelector{MatchLabels: selector(spec)},
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: podLabels(spec), Annotations: map[string]string{
					fleet.SimulatedLabel: "true", VersionAnnotation: strconv.Itoa(m.Version),
				}},
				Spec: podSpec(s, spec, spec.Requests, spec.Limits),
			},
		},
	}
	need(spec, &d.Spec.Template)
	return d
}

// never is the schedule of a CronJob that only the player fires: it is suspended
// as well.
const never = "0 0 1 1 *"

func cronJob(s *scenario.Scenario, m scenario.ModuleState) *batchv1.CronJob {
	spec := m.Spec
	yes, keep := true, int32(100)
	schedule := spec.Work.Cron
	if schedule == "" {
		schedule = never
	}
	return &batchv1.CronJob{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "CronJob"},
		ObjectMeta: metav1.ObjectMeta{Namespace: spec.Namespace, Name: spec.Name, Labels: podLabels(spec), Annotations: simulated()},
		Spec: batchv1.CronJobSpec{
			Schedule: schedule, Suspend: &yes, ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: &keep, FailedJobsHistoryLimit: &keep,
			JobTemplate: batchv1.JobTemplateSpec{Spec: jobSpec(s, m, 0)},
		},
	}
}

func jobSpec(s *scenario.Scenario, m scenario.ModuleState, keep int32) batchv1.JobSpec {
	pods, retries := int32(max(m.Spec.Work.Pods, 1)), int32(3)
	j := batchv1.JobSpec{
		Parallelism: &pods, Completions: &pods, BackoffLimit: &retries,
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: podLabels(m.Spec), Annotations: simulated()},
			Spec:       podSpec(s, m.Spec, m.Requests, m.Limits),
		},
	}
	need(m.Spec, &j.Template)
	j.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if m.Spec.Colocate { // that it made way is not its fault
		j.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}}
	}
	if keep > 0 {
		j.TTLSecondsAfterFinished = &keep
	}
	return j
}

// jobName names the job of a CronJob that starts at a simulated time. Its end is
// eight digits, as the CronJob controller's names have them.
func jobName(cronJob string, at time.Time) string {
	return fmt.Sprintf("%s-%08d", cronJob, at.Unix()%100_000_000)
}

// job returns the job of a CronJob. keep is how many seconds, on the wall, it
// stays after its end.
func job(s *scenario.Scenario, m scenario.ModuleState, parent *batchv1.CronJob, at time.Time, keep int32) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.Spec.Namespace, Name: jobName(m.Spec.Name, at), Labels: podLabels(m.Spec),
			Annotations: map[string]string{
				fleet.SimulatedLabel:                              "true",
				"cronjob.kubernetes.io/instantiate":               "manual",
				"batch.kubernetes.io/cronjob-scheduled-timestamp": at.UTC().Format(time.RFC3339),
			},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(parent, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
		},
		Spec: jobSpec(s, m, keep),
	}
}

func decimalMoney(p money.PerHour) v1alpha1.Money {
	return v1alpha1.Money(strings.TrimSpace(fmt.Sprintf("%d.%09d", int64(p)/int64(money.Unit), int64(p)%int64(money.Unit))))
}

func machineType(t machine.Type) *v1alpha1.MachineType {
	discount := intstr.FromString(fmt.Sprintf("%d.%d", t.DiscountMillis/10, t.DiscountMillis%10))
	mt := &v1alpha1.MachineType{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "MachineType"},
		ObjectMeta: metav1.ObjectMeta{Name: t.Name, Annotations: simulated()},
		Spec:       v1alpha1.MachineTypeSpec{Price: v1alpha1.Price{Currency: t.Currency, DiscountPercent: &discount}},
	}
	if t.Serverless() {
		unit := func(k resource.Kind) *v1alpha1.Money {
			if t.UnitList[k] == 0 {
				return nil
			}
			m := decimalMoney(t.UnitList[k])
			return &m
		}
		mt.Spec.Price.Units = &v1alpha1.UnitPrices{CPU: unit(resource.CPU), Memory: unit(resource.Memory), GPU: unit(resource.GPU)}
	} else {
		list := decimalMoney(t.List)
		mt.Spec.Price.List = &list
		mt.Spec.Capacity = &v1alpha1.Capacity{Amounts: amounts(t.Capacity)}
	}
	if t.RatingMillis > 0 {
		r := &v1alpha1.Rating{NCUPerCore: ratio(t.RatingMillis), Source: t.RatingSource}
		if r.Source == "" {
			r.Source = "scenario"
		}
		if t.RatingLow > 0 {
			low := ratio(t.RatingLow)
			r.Low = &low
		}
		if t.RatingHigh > 0 {
			high := ratio(t.RatingHigh)
			r.High = &high
		}
		mt.Spec.Rating = r
	}
	return mt
}

func ratio(millis int64) v1alpha1.Ratio {
	return v1alpha1.Ratio(fmt.Sprintf("%d.%03d", millis/1000, millis%1000))
}

func amounts(v resource.Vector) v1alpha1.Amounts {
	var a v1alpha1.Amounts
	for name, q := range map[resource.Kind]**apiresource.Quantity{resource.CPU: &a.CPU, resource.Memory: &a.Memory, resource.GPU: &a.GPU} {
		if v[name] == 0 {
			continue
		}
		if name == resource.Memory {
			*q = apiresource.NewQuantity(v[name], apiresource.BinarySI)
		} else {
			*q = apiresource.NewMilliQuantity(v[name], apiresource.DecimalSI)
		}
	}
	return a
}

func resourcePool(p *scenario.Pool) *v1alpha1.ResourcePool {
	rp := &v1alpha1.ResourcePool{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ResourcePool"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Annotations: simulated()},
		Spec:       v1alpha1.ResourcePoolSpec{Kind: v1alpha1.PoolKind(p.Kind), Order: int32(p.Order)},
	}
	if p.Kind == scenario.Serverless {
		rp.Spec.MachineType = p.MachineType
		provide(&rp.Spec, p.Provider)
		return rp
	}
	if p.Limit > 0 {
		n := int32(p.Limit)
		rp.Spec.Limit = &v1alpha1.PoolLimit{Machines: &n}
	}
	if !p.PerGPU.IsZero() {
		kept := amounts(p.PerGPU)
		rp.Spec.Guard = &v1alpha1.GPUGuard{CPUPerGPU: kept.CPU, MemoryPerGPU: kept.Memory}
	}
	if p.SparePerMil > 0 {
		var v resource.Vector
		for k := range v {
			v[k] = p.Allocatable[k] * p.SparePerMil / 1000
		}
		spare := amounts(v)
		rp.Spec.Spare = &v1alpha1.Spare{PerMachine: &spare}
	}
	return rp
}

// provide declares what the provider of a serverless pool allows.
func provide(to *v1alpha1.ResourcePoolSpec, p *scenario.Provider) {
	if p == nil {
		return
	}
	if p.Quota > 0 {
		to.Limit = &v1alpha1.PoolLimit{Amounts: amounts(resource.Vector{resource.CPU: p.Quota})}
	}
	var limits v1alpha1.ServerlessLimits
	if !p.MaxPod.IsZero() {
		most := amounts(p.MaxPod)
		limits.MaxPod = &most
	}
	if p.PerSecond > 0 {
		limits.Creation = &v1alpha1.CreationRate{PerSecond: int32(p.PerSecond), Burst: int32(p.Burst)}
	}
	if limits != (v1alpha1.ServerlessLimits{}) {
		to.Serverless = &limits
	}
}

func module(m *scenario.Module) *v1alpha1.Module {
	key := m.Key()
	out := &v1alpha1.Module{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Module"},
		ObjectMeta: metav1.ObjectMeta{Namespace: m.Namespace, Name: m.Name, Annotations: simulated()},
		Spec:       v1alpha1.ModuleSpec{TargetRef: v1alpha1.TargetRef{APIVersion: "apps/v1", Kind: key.Kind, Name: key.Name}},
	}
	if key.Kind == "CronJob" {
		out.Spec.TargetRef.APIVersion = "batch/v1"
	}
	for _, f := range m.Features {
		out.Spec.Features = append(out.Spec.Features, v1alpha1.Feature{Name: f.Name, Share: int32(f.ShareMillis)})
	}
	if m.Load == nil {
		return out
	}
	of := fmt.Sprintf("namespace=%q,module=%q", m.Namespace, m.Name)
	out.Spec.Load = &v1alpha1.Load{Query: v1alpha1.Query("sum(increase(http_requests_total{" + of + "}[$window]))")}
	q := &v1alpha1.Quality{}
	if n := m.Targets.SuccessMicros; n > 0 {
		q.Success = &v1alpha1.SuccessTarget{
			Query:  v1alpha1.Query("sum(rate(http_requests_total{" + of + ",code!~\"5..\"}[$window])) / sum(rate(http_requests_total{" + of + "}[$window]))"),
			Target: fmt.Sprintf("%d.%04d%%", n/10_000, n%10_000),
		}
	}
	if d := m.Targets.P99; d > 0 {
		q.P99 = &v1alpha1.LatencyTarget{
			Query:  v1alpha1.Query("histogram_quantile(0.99, sum by (le) (rate(http_request_duration_seconds_bucket{" + of + "}[$window])))"),
			Target: fmt.Sprintf("%dms", max(d.Milliseconds(), 1)),
		}
	}
	if q.Success != nil || q.P99 != nil {
		out.Spec.Quality = q
	}
	return out
}
