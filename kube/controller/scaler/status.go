package scaler

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/elastic"
)

// statusOf returns the status that an observation and what was decided on it give
// the policy. It is pure.
func statusOf(seen *observation, said verdict, st *state) v1alpha1.ElasticPolicyStatus {
	p := seen.Policy
	out := *p.Status.DeepCopy()
	out.ObservedGeneration = p.Generation
	ref := p.Spec.TargetRef
	name := cmp.Or(ref.Kind, "Deployment") + " " + ref.Name
	set := func(typ string, status metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&out.Conditions, metav1.Condition{
			Type: typ, Status: status, Reason: reason, Message: message,
			ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(seen.Now),
		})
	}

	// 1. The decision. A target that cannot be read for a moment leaves what was
	// decided on it, above all the plan of the pools, as it was.
	reason := p.Status.Reason
	if !unread(seen.TargetErr) {
		reason = decisionInto(&out, seen, said, st)
	}

	// 2. The forecast.
	if p.Spec.Forecast == nil {
		out.Forecast = nil
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionForecastSkilled)
	} else if l := seen.Learnt; l != nil {
		out.Forecast = forecastStatus(l)
		switch {
		case out.Forecast.Skilled:
			set(v1alpha1.ConditionForecastSkilled, metav1.ConditionTrue, "Skilled", out.Forecast.Reason)
		case l.at.IsZero():
			set(v1alpha1.ConditionForecastSkilled, metav1.ConditionUnknown, "Learning", out.Forecast.Reason)
		default:
			set(v1alpha1.ConditionForecastSkilled, metav1.ConditionFalse, "NoSkill", out.Forecast.Reason+"; the reactive layer carries the load alone")
		}
	}

	// 3. Conditions.
	var lacking []string
	switch err := seen.TargetErr; {
	case err == nil:
		set(v1alpha1.ConditionTargetFound, metav1.ConditionTrue, "Found", name+" exists and has a /scale")
	case meta.IsNoMatchError(err):
		s := fmt.Sprintf("the API server knows no kind %s in %s: correct targetRef by making another policy", ref.Kind, ref.APIVersion)
		set(v1alpha1.ConditionTargetFound, metav1.ConditionFalse, "NoKind", s)
		lacking = append(lacking, s)
	case apierrors.IsNotFound(err):
		s := fmt.Sprintf("there is no %s with a /scale in namespace %s: create it, or make another policy", name, p.Namespace)
		set(v1alpha1.ConditionTargetFound, metav1.ConditionFalse, "NotFound", s)
		lacking = append(lacking, s)
	case apierrors.IsForbidden(err):
		s := fmt.Sprintf("the /scale of %s may not be read (%v): grant Neap's controller get and update of it", name, err)
		set(v1alpha1.ConditionTargetFound, metav1.ConditionUnknown, "Forbidden", s)
		lacking = append(lacking, s)
	default:
		s := fmt.Sprintf("%s could not be read: %v", name, err)
		set(v1alpha1.ConditionTargetFound, metav1.ConditionUnknown, "NotReadable", s)
		lacking = append(lacking, s)
	}

	stopped := ""
	if seen.Rival == "" {
		set(v1alpha1.ConditionSoleOwner, metav1.ConditionTrue, "Sole", "nobody else is known to set the replicas of "+name)
	} else {
		s := fmt.Sprintf("%s sets the replicas of %s", seen.Rival, name)
		if p.Spec.Mode == v1alpha1.ModeAuto {
			s += " too, so Neap leaves them alone: delete one of the two, or set mode Preview"
			stopped = s
		} else {
			s += ": delete it before mode Auto"
		}
		set(v1alpha1.ConditionSoleOwner, metav1.ConditionFalse, "OtherOwner", s)
	}

	switch {
	case seen.LoadErr != nil:
		set(v1alpha1.ConditionMetricsFresh, metav1.ConditionFalse, "Gone", "replicas are held, for "+seen.LoadErr.Error())
	case seen.TargetErr != nil || seen.Invalid != nil:
		set(v1alpha1.ConditionMetricsFresh, metav1.ConditionUnknown, "NotAsked", "nothing is asked while the policy cannot be carried out")
	case seen.Declared.LoadQuery == "" && len(seen.Metrics) == 0:
		set(v1alpha1.ConditionMetricsFresh, metav1.ConditionTrue, "NotNeeded", "no layer of the policy follows a metric")
	default:
		set(v1alpha1.ConditionMetricsFresh, metav1.ConditionTrue, "Fresh", "every query gives a number now")
	}

	switch {
	case !said.Decides:
		set(v1alpha1.ConditionScaleInAllowed, metav1.ConditionUnknown, "NotDecided", "nothing is decided, so nothing is taken away")
	case said.Gate != elastic.GateNone:
		s := said.Reason
		if seen.GuardErr != nil {
			s += " (" + seen.GuardErr.Error() + ")"
		}
		set(v1alpha1.ConditionScaleInAllowed, metav1.ConditionFalse, gateReasons[said.Gate], s)
	default:
		set(v1alpha1.ConditionScaleInAllowed, metav1.ConditionTrue, "Allowed", "nothing holds replicas that no layer wants")
	}

	if said.Unplaced > 0 {
		lacking = append(lacking, fmt.Sprintf("%d replicas have no place in the policy's pools: %s", said.Unplaced, full(said.Pools)))
	}
	lacking = append(lacking, seen.Missing...)
	switch {
	case seen.Invalid != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Invalid", seen.Invalid.Error())
	case seen.TargetErr != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "NoTarget", lacking[0])
	case stopped != "":
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "OtherOwner", stopped)
	case seen.Paused != "":
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Paused", reason+": remove it to go on")
	case seen.ActErr != nil && apierrors.IsForbidden(seen.ActErr):
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Forbidden", seen.ActErr.Error()+"; grant Neap's controller update of its /scale")
	case seen.ActErr != nil:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "NotDone", seen.ActErr.Error()+"; it is tried again in the next minute")
	case len(lacking) > 0:
		set(v1alpha1.ConditionReady, metav1.ConditionFalse, "Incomplete", strings.Join(lacking, "; "))
	default:
		set(v1alpha1.ConditionReady, metav1.ConditionTrue, "Complete", modeSays[cmp.Or(p.Spec.Mode, v1alpha1.ModePreview)])
	}
	return out
}

