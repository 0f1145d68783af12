package fleet

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"sigs.k8s.io/kwok/pkg/apis/internalversion"
	"sigs.k8s.io/kwok/pkg/kwok/controllers"
	"sigs.k8s.io/kwok/pkg/log"
	"sigs.k8s.io/kwok/pkg/utils/cel"
	"sigs.k8s.io/kwok/pkg/utils/gotpl"
)

const (
	// SimulatedLabel marks simulated nodes; its value is "true". The annotation
	// of the same name marks what runs on them.
	SimulatedLabel = "neap.dev/simulated"
	// ReadyAtAnnotation is the simulated time at which a pod became ready.
	ReadyAtAnnotation = "neap.dev/simulated-ready-at"
	// StartAfterAnnotation on a node is how long, on the wall, it takes from its
	// making until it is ready.
	StartAfterAnnotation = "neap.dev/simulated-start-after"

	// leaseSeconds is how long a node's lease lasts, at wall time. KWOK renews it
	// four times as often.
	leaseSeconds = 80
	// holder is the same in every run, so that a restarted fleet takes its nodes
	// back at once.
	holder = "neap-fleet"
	// podCIDR has room for a million pods; the addresses answer nobody.
	podCIDR = "10.64.0.0/12"
)

// A Day is the simulated time the fleet lives in; local/clock has it.
type Day interface {
	clock.PassiveClock
	// Wall returns how long d of the day lasts on the wall.
	Wall(d time.Duration) time.Duration
}

// A Lifecycle plays the kubelets of all nodes that have the label
// neap.dev/simulated=true.
type Lifecycle struct {
	id     string
	client kubernetes.Interface
	day    Day
	table  timetable
	kwok   *controllers.Controller

	refusals sync.Map // UID → refused
	events   record.EventBroadcaster
	recorder record.EventRecorder
}

// refused is a pod and why its provider does not create it.
type refused struct {
	pod *corev1.Pod
	why string
}

// LifecycleOptions say how pods live. Client and Day are required.
type LifecycleOptions struct {
	Client kubernetes.Interface
	REST   rest.Interface // of Client; needed against a real API server
	Day    Day
	Durations
	Workers int       // pods worked on at once; 0 means 16
	Log     io.Writer // KWOK's warnings and errors, as JSON lines; nil drops them
}

// KWOK's stages may call Go through its CEL functions and in no other way. The
// functions are one table for the whole process, so ours get the id of the
// lifecycle that asks as an argument.
var lifecycles sync.Map // id → *Lifecycle

var lastID atomic.Int64

func init() {
	cel.DefaultFuncs["NeapIs"] = []any{func(pod *corev1.Pod, id, stage string) bool {
		l, ok := lifecycles.Load(id)
		return ok && l.(*Lifecycle).stage(pod) == Stage(stage) && !l.(*Lifecycle).table.playing(pod.UID, Stage(stage))
	}}
	cel.DefaultFuncs["NeapDelay"] = []any{func(pod *corev1.Pod, id, stage string) time.Duration {
		l, ok := lifecycles.Load(id)
		if !ok {
			return 0
		}
		return l.(*Lifecycle).delay(pod, Stage(stage))
	}}
}

// StartLifecycle starts the kubelets. They run until ctx is done; call Close
// after that.
func StartLifecycle(ctx context.Context, o LifecycleOptions) (*Lifecycle, error) {
	if o.Workers == 0 {
		o.Workers = 16
	}
	l := &Lifecycle{
		id:     strconv.FormatInt(lastID.Add(1), 10),
		client: o.Client,
		day:    o.Day,
		table:  timetable{durations: o.Durations, pods: map[types.UID]due{}, sent: map[sending]time.Time{}},
	}
	lifecycles.Store(l.id, l)
	l.events = record.NewBroadcaster()
	l.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: o.Client.CoreV1().Events("")})
	l.recorder = l.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "virtual-node-simulated"})
	var err error
	l.kwok, err = controllers.NewController(controllers.Config{
		Clock:                        clock.RealClock{},
		TypedClient:                  o.Client,
		RESTClient:                   o.REST,
		ManageNodesWithLabelSelector: SimulatedLabel + "=true",
		CIDR:                         podCIDR,
		NodeIP:                       "10.63.0.1",
		NodeName:                     "simulated",
		LocalStages: map[internalversion.StageResourceRef][]*internalversion.Stage{
			{APIGroup: "v1", Kind: "Pod"}:  l.podStages(),
			{APIGroup: "v1", Kind: "Node"}: nodeStages(),
		},
		PodPlayStageParallelism:   uint(o.Workers),
		NodePlayStageParallelism:  4,
		NodeLeaseDurationSeconds:  leaseSeconds,
		NodeLeaseParallelism:      4,
		PodsOnNodeSyncParallelism: 4,
		ID:                        holder,
		FuncMap: gotpl.FuncMap{
			// Plays says that a stage is written now, and returns when it was due: the
			// wall time that the API server takes is no part of the day.
			"Plays": func(uid, stage string) string {
				return l.table.played(types.UID(uid), Stage(stage), l.day.Now()).UTC().Format(time.RFC3339Nano)
			},
			// Refuses says that a refusal is written now, and returns it.
			"Refuses": func(uid string) string {
				r, ok := l.refusals.Load(types.UID(uid))
				if !ok {
					return ""
				}
				l.recorder.Event(r.(refused).pod, corev1.EventTypeWarning, "ProviderCreateFailed", r.(refused).why)
				return r.(refused).why
			},
			// Life is how long a pod takes from its binding until it is done; "" if
			// its binding was not seen.
			"Life": func(uid string) string {
				if d := l.table.life(types.UID(uid)); d > 0 {
					return d.String()
				}
				return ""
			},
		},
	})
	if err == nil {
		err = l.kwok.Start(log.NewContext(ctx, log.NewLogger(o.Log, log.LevelWarn)))
	}
	if err != nil {
		lifecycles.Delete(l.id)
		return nil, fmt.Errorf("start simulated kubelets: %w", err)
	}
	return l, nil
}

