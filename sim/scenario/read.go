package scenario

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones must resolve on a machine without them

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/scenarios"
	"github.com/neap-dev/neap/sim/series"
)

// Options say how to read a scenario.
type Options struct {
	// SeriesDir is the folder of the real series. If it is given, every series
	// of the scenario that names a file is read from there instead of generated.
	SeriesDir string
}

// maxFile is the most bytes a scenario may have.
const maxFile = 4 << 20

// Builtin lists the names of the scenarios that come with neap.
func Builtin() []string {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		return nil
	}
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".yaml")
	}
	return files
}

// Load reads the scenario in a file, or a built-in one by its name; "" is
// school-day. What is wrong with it comes back as [Errors], all at once.
func Load(path string, o Options) (*Scenario, error) {
	if path == "" {
		path = "school-day"
	}
	text, name, err := read(path)
	if err != nil {
		return nil, err
	}
	return Parse(text, name, o)
}

func read(path string) (text []byte, name string, err error) {
	if slices.Contains(Builtin(), path) {
		if _, err := os.Stat(path); err != nil {
			text, err = scenarios.Files.ReadFile(path + ".yaml")
			return text, "scenarios/" + path + ".yaml", err
		}
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", Errors{{File: path, Text: fmt.Sprintf("there is no such file, nor a built-in scenario of that name; built in are %s", strings.Join(Builtin(), ", "))}}
	}
	if err != nil {
		return nil, "", fmt.Errorf("read scenario: %w", err)
	}
	defer f.Close()
	text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, "", fmt.Errorf("read scenario: %w", err)
	}
	if len(text) > maxFile {
		return nil, "", Errors{{File: path, Text: "the file is larger than 4 MiB; a scenario is a short text"}}
	}
	return text, path, nil
}

// A reading is one scenario while it is read.
type reading struct {
	*decoder
	s       Scenario
	options Options

	catalogue map[string]machine.Type
	types     map[string]machine.Type
	gpus      map[string]GPUModelNeed // of machine types: model and memory
	classes   map[string]*yaml.Node
	curves    map[string]curve
	nodes     map[string]*yaml.Node // of modules and pools, for messages
	later     []func()              // checks that need everything read
}

type curve struct {
	curve     series.Curve
	low, high float64
}

// Parse reads a scenario from text. name is the file that errors speak of.
func Parse(text []byte, name string, o Options) (*Scenario, error) {
	r := &reading{
		decoder: &decoder{file: name}, options: o,
		s:     Scenario{Source: name, Length: 24 * time.Hour, Currency: "USD", Location: time.UTC, RealSeries: o.SeriesDir != ""},
		types: map[string]machine.Type{}, gpus: map[string]GPUModelNeed{}, classes: map[string]*yaml.Node{}, curves: map[string]curve{}, nodes: map[string]*yaml.Node{},
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Errors{{File: name, Line: 1, Text: "the file is empty; begin with name, start, pools and modules"}}
	case err != nil:
		return nil, yamlErrors(name, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		r.fail(nil, "", "there is more than one document in the file; keep one scenario a file")
	}
	if len(doc.Content) == 0 {
		return nil, Errors{{File: name, Line: 1, Text: "the file is empty; begin with name, start, pools and modules"}}
	}
	r.document(doc.Content[0])
	if len(r.errs) > 0 {
		return nil, r.errs.sorted()
	}
	return &r.s, nil
}

// yamlErrors turns "yaml: line 3: did not find …" into ours.
func yamlErrors(name string, err error) Errors {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if n, t, ok := strings.Cut(rest, ": "); ok {
			if v, err := strconv.Atoi(n); err == nil {
				line, text = v, t
			}
		}
	}
	return Errors{{File: name, Line: line, Text: "this is not YAML: " + text + "; check the indentation and the quotes"}}
}