// unread reports whether an error says that a target could not be read, and not
// that it is not there.
func unread(err error) bool {
	return err != nil && !apierrors.IsNotFound(err) && !meta.IsNoMatchError(err)
}

// decisionInto writes the decision into a status, and returns the reason.
func decisionInto(out *v1alpha1.ElasticPolicyStatus, seen *observation, said verdict, st *state) string {
	p := seen.Policy
	reason := said.Reason
	switch {
	case seen.Invalid != nil, seen.TargetErr != nil:
		reason = ""
	case p.Spec.Mode == v1alpha1.ModeObserve:
		reason = "mode Observe reports and decides nothing"
	case !said.Decides && seen.Paused != "":
		reason = fmt.Sprintf("%s is paused by the annotation %s", seen.Paused, v1alpha1.AnnotationPause)
	case !said.Decides:
		reason = fmt.Sprintf("%s sets the replicas, so Neap leaves them alone", seen.Rival)
	}
	if out.DecidedAt == nil || out.Desired != int32(said.Desired) || out.Winner != string(said.Winner) {
		out.DecidedAt = ptr.To(metav1.NewTime(seen.Now))
	}
	out.Current, out.Ready, out.Desired = int32(seen.Current), int32(seen.Ready), int32(said.Desired)
	out.Soon = int32(said.Soon)
	out.Winner, out.Reason = string(said.Winner), reason
	out.Layers = layers(said.ByLayer)
	if out.Selector = ""; seen.target.scale != nil {
		out.Selector = seen.target.scale.Status.Selector
	}
	out.Returning = said.Returning
	out.Leaving = nil
	if said.CutOff > 0 && said.Acts {
		out.Leaving = &v1alpha1.LeavingStatus{Replicas: int32(said.CutOff), Since: metav1.NewTime(said.Next.ScaleIn.Since)}
	}

	// Where nothing is decided there is no plan that anybody should keep.
	out.Pools = nil
	if said.Decides {
		for i, t := range said.Pools {
			out.Pools = append(out.Pools, poolStatus(seen, seen.Pools[i], t, st))
		}
	}
	return reason
}

