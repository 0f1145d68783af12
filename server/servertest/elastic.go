package servertest

import (
	"math"
	"strings"
	"time"
)

// scaled names the modules with an ElasticPolicy; the policy has the module's name.
var scaled = []string{"live/chat", "live/gateway", "homework/api", "search/query"}

// elasticPools are where those policies' replicas may be: how many at most.
var elasticPools = []struct {
	name string
	max  float64
}{{steady, 8}, {gpu, 3}, {burst, 1000}}

// layers is what a made-up arbiter says of m at t: a cron floor in the evening,
// a class at eight, a forecast 10 minutes ahead, and the load as it is.
func (m *module) layers(t time.Time) (of map[string]float64, winner string) {
	want := func(at time.Time) float64 { return math.Ceil(m.load(at) / m.each / 0.6) }
	of = map[string]float64{"reactive": want(t.Add(-time.Minute))}
	if lt := t.In(Zone); lt.Hour() >= 18 && lt.Hour() < 22 {
		of["cron"] = math.Ceil(m.peak / m.each)
	}
	if lt := t.In(Zone); lt.Hour() == 19 && lt.Minute() >= 40 || lt.Hour() == 20 && lt.Minute() < 15 {
		of["timetable"] = math.Ceil(1.9 * m.peak / m.each)
	}
	of["forecast"] = math.Ceil(1.08 * want(t.Add(10*time.Minute)))
	for _, layer := range []string{"reactive", "forecast", "cron", "timetable"} {
		if v, ok := of[layer]; ok && v > of["desired"] {
			of["desired"], winner = v, layer
		}
	}
	of["current"] = of["desired"]
	return of, winner
}

// ready is how many of m's replicas are ready: what was desired five minutes ago,
// and in a lecture that nobody announced not enough.
func (m *module) ready(t time.Time) float64 {
	was, _ := m.layers(t.Add(-5 * time.Minute))
	now, _ := m.layers(t)
	n := min(was["desired"], now["desired"])
	if lt := t.In(Zone); m.weak && lt.Hour() == 12 && lt.Minute() < 25 {
		n = math.Floor(m.load(t) / m.each * 0.8)
	}
	return n
}

// elastic answers the questions about the scaler's metrics; ok is false for others.
func (f *Fleet) elastic(query string, series func(labels map[string]string, value func(time.Time) float64)) (ok bool) {
	metric, selector, _ := strings.Cut(query, "{")
	if !strings.HasPrefix(metric, "neap_elastic_") {
		return false
	}
	for i := range f.modules {
		m := &f.modules[i]
		for _, name := range scaled {
			if m.key.Namespace+"/"+m.key.Name != name || selector != "" && !strings.Contains(selector, `namespace="`+m.key.Namespace+`",policy="`+m.key.Name+`"`) {
				continue
			}
			with := func(more ...string) map[string]string {
				l := map[string]string{"namespace": m.key.Namespace, "policy": m.key.Name}
				for i := 0; i < len(more); i += 2 {
					l[more[i]] = more[i+1]
				}
				return l
			}
			f.elasticOf(m, metric, with, series)
		}
	}
	return true
}

func (f *Fleet) elasticOf(m *module, metric string, with func(more ...string) map[string]string, series func(map[string]string, func(time.Time) float64)) {
	one := func(time.Time) float64 { return 1 }
	switch metric {
	case "neap_elastic_policy_info":
		series(with("kind", m.key.Kind, "target", m.key.Name, "mode", "Auto"), one)
	case "neap_elastic_needed":
		series(with(), func(t time.Time) float64 { return m.load(t) / m.each })
	case "neap_elastic_scale_in_violations_total":
		series(with(), func(time.Time) float64 { return 0 })
	case "neap_elastic_start_p95_seconds":
		for i, p := range elasticPools {
			series(with("pool", p.name), func(time.Time) float64 { return []float64{38, 44, 9}[i] })
		}
	case "neap_elastic_replicas", "neap_elastic_winner":
		for _, layer := range []string{"cron", "timetable", "forecast", "reactive", "desired", "current"} {
			series(with("layer", layer), func(t time.Time) float64 {
				of, winner := m.layers(t)
				if metric == "neap_elastic_winner" {
					if layer != winner {
						return math.NaN()
					}
					return 1
				}
				if v, ok := of[layer]; ok {
					return v
				}
				return math.NaN()
			})
		}
		if metric == "neap_elastic_replicas" {
			series(with("layer", "ready"), m.ready)
		}
	case "neap_elastic_pool_replicas":
		for k, p := range elasticPools {
			of := func(total float64) float64 {
				for _, before := range elasticPools[:k] {
					total -= min(total, before.max)
				}
				return min(total, p.max)
			}
			series(with("pool", p.name, "state", "planned"), func(t time.Time) float64 { l, _ := m.layers(t); return of(l["desired"]) })
			series(with("pool", p.name, "state", "running"), func(t time.Time) float64 { return of(m.ready(t)) })
		}
	}
}
