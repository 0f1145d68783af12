package colocator

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/metrics"
)

// podPeak is the CPU that pods used in an hour, at peakQuantile.
const podPeak = `quantile_over_time(0.95, (sum by (namespace,pod) (max by (namespace,pod,container) (rate(` + metrics.CPUSeconds + containers + `[5m]))))[1h:5m])`

const (
	// peakQuantile is which of the five minutes of an hour is a pod's highest, and
	// which pod is the highest of many.
	peakQuantile = 0.95
	// peakPast is how much of the past says what pods use: a week.
	peakPast = 7 * 24 * time.Hour
	// peakAtOnce is how much of it is read in one minute, and peakPatience how long
	// that may take, by the wall.
	peakAtOnce, peakPatience = 6 * time.Hour, 10 * time.Second
	// peakSettles is how long after an hour its last measurements have come.
	peakSettles = 5 * time.Minute
)

// peaks are how much CPU one pod of each online workload uses at its highest, in
// each hour of the day. The policy's status keeps them.
type peaks struct {
	restored bool
	by       map[string]*v1alpha1.LearntPeak // by owner
	until    time.Time                       // hours before are in them
	next     time.Time                       // when to read again after that failed, by the wall
}

// learnPeaks reads what the pods of each policy's nodes used in the hours since it
// read last. What cannot be read now is read later.
func (c *Colocator) learnPeaks(ctx context.Context, w *world) {
	ctx, cancel := context.WithTimeout(ctx, peakPatience)
	defer cancel()
	for _, p := range w.policies {
		k := &c.policies[p.UID].peaks
		k.restore(p.Status.OnlinePeaks, w.now)
		from, to := k.due(w.now)
		if c.o.Metrics == nil || w.measured != nil || !from.Before(to) || time.Now().Before(k.next) {
			continue
		}
		owners := w.owners(p)
		if len(owners) == 0 {
			continue
		}
		found, err := c.o.Metrics.Range(ctx, podPeak, from.Add(time.Hour), to, time.Hour)
		if err != nil && !metrics.Partial(err) {
			k.next = time.Now().Add(historyAgain)
			c.log.Warn("what pods of online workloads used cannot be read; it is tried again", "policy", p.Name, "since", from, "err", err)
			continue
		}
		for end := from.Add(time.Hour); !end.After(to); end = end.Add(time.Hour) {
			k.learn(end, used(found, end, owners))
		}
		k.until = to
	}
}

// due is which whole hours are to be read now; from is not before to if none is.
func (k *peaks) due(now time.Time) (from, to time.Time) {
	to = now.Add(-peakSettles).Truncate(time.Hour)
	from = k.until
	if oldest := to.Add(-peakPast); from.Before(oldest) {
		from = oldest
	}
	if most := from.Add(peakAtOnce); to.After(most) {
		to = most
	}
	return from, to
}

// restore takes over what a process before this one has learnt.
func (k *peaks) restore(kept []v1alpha1.LearntPeak, now time.Time) {
	if k.restored {
		return
	}
	k.restored, k.by = true, map[string]*v1alpha1.LearntPeak{}
	for _, l := range kept {
		at := l.MeasuredAt.UTC()
		if len(l.HourlyMilli) != len(convert.DayHours{}) || at.After(now) {
			continue // of a clock that was set back
		}
		k.by[l.Owner] = l.DeepCopy()
		if at.After(k.until) {
			k.until = at
		}
	}
}

// owners are the workloads of a policy's online pods, by namespace/pod, in the words
// of the scheduler, which knows the pod alone. Pods that nobody places, or of which
// there will be no other, have none.
func (w *world) owners(p *v1alpha1.ColocationPolicy) map[string]string {
	var alone convert.Owners
	out := map[string]string{}
	for _, m := range w.machines {
		if m.policy != p {
			continue
		}
		for _, pod := range m.online {
			switch key := alone.Of(pod); key.Kind {
			case "Pod", "Node", "DaemonSet":
			default:
				out[pod.Namespace+"/"+pod.Name] = key.Namespace + "/" + key.Kind + "/" + key.Name
			}
		}
	}
	return out
}

// used is what the pods of each owner used in the hour until end.
func used(found []metrics.Series, end time.Time, owners map[string]string) map[string][]int64 {
	out := map[string][]int64{}
	for _, s := range found {
		owner := owners[pod(s.Labels)]
		if owner == "" {
			continue
		}
		for _, p := range s.Points {
			if p.T.Equal(end) && !math.IsNaN(p.V) {
				out[owner] = append(out[owner], milli(p.V))
			}
		}
	}
	return out
}

// learn adds the hour until end. What is higher than what was known counts at once;
// what is lower takes a fourth of the difference away, day by day.
func (k *peaks) learn(end time.Time, use map[string][]int64) {
	hour := end.Add(-time.Hour).UTC().Hour()
	for owner, pods := range use {
		l := k.by[owner]
		if l == nil {
			l = &v1alpha1.LearntPeak{Owner: owner, HourlyMilli: slices.Repeat([]int64{-1}, len(convert.DayHours{}))}
			k.by[owner] = l
		}
		slices.Sort(pods)
		is := pods[max(int(math.Ceil(peakQuantile*float64(len(pods))))-1, 0)]
		if was := l.HourlyMilli[hour]; is < was {
			is = was - (was-is)/4
		}
		l.HourlyMilli[hour] = is
		l.PeakMilli, l.Pods, l.MeasuredAt = slices.Max(l.HourlyMilli), int32(len(pods)), metav1.NewTime(end)
	}
}

// known is what a policy's status tells: of workloads that were measured lately, the
// highest, by owner.
func (k *peaks) known(now time.Time) []v1alpha1.LearntPeak {
	var out []v1alpha1.LearntPeak
	for owner, l := range k.by {
		if now.Sub(l.MeasuredAt.Time) > convert.PeakLasts {
			delete(k.by, owner)
			continue
		}
		out = append(out, *l.DeepCopy())
	}
	slices.SortFunc(out, func(a, b v1alpha1.LearntPeak) int {
		return cmp.Or(cmp.Compare(b.PeakMilli, a.PeakMilli), strings.Compare(a.Owner, b.Owner))
	})
	for _, l := range out[min(len(out), mostOwners):] {
		delete(k.by, l.Owner)
	}
	out = out[:min(len(out), mostOwners)]
	slices.SortFunc(out, func(a, b v1alpha1.LearntPeak) int { return strings.Compare(a.Owner, b.Owner) })
	return out
}
