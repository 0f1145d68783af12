package scenario

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/sim/series"
)

// readClasses keeps the named sets of fields that modules build on.
func (r *reading) readClasses(n *yaml.Node) {
	m := target(n)
	if m.Kind != yaml.MappingNode {
		r.fail(n, "classes", "here must be names with the fields of a module each, not %s", kindName(m))
		return
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		name := m.Content[i].Value
		if r.classes[name] != nil {
			r.fail(m.Content[i], at("classes", name), "given twice; remove one")
			continue
		}
		r.classes[name] = m.Content[i+1]
		// Read it once on its own, so that what is wrong is said here and once.
		var m2 Module
		d := r.draft(&m2)
		r.mapping(m.Content[i+1], at("classes", name), d.classTable(r))
	}
}

// A draft is a module while its fields are read.
type draft struct {
	m       *Module
	class   string
	kind    string
	series  string
	load    Demand
	sigma   float64
	hasLoad bool
	nodes   map[string]*yaml.Node // where a field was read last
}

func (r *reading) draft(m *Module) *draft { return &draft{m: m, nodes: map[string]*yaml.Node{}} }

// table returns the fields of a module. Reading it twice, class first, lets the
// module's own fields win.
func (d *draft) table(r *reading) table {
	m := d.m
	note := func(name string, f func(*yaml.Node, string)) func(*yaml.Node, string) {
		return func(n *yaml.Node, field string) { d.nodes[name] = n; f(n, field) }
	}
	work := func() *Work {
		if m.Work == nil {
			m.Work = &Work{Pods: 1}
		}
		return m.Work
	}
	t := table{
		"class":     into(r.decoder, &d.class, parseText),
		"name":      into(r.decoder, &m.Name, parseLabel),
		"namespace": into(r.decoder, &m.Namespace, parseLabel),
		"kind":      into(r.decoder, &d.kind, parseText),
		"features":  d.readFeatures(r),
		"pools": func(n *yaml.Node, field string) {
			m.Pools = nil
			r.list(n, field, func(n *yaml.Node, field string) {
				var p string
				into(r.decoder, &p, parseLabel)(n, field)
				switch {
				case p == "":
				case slices.Contains(m.Pools, p):
					r.fail(n, field, "the pool %s is named twice; remove one", p)
				case r.s.Pool(p) == nil:
					var names []string
					for i := range r.s.Pools {
						names = append(names, r.s.Pools[i].Name)
					}
					r.fail(n, field, "there is no pool called %s; %s", p, hint(p, names))
				default:
					m.Pools = append(m.Pools, p)
				}
			})
		},
		"replicas":         into(r.decoder, &m.Replicas, whole(0, 20000)),
		"schedule":         r.steps(&m.Schedule, "replicas", 20000),
		"elastic":          d.elastic(r),
		"alone":            into(r.decoder, &m.Alone, parseBool),
		"colocate":         into(r.decoder, &m.Colocate, parseBool),
		"requests":         r.vector(&m.Requests),
		"limits":           r.vector(&m.Limits),
		"gpu":              r.gpuNeed(&m.GPU),
		"baseCPU":          into(r.decoder, &m.Needs.BaseCPU, parseCPU),
		"cpuPerRequest":    into(r.decoder, &m.Needs.CPUPerRequest, positive),
		"gpuPerRequest":    into(r.decoder, &m.Needs.GPUPerRequest, positive),
		"baseMemory":       into(r.decoder, &m.Needs.BaseMemory, parseMemory),
		"memoryPerRequest": into(r.decoder, &m.Needs.MemoryPerRequest, parseMemory),
		"serviceTime":      into(r.decoder, &m.Needs.ServiceTime, positive),
		"concurrency":      into(r.decoder, &m.Needs.Concurrency, whole(1, 100000)),
		"timeout":          into(r.decoder, &m.Needs.Timeout, positive),
		"start": func(n *yaml.Node, field string) {
			r.mapping(n, field, table{
				"schedule":  r.quantiles(&m.Start.Schedule),
				"imagePull": r.quantiles(&m.Start.ImagePull),
				"modelLoad": r.quantiles(&m.Start.ModelLoad),
				"readiness": r.quantiles(&m.Start.Readiness),
			})
		},
		"load": func(n *yaml.Node, field string) {
			d.hasLoad = true
			r.mapping(n, field, table{
				"series": note("series", into(r.decoder, &d.series, parseText)),
				"peak":   note("peak", into(r.decoder, &d.load.Peak, number(0, 1e9))),
				"trough": note("trough", into(r.decoder, &d.load.Trough, number(0, 1e9))),
				"shift":  into(r.decoder, &d.load.Shift, parseDuration),
				"noise":  into(r.decoder, &d.sigma, ratio),
			})
		},
		"targets": func(n *yaml.Node, field string) {
			r.mapping(n, field, table{
				"success": into(r.decoder, &m.Targets.SuccessMicros, share(1_000_000)),
				"p99":     into(r.decoder, &m.Targets.P99, positive),
			})
		},
		"cron":    func(n *yaml.Node, field string) { into(r.decoder, &work().Cron, parseCron)(n, field) },
		"jobs":    func(n *yaml.Node, field string) { r.steps(&work().Jobs, "jobs", 20000)(n, field) },
		"pods":    func(n *yaml.Node, field string) { into(r.decoder, &work().Pods, whole(1, 1000))(n, field) },
		"runTime": func(n *yaml.Node, field string) { r.quantiles(&work().RunTime)(n, field) },
		"use":     func(n *yaml.Node, field string) { r.vector(&work().Use)(n, field) },
	}
	for name, f := range t {
		t[name] = note(name, f)
	}
	return t
}