// Forget drops what is kept of a pod that is gone.
func (l *Lifecycle) Forget(uid types.UID) {
	l.table.forget(uid)
	l.refusals.Delete(uid)
}

// finish lets a pod end that has done its work.
func (l *Lifecycle) finish(d finish) {
	go func() { // the physics do not wait for the API server
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, d.uid, WorkDoneAnnotation, d.at.UTC().Format(time.RFC3339Nano))
		for range 3 {
			_, err := l.client.CoreV1().Pods(d.key.Namespace).Patch(context.Background(), d.key.Name, types.MergePatchType, patch, metav1.PatchOptions{})
			if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return
			}
			time.Sleep(time.Second)
		}
	}()
}

// Close frees the lifecycle. The context of StartLifecycle must be done.
func (l *Lifecycle) Close() {
	lifecycles.Delete(l.id)
	l.events.Shutdown()
}

// stage returns what happens to a pod next.
func (l *Lifecycle) stage(pod *corev1.Pod) Stage {
	s := next(pod)
	if s != Ready || l.table.durations.Refuse == nil {
		return s
	}
	why := l.table.durations.Refuse(pod)
	if why == "" {
		return Ready
	}
	l.refusals.Store(pod.UID, refused{pod, why})
	return Refused
}

// delay returns how long the wall has to wait for a stage of a pod.
func (l *Lifecycle) delay(pod *corev1.Pod, stage Stage) time.Duration {
	if stage == Refused && pod.Status.Reason == providerFailed {
		return l.day.Wall(retryAfter)
	}
	now := l.day.Now()
	return max(0, l.day.Wall(l.table.at(pod, stage, now).Sub(now)))
}

func (l *Lifecycle) podStages() []*internalversion.Stage {
	stage := func(s Stage, steps ...internalversion.StageStep) *internalversion.Stage {
		args := "(self, " + strconv.Quote(l.id) + ", " + strconv.Quote(string(s)) + ")"
		st := &internalversion.Stage{Spec: internalversion.StageSpec{
			ResourceRef: internalversion.StageResourceRef{APIGroup: "v1", Kind: "Pod"},
			Selector: &internalversion.StageSelector{MatchExpressions: []internalversion.MatchExpression{
				{CEL: &internalversion.ExpressionCEL{Expression: "NeapIs" + args}},
			}},
			Delay: &internalversion.StageDelay{DurationFrom: &internalversion.ExpressionFrom{
				CEL: &internalversion.ExpressionCEL{Expression: "NeapDelay" + args},
			}},
			Steps: steps,
		}}
		st.Name = "pod-" + string(s)
		return st
	}
	status := func(template string) internalversion.StageStep {
		return internalversion.StageStep{Patch: &internalversion.StagePatch{Subresource: "status", Template: template}}
	}
	return []*internalversion.Stage{
		stage(Ready, status(readyTemplate)),
		stage(Refused, status(refusedTemplate)),
		stage(Resized, status(resizedTemplate)),
		stage(CutOff, status(cutOffTemplate)),
		stage(BackOn, status(backOnTemplate)),
		stage(Complete, status(completeTemplate)),
		stage(Gone, internalversion.StageStep{Delete: true}),
	}
}