// document reads the parts in the order in which they need each other, not as
// they are written.
func (r *reading) document(n *yaml.Node) {
	var start, catalogue string
	var seed int
	parts := map[string]*yaml.Node{}
	keep := func(n *yaml.Node, field string) { parts[field] = n }
	seen := r.mapping(n, "", table{
		"name":         into(r.decoder, &r.s.Name, parseLabel),
		"description":  into(r.decoder, &r.s.Description, parseText),
		"start":        into(r.decoder, &start, parseText),
		"zone":         into(r.decoder, &r.s.Location, parseZone),
		"length":       into(r.decoder, &r.s.Length, positive),
		"seed":         into(r.decoder, &seed, whole(0, 1<<53)),
		"currency":     into(r.decoder, &r.s.Currency, parseText),
		"catalogue":    into(r.decoder, &catalogue, parseText),
		"machineTypes": keep, "pools": keep, "series": keep, "classes": keep, "modules": keep, "events": keep,
		"timetables": keep, "calendar": keep, "colocation": keep,
	})
	if target(n).Kind != yaml.MappingNode {
		return
	}
	r.s.Seed = uint64(seed)
	for _, need := range []string{"name", "start", "pools", "modules"} {
		if seen[need] == nil {
			r.fail(n, need, "missing; a scenario needs it")
		}
	}
	if z := seen["zone"]; z != nil && r.s.Location == nil {
		r.s.Location = time.UTC
	}
	if c := seen["currency"]; c != nil && !currency(r.s.Currency) {
		r.fail(c, "currency", "%q is not a currency; write three capital letters such as USD", r.s.Currency)
		r.s.Currency = "USD" // so that the prices do not complain as well
	}
	if v := seen["start"]; v != nil {
		var err error
		if r.s.Start, err = r.parseStart(start); err != nil {
			r.fail(v, "start", "%s", err)
		}
	}
	if l := seen["length"]; l != nil && (r.s.Length <= 0 || r.s.Length > 400*24*time.Hour) {
		r.fail(l, "length", "it must be longer than 0 and at most 400 days")
	}
	r.readCatalogue(catalogue, seen["catalogue"])
	if p := parts["machineTypes"]; p != nil {
		r.list(p, "machineTypes", r.machineType)
	}
	if p := parts["pools"]; p != nil {
		r.list(p, "pools", r.pool)
		slices.SortStableFunc(r.s.Pools, func(a, b Pool) int {
			if a.Order != b.Order {
				return a.Order - b.Order
			}
			return strings.Compare(a.Name, b.Name)
		})
		if len(r.s.Pools) == 0 {
			r.fail(p, "pools", "there is no pool; pods need somewhere to run")
		}
	}
	if p := parts["colocation"]; p != nil {
		r.list(p, "colocation", r.colocation)
	}
	if p := parts["series"]; p != nil {
		r.list(p, "series", r.readSeries)
	}
	if p := parts["calendar"]; p != nil {
		r.list(p, "calendar", r.calendarDay)
	}
	if p := parts["timetables"]; p != nil {
		r.list(p, "timetables", r.timetable)
	}
	if p := parts["classes"]; p != nil {
		r.readClasses(p)
	}
	if p := parts["modules"]; p != nil {
		r.list(p, "modules", r.module)
		slices.SortStableFunc(r.s.Modules, func(a, b Module) int { return a.Key().Compare(b.Key()) })
		if len(r.s.Modules) == 0 {
			r.fail(p, "modules", "there is no module; nothing would run")
		}
	}
	if p := parts["events"]; p != nil {
		r.list(p, "events", r.event)
		slices.SortStableFunc(r.s.Events, func(a, b Event) int { return a.At.Compare(b.At) })
	}
	for _, check := range r.later {
		check()
	}
	for _, name := range slices.Sorted(maps.Keys(r.types)) {
		r.s.MachineTypes = append(r.s.MachineTypes, r.types[name])
	}
}