// classTable returns the fields that a class may have.
func (d *draft) classTable(r *reading) table {
	t := d.table(r)
	delete(t, "class")
	delete(t, "name")
	return t
}

// parseCron checks the five fields of a cron expression.
func parseCron(s string) (string, error) {
	if strings.Contains(s, "TZ=") {
		return "", fmt.Errorf("%q names a zone; the scenario's zone holds, remove it", s)
	}
	if _, err := cron.ParseStandard(s); err != nil {
		return "", fmt.Errorf("%q is not a cron schedule such as \"*/10 * * * *\": %w", s, err)
	}
	return s, nil
}

// readFeatures reads {live-class: 60%, homework: 40%}, or one name.
func (d *draft) readFeatures(r *reading) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		m := target(n)
		d.m.Features = nil
		if m.Kind == yaml.ScalarNode && m.Value != "" {
			d.m.Features = []workload.Feature{{Name: m.Value, ShareMillis: 1000}}
			return
		}
		if m.Kind != yaml.MappingNode {
			r.fail(n, field, "here must be a feature, or features with shares such as {live-class: 60%%, homework: 40%%}")
			return
		}
		sum := int64(0)
		for i := 0; i+1 < len(m.Content); i += 2 {
			var v int64
			into(r.decoder, &v, share(1000))(m.Content[i+1], at(field, m.Content[i].Value))
			sum += v
			if slices.ContainsFunc(d.m.Features, func(f workload.Feature) bool { return f.Name == m.Content[i].Value }) {
				r.fail(m.Content[i], at(field, m.Content[i].Value), "given twice; remove one")
			}
			d.m.Features = append(d.m.Features, workload.Feature{Name: m.Content[i].Value, ShareMillis: v})
		}
		slices.SortFunc(d.m.Features, func(a, b workload.Feature) int { return strings.Compare(a.Name, b.Name) })
		if sum != 1000 {
			r.fail(n, field, "the shares add up to %d.%d%%; they must make 100%%", sum/10, sum%10)
		}
	}
}

