// Package servertest is a small made-up fleet for tests and measurements of the
// page: 60 modules in three pools over whole days, the same every time.
//
// [New] makes the fleet, and a [Fleet] is at once the server's store, its
// metrics and its live cluster. Nothing in it was measured anywhere; it has the
// shape of an evening-peak business so that every page has something to show.
//
// Not here: the fleet that Neap simulates for real (local, sim).
package servertest

import (
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// The pools of the fleet.
const (
	steady = "steady" // machines
	gpu    = "gpu"    // GPU machines whose spare CPU runs other modules
	burst  = "burst"  // serverless
)

// A module is one made-up module.
type module struct {
	key      workload.Key
	pool     string
	features []workload.Feature
	request  resource.Vector
	peak     float64 // requests a second at the peak
	each     float64 // requests a second that one pod takes
	ratio    float64 // peak to trough
	phase    float64 // hours the peak is shifted
	idleUse  float64 // share of the request used with no load
	workUse  float64 // share of the request used at full load
	target   bool    // has a quality guard
	weak     bool    // breaks its guard in the peak
	noise    func(minute int) float64
	days     [2]int // first and last day it runs; zero means all
}

var types = []machine.Type{
	{Name: "c16.4xlarge", Capacity: resource.Vector{16000, 64 * resource.GiB, 0}, List: 680_000_000, DiscountMillis: 300, Currency: "USD", RatingMillis: 1000},
	{Name: "g48.12xlarge", Capacity: resource.Vector{48000, 192 * resource.GiB, 4000}, List: 5_670_000_000, DiscountMillis: 250, Currency: "USD", RatingMillis: 1120},
	{Name: "c16a.4xlarge", Capacity: resource.Vector{16000, 64 * resource.GiB, 0}, List: 612_000_000, DiscountMillis: 300, Currency: "USD", RatingMillis: 1310},
	{Name: "serverless", UnitList: [resource.Kinds]money.PerHour{48_600_000, 5_300_000, 1_400_000_000}, Currency: "USD", RatingMillis: 950},
}

var features = []string{"Homework help", "Live class", "Question search", "Account", "Payment", "Grading", "Reports", "Platform"}

// modules makes the 60 modules: 44 online services, 6 AI inference modules, 6
// batch jobs and 4 cron jobs.
func modules() []module {
	families := []struct {
		namespace string
		feature   int
		names     []string
	}{
		{"homework", 0, []string{"api", "upload", "image-resize", "answer-card", "draft", "history", "recommend", "notify"}},
		{"live", 1, []string{"gateway", "room", "chat", "whiteboard", "roster", "quiz", "replay-index", "signal", "attendance"}},
		{"search", 2, []string{"frontend", "query", "rank", "suggest", "snippet", "retrieval"}},
		{"account", 3, []string{"login", "profile", "session", "family", "sms", "risk"}},
		{"pay", 4, []string{"order", "cashier", "coupon", "refund", "invoice"}},
		{"grading", 5, []string{"collect", "score", "feedback", "appeal"}},
		{"report", 6, []string{"dashboard", "parent-weekly", "export"}},
		{"platform", 7, []string{"config", "gateway", "ids"}},
	}
	var all []module
	for _, f := range families {
		for i, name := range f.names {
			d := dice(f.namespace, name)
			size := []resource.Vector{{500, 1 * resource.GiB, 0}, {1000, 2 * resource.GiB, 0}, {2000, 4 * resource.GiB, 0}, {4000, 6 * resource.GiB, 0}}[int(d(1)*3.99)]
			each := 40 + 120*d(2)
			m := module{
				key:     workload.Key{Namespace: f.namespace, Kind: "Deployment", Name: name},
				pool:    steady,
				request: size,
				each:    each,
				peak:    each * (3 + 14*d(3)*d(3)),
				ratio:   10 + 60*d(4),
				phase:   d(5)*1.5 - 0.75,
				idleUse: 0.05 + 0.05*d(6),
				workUse: 0.4 + 0.4*d(7),
				target:  d(8) < 0.8,
				weak:    i == 1 && f.feature < 2,
			}
			m.target = m.target || m.weak
			m.features = []workload.Feature{{Name: features[f.feature], ShareMillis: 1000}}
			if f.feature == 7 || name == "session" {
				m.features = nil
				for j := range features {
					m.features = append(m.features, workload.Feature{Name: features[j], ShareMillis: 125})
				}
			}
			all = append(all, m)
		}
	}
	for i, name := range []string{"speech-recognition", "question-ocr", "essay-scoring", "face-check", "text-embedding", "tutor-llm"} {
		d := dice("ai", name)
		each := 4 + 8*d(1)
		all = append(all, module{
			key: workload.Key{Namespace: "ai", Kind: "Deployment", Name: name}, pool: gpu,
			features: []workload.Feature{{Name: features[[]int{1, 2, 5, 3, 2, 0}[i]], ShareMillis: 700}, {Name: features[[]int{0, 0, 0, 4, 1, 5}[i]], ShareMillis: 300}},
			request:  resource.Vector{6000, 24 * resource.GiB, []int64{1000, 500, 500, 250, 500, 1000}[i]},
			each:     each, peak: each * (2 + 4*d(2)), ratio: 8 + 10*d(3), idleUse: 0.04, workUse: 0.5 + 0.3*d(4), target: true,
		})
	}
	for i, name := range []string{"feature-store", "index-build", "log-compact", "video-transcode", "train-ranker", "warehouse"} {
		d := dice("batch", name)
		all = append(all, module{
			key: workload.Key{Namespace: "batch", Kind: "Job", Name: name}, pool: []string{steady, gpu}[i%2],
			features: []workload.Feature{{Name: features[[]int{2, 2, 7, 1, 2, 6}[i]], ShareMillis: 1000}},
			request:  resource.Vector{4000, 8 * resource.GiB, 0},
			each:     1, peak: 2 + 3*d(1), ratio: 6, phase: 11, idleUse: 0.6, workUse: 0.92,
		})
	}
	for i, name := range []string{"sync-timetable", "settle-day", "expire-coupons", "backup"} {
		all = append(all, module{
			key: workload.Key{Namespace: "cron", Kind: "CronJob", Name: name}, pool: burst,
			features: []workload.Feature{{Name: features[[]int{1, 4, 4, 7}[i]], ShareMillis: 1000}},
			request:  resource.Vector{1000, 2 * resource.GiB, 0},
			each:     1, peak: 2, ratio: 2, phase: float64(6 * i), idleUse: 0.3, workUse: 0.7,
		})
	}
	for i := range all {
		all[i].noise = dice(all[i].key.Namespace, all[i].key.Name, "noise")
		switch all[i].key.Name {
		case "tutor-llm": // starts on the second day
			all[i].days = [2]int{1, 1 << 20}
		case "replay-index": // is switched off after the first
			all[i].days = [2]int{-1, 0}
		}
	}
	slices.SortFunc(all, func(a, b module) int { return a.key.Compare(b.key) })
	return all
}

// dice returns numbers in [0,1) that depend on the names and on n alone.
func dice(names ...string) func(n int) float64 {
	h := fnv.New64a()
	for _, name := range names {
		_, _ = h.Write([]byte(name)) // a hash does not fail
		_, _ = h.Write([]byte{0})
	}
	seed := h.Sum64()
	return func(n int) float64 {
		v := seed + uint64(n)*0x9e3779b97f4a7c15 // splitmix64
		v = (v ^ v>>30) * 0xbf58476d1ce4e5b9
		v = (v ^ v>>27) * 0x94d049bb133111eb
		v ^= v >> 31
		return float64(v>>11) / (1 << 53)
	}
}

// load is the module's requests a second at t: an evening peak of about four
// hours in the fleet's zone, a smaller one at noon, a trough at night.
func (m *module) load(t time.Time) float64 {
	lt := t.In(Zone)
	h := float64(lt.Hour()) + float64(lt.Minute())/60 + float64(lt.Second())/3600 - m.phase
	bump := func(at, width float64) float64 {
		d := math.Abs(h - at)
		d = min(d, 24-math.Mod(d, 24))
		return math.Exp(-d * d / (2 * width * width))
	}
	shape := 0.30*bump(12.2, 1.6) + 0.35*bump(16.5, 2) + bump(20, 1.5)
	if wd := lt.Weekday(); wd == time.Saturday || wd == time.Sunday {
		shape *= 1.15
	} else {
		shape *= 1 + 0.025*float64(wd)
	}
	noise := 1 + 0.08*(m.noise(int(t.Unix()/60))-0.5)
	return m.peak * max(1/m.ratio, shape) * noise
}

// pods is how many pods the module has in the hour that starts at t: enough for
// the fullest quarter of an hour, and never none.
func (m *module) pods(t time.Time) int {
	if day := int(t.Sub(Start) / (24 * time.Hour)); m.days != [2]int{} && (day < m.days[0] || day > m.days[1]) {
		return 0
	}
	most := 0.0
	for q := range 4 {
		most = max(most, m.load(t.Add(time.Duration(q)*15*time.Minute)))
	}
	floor := 2
	if m.key.Kind != "Deployment" {
		floor = 1
	}
	return max(floor, int(math.Ceil(most/m.each*1.15)))
}

// use is what one of n pods uses at t.
func (m *module) use(t time.Time, n int) resource.Vector {
	full := min(1, m.load(t)/m.each/float64(n))
	var v resource.Vector
	v[resource.CPU] = int64(float64(m.request[resource.CPU]) * (m.idleUse + (m.workUse-m.idleUse)*full))
	v[resource.Memory] = int64(float64(m.request[resource.Memory]) * (0.45 + 0.25*full))
	v[resource.GPU] = int64(float64(m.request[resource.GPU]) * (m.workUse * full))
	return v
}

// host is one machine while it is being filled.
type host struct {
	name, pool string
	typ        machine.Type
	free       resource.Vector
	pods       []placed
}

type placed struct {
	m       *module
	n, of   int
	request resource.Vector
}

// fill places the pods of the hour: GPU modules on GPU machines, batch on their
// spare CPU, services on the steady pool up to its limit, the rest serverless.
// Machines are given back an hour late, as the autoscaler of the story does.
func (f *Fleet) fill(t time.Time, record bool) []*host {
	var hosts []*host
	add := func(pool string, ty machine.Type, i int) *host {
		h := &host{name: fmt.Sprintf("%s-%03d", pool, i), pool: pool, typ: ty, free: allocatable(ty)}
		hosts = append(hosts, h)
		return h
	}
	gpus, steadies := 4, 6
	if record { // what the hour before needed stays for this hour
		for _, h := range f.fill(t.Add(-time.Hour), false) {
			var i int
			if _, err := fmt.Sscanf(h.name, h.pool+"-%d", &i); err == nil {
				switch h.pool {
				case gpu:
					gpus = max(gpus, i)
				case steady:
					steadies = max(steadies, i)
				}
			}
		}
	}
	for i := range gpus {
		add(gpu, types[1], i+1)
	}
	for i := range steadies {
		add(steady, f.steadyType(t, i+1), i+1)
	}
	virtual := 0
	place := func(m *module, n, of int, pools ...string) {
		p := placed{m, n, of, m.request}
		for _, h := range hosts {
			if slices.Contains(pools, h.pool) && !h.typ.Serverless() && p.request.Fits(h.free) {
				h.free = h.free.Sub(p.request)
				h.pods = append(h.pods, p)
				return
			}
		}
		count := func(pool string) (c int) {
			for _, h := range hosts {
				if h.pool == pool {
					c++
				}
			}
			return c
		}
		switch {
		case pools[0] == gpu && m.request[resource.GPU] > 0:
			h := add(gpu, types[1], count(gpu)+1)
			h.free, h.pods = h.free.Sub(p.request), append(h.pods, p)
		case pools[0] == steady && count(steady) < 22:
			h := add(steady, f.steadyType(t, count(steady)+1), count(steady)+1)
			h.free, h.pods = h.free.Sub(p.request), append(h.pods, p)
		default:
			virtual++
			h := &host{name: fmt.Sprintf("virtual-%s/%s/%s", burst, m.key.Namespace, podName(m, n)), pool: burst, typ: types[3], pods: []placed{p}}
			hosts = append(hosts, h)
		}
	}
	order := make([]*module, len(f.modules))
	for i := range f.modules {
		order[i] = &f.modules[i]
	}
	slices.SortStableFunc(order, func(a, b *module) int { // GPU first, then by size
		if c := b.request[resource.GPU] - a.request[resource.GPU]; c != 0 {
			return int(c)
		}
		return int(b.request[resource.CPU] - a.request[resource.CPU])
	})
	for _, m := range order {
		of := m.pods(t)
		for n := range of {
			switch {
			case m.pool == burst:
				place(m, n, of, burst)
			case m.pool == gpu && m.request[resource.GPU] > 0:
				place(m, n, of, gpu)
			case m.pool == gpu:
				place(m, n, of, gpu, steady)
			default:
				place(m, n, of, steady)
			}
		}
	}
	return hosts
}

// steadyType is the type of the i-th steady machine: from the second day on the
// later ones are bought of a newer type.
func (f *Fleet) steadyType(t time.Time, i int) machine.Type {
	if i > 8 && !t.Before(Start.Add(24*time.Hour)) {
		return types[2]
	}
	return types[0]
}

func allocatable(t machine.Type) resource.Vector {
	return resource.Vector{t.Capacity[0] - t.Capacity[0]/25, t.Capacity[1] - t.Capacity[1]/16, t.Capacity[2]}
}

func podName(m *module, n int) string {
	id := uint64(dice(m.key.Namespace, m.key.Name)(1000+n) * (1 << 40))
	return fmt.Sprintf("%s-%05x", m.key.Name, id&0xfffff)
}

// Hour is what the fleet would observe in [from, to), which lie in one hour.
func (f *Fleet) Hour(from, to time.Time) bill.Hour {
	start := from.Truncate(time.Hour)
	h := bill.Hour{From: from, To: to}
	for i, host := range f.fill(start, true) {
		mFrom, mTo := from, to
		m := bill.Machine{Name: host.name, Pool: host.pool, Type: host.typ.Name, From: mFrom, To: mTo,
			Capacity: host.typ.Capacity, Allocatable: allocatable(host.typ),
			Serverless: host.typ.Serverless(), Domain: []string{"zone-a", "zone-b"}[i%2], MaxPods: 110}
		if m.Serverless {
			m.Capacity, m.Allocatable = host.pods[0].request, host.pods[0].request
		}
		if host.pool == steady && len(host.pods) > 0 {
			m.Spare = resource.Vector{min(500, host.free[0]), min(resource.GiB, host.free[1]), 0}
		}
		h.Machines = append(h.Machines, m)
		for _, p := range host.pods {
			name := podName(p.m, p.n)
			pod := bill.Pod{UID: p.m.key.String() + "/" + name, Namespace: p.m.key.Namespace, Name: name, Module: p.m.key, Machine: host.name,
				Labels: map[string]string{"app": p.m.key.Name, "team": team(p.m.key.Namespace)}, From: mFrom, To: mTo,
				Requests: []bill.Step{{At: mFrom, Request: p.request}}}
			if dice(name)(3) < 0.12 {
				pod.Rules.Pinned = true
			}
			for at := mFrom; at.Before(mTo); {
				end := at.Truncate(15 * time.Minute).Add(15 * time.Minute)
				if end.After(mTo) {
					end = mTo
				}
				pod.Usage = append(pod.Usage, bill.Sample{From: at, To: end, Use: p.m.use(at.Truncate(15*time.Minute).Add(7*time.Minute), p.of)})
				at = end
			}
			h.Pods = append(h.Pods, pod)
		}
	}
	for i := range f.modules {
		m := &f.modules[i]
		if m.pods(start) == 0 {
			continue
		}
		l := bill.Load{Module: m.key, Requests: -1}
		if m.key.Kind == "Deployment" {
			sum := 0.0
			for at := from; at.Before(to); at = at.Add(time.Minute) {
				sum += m.load(at) * 60
			}
			l.Requests = int64(sum)
			if m.target {
				l.Known, l.Met = true, true
				l.SuccessMicros, l.P99 = 999_700, 180*time.Millisecond
				if lh := start.In(Zone).Hour(); m.weak && lh >= 19 && lh < 22 {
					l.Met, l.SuccessMicros, l.P99 = false, 991_200, 920*time.Millisecond
				}
			}
		}
		h.Loads = append(h.Loads, l)
	}
	return h
}

func team(namespace string) string {
	switch namespace {
	case "homework", "grading", "report":
		return "learning"
	case "live", "ai":
		return "classroom"
	case "search":
		return "search"
	}
	return "foundation"
}

// hosts is fill with what it placed kept, for the metrics ask for every minute.
func (f *Fleet) hosts(hour time.Time) []*host {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h, ok := f.placed[hour]; ok {
		return h
	}
	if f.placed == nil {
		f.placed = map[time.Time][]*host{}
	}
	h := f.fill(hour, true)
	f.placed[hour] = h
	return h
}
