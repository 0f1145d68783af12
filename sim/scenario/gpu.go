package scenario

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/resource"
)

// A GPUNeed is what one pod of a module asks of GPUs that it may share.
type GPUNeed struct {
	GPUAmount
	Count  int            // GPUs, each of which it asks the same of
	Models []GPUModelNeed // acceptable models, most wanted first; empty takes any
}

// A GPUAmount is a piece of one GPU.
type GPUAmount struct {
	Milli  int64 // thousandths of its compute
	Memory int64 // MiB; 0 asks for none
}

// A GPUModelNeed is what a pod asks of each GPU of one model.
type GPUModelNeed struct {
	Model string
	GPUAmount
}

// On returns what a pod asks of each GPU of a model, and whether it takes the model.
func (g *GPUNeed) On(model string) (GPUAmount, bool) {
	for _, m := range g.Models {
		if m.Model == model {
			return m.GPUAmount, true
		}
	}
	return g.GPUAmount, len(g.Models) == 0
}

// A Sickness makes a GPU sick for a while: nothing more is put on it.
type Sickness struct {
	GPU   MachineGPU
	Why   string
	Until time.Time
}

// A MachineGPU is one GPU of a machine.
type MachineGPU struct {
	Pool    string
	Machine int // of the pool, counted from 0
	GPU     int // of the machine, counted from 0
}

// A Repack makes a RepackPlan.
type Repack struct {
	Name, Goal, Mode                 string
	MovesPerHour, MaxMoves, Parallel int           // 0 leaves them to Neap
	Cooldown                         time.Duration // likewise
}

var modelName = regexp.MustCompile(`^[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?$`)

func parseModel(s string) (string, error) {
	if !modelName.MatchString(s) {
		return "", fmt.Errorf("%q is not a model such as T4 or Tesla-V100-32G", s)
	}
	return s, nil
}

// parseMiB reads memory as MiB, of which it must be a whole number.
func parseMiB(s string) (int64, error) {
	v, err := parseMemory(s)
	switch {
	case err != nil:
		return 0, err
	case v <= 0 || v%resource.MiB != 0:
		return 0, fmt.Errorf("%q is not a whole number of MiB such as 8Gi", s)
	case v>>30 > 1<<10:
		return 0, fmt.Errorf("%q is more than any GPU has", s)
	}
	return v / resource.MiB, nil
}

func milli(s string) (int64, error) {
	v, err := whole(1, gpu.Whole)(s)
	return int64(v), err
}

// amount are the fields of a piece of a GPU.
func (r *reading) amount(a *GPUAmount) table {
	return table{"milli": into(r.decoder, &a.Milli, milli), "memory": into(r.decoder, &a.Memory, parseMiB)}
}

// gpuNeed reads {milli: 470, memory: 7Gi, count: 1, models: {T4: {}, P100: {milli: 650}}}.
func (r *reading) gpuNeed(to **GPUNeed) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		g := &GPUNeed{Count: 1}
		*to = g
		var models *yaml.Node
		t := r.amount(&g.GPUAmount)
		t["count"] = into(r.decoder, &g.Count, whole(1, gpu.MaxDevices))
		t["models"] = func(n *yaml.Node, _ string) { models = target(n) }
		seen := r.mapping(n, field, t)
		if seen["milli"] == nil {
			r.fail(n, at(field, "milli"), "missing; how many thousandths of each GPU does a pod need?")
		}
		if models == nil {
			return
		}
		if models.Kind != yaml.MappingNode || len(models.Content) == 0 {
			r.fail(models, at(field, "models"), "here must be models with what differs on them, such as {T4: {}, P100: {milli: 650}}")
			return
		}
		for i := 0; i+1 < len(models.Content); i += 2 {
			k, v := models.Content[i], models.Content[i+1]
			m := GPUModelNeed{GPUAmount: g.GPUAmount}
			f := at(at(field, "models"), k.Value)
			into(r.decoder, &m.Model, parseModel)(k, f)
			r.mapping(v, f, r.amount(&m.GPUAmount))
			switch {
			case slices.ContainsFunc(g.Models, func(o GPUModelNeed) bool { return o.Model == m.Model }):
				r.fail(k, f, "given twice; remove one")
			case m.Milli < g.Milli || m.Memory < g.Memory:
				r.fail(v, f, "less than gpu.milli or gpu.memory, which are the least that any model needs; lower those")
			default:
				g.Models = append(g.Models, m)
			}
		}
	}
}