func (r *reading) module(n *yaml.Node, field string) {
	var m Module
	d := r.draft(&m)
	body := target(n)
	for i := 0; body.Kind == yaml.MappingNode && i+1 < len(body.Content); i += 2 {
		if body.Content[i].Value != "class" {
			continue
		}
		name := body.Content[i+1].Value
		class := r.classes[name]
		if class == nil {
			r.fail(body.Content[i+1], at(field, "class"), "there is no class called %s; %s", name, hint(name, slices.Sorted(maps.Keys(r.classes))))
			continue
		}
		before := len(r.errs)
		r.mapping(class, at("classes", name), d.classTable(r))
		r.errs = r.errs[:before] // said where the class was read
	}
	r.mapping(n, field, d.table(r))
	if body.Kind != yaml.MappingNode {
		return
	}
	if !r.finish(d, n, field) {
		return
	}
	if first := r.nodes[m.Key().String()]; first != nil {
		r.fail(n, at(field, "name"), "%s/%s is already in line %d; give one another name", m.Namespace, m.Name, first.Line)
		return
	}
	r.nodes[m.Key().String()] = n
	r.s.Modules = append(r.s.Modules, m)
}

// finish checks what was read of a module and resolves what it names. It
// reports whether the module has a name at least.
func (r *reading) finish(d *draft, n *yaml.Node, field string) bool {
	m := d.m
	need := func(ok bool, name, why string) {
		if !ok && d.nodes[name] == nil {
			r.fail(n, at(field, name), "missing; %s", why)
		}
	}
	wrong := func(name, format string, args ...any) {
		w := d.nodes[name]
		if w == nil {
			w = n
		}
		if name == "series" || name == "trough" {
			name = "load." + name
		}
		r.fail(w, at(field, name), format, args...)
	}
	m.Kind = Kind(d.kind)
	need(m.Name != "", "name", "a module needs a name")
	need(m.Namespace != "", "namespace", "a module needs a namespace")
	need(d.kind != "", "kind", "write online, inference, batch or cron")
	need(m.Requests[resource.CPU] > 0 && m.Requests[resource.Memory] > 0, "requests", "write {cpu: 500m, memory: 1Gi}")
	if m.Name == "" || m.Namespace == "" {
		return false
	}
	if d.nodes["requests"] != nil && (m.Requests[resource.CPU] <= 0 || m.Requests[resource.Memory] <= 0) {
		wrong("requests", "a module must request some cpu and some memory")
	}
	if m.GPU != nil {
		if m.Requests[resource.GPU] != 0 {
			wrong("gpu", "requests has a gpu, too; GPUs that nobody shares are in requests, pieces in gpu: keep one of the two")
		}
		m.Requests[resource.GPU] = m.GPU.Milli * int64(m.GPU.Count)
	}
	for _, k := range resource.All {
		if l := m.Limits[k]; l > 0 && l < m.Requests[k] {
			wrong("limits", "the limit of %s is below the request; raise it to at least that", k)
		}
	}
	if m.Limits[resource.GPU] > 0 && m.Limits[resource.GPU] != m.Requests[resource.GPU] {
		wrong("limits", "the limit of gpu must be the request; leave it out")
	}

	switch m.Kind {
	case Online, Inference:
		if m.Work != nil {
			for _, f := range []string{"cron", "jobs", "pods", "runTime", "use"} {
				if d.nodes[f] != nil {
					wrong(f, "only batch and cron modules have it; remove it, or change the kind")
				}
			}
			m.Work = nil
		}
		need(d.hasLoad, "load", "write {series: NAME, peak: 1000, trough: 20}")
		need(d.nodes["replicas"] != nil || d.nodes["schedule"] != nil, "replicas", "how many pods run?")
		if len(m.Schedule) > 0 && d.nodes["replicas"] == nil {
			m.Replicas = m.Schedule[len(m.Schedule)-1].Count
		}
		if m.Needs.Concurrency == 0 {
			m.Needs.Concurrency = 64
		}
		if m.Needs.Timeout == 0 {
			m.Needs.Timeout = 10 * time.Second
		}
		if m.Kind == Inference && m.Requests[resource.GPU] == 0 && m.Needs.GPUPerRequest > 0 {
			wrong("gpuPerRequest", "it needs a GPU, but the module requests none; add gpu to requests")
		}
		if d.hasLoad {
			r.load(d, field, wrong)
		}
	case Batch, Cron:
		for _, f := range []string{"load", "replicas", "schedule", "targets", "elastic"} {
			if d.nodes[f] != nil {
				wrong(f, "only online and inference modules have it; remove it, or change the kind")
			}
		}
		m.Load, m.Replicas, m.Schedule, m.Elastic = nil, 0, nil, nil
		if m.Work == nil {
			m.Work = &Work{Pods: 1}
		}
		need(len(m.Work.RunTime) > 0, "runTime", "write {p50: 5m, p95: 12m, max: 20m}")
		if m.Kind == Batch {
			need(len(m.Work.Jobs) > 0, "jobs", "write [{at: \"01:00\", jobs: 20}, {at: \"06:00\", jobs: 0}]")
			if d.nodes["cron"] != nil {
				wrong("cron", "a batch module has jobs, not a cron schedule; change the kind to cron, or remove it")
			}
		} else {
			need(m.Work.Cron != "", "cron", "write \"*/10 * * * *\"")
			if d.nodes["jobs"] != nil {
				wrong("jobs", "a cron module has a cron schedule, not jobs; change the kind to batch, or remove it")
			}
		}
		if m.Work.Use.IsZero() {
			m.Work.Use = m.Requests
		}
	default:
		if d.kind != "" {
			kinds := []string{string(Online), string(Inference), string(Batch), string(Cron)}
			wrong("kind", "%q is no kind of module; %s", d.kind, hint(d.kind, kinds))
		}
	}

	if len(m.Pools) == 0 && d.nodes["pools"] == nil {
		for i := range r.s.Pools {
			if !r.s.Pools[i].Taint {
				m.Pools = append(m.Pools, r.s.Pools[i].Name)
			}
		}
		if len(m.Pools) == 0 && len(r.s.Pools) > 0 {
			r.fail(n, at(field, "pools"), "every pool is tainted or serverless, so name those that the module may use")
		}
	}
	r.finishGPU(d, wrong)
	r.finishColocate(m, wrong)
	if !slices.ContainsFunc(m.Pools, func(p string) bool {
		pool := r.s.Pool(p)
		return pool.Kind == Serverless || pool.Allocatable.IsZero() || m.Requests.Fits(pool.Allocatable)
	}) && len(m.Pools) > 0 {
		wrong("requests", "no machine of the pools %s is large enough for one pod; lower the requests or name another pool", strings.Join(m.Pools, ", "))
	}
	r.finishElastic(d, n, field)
	return true
}

