package player

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/sim/scenario"
)

// colocation applies what says on which machines batch uses what others leave.
func (p *Player) colocation(ctx context.Context) error {
	var all []func() error
	for i := range p.o.Scenario.Colocations {
		all = append(all, func() error { return p.apply(ctx, colocationPolicy(p.o.Scenario, &p.o.Scenario.Colocations[i])) })
	}
	return parallel(ctx, all)
}

// colocationPolicy returns the policy of an entry.
func colocationPolicy(s *scenario.Scenario, c *scenario.Colocation) *v1alpha1.ColocationPolicy {
	out := &v1alpha1.ColocationPolicy{
		TypeMeta:   typeMeta("ColocationPolicy"),
		ObjectMeta: metav1.ObjectMeta{Name: c.Name, Annotations: simulated()},
	}
	spec := &out.Spec
	spec.Mode, spec.CPUPercent, spec.MemoryPercent = v1alpha1.Mode(c.Mode), int32(c.CPUPercent), int32(c.MemoryPercent)
	spec.NodeSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: v1alpha1.LabelPool, Operator: metav1.LabelSelectorOpIn, Values: c.Pools},
	}}
	spec.Capacity.DefaultRunTime, spec.Capacity.MinimumMilli = c.RunTime.String(), 100
	spec.Ladder = v1alpha1.ColocationLadder{Idle: v1alpha1.IdleAuto, Quota: true, Memory: true, Evict: true}
	spec.Slack.RunQueueTargetMicroseconds, spec.Slack.PressurePermille = 5000, 100
	spec.Evictions.PerHour = int32(c.EvictionsPerHour)
	clock := func(d time.Duration) string { return fmt.Sprintf("%02d:%02d", int(d.Hours()), int(d.Minutes())%60) }
	for _, w := range c.Windows {
		spec.Windows = append(spec.Windows, v1alpha1.ColocationWindow{
			Name: w.Name, From: clock(w.From), To: clock(w.To), TimeZone: s.Location.String(), CPUPercent: int32(w.CPUPercent),
		})
	}
	return out
}