var modeSays = map[v1alpha1.Mode]string{
	v1alpha1.ModeObserve: "the policy reports and decides nothing",
	v1alpha1.ModePreview: "the policy decides every minute and does nothing: set mode Auto to let it act",
	v1alpha1.ModeAuto:    "the policy decides and acts every minute",
}

var gateReasons = map[elastic.Gate]string{
	elastic.GateMetrics: "MetricsGone", elastic.GateRollout: "Rollout", elastic.GateGuard: "Guard", elastic.GateSoon: "NeededSoon",
	elastic.GateRate: "Rate", elastic.GateWatch: "Watching", elastic.GateRollback: "TakenBack",
}

func full(pools []elastic.PoolTarget) string {
	var out []string
	for _, t := range pools {
		if t.Reason != "" {
			out = append(out, t.Name+" "+t.Reason)
		}
	}
	return strings.Join(out, ", ")
}

func layers(claims []elastic.Claim) []v1alpha1.LayerStatus {
	var out []v1alpha1.LayerStatus
	for _, c := range claims {
		if c.Layer == elastic.LayerBounds || c.Layer == elastic.LayerHold {
			continue // the spec says them
		}
		l := v1alpha1.LayerStatus{Layer: string(c.Layer), Name: c.Name, Reason: c.Reason}
		if c.Floor != elastic.None {
			l.Floor = ptr.To(int32(c.Floor))
		}
		if c.Cap != elastic.None {
			l.Cap = ptr.To(int32(c.Cap))
		}
		if c.Pin {
			l.Cap = l.Floor
		}
		if !c.Until.IsZero() {
			l.Until = ptr.To(metav1.NewTime(c.Until))
		}
		out = append(out, l)
	}
	return out[:min(len(out), 256)]
}

func poolStatus(seen *observation, pool elastic.Pool, t elastic.PoolTarget, st *state) v1alpha1.PolicyPoolStatus {
	out := v1alpha1.PolicyPoolStatus{
		Name: pool.Name, Kind: seen.kinds[pool.Name], Planned: int32(t.Planned), Pods: int32(pool.Pods), Ready: int32(seen.readyIn[pool.Name]), Reason: t.Reason,
	}
	if times := st.starts[pool.Name]; times != nil {
		if p95, ok := times.p95(); ok {
			out.StartP95 = &metav1.Duration{Duration: p95}
		}
	}
	if out.StartP95 == nil { // what was learnt before a restart
		for _, was := range seen.Policy.Status.Pools {
			if was.Name == pool.Name {
				out.StartP95 = was.StartP95
			}
		}
	}
	return out
}

func forecastStatus(l *learnt) *v1alpha1.ForecastStatus {
	out := &v1alpha1.ForecastStatus{Skilled: len(l.quantiles) > 0, Reason: l.skill.Reason}
	if l.err != nil {
		out.Reason = fmt.Sprintf("the past of the load could not be read: %v", l.err)
	}
	if l.at.IsZero() {
		out.Reason = "the past of the load is being read"
		return out
	}
	out.FittedAt = ptr.To(metav1.NewTime(l.at))
	out.Horizon = &metav1.Duration{Duration: l.horizon}
	if l.skill.Periodic && l.skill.Period > 0 {
		out.Period = &metav1.Duration{Duration: l.skill.Period}
	}
	if naive := math.Min(l.skill.Naive, l.skill.Persistence); naive > 0 && !math.IsNaN(l.skill.Loss) {
		out.Skill = percent(1 - l.skill.Loss/naive)
	}
	if out.Skilled {
		out.Coverage = percent(l.skill.Coverage)
	}
	return out
}

func percent(share float64) string {
	if math.IsNaN(share) || math.IsInf(share, 0) {
		return ""
	}
	return strconv.FormatFloat(math.Round(share*1000)/10, 'f', 1, 64) + "%"
}