// load resolves the series of a module.
func (r *reading) load(d *draft, field string, wrong func(name, format string, args ...any)) {
	c, ok := r.curves[d.series]
	switch {
	case d.series == "":
		wrong("load", "series is missing; name one of the scenario's series")
		return
	case !ok:
		wrong("series", "there is no series called %s; %s", d.series, hint(d.series, slices.Sorted(maps.Keys(r.curves))))
		return
	case d.load.Trough > d.load.Peak:
		wrong("trough", "the trough of %v is above the peak of %v; swap them", d.load.Trough, d.load.Peak)
		return
	case c.curve == nil:
		return // it was said where the series is defined
	}
	l := d.load
	l.Name, l.Curve, l.Low, l.High = d.series, c.curve, c.low, c.high
	l.Noise = series.Noise{Sigma: d.sigma, Rho: 0.9, Seed: r.s.Seed ^ hash("module/"+d.m.Key().String())}
	d.m.Load = &l
}

func (r *reading) event(n *yaml.Node, field string) {
	var e Event
	var when string
	actions := 0
	one := func(f func(*yaml.Node, string)) func(*yaml.Node, string) {
		return func(n *yaml.Node, field string) { actions++; f(n, field) }
	}
	seen := r.mapping(n, field, table{
		"at":     into(r.decoder, &when, parseText),
		"reason": into(r.decoder, &e.Reason, parseText),
		"scale": one(func(n *yaml.Node, field string) {
			e.Scale = &Scale{}
			seen := r.mapping(n, field, table{"module": r.moduleRef(&e.Scale.Module), "replicas": into(r.decoder, &e.Scale.Replicas, whole(0, 20000))})
			r.require(seen, n, field, "module", "replicas")
			r.onlyOnline(&e.Scale.Module, n, field)
		}),
		"resize": one(func(n *yaml.Node, field string) {
			e.Resize = &Resize{}
			var req, lim resource.Vector
			seen := r.mapping(n, field, table{"module": r.moduleRef(&e.Resize.Module), "requests": r.vector(&req), "limits": r.vector(&lim)})
			r.require(seen, n, field, "module", "requests")
			r.later = append(r.later, func() {
				if m := r.s.Module(e.Resize.Module); m != nil {
					if m.GPU != nil && (req[resource.GPU] != 0 || lim[resource.GPU] != 0) {
						r.fail(n, field, "pieces of GPUs cannot be resized in place; deploy a version with another gpu")
					}
					// What is not named stays as it is.
					for _, k := range resource.All {
						if req[k] == 0 {
							req[k] = m.Requests[k]
						}
						if lim[k] == 0 && m.Limits[k] > 0 {
							lim[k] = max(m.Limits[k], req[k])
						}
						if lim[k] > 0 && lim[k] < req[k] {
							r.fail(n, at(field, "limits"), "the limit of %s is below the request", k)
						}
					}
					e.Resize.Requests, e.Resize.Limits = req, lim
				}
			})
		}),
		"price": one(func(n *yaml.Node, field string) { e.Price = r.priceChange(n, field) }),
		"machines": one(func(n *yaml.Node, field string) {
			e.Machines = &MachineCount{}
			seen := r.mapping(n, field, table{"pool": into(r.decoder, &e.Machines.Pool, parseText), "count": into(r.decoder, &e.Machines.Count, whole(0, 5000))})
			r.require(seen, n, field, "pool", "count")
			p := r.s.Pool(e.Machines.Pool)
			switch {
			case seen["pool"] == nil:
			case p == nil:
				var names []string
				for i := range r.s.Pools {
					names = append(names, r.s.Pools[i].Name)
				}
				r.fail(seen["pool"], at(field, "pool"), "there is no pool called %s; %s", e.Machines.Pool, hint(e.Machines.Pool, names))
			case p.Kind == Serverless:
				r.fail(seen["pool"], at(field, "pool"), "a serverless pool has no machines")
			case p.Limit > 0 && e.Machines.Count > p.Limit:
				r.fail(seen["count"], at(field, "count"), "%d machines are more than the pool's limit of %d", e.Machines.Count, p.Limit)
			}
		}),
		"deploy": one(func(n *yaml.Node, field string) { e.Deploy = r.deploy(n, field) }),
		"load": one(func(n *yaml.Node, field string) {
			e.Load = &LoadChange{Factor: 1}
			var span time.Duration
			seen := r.mapping(n, field, table{"module": r.moduleRef(&e.Load.Module), "factor": into(r.decoder, &e.Load.Factor, number(0, 1000)), "for": into(r.decoder, &span, positive)})
			r.require(seen, n, field, "module", "factor", "for")
			r.onlyOnline(&e.Load.Module, n, field)
			e.Load.Until = time.Time{}.Add(span) // made absolute below
		}),
		"sick":   one(func(n *yaml.Node, field string) { e.Sick = r.sick(n, field) }),
		"repack": one(func(n *yaml.Node, field string) { e.Repack = r.repack(n, field) }),
	})
	if seen["at"] == nil {
		r.fail(n, at(field, "at"), "missing; write how long after the start, such as 20h15m")
	} else if d, err := time.ParseDuration(when); err == nil && d >= 0 {
		e.At = r.s.Start.Add(d)
	} else if t, err := r.parseStart(when); err == nil && !t.Before(r.s.Start) {
		e.At = t
	} else {
		r.fail(seen["at"], at(field, "at"), "%q is neither a time after the start such as 20h15m, nor a date and time after it", when)
	}
	if actions != 1 {
		r.fail(n, field, "an event does one thing: scale, resize, price, machines, deploy, load, sick or repack; here are %d", actions)
		return
	}
	if e.Load != nil {
		e.Load.Until = e.At.Add(e.Load.Until.Sub(time.Time{}))
	}
	if e.Sick != nil {
		e.Sick.Until = e.At.Add(e.Sick.Until.Sub(time.Time{}))
	}
	r.s.Events = append(r.s.Events, e)
}