func parseZone(s string) (*time.Location, error) {
	l, err := time.LoadLocation(s)
	if err != nil || s == "" || s == "Local" {
		return nil, fmt.Errorf("there is no time zone %q; write one such as Asia/Shanghai or UTC", s)
	}
	return l, nil
}

func currency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}

func (r *reading) parseStart(s string) (time.Time, error) {
	for _, l := range []string{time.DateOnly, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02 15:04:05"} {
		if t, err := time.ParseInLocation(l, s, r.s.Location); err == nil {
			return t, nil
		}
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t.In(r.s.Location), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 2026-09-16 or 2026-09-16T18:00", s)
}

// readCatalogue reads the machine types that a scenario may name.
func (r *reading) readCatalogue(path string, n *yaml.Node) {
	if path == "" {
		text, err := scenarios.Files.ReadFile("catalogue/machine-types.csv")
		if err == nil {
			r.catalogue, err = Catalogue(bytes.NewReader(text), "scenarios/catalogue/machine-types.csv")
		}
		if err != nil {
			r.fail(n, "catalogue", "the built-in one cannot be read: %s", err)
		}
		return
	}
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(r.file), path)
	}
	f, err := os.Open(path)
	if err != nil {
		r.fail(n, "catalogue", "%s; give a CSV file, or leave the field out for the built-in one", err)
		return
	}
	defer f.Close()
	if r.catalogue, err = Catalogue(f, path); err != nil {
		r.fail(n, "catalogue", "%s", err)
	}
}

