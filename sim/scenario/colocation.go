package scenario

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/resource"
)

// A Colocation lets batch modules use what online modules leave of the machines of
// some pools: a ColocationPolicy, in the live fleet. The replay plays batch modules
// as it plays the others.
type Colocation struct {
	Name  string
	Mode  string   // Observe, Preview or Auto
	Pools []string // whose machines it holds for; never empty

	// CPUPercent and MemoryPercent are how much of a machine online and batch
	// together may use.
	CPUPercent, MemoryPercent int
	Windows                   []ColocationWindow // in which they are less
	RunTime                   time.Duration      // of a batch pod of which nothing is known
	EvictionsPerHour          int                // 0 leaves it to Neap
}

// A ColocationWindow is a time of day at which batch gets less. A To before From
// is on the next day.
type ColocationWindow struct {
	Name       string
	From, To   time.Duration // since local midnight
	CPUPercent int           // 0: batch is out
}

// colocation reads {name: valley, pools: [general], cpu: 80%, windows: […]}.
func (r *reading) colocation(n *yaml.Node, field string) {
	c := Colocation{Mode: "Auto", CPUPercent: 80, MemoryPercent: 80, RunTime: time.Hour}
	seen := r.mapping(n, field, table{
		"name":             into(r.decoder, &c.Name, parseLabel),
		"mode":             into(r.decoder, &c.Mode, oneOf("Observe", "Preview", "Auto")),
		"pools":            r.names(&c.Pools),
		"cpu":              into(r.decoder, &c.CPUPercent, wholePercent(1)),
		"memory":           into(r.decoder, &c.MemoryPercent, wholePercent(1)),
		"runTime":          into(r.decoder, &c.RunTime, positive),
		"evictionsPerHour": into(r.decoder, &c.EvictionsPerHour, whole(1, 10000)),
		"windows": func(n *yaml.Node, field string) {
			r.list(n, field, func(n *yaml.Node, field string) { r.narrow(&c, n, field) })
		},
	})
	r.demand(seen, n, field, "an entry of colocation", "name", "pools")
	for _, name := range c.Pools {
		switch p := r.s.Pool(name); {
		case p == nil:
			var names []string
			for i := range r.s.Pools {
				names = append(names, r.s.Pools[i].Name)
			}
			r.fail(seen["pools"], at(field, "pools"), "there is no pool called %s; %s", name, hint(name, names))
		case p.Kind == Serverless:
			r.fail(seen["pools"], at(field, "pools"), "the pool %s is serverless: it has no machines of which something could be left", name)
		}
		if other := r.s.Colocation(name); other != nil {
			r.fail(seen["pools"], at(field, "pools"), "the pool %s is in %s already; remove it from one of the two", name, other.Name)
		}
	}
	if slices.ContainsFunc(r.s.Colocations, func(o Colocation) bool { return o.Name == c.Name }) && c.Name != "" {
		r.fail(seen["name"], at(field, "name"), "there are two called %s; give one another name", c.Name)
	}
	if seen["runTime"] != nil && (c.RunTime <= 0 || c.RunTime > 24*time.Hour) {
		r.fail(seen["runTime"], at(field, "runTime"), "it must be longer than 0 and at most 24h")
	}
	r.s.Colocations = append(r.s.Colocations, c)
}

// narrow reads {name: evening, from: "17:30", to: "22:30", cpu: 0%}.
func (r *reading) narrow(c *Colocation, n *yaml.Node, field string) {
	var w ColocationWindow
	seen := r.mapping(n, field, table{
		"name": into(r.decoder, &w.Name, parseLabel),
		"from": into(r.decoder, &w.From, parseTimeOfDay),
		"to":   into(r.decoder, &w.To, parseTimeOfDay),
		"cpu":  into(r.decoder, &w.CPUPercent, wholePercent(0)),
	})
	r.demand(seen, n, field, "a window", "name", "from", "to", "cpu")
	if w.From == w.To && seen["from"] != nil && seen["to"] != nil {
		r.fail(n, at(field, "to"), "it ends when it begins")
	}
	if w.CPUPercent > c.CPUPercent {
		r.fail(seen["cpu"], at(field, "cpu"), "a window gives batch less, not more than the %d%% of other times", c.CPUPercent)
	}
	c.Windows = append(c.Windows, w)
}

// wholePercent reads "80%" as 80.
func wholePercent(low int) func(string) (int, error) {
	return func(s string) (int, error) {
		v, err := whole(low, 100)(strings.TrimSuffix(s, "%"))
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole percentage from %d%% to 100%%", s, low)
		}
		return v, nil
	}
}

// finishColocate checks a module that is to use what others leave.
func (r *reading) finishColocate(m *Module, wrong func(name, format string, args ...any)) {
	switch {
	case !m.Colocate:
		return
	case m.Kind != Batch && m.Kind != Cron:
		wrong("colocate", "only batch and cron modules can wait; remove it, or change the kind")
		m.Colocate = false
		return
	case m.Requests[resource.GPU] > 0:
		wrong("colocate", "what is left over has no GPUs; remove it, or the gpu of requests")
		return
	}
	for _, name := range m.Pools {
		if r.s.Colocation(name) == nil {
			wrong("colocate", "no entry of colocation names the pool %s; add it there, or remove it here", name)
			return
		}
	}
}

// Colocation returns what holds for a pool, or nil.
func (s *Scenario) Colocation(pool string) *Colocation {
	for i := range s.Colocations {
		if slices.Contains(s.Colocations[i].Pools, pool) {
			return &s.Colocations[i]
		}
	}
	return nil
}

// demand says which fields are missing that who needs.
func (r *reading) demand(seen map[string]*yaml.Node, n *yaml.Node, field, who string, names ...string) {
	for _, name := range names {
		if seen[name] == nil {
			r.fail(n, at(field, name), "missing; %s needs it", who)
		}
	}
}