func (r *reading) require(seen map[string]*yaml.Node, n *yaml.Node, field string, names ...string) {
	for _, name := range names {
		if seen[name] == nil {
			r.fail(n, at(field, name), "missing; the event needs it")
		}
	}
}

// moduleRef reads "namespace/name".
func (r *reading) moduleRef(to *workload.Key) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		s, ok := r.text(n, field)
		if !ok {
			return
		}
		var names []string
		for i := range r.s.Modules {
			m := &r.s.Modules[i]
			if name := m.Namespace + "/" + m.Name; name == s {
				*to = m.Key()
				return
			} else {
				names = append(names, name)
			}
		}
		r.fail(n, field, "there is no module %s; write namespace/name, %s", s, hint(s, names))
	}
}

func (r *reading) onlyOnline(key *workload.Key, n *yaml.Node, field string) {
	if m := r.s.Module(*key); m != nil && m.Load == nil && m.Work != nil {
		r.fail(n, at(field, "module"), "%s/%s has no load and no replicas; name an online or inference module", m.Namespace, m.Name)
	}
}

func (r *reading) priceChange(n *yaml.Node, field string) *PriceChange {
	var name string
	var t machine.Type
	m := target(n)
	for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == "machineType" {
			t = r.types[m.Content[i+1].Value]
		}
	}
	was := t.List
	seen := r.mapping(n, field, table{
		"machineType":  into(r.decoder, &name, parseText),
		"pricePerHour": into(r.decoder, &t.List, parsePrice),
		"discount":     into(r.decoder, &t.DiscountMillis, share(1000)),
		"perCoreHour":  into(r.decoder, &t.UnitList[resource.CPU], parsePrice),
		"perGiBHour":   into(r.decoder, &t.UnitList[resource.Memory], parsePrice),
		"perGPUHour":   into(r.decoder, &t.UnitList[resource.GPU], parsePrice),
	})
	r.require(seen, n, field, "machineType")
	if seen["machineType"] != nil && t.Name == "" {
		r.fail(seen["machineType"], at(field, "machineType"), "no pool of the scenario uses the machine type %s; %s", name, hint(name, slices.Sorted(maps.Keys(r.types))))
	}
	if len(seen) < 2 {
		r.fail(n, field, "no new price; give pricePerHour, discount, perCoreHour or perGiBHour")
	}
	return &PriceChange{Type: t, Was: was}
}

