package probe

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/host/cgroup"
)

// Options say where to look. The zero Options look at this machine.
type Options struct {
	Root   string // of the machine's files, such as /host in a container; "/" if empty
	Cgroup string // where its cgroups are mounted; Root/sys/fs/cgroup if empty
	Parent string // the kubelet's --cgroup-root; the root if empty
	Now    time.Time
	// FilesOnly leaves out what only the running kernel can tell, for a machine that is
	// only files.
	FilesOnly bool
}

// Look probes. It never fails: what cannot be told is unknown, with a reason.
func Look(opts Options) colocate.Probe {
	m := machine{root: cmp.Or(opts.Root, "/"), alone: opts.FilesOnly}
	p := colocate.Probe{At: opts.Now.UTC().Truncate(time.Second), Avoidance: colocate.AvoidNone,
		Kernel: cmp.Or(m.line("proc/sys/kernel/osrelease"), "unknown")}
	groups(&p, m, opts)
	pressure(&p, m)
	p.Others = m.others()
	kubelet(&p, m)
	if !opts.FilesOnly {
		kernel(&p)
	}
	hardware(&p, m)
	return p
}

func add(p *colocate.Probe, name string, state colocate.State, use, detail string) {
	p.Features = append(p.Features, colocate.Feature{Name: name, State: state, Use: use, Detail: detail})
}

func has(ok bool) colocate.State {
	if ok {
		return colocate.Yes
	}
	return colocate.No
}

// groups looks at cgroups: version, driver, and what a group can be told.
func groups(p *colocate.Probe, m machine, opts Options) {
	tree, err := cgroup.Open(cmp.Or(opts.Cgroup, m.path("sys/fs/cgroup")))
	if err != nil {
		p.Cgroup = err.Error()
		return
	}
	p.Cgroup = tree.Version().String()
	if tree.Version() == cgroup.V1 && tree.Unified() {
		p.Cgroup = "v1 with v2 beside it"
	}
	at := cgroup.Group("/")
	if layout, err := tree.FindLayout(cgroup.Group(opts.Parent)); err == nil {
		p.Driver = "cgroupfs"
		if layout.Systemd {
			p.Driver = "systemd"
		}
		at = layout.Class(cgroup.BestEffort)
	}
	if !tree.Exists(at) || at == "/" { // any group will do: the root has fewer files
		if children, err := tree.Children("/"); err == nil && len(children) > 0 {
			at = children[0]
		}
	}
	for _, k := range []struct {
		name string
		knob cgroup.Knob
		use  string
	}{
		{"cpu.idle", cgroup.Idle, "online goes before batch at once"},
		{"cpu.quota", cgroup.Quota, "a ceiling for batch"},
		{"cpu.burst", cgroup.Burst, "batch catches up on what it was kept from"},
		{"memory.high", cgroup.MemoryHigh, "batch slows down before memory is short"},
		{"freeze", cgroup.Freeze, "a pause instead of an eviction"},
		{"io.weight", cgroup.IOWeight, "online's disk goes first"},
	} {
		err, detail := tree.Has(at, k.knob), ""
		if err == nil && k.knob == cgroup.Idle && p.Driver != "" && !opts.FilesOnly {
			if err = tree.MayIdle(at); errors.Is(err, cgroup.ErrReadOnly) {
				err, detail = nil, "not tried whether a kubelet bears it: that takes root"
			}
		}
		switch {
		case at == "/":
			add(p, k.name, colocate.Unknown, k.use, "there is no group below the root to look at")
		case err == nil:
			add(p, k.name, colocate.Yes, k.use, detail)
		case errors.Is(err, cgroup.ErrAbsent):
			add(p, k.name, colocate.No, k.use, "")
		default:
			add(p, k.name, colocate.Unknown, k.use, err.Error())
		}
	}
	switch {
	case p.Feature("cpu.idle").State == colocate.Yes:
		p.Avoidance = colocate.AvoidIdle
	case p.Feature("cpu.quota").State == colocate.Yes:
		p.Avoidance = colocate.AvoidWeight
	}
	cost := m.exists("sys/fs/cgroup/io.cost.model")
	add(p, "io.cost", has(cost), "fair shares of a disk by what requests cost", "")
	add(p, "net.cgroup", has(tree.Unified()), "packets are told apart by their socket's group", map[bool]string{false: "there is no v2 tree: only pods with a veth are told apart"}[tree.Unified()])
}

func pressure(p *colocate.Probe, m machine) {
	_, err := m.read("proc/pressure/cpu")
	detail := ""
	if err != nil {
		detail = "start the kernel with psi=1"
	}
	add(p, "psi", has(err == nil), "how long tasks stall", detail)
}

