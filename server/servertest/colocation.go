package servertest

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// colocated are the machines with batch work beside online services, of 16 cores each.
const colocated = 6

// colocatedAt is what machine i does at t, in thousandths of a core: in the evening
// the services need most of it and batch is out, at 17:20 one of them is squeezed for
// a while, at night batch has what is left.
func colocatedAt(i int, t time.Time) map[string]float64 {
	lt := t.In(Zone)
	hour := float64(lt.Hour()) + float64(lt.Minute())/60
	evening := math.Exp(-math.Pow((hour-20)/2.2, 2))
	noise := 200 * math.Sin(float64(lt.Minute()*(i+3)))
	online := 2600 + 9800*evening + 300*float64(i) + noise
	offered := max(0, 12_800-2600-9800*math.Exp(-math.Pow((min(hour+1, 20)-20)/2.2, 2))-300*float64(i)-800)
	if hour >= 17.5 && hour < 22.5 {
		offered = 0
	}
	budget := max(160, 12_800-online-500)
	step := "Idle"
	switch {
	case hour >= 17.5 && hour < 22.5:
		step = "None"
	case i == 2 && lt.Hour() == 16 && lt.Minute() >= 20 && lt.Minute() < 50:
		step, budget = "Quota", budget*0.4
	}
	slack := 0.6 - 0.3*evening
	if step == "Quota" && lt.Minute() < 24 {
		slack = -0.05
	}
	return map[string]float64{
		"neap_colocation_system_milli": 350, "neap_colocation_online_milli": online,
		"neap_colocation_batch_milli": min(offered*0.93, budget), "neap_colocation_budget_milli": budget,
		"neap_batch_capacity_milli": offered, "neap_batch_allocated_milli": offered * 0.95,
		"neap_colocation_slack": slack, "neap_colocation_runqueue_seconds": 0.0004 + 0.0006*evening,
		"neap_colocation_step": float64(slices.Index([]string{"None", "Idle", "Quota"}, step)),
	}
}

// colocation answers the questions about colocation; ok is false for others.
func (f *Fleet) colocation(query string, series func(labels map[string]string, value func(time.Time) float64)) (ok bool) {
	metric := ""
	for _, word := range strings.FieldsFunc(query, func(r rune) bool { return !(r == '_' || 'a' <= r && r <= 'z') }) {
		if strings.HasPrefix(word, "neap_colocation_") || strings.HasPrefix(word, "neap_batch_") {
			metric = word
		}
	}
	if metric == "" {
		return false
	}
	var machines []int
	for i := range colocated {
		if !strings.Contains(query, "node=") || strings.Contains(query, fmt.Sprintf("node=%q", machineName(i))) {
			machines = append(machines, i)
		}
	}
	if len(machines) == 0 {
		return true
	}
	each := func(of func(values []float64) float64) func(time.Time) float64 {
		return func(t time.Time) float64 {
			var v []float64
			for _, i := range machines {
				v = append(v, colocatedAt(i, t)[metric])
			}
			return of(v)
		}
	}
	sum := func(v []float64) (s float64) {
		for _, x := range v {
			s += x
		}
		return s
	}
	switch {
	case strings.Contains(query, "increase("):
		per := map[string]float64{"neap_colocation_batch_core_seconds_total": 150 * 3600, "neap_colocation_lost_core_seconds_total": 900, "neap_colocation_evictions_total": 1}[metric]
		series(nil, func(time.Time) float64 { return per * float64(len(machines)) })
	case metric == "neap_batch_earned_per_hour":
		series(map[string]string{"policy": "general", "currency": "USD"}, func(time.Time) float64 { return 1.84 })
	case strings.HasPrefix(query, "max by (step)"):
		for rung, step := range []string{"None", "Idle", "Quota"} {
			series(map[string]string{"step": step}, each(func(v []float64) float64 {
				if slices.Contains(v, float64(rung)) {
					return 1
				}
				return 0
			}))
		}
	case strings.HasPrefix(query, "sum("):
		series(nil, each(sum))
	case strings.HasPrefix(query, "min("):
		series(nil, each(slices.Min))
	case strings.HasPrefix(query, "1000 * max("):
		series(nil, each(func(v []float64) float64 { return 1000 * slices.Max(v) }))
	default: // by machine
		for _, i := range machines {
			labels := map[string]string{"node": machineName(i), "policy": "general"}
			value := func(t time.Time) float64 { return colocatedAt(i, t)[metric] }
			if metric == "neap_colocation_step" {
				for rung, step := range []string{"None", "Idle", "Quota"} {
					series(map[string]string{"node": machineName(i), "step": step}, func(t time.Time) float64 {
						if value(t) == float64(rung) {
							return 1
						}
						return 0
					})
				}
				continue
			}
			series(labels, value)
		}
	}
	return true
}

func machineName(i int) string { return fmt.Sprintf("general-%03d", i+1) }