// Catalogue reads machine types from CSV with the columns name, vcpu,
// memory_mib, gpu, price_per_hour, currency, rating_millis, and if it has them
// rating_low, rating_high, rating_source, rating_date. Lines that begin with #
// are comments. name is the file that errors speak of.
func Catalogue(in io.Reader, name string) (map[string]machine.Type, error) {
	c := csv.NewReader(in)
	c.Comment = '#'
	header, err := c.Read()
	if err != nil {
		return nil, fmt.Errorf("%s: there are no column names", name)
	}
	for _, need := range []string{"name", "vcpu", "memory_mib", "gpu", "price_per_hour", "currency", "rating_millis"} {
		if !slices.Contains(header, need) {
			return nil, fmt.Errorf("%s: the column %s is missing", name, need)
		}
	}
	types := map[string]machine.Type{}
	for {
		row, err := c.Read()
		if errors.Is(err, io.EOF) {
			return types, nil
		}
		if err != nil {
			var p *csv.ParseError
			if errors.As(err, &p) {
				return nil, fmt.Errorf("%s:%d: %w; correct the line", name, p.Line, p.Err)
			}
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		line, _ := c.FieldPos(0)
		cell := func(col string) string {
			if i := slices.Index(header, col); i >= 0 {
				return strings.TrimSpace(row[i])
			}
			return ""
		}
		var bad error
		count := func(col string) int64 {
			if cell(col) == "" {
				return 0
			}
			v, err := strconv.ParseInt(cell(col), 10, 40)
			if (err != nil || v < 0) && bad == nil {
				bad = fmt.Errorf("%s:%d: %s: %q is not a whole number of 0 or more", name, line, col, cell(col))
			}
			return v
		}
		t := machine.Type{Name: cell("name"), Currency: cell("currency"),
			RatingMillis: count("rating_millis"), RatingLow: count("rating_low"), RatingHigh: count("rating_high"), RatingSource: cell("rating_source"),
			Capacity: resource.Vector{resource.CPU: count("vcpu") * 1000, resource.Memory: count("memory_mib") * resource.MiB, resource.GPU: count("gpu") * 1000}}
		if d := cell("rating_date"); d != "" {
			t.RatingSource += ", " + d
		}
		price, err := parsePrice(cell("price_per_hour"))
		switch {
		case bad != nil:
		case err != nil:
			bad = fmt.Errorf("%s:%d: price_per_hour: %w", name, line, err)
		case t.Name == "" || t.Capacity[resource.CPU] == 0:
			bad = fmt.Errorf("%s:%d: a machine type needs a name and at least one vcpu", name, line)
		case types[t.Name].Name != "":
			bad = fmt.Errorf("%s:%d: %s is there twice; remove one line", name, line, t.Name)
		}
		if bad != nil {
			return nil, bad
		}
		t.List = price
		types[t.Name] = t
	}
}

func (r *reading) machineType(n *yaml.Node, field string) {
	var t machine.Type
	// The name comes first, for the rest changes what the catalogue says.
	for i := 0; target(n).Kind == yaml.MappingNode && i+1 < len(target(n).Content); i += 2 {
		if target(n).Content[i].Value == "name" {
			t = r.catalogue[strings.TrimSpace(target(n).Content[i+1].Value)]
		}
	}
	known := t.Name != ""
	var g GPUModelNeed
	if !known {
		t.Currency = r.s.Currency
	}
	rating := -1.0
	seen := r.mapping(n, field, table{
		"name":         into(r.decoder, &t.Name, parseDotted),
		"cpu":          into(r.decoder, &t.Capacity[resource.CPU], parseCPU),
		"memory":       into(r.decoder, &t.Capacity[resource.Memory], parseMemory),
		"gpu":          into(r.decoder, &t.Capacity[resource.GPU], parseGPU),
		"gpuModel":     into(r.decoder, &g.Model, parseModel),
		"gpuMemory":    into(r.decoder, &g.Memory, parseMiB),
		"pricePerHour": into(r.decoder, &t.List, parsePrice),
		"discount":     into(r.decoder, &t.DiscountMillis, share(1000)),
		"currency":     into(r.decoder, &t.Currency, parseText),
		"perCoreHour":  into(r.decoder, &t.UnitList[resource.CPU], parsePrice),
		"perGiBHour":   into(r.decoder, &t.UnitList[resource.Memory], parsePrice),
		"perGPUHour":   into(r.decoder, &t.UnitList[resource.GPU], parsePrice),
		"rating":       into(r.decoder, &rating, number(0.01, 100)),
		"ratingSource": into(r.decoder, &t.RatingSource, parseText),
	})
	if seen["name"] == nil {
		r.fail(n, at(field, "name"), "missing; a machine type needs a name")
		return
	}
	if rating > 0 {
		t.RatingMillis = int64(rating*1000 + 0.5)
		t.RatingLow, t.RatingHigh = 0, 0
		if seen["ratingSource"] == nil {
			t.RatingSource = "given by the scenario"
		}
	}
	byPod := seen["perCoreHour"] != nil || seen["perGiBHour"] != nil || seen["perGPUHour"] != nil
	switch {
	case byPod && (known || seen["pricePerHour"] != nil || seen["cpu"] != nil || seen["memory"] != nil):
		r.fail(n, field, "%s is bought by the pod and also has a shape or a price of its own; keep one of the two", t.Name)
	case byPod && t.UnitList == [resource.Kinds]money.PerHour{}:
		r.fail(n, field, "%s has no price; give perCoreHour and perGiBHour", t.Name)
	case !byPod && !known && (seen["cpu"] == nil || seen["memory"] == nil || seen["pricePerHour"] == nil):
		r.fail(n, field, "%s is not in the catalogue, so give its cpu, memory and pricePerHour, or perCoreHour and perGiBHour; %s", t.Name, hint(t.Name, slices.Sorted(maps.Keys(r.catalogue))))
	case !byPod && (t.Capacity[resource.CPU] <= 0 || t.Capacity[resource.Memory] <= 0):
		r.fail(n, field, "%s has no cpu or no memory; a machine needs both", t.Name)
	case t.Currency != r.s.Currency:
		r.fail(n, field, "%s is priced in %s and the scenario in %s; price it in the scenario's currency", t.Name, t.Currency, r.s.Currency)
	case (seen["gpuModel"] == nil) != (seen["gpuMemory"] == nil):
		r.fail(n, field, "%s has one of gpuModel and gpuMemory; its GPUs are shared by both, so give both or none", t.Name)
	case seen["gpuModel"] != nil && (t.Capacity[resource.GPU] <= 0 || t.Capacity[resource.GPU]%1000 != 0 || t.Capacity[resource.GPU] > 1000*gpu.MaxDevices):
		r.fail(n, at(field, "gpuModel"), "%s needs a whole number of GPUs from 1 to %d; give it in gpu", t.Name, gpu.MaxDevices)
	case r.types[t.Name].Name != "":
		r.fail(n, at(field, "name"), "%s is defined twice; remove one", t.Name)
	default:
		r.types[t.Name], r.gpus[t.Name] = t, g
	}
}

// lookupType finds a type that a pool names: one of the scenario's, or the
// catalogue's.
func (r *reading) lookupType(n *yaml.Node, field, name string) (machine.Type, bool) {
	if t, ok := r.types[name]; ok {
		return t, true
	}
	if t, ok := r.catalogue[name]; ok {
		if t.Currency != r.s.Currency {
			r.fail(n, field, "%s is priced in %s and the scenario in %s; define it under machineTypes with a price in %s", name, t.Currency, r.s.Currency, r.s.Currency)
			return t, false
		}
		r.types[name] = t
		return t, true
	}
	names := slices.Sorted(maps.Keys(r.catalogue))
	for k := range r.types {
		names = append(names, k)
	}
	slices.Sort(names)
	r.fail(n, field, "nobody defined the machine type %s; define it under machineTypes, or use one of the catalogue: %s", name, hint(name, names))
	return machine.Type{}, false
}

// What a machine keeps from pods unless the pool says otherwise: kernel,
// kubelet, container runtime.
func system(capacity resource.Vector) resource.Vector {
	return resource.Vector{resource.CPU: capacity[resource.CPU] * 2 / 100, resource.Memory: capacity[resource.Memory] * 6 / 100}
}

func (r *reading) pool(n *yaml.Node, field string) {
	p := Pool{MaxPods: 110, StartTime: 2 * time.Minute, Zones: nil}
	var kind, zoneList = "", []string(nil)
	var reserved resource.Vector
	seen := r.mapping(n, field, table{
		"name":        into(r.decoder, &p.Name, parseLabel),
		"kind":        into(r.decoder, &kind, parseText),
		"machineType": into(r.decoder, &p.MachineType, parseText),
		"order":       into(r.decoder, &p.Order, whole(0, 1000)),
		"count":       into(r.decoder, &p.Count, whole(0, 5000)),
		"schedule":    r.steps(&p.Schedule, "count", 5000),
		"limit":       into(r.decoder, &p.Limit, whole(0, 100000)),
		"maxPods":     into(r.decoder, &p.MaxPods, whole(1, 1000)),
		"system":      r.vector(&reserved),
		"spare":       into(r.decoder, &p.SparePerMil, share(1000)),
		"taint":       into(r.decoder, &p.Taint, parseBool),
		"startTime":   into(r.decoder, &p.StartTime, positive),
		"guard": func(n *yaml.Node, field string) {
			r.mapping(n, field, table{
				"cpuPerGPU":    into(r.decoder, &p.PerGPU[resource.CPU], parseCPU),
				"memoryPerGPU": into(r.decoder, &p.PerGPU[resource.Memory], parseMemory),
			})
		},
		"provider": func(n *yaml.Node, field string) {
			p.Provider = &Provider{}
			r.provider(p.Provider, n, field)
		},
		"elastic": func(n *yaml.Node, field string) {
			p.Elastic = &Owned{}
			seen := r.mapping(n, field, table{
				"count":    into(r.decoder, &p.Elastic.Count, whole(0, 5000)),
				"schedule": r.steps(&p.Elastic.Schedule, "count", 5000),
			})
			if seen["count"] == nil {
				r.fail(n, at(field, "count"), "missing; how many machines are there while policies play?")
			}
		},
		"zones": func(n *yaml.Node, field string) {
			r.list(n, field, func(n *yaml.Node, field string) {
				var z string
				into(r.decoder, &z, parseLabel)(n, field)
				zoneList = append(zoneList, z)
			})
		},
	})
	p.Zones = zoneList
	if len(p.Zones) == 0 {
		p.Zones = []string{"zone-a"}
	}
	for _, need := range []string{"name", "kind", "machineType"} {
		if seen[need] == nil {
			r.fail(n, at(field, need), "missing; a pool needs it")
		}
	}
	if p.Name != "" && r.s.Pool(p.Name) != nil {
		r.fail(n, at(field, "name"), "there are two pools called %s; give one another name", p.Name)
		return
	}
	p.Kind = PoolKind(kind)
	kinds := []string{string(Machines), string(SpareOnGPUMachines), string(Serverless)}
	if k := seen["kind"]; k != nil && !slices.Contains(kinds, kind) {
		r.fail(k, at(field, "kind"), "%q is no kind of pool; %s", kind, hint(kind, kinds))
	}
	if seen["machineType"] != nil && p.MachineType != "" {
		if t, ok := r.lookupType(seen["machineType"], at(field, "machineType"), p.MachineType); ok {
			p.Capacity = t.Capacity
			p.GPUModel, p.GPUMemory = r.gpus[t.Name].Model, r.gpus[t.Name].Memory
			switch {
			case p.Kind == Serverless && !t.Serverless():
				r.fail(seen["machineType"], at(field, "machineType"), "%s is a machine, but the pool is bought by the pod; name a type with perCoreHour", t.Name)
			case p.Kind != Serverless && t.Serverless():
				r.fail(seen["machineType"], at(field, "machineType"), "%s is bought by the pod, but the pool is made of machines; name a type with a shape", t.Name)
			case p.Kind == SpareOnGPUMachines && t.Capacity[resource.GPU] == 0:
				r.fail(seen["machineType"], at(field, "machineType"), "%s has no GPU, but the pool is of kind %s; name a type with GPUs", t.Name, SpareOnGPUMachines)
			}
		}
	}
	if g := seen["guard"]; g != nil && p.Kind != SpareOnGPUMachines {
		r.fail(g, at(field, "guard"), "it keeps room for GPU pods: only a pool of kind %s has it", SpareOnGPUMachines)
	}
	if v := seen["provider"]; v != nil && p.Kind != Serverless {
		r.fail(v, at(field, "provider"), "it says what a provider of serverless capacity allows: only a pool of kind %s has it", Serverless)
	}
	if p.Kind == Serverless {
		p.Taint, p.MaxPods = true, 0
		for _, f := range []string{"count", "schedule", "elastic", "system", "spare", "maxPods"} {
			if v := seen[f]; v != nil {
				r.fail(v, at(field, f), "a serverless pool has no machines; remove the field")
			}
		}
	} else {
		kept := system(p.Capacity)
		if seen["system"] != nil {
			kept = reserved
		}
		p.Allocatable = p.Capacity.Sub(kept)
		if seen["machineType"] != nil && !p.Capacity.IsZero() && (p.Allocatable[resource.CPU] <= 0 || p.Allocatable[resource.Memory] <= 0 || p.Allocatable[resource.GPU] < 0) {
			r.fail(seen["system"], at(field, "system"), "it leaves nothing of the machine for pods; lower it")
		}
		most := p.Count
		for _, s := range p.Schedule {
			most = max(most, s.Count)
		}
		if p.Elastic != nil {
			most = max(most, p.Elastic.Count)
			for _, s := range p.Elastic.Schedule {
				most = max(most, s.Count)
			}
		}
		if p.Limit > 0 && most > p.Limit {
			r.fail(seen["limit"], at(field, "limit"), "%d machines are more than the limit of %d; raise the limit or lower the count", most, p.Limit)
		}
		if len(p.Schedule) > 0 && seen["count"] == nil {
			p.Count = CountAt(p.Schedule, 0, r.s.Start, r.s.Location)
		}
	}
	r.s.Pools = append(r.s.Pools, p)
}

// provider reads what a provider of serverless capacity allows.
func (r *reading) provider(p *Provider, n *yaml.Node, field string) {
	r.mapping(n, field, table{
		"creation": func(n *yaml.Node, field string) {
			seen := r.mapping(n, field, table{
				"perSecond": into(r.decoder, &p.PerSecond, whole(1, 100000)),
				"burst":     into(r.decoder, &p.Burst, whole(1, 100000)),
			})
			if seen["perSecond"] == nil || seen["burst"] == nil {
				r.fail(n, field, "write both: {perSecond: 20, burst: 100}")
			}
		},
		"maxPod": r.vector(&p.MaxPod),
		"quota":  into(r.decoder, &p.Quota, parseCPU),
		"cold":   r.quantiles(&p.Cold),
		"warm": func(n *yaml.Node, field string) {
			p.Warm = &Warm{Keep: 10 * time.Minute}
			seen := r.mapping(n, field, table{
				"sandboxes": into(r.decoder, &p.Warm.Sandboxes, whole(0, 100000)),
				"start":     r.quantiles(&p.Warm.Start),
				"keep":      into(r.decoder, &p.Warm.Keep, positive),
			})
			if seen["start"] == nil {
				r.fail(n, at(field, "start"), "missing; how long does a pod take to start in a warm sandbox?")
			}
		},
	})
}

// readSeries reads one load curve: from the generator, or with SeriesDir from a file.
func (r *reading) readSeries(n *yaml.Node, field string) {
	var name, generator, file, from, zone string
	var o series.Options
	var shape []float64
	var sigma float64
	seed, bursts := -1, true
	seen := r.mapping(n, field, table{
		"name":      into(r.decoder, &name, parseLabel),
		"generator": into(r.decoder, &generator, parseText),
		"shape": func(n *yaml.Node, field string) {
			r.list(n, field, func(n *yaml.Node, field string) {
				v := 0.0
				into(r.decoder, &v, number(0, 1e12))(n, field)
				shape = append(shape, v)
			})
		},
		"noise":         into(r.decoder, &sigma, ratio),
		"bursts":        into(r.decoder, &bursts, parseBool),
		"seed":          into(r.decoder, &seed, whole(0, 1<<53)),
		"file":          into(r.decoder, &file, parseText),
		"from":          into(r.decoder, &from, parseText),
		"zone":          into(r.decoder, &zone, parseText),
		"timeColumn":    into(r.decoder, &o.Time, parseText),
		"column":        into(r.decoder, &o.Value, parseText),
		"missingIsZero": into(r.decoder, &o.MissingIsZero, parseBool),
		"where": func(n *yaml.Node, field string) {
			o.Where = map[string]string{}
			m := target(n)
			for i := 0; m.Kind == yaml.MappingNode && i+1 < len(m.Content); i += 2 {
				o.Where[m.Content[i].Value] = target(m.Content[i+1]).Value
			}
			if len(o.Where) == 0 {
				r.fail(n, field, "here must be columns and their values, such as {room: B-002}")
			}
		},
	})
	if seen["name"] == nil {
		r.fail(n, at(field, "name"), "missing; modules name the series by it")
		return
	}
	if _, twice := r.curves[name]; twice {
		r.fail(n, at(field, "name"), "there are two series called %s; give one another name", name)
		return
	}
	r.curves[name] = curve{} // so that modules do not complain as well
	if file != "" && r.options.SeriesDir != "" {
		r.recorded(seen, field, name, file, from, zone, o)
		return
	}
	g := &series.Generator{Location: r.s.Location, Seed: r.s.Seed ^ hash("series/"+name)}
	if seed >= 0 {
		g.Seed = uint64(seed)
	}
	switch {
	case seen["shape"] != nil && seen["generator"] != nil:
		r.fail(n, field, "both generator and shape are given; keep one")
		return
	case seen["shape"] != nil:
		if len(shape) < 1 || series.Quarters%len(shape) != 0 {
			r.fail(seen["shape"], at(field, "shape"), "%d values do not divide a day of 96 quarter-hours; give 24, 48 or 96", len(shape))
			return
		}
		g.Parameters = series.Parameters{Level: 1, Rho: 0.9, Weekday: [7]float64{1, 1, 1, 1, 1, 1, 1}}
		for q := range g.Parameters.Shape {
			g.Parameters.Shape[q] = shape[q*len(shape)/series.Quarters]
		}
		for h := range g.Parameters.Sigma {
			g.Parameters.Sigma[h] = sigma
		}
	case seen["generator"] != nil:
		p, ok := series.Fitted(generator)
		if !ok {
			r.fail(seen["generator"], at(field, "generator"), "no parameters are called %s; %s", generator, hint(generator, series.FittedNames()))
			return
		}
		g.Parameters = p
		if seen["noise"] != nil {
			for h := range g.Parameters.Sigma {
				g.Parameters.Sigma[h] = sigma
			}
		}
	case file != "":
		r.fail(n, field, "%s comes only from the file %s; give the folder of the real series with --series-dir, or a generator", name, file)
		return
	default:
		r.fail(n, field, "neither generator, shape nor file is given; give one")
		return
	}
	if !bursts {
		g.Parameters.BurstsPerDay = 0
	}
	quiet := *g
	quiet.Quiet = true
	low, high, _ := series.Range(&quiet, r.s.Start, r.s.Start.Add(24*time.Hour))
	r.curves[name] = curve{g, low, high}
}

// recorded reads a real series and moves its day "from" to the scenario's first.
func (r *reading) recorded(seen map[string]*yaml.Node, field, name, file, from, zone string, o series.Options) {
	n, f := seen["file"], at(field, "file")
	if !filepath.IsLocal(file) {
		r.fail(n, f, "%s is not inside the folder of the series; give a path below it", file)
		return
	}
	o.Location = r.s.Location
	if zone != "" {
		l, err := parseZone(zone)
		if err != nil {
			r.fail(seen["zone"], at(field, "zone"), "%s", err)
			return
		}
		o.Location = l
	}
	path := filepath.Join(r.options.SeriesDir, file)
	s, err := series.ReadFile(path, o)
	if errors.Is(err, fs.ErrNotExist) {
		r.fail(n, f, "there is no file %s; check --series-dir, or run without it to use the generator", path)
		return
	}
	if err != nil {
		r.fail(n, f, "%s", err)
		return
	}
	first := s.Points[0].T
	if from != "" {
		var err error
		if first, err = time.ParseInLocation(time.DateOnly, from, o.Location); err != nil {
			r.fail(seen["from"], at(field, "from"), "%q is not a day such as 2021-10-13", from)
			return
		}
		// The scenario may begin at another time of day than midnight.
		first = first.Add(timeOfDay(r.s.Start.In(r.s.Location)))
	}
	s = s.Shift(r.s.Start.Sub(first))
	low, high, ok := series.Range(s, r.s.Start, r.s.Start.Add(24*time.Hour))
	if !ok {
		r.fail(n, f, "%s has nothing on the scenario's first day; it covers %s to %s: set from to a day of it", path,
			s.Points[0].T.Add(first.Sub(r.s.Start)).In(o.Location).Format(time.DateOnly), s.Points[len(s.Points)-1].T.Add(first.Sub(r.s.Start)).In(o.Location).Format(time.DateOnly))
		return
	}
	r.curves[name] = curve{s, low, high}
}

// hash is FNV-1a, for seeds that do not depend on the order of things.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