// kubelet looks at its configuration, if one runs here.
func kubelet(p *colocate.Probe, m machine) {
	config := ""
	for _, c := range m.processes() {
		if c.name != "kubelet" {
			continue
		}
		for i, a := range c.args {
			if v, ok := strings.CutPrefix(a, "--config="); ok {
				config = v
			} else if a == "--config" && i+1 < len(c.args) {
				config = c.args[i+1]
			}
		}
		config = cmp.Or(config, "/var/lib/kubelet/config.yaml")
	}
	if config == "" {
		return
	}
	data, err := m.read(config)
	if err != nil {
		add(p, "kubelet.config", colocate.Unknown, "who owns which file", err.Error())
		return
	}
	gates, err := featureGates(data)
	if err != nil {
		add(p, "kubelet.config", colocate.Unknown, "who owns which file", fmt.Sprintf("%s: %v", config, err))
		return
	}
	for _, g := range []struct{ name, gate, use string }{
		{"kubelet.memory-qos", "MemoryQoS", "the kubelet owns memory.high; Neap leaves it"},
		{"kubelet.cpu-idle", "CPUIdleForBestEffortQoS", "the kubelet owns cpu.idle; Neap leaves it"},
	} {
		add(p, g.name, has(gates[g.gate]), g.use, "feature gate "+g.gate)
	}
}

// featureGates reads those that a kubelet's configuration sets.
func featureGates(data []byte) (map[string]bool, error) {
	var c struct {
		FeatureGates map[string]bool `yaml:"featureGates"`
	}
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, err
	}
	return c.FeatureGates, nil
}

// hardware looks at what CPUs and memory have.
func hardware(p *colocate.Probe, m machine) {
	cpuinfo, _ := m.read("proc/cpuinfo")
	var flags []string
	for line := range bytes.Lines(cpuinfo) {
		if k, v, ok := strings.Cut(string(line), ":"); ok && strings.TrimSpace(k) == "flags" {
			flags = strings.Fields(v)
			break
		}
	}
	smt := colocate.Unknown
	if active := m.line("sys/devices/system/cpu/smt/active"); active != "" {
		smt = has(active == "1")
	}
	add(p, "smt", smt, "two threads share a core: they slow each other whatever the scheduler does", "")
	rdt := slices.Contains(flags, "cat_l3") || slices.Contains(flags, "mba")
	filesystems, _ := m.read("proc/filesystems")
	resctrl := strings.Contains(string(filesystems), "resctrl")
	detail := ""
	switch {
	case rdt && !resctrl:
		detail = "the CPU has it, the kernel does not (CONFIG_RESCTRL)"
	case slices.Contains(flags, "hypervisor") && !rdt:
		detail = "a virtual machine without it"
	}
	add(p, "resctrl", has(rdt && resctrl), "parts of the cache and of memory bandwidth", detail)
	numa, nodes := colocate.Unknown, m.line("sys/devices/system/node/online")
	if nodes != "" {
		numa = has(nodes != "0")
	}
	add(p, "numa", numa, "memory that is nearer", nodes)
}

// A machine is the files of one.
type machine struct {
	root  string
	alone bool // root has all its files
}

func (m machine) path(name string) string { return filepath.Join(m.root, name) }

// read reads a file of the machine. What the kernel tells of hardware in /sys is the
// same in every container, so that need not be mounted below root.
func (m machine) read(name string) ([]byte, error) {
	data, err := os.ReadFile(m.path(name))
	if errors.Is(err, fs.ErrNotExist) && !m.alone && strings.HasPrefix(name, "sys/") {
		return os.ReadFile("/" + name)
	}
	return data, err
}

func (m machine) line(name string) string {
	data, _ := m.read(name)
	return string(bytes.TrimSpace(data))
}

func (m machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return !errors.Is(err, fs.ErrNotExist) && err == nil
}

type process struct {
	name string
	args []string
}

// processes are those that run, by the name of their program.
func (m machine) processes() []process {
	entries, _ := os.ReadDir(m.path("proc"))
	var all []process
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		data, err := m.read(filepath.Join("proc", e.Name(), "cmdline"))
		if err != nil || len(data) == 0 {
			continue
		}
		args := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		all = append(all, process{filepath.Base(args[0]), args[1:]})
	}
	return all
}

// rivals are programs of other systems that write the same cgroups.
var rivals = map[string]string{
	"koordlet": "Koordinator", "katalyst-agent": "Katalyst", "crane-agent": "Crane",
	"vc-agent": "Volcano", "network-qos": "Volcano", "rubik": "rubik",
}

// others returns the colocation systems whose agents run here, sorted.
func (m machine) others() []string {
	var found []string
	for _, p := range m.processes() {
		if name, ok := rivals[p.name]; ok && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	return found
}