// nodeStages keep a node's conditions fresh; that it lives its lease says. The
// player creates nodes with their whole status, so most never need the first.
func nodeStages() []*internalversion.Stage {
	ready := func(op string) []internalversion.MatchExpression {
		return []internalversion.MatchExpression{{JQ: &internalversion.SelectorJQ{
			Key: `.status.conditions.[] | select( .type == "Ready" ) | .status`, Operator: internalversion.SelectorOperator(op), Values: []string{"True"},
		}}}
	}
	stage := func(name, op string, delay, jitter time.Duration) *internalversion.Stage {
		d, j := delay.Milliseconds(), jitter.Milliseconds()
		st := &internalversion.Stage{Spec: internalversion.StageSpec{
			ResourceRef: internalversion.StageResourceRef{APIGroup: "v1", Kind: "Node"},
			Selector:    &internalversion.StageSelector{MatchExpressions: ready(op)},
			Delay:       &internalversion.StageDelay{DurationMilliseconds: &d, JitterDurationMilliseconds: &j},
			Steps: []internalversion.StageStep{{Patch: &internalversion.StagePatch{
				Subresource: "status", Root: "status", Template: nodeTemplate,
			}}},
		}}
		st.Name = name
		return st
	}
	starts := stage("node-ready", "NotIn", 0, 0)
	starts.Spec.Delay.JitterDurationMilliseconds = nil
	starts.Spec.Delay.DurationFrom = &internalversion.ExpressionFrom{JQ: &internalversion.ExpressionJQ{
		Expression: `.metadata.annotations["` + StartAfterAnnotation + `"]`,
	}}
	return []*internalversion.Stage{
		starts,
		stage("node-heartbeat", "In", 5*time.Minute, 6*time.Minute),
	}
}

const nodeTemplate = `
{{ $now := Now }}
conditions:
- {type: Ready, status: "True", reason: KubeletReady, message: "the machine is simulated", lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ or .metadata.creationTimestamp $now | Quote }}}
- {type: MemoryPressure, status: "False", reason: KubeletHasSufficientMemory, message: "the machine is simulated", lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ or .metadata.creationTimestamp $now | Quote }}}
- {type: DiskPressure, status: "False", reason: KubeletHasNoDiskPressure, message: "the machine is simulated", lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ or .metadata.creationTimestamp $now | Quote }}}
- {type: PIDPressure, status: "False", reason: KubeletHasSufficientPID, message: "the machine is simulated", lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ or .metadata.creationTimestamp $now | Quote }}}
`

// readyTemplate starts a pod in one write: status and annotations together.
const readyTemplate = `
{{ $now := Now }}
metadata:
  annotations:
    neap.dev/simulated: "true"
    neap.dev/simulated-ready-at: {{ Plays .metadata.uid "ready" | Quote }}
status:
  phase: Running
  {{ if .status.reason }}
  reason: null
  message: null
  {{ end }}
  startTime: {{ $now | Quote }}
  conditions:
  - {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
  - {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
  - {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
  {{ range .spec.readinessGates }}
  - {type: {{ .conditionType | Quote }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
  {{ end }}
  containerStatuses:
  {{ range .spec.containers }}
  - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, imageID: "", ready: true, started: true, restartCount: 0, state: {running: {startedAt: {{ $now | Quote }}}}, resources: {{ toJson .resources }}, allocatedResources: {{ toJson ( or .resources.requests dict ) }}}
  {{ end }}
  {{ with .spec.initContainers }}
  initContainerStatuses:
  {{ range . }}
  - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, imageID: "", ready: true, restartCount: 0, state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}}
  {{ end }}
  {{ end }}
  hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
  {{ $ip := PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) }}
  podIP: {{ $ip | Quote }}
  podIPs:
  - {ip: {{ $ip | Quote }}}
`

// providerFailed is the reason that virtual-kubelet gives a pod that its provider
// did not create. Like it, one that must not be restarted has failed for good.
const providerFailed = "ProviderFailed"

const refusedTemplate = `
metadata:
  annotations:
    neap.dev/simulated: "true"
    neap.dev/simulated-refused-at: {{ Now | Quote }}
status:
  phase: {{ if eq .spec.restartPolicy "Never" }}Failed{{ else }}Pending{{ end }}
  reason: ProviderFailed
  message: {{ Refuses .metadata.uid | Quote }}
`

// resizedTemplate says that the machine gave the pod what it asks for now. A
// strategic merge keeps the rest of the containers' status.
const resizedTemplate = `
status:
  containerStatuses:
  {{ range .spec.containers }}
  - {name: {{ .name | Quote }}, resources: {{ toJson .resources }}, allocatedResources: {{ toJson ( or .resources.requests dict ) }}}
  {{ end }}
`

// cutOffTemplate and backOnTemplate are what a kubelet does about readiness gates.
const (
	cutOffTemplate = `
status:
  conditions:
  - {type: Ready, status: "False", reason: ReadinessGatesNotReady, lastTransitionTime: {{ Now | Quote }}}
`
	backOnTemplate = `
status:
  conditions:
  - {type: Ready, status: "True", lastTransitionTime: {{ Now | Quote }}}
`
)

const completeTemplate = `
{{ $now := Now }}
{{ $root := . }}
metadata:
  annotations:
    neap.dev/simulated-done-at: {{ Plays .metadata.uid "complete" | Quote }}
    {{ with Life .metadata.uid }}
    neap.dev/simulated-life: {{ . | Quote }}
    {{ end }}
status:
  phase: Succeeded
  conditions:
  - {type: ContainersReady, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now | Quote }}}
  - {type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now | Quote }}}
  containerStatuses:
  {{ range .spec.containers }}
  - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, imageID: "", ready: false, started: false, restartCount: 0, state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ or $root.status.startTime $now | Quote }}, finishedAt: {{ $now | Quote }}}}}
  {{ end }}
`