// finishGPU checks what a module asks of GPUs against the machines of its pools.
func (r *reading) finishGPU(d *draft, wrong func(name, format string, args ...any)) {
	m, g := d.m, d.m.GPU
	if g == nil {
		return
	}
	if len(m.Pools) == 0 {
		return
	}
	var there []string
	for _, name := range m.Pools {
		p := r.s.Pool(name)
		if p == nil || p.GPUModel == "" {
			continue
		}
		a, ok := g.On(p.GPUModel)
		if ok && a.Memory <= p.GPUMemory && int64(g.Count)*1000 <= p.Capacity[resource.GPU] {
			return
		}
		if !slices.Contains(there, p.GPUModel) {
			there = append(there, p.GPUModel)
		}
	}
	if len(there) == 0 {
		wrong("gpu", "no machine of the pools %s has GPUs to share; give its type a gpuModel and gpuMemory, or name another pool", strings.Join(m.Pools, ", "))
		return
	}
	wrong("gpu", "no machine of its pools has %d such GPUs; they have %s: ask for less memory, fewer GPUs or another model", g.Count, strings.Join(there, ", "))
}

// sick reads {pool: g2, machine: 3, gpu: 1, for: 45m, why: text}.
func (r *reading) sick(n *yaml.Node, field string) *Sickness {
	e := &Sickness{Why: "simulated: Xid 79, GPU has fallen off the bus"}
	g := &e.GPU
	var span time.Duration
	seen := r.mapping(n, field, table{
		"pool":    into(r.decoder, &g.Pool, parseText),
		"machine": into(r.decoder, &g.Machine, whole(0, 5000)),
		"gpu":     into(r.decoder, &g.GPU, whole(0, gpu.MaxDevices-1)),
		"for":     into(r.decoder, &span, positive),
		"why":     into(r.decoder, &e.Why, parseText),
	})
	r.require(seen, n, field, "pool", "machine", "gpu", "for")
	e.Until = time.Time{}.Add(span) // made absolute with the event's time
	p := r.s.Pool(g.Pool)
	switch {
	case seen["pool"] == nil:
	case p == nil:
		var names []string
		for i := range r.s.Pools {
			names = append(names, r.s.Pools[i].Name)
		}
		r.fail(seen["pool"], at(field, "pool"), "there is no pool called %s; %s", g.Pool, hint(g.Pool, names))
	case p.GPUModel == "":
		r.fail(seen["pool"], at(field, "pool"), "the machines of %s have no GPUs to share", g.Pool)
	case int64(g.GPU) >= p.Capacity[resource.GPU]/1000:
		r.fail(seen["gpu"], at(field, "gpu"), "a machine of %s has %d GPUs, counted from 0", g.Pool, p.Capacity[resource.GPU]/1000)
	}
	return e
}

// repack reads {name: night, goal: Empty, mode: Execute, movesPerHour: 60}.
func (r *reading) repack(n *yaml.Node, field string) *Repack {
	e := &Repack{Mode: "DryRun"}
	oneOf := func(names ...string) func(string) (string, error) {
		return func(s string) (string, error) {
			if !slices.Contains(names, s) {
				return "", fmt.Errorf("%q is none of %s", s, strings.Join(names, ", "))
			}
			return s, nil
		}
	}
	seen := r.mapping(n, field, table{
		"name": into(r.decoder, &e.Name, parseLabel),
		// Who waits nobody knows beforehand, so there is no Admit.
		"goal":         into(r.decoder, &e.Goal, oneOf("Empty", "Evacuate")),
		"mode":         into(r.decoder, &e.Mode, oneOf("DryRun", "Execute")),
		"movesPerHour": into(r.decoder, &e.MovesPerHour, whole(1, 10000)),
		"maxMoves":     into(r.decoder, &e.MaxMoves, whole(1, 1000)),
		"parallel":     into(r.decoder, &e.Parallel, whole(1, 16)),
		"cooldown":     into(r.decoder, &e.Cooldown, positive),
	})
	r.require(seen, n, field, "name", "goal")
	if e.Cooldown > 168*time.Hour {
		r.fail(seen["cooldown"], at(field, "cooldown"), "%v is longer than a week", e.Cooldown)
	}
	for i := range r.s.Events {
		if o := r.s.Events[i].Repack; o != nil && o.Name == e.Name && e.Name != "" {
			r.fail(seen["name"], at(field, "name"), "there are two plans called %s; give one another name", e.Name)
		}
	}
	return e
}