// deploy reads a new version of a module: its fields, as far as they change.
func (r *reading) deploy(n *yaml.Node, field string) *Deploy {
	dep := &Deploy{}
	m := target(n)
	for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == "module" {
			r.moduleRef(&dep.Module)(m.Content[i+1], at(field, "module"))
		}
	}
	was := r.s.Module(dep.Module)
	if was == nil {
		if m.Kind != yaml.MappingNode || dep.Module == (workload.Key{}) && !slices.ContainsFunc(m.Content, func(k *yaml.Node) bool { return k.Value == "module" }) {
			r.fail(n, at(field, "module"), "missing; the event needs it")
		}
		return dep
	}
	dep.Spec = *was
	if was.Work != nil {
		r.fail(n, at(field, "module"), "only online and inference modules are deployed while they run")
		return dep
	}
	if was.GPU != nil {
		dep.Spec.Requests[resource.GPU] = 0 // it follows from gpu
	}
	d := r.draft(&dep.Spec)
	d.kind, d.hasLoad = string(was.Kind), false
	t := d.table(r)
	for _, fixed := range []string{"class", "name", "namespace", "kind", "load", "replicas", "schedule", "elastic", "cron", "jobs", "pods", "runTime", "use"} {
		delete(t, fixed)
	}
	t["module"] = func(*yaml.Node, string) {}
	seen := r.mapping(n, field, t)
	if len(seen) < 2 {
		r.fail(n, field, "nothing changes; give fields of the module, such as cpuPerRequest")
	}
	// Loads and replicas are the module's, so the checks of finish hold.
	for _, f := range []string{"load", "replicas"} {
		d.nodes[f] = n
	}
	r.finish(d, n, field)
	return dep
}