// same reports whether two statuses differ in no more than words and counts that
// come and go with the load, which may wait.
func same(a, b v1alpha1.ElasticPolicyStatus) bool {
	if a.ObservedGeneration != b.ObservedGeneration || a.Desired != b.Desired || a.Winner != b.Winner || a.Decisions != b.Decisions ||
		(a.Leaving == nil) != (b.Leaving == nil) || (a.Returning == nil) != (b.Returning == nil) || a.Leaving != nil && *a.Leaving != *b.Leaving || a.Selector != b.Selector {
		return false
	}
	return slices.EqualFunc(a.Pools, b.Pools, samePlan) && slices.EqualFunc(a.Conditions, b.Conditions, func(x, y metav1.Condition) bool {
		return x.Type == y.Type && x.Status == y.Status && x.Reason == y.Reason
	})
}

func samePlan(x, y v1alpha1.PolicyPoolStatus) bool {
	return x.Name == y.Name && x.Planned == y.Planned && x.Kind == y.Kind
}

// row is the line of the ledger for a status that follows another; ok is false if
// nothing was decided anew.
func row(seen *observation, said verdict, was, is v1alpha1.ElasticPolicyStatus) (d bill.Decision, ok bool) {
	p := seen.Policy
	if seen.Invalid != nil || seen.TargetErr != nil || p.Spec.Mode == v1alpha1.ModeObserve {
		return d, false
	}
	reasonOf := func(s v1alpha1.ElasticPolicyStatus, typ string) string {
		if c := meta.FindStatusCondition(s.Conditions, typ); c != nil {
			return c.Reason
		}
		return ""
	}
	changed := func(typ string) bool { return reasonOf(was, typ) != reasonOf(is, typ) }
	switch {
	case !said.Decides:
		if !changed(v1alpha1.ConditionReady) && !changed(v1alpha1.ConditionSoleOwner) {
			return d, false
		}
		d.Action = "stop"
	case said.Moved > 0 || was.Returning == nil && is.Returning != nil:
		d.Action = "return"
	case was.Desired != is.Desired, said.Acts && said.Desired != seen.Current && (seen.ActErr == nil || changed(v1alpha1.ConditionReady)):
		d.Action = "scale"
	case said.Gate != elastic.GateNone && changed(v1alpha1.ConditionScaleInAllowed):
		d.Action = "hold"
		d.Considered = []string{fmt.Sprintf("%d replicas, which is all that the layers want", said.Wanted)}
	default:
		return d, false
	}
	d.ID = fmt.Sprintf("elastic/%s/%d/%s-%d", p.UID, is.Decisions, d.Action, is.Desired)
	d.At, d.Actor, d.Lever, d.Mode = seen.Now, "scaler", "elastic", string(cmp.Or(p.Spec.Mode, v1alpha1.ModePreview))
	d.Subject = seen.Declared.Key.String()
	d.Reason = is.Reason
	d.Inputs = map[string]string{
		"current": strconv.Itoa(seen.Current), "ready": strconv.Itoa(seen.Ready), "desired": strconv.Itoa(said.Desired), "winner": string(said.Winner),
	}
	if !math.IsNaN(seen.Load) {
		d.Inputs["load"] = strconv.FormatFloat(seen.Load, 'g', 6, 64)
	}
	for _, l := range is.Layers {
		key := l.Layer
		if l.Name != "" {
			key += " " + l.Name
		}
		switch {
		case l.Floor != nil && l.Cap != nil:
			d.Inputs[key] = fmt.Sprintf("pin %d", *l.Floor)
		case l.Floor != nil:
			d.Inputs[key] = strconv.Itoa(int(*l.Floor))
		case l.Cap != nil:
			d.Inputs[key] = fmt.Sprintf("at most %d", *l.Cap)
		}
	}
	for _, t := range said.Pools {
		d.Inputs["pool "+t.Name] = strconv.Itoa(t.Planned)
	}
	switch {
	case seen.ActErr != nil:
		d.Outcome = "failed: " + seen.ActErr.Error()
	case said.Acts:
		d.Outcome = "done"
	default:
		d.Outcome = "advised"
	}
	return d, true
}

// apart is how far apart two writes of a status are that tell nothing new but
// words and counts, by the wall.
const apart = 10 * time.Second
