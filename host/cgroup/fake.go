package cgroup

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/neap-dev/neap/host/psi"
)

// A Fake is a machine's cgroups in memory, with the kernel's rules: which writes
// it refuses, what they change beside, what files read back, leases and watches.
// The cases of this package's tests run on it and on the machine's kernel alike.
type Fake struct {
	version Version

	mu       sync.Mutex
	freed    *sync.Cond // a lease was given back
	groups   map[string]*fakeGroup
	inodes   uint64
	boots    int
	readOnly bool
	noLeases bool
	absent   map[string]bool // names of files that this kernel lacks
	locks    map[string]bool
	leases   []*fakeLease
	watches  []*fakeWatch
}

// A fakeGroup is a group in one hierarchy.
type fakeGroup struct {
	inode uint64
	files map[string]string
	pids  []int
}

// NewFake returns a machine whose hierarchies have that version: all of V2, or
// those of V1 with a v2 hierarchy beside.
func NewFake(v Version) *Fake {
	f := &Fake{version: v, absent: map[string]bool{}, locks: map[string]bool{}}
	f.freed = sync.NewCond(&f.mu)
	f.Reboot()
	return f
}

// Tree returns the machine's tree.
func (f *Fake) Tree() *Tree {
	return &Tree{files: f, version: f.version, unified: f.version == V1}
}

// Reboot takes every group away, and gives the machine another boot.
func (f *Fake) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.boots++
	f.groups = map[string]*fakeGroup{}
	for _, h := range f.roots() {
		f.grow(h)
	}
}

// roots are the paths of the hierarchies.
func (f *Fake) roots() []string {
	if f.version == V2 {
		return []string{"/"}
	}
	roots := []string{"/unified"}
	for _, h := range hierarchies {
		roots = append(roots, "/"+h)
	}
	return roots
}

// SetReadOnly makes every write fail as on a filesystem mounted read-only.
func (f *Fake) SetReadOnly(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readOnly = on
}

// Without takes a file away from every group, as a kernel without the feature
// has it: "cpu.idle".
func (f *Fake) Without(file string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.absent[file] = true
}

// NoLeases makes the kernel give no leases on these files.
func (f *Fake) NoLeases() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noLeases = true
}

// SetUse makes a group's meters read that.
func (f *Fake) SetUse(g Group, u Use) {
	f.mu.Lock()
	defer f.mu.Unlock()
	us := func(d time.Duration) int64 { return d.Microseconds() }
	stat := fmt.Sprintf("nr_periods %d\nnr_throttled %d\nthrottled_time %d\n", u.Periods, u.Exhausted, u.Throttled.Nanoseconds())
	if f.version == V2 {
		stat = fmt.Sprintf("usage_usec %d\nuser_usec 0\nsystem_usec 0\nnr_periods %d\nnr_throttled %d\nthrottled_usec %d\n", us(u.CPU), u.Periods, u.Exhausted, us(u.Throttled))
	}
	f.put(g, "cpu.stat", stat)
	f.put(g, "cpuacct.usage", strconv.FormatInt(u.CPU.Nanoseconds(), 10)+"\n")
	f.put(g, "memory.usage_in_bytes", strconv.FormatInt(u.Memory, 10)+"\n")
	f.put(g, "memory.current", strconv.FormatInt(u.Memory, 10)+"\n")
	f.put(g, "memory.stat", fmt.Sprintf("inactive_file %d\ntotal_inactive_file %d\n", u.Memory-u.Working, u.Memory-u.Working))
}

// SetPressure makes a group's pressure read that.
func (f *Fake) SetPressure(g Group, of psi.Resource, p psi.Pressure) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := func(word string, l psi.Line) string {
		return fmt.Sprintf("%s avg10=%.2f avg60=%.2f avg300=%.2f total=%d\n", word, 100*l.Avg10, 100*l.Avg60, 100*l.Avg300, l.Total.Microseconds())
	}
	f.put(g, string(of)+".pressure", line("some", p.Some)+line("full", p.Full))
}

// put sets a file's text where it is.
func (f *Fake) put(g Group, file, text string) {
	if at := f.groups[path.Dir(f.name(g, file))]; at != nil {
		if _, ok := at.files[file]; ok {
			at.files[file] = text
		}
	}
}

// name returns where a group's file is.
func (f *Fake) name(g Group, file string) string {
	if f.version == V2 {
		return path.Join("/", string(g), file)
	}
	hierarchy, _, _ := strings.Cut(file, ".")
	switch {
	case hierarchy == "cgroup", strings.HasSuffix(file, ".pressure"):
		hierarchy = "unified"
	}
	return path.Join("/", hierarchy, string(g), file)
}

// Write writes a group's file as another process does: a lease on it is asked
// back first, and Write waits until it is given.
func (f *Fake) Write(g Group, file, text string) error {
	name := f.name(g, file)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.leased(name) {
		f.freed.Wait()
	}
	return f.set(name, text)
}

// Read reads a group's file as another process does, and waits as Write does.
func (f *Fake) Read(g Group, file string) (string, error) {
	name := f.name(g, file)
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.leased(name) {
		f.freed.Wait()
	}
	text, err := f.get(name)
	return strings.TrimSpace(text), err
}

// leased asks the leases on a file back, and tells whether there is one.
func (f *Fake) leased(name string) bool {
	found := false
	for _, l := range f.leases {
		if l.name == name && l.held {
			found = true
			if !l.asked {
				l.asked = true
				f.tell("")
			}
		}
	}
	return found
}

func (f *Fake) tell(name string) {
	for _, w := range f.watches {
		if name == "" || w.names[name] {
			select {
			case w.heard <- event{name}:
			default: // as inotify, whose queue overflows
			}
		}
	}
}

// The files of a group when it is made, by hierarchy; V2 has one.
var (
	fakeCPU     = map[string]string{"cpu.shares": "1024", "cpu.idle": "0", "cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "cpu.cfs_burst_us": "0", "cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0\n"}
	fakeMemory  = map[string]string{"memory.limit_in_bytes": "9223372036854771712", "memory.usage_in_bytes": "0", "memory.stat": "total_inactive_file 0\n"}
	fakeCore    = map[string]string{"cgroup.freeze": "0", "cgroup.controllers": "cpu io memory pids", "cgroup.subtree_control": "", "cpu.pressure": fakePressure, "memory.pressure": fakePressure, "io.pressure": fakePressure}
	fakeUnified = map[string]string{"cpu.weight": "100", "cpu.idle": "0", "cpu.max": "max 100000", "cpu.max.burst": "0", "cpu.stat": "usage_usec 0\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
		"memory.max": "max", "memory.high": "max", "memory.low": "0", "memory.current": "0", "memory.stat": "inactive_file 0\n", "io.weight": "default 100"}
)

const fakePressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"

// grow makes a group in one hierarchy.
func (f *Fake) grow(dir string) {
	f.inodes++
	g := &fakeGroup{inode: f.inodes, files: map[string]string{}}
	hierarchy, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/")
	switch {
	case f.version == V2:
		maps.Copy(g.files, fakeCore)
		maps.Copy(g.files, fakeUnified)
	case hierarchy == "unified":
		maps.Copy(g.files, fakeCore)
	case hierarchy == "cpu":
		maps.Copy(g.files, fakeCPU)
	case hierarchy == "cpuacct":
		g.files["cpuacct.usage"] = "0"
	case hierarchy == "memory":
		maps.Copy(g.files, fakeMemory)
	case hierarchy == "freezer":
		g.files["freezer.state"] = "THAWED"
	case hierarchy == "blkio":
		g.files["blkio.bfq.weight"] = "100"
	}
	f.groups[dir] = g
}

// find returns a file's group, or the kernel's answer for one that is missing.
func (f *Fake) find(name string) (*fakeGroup, string, error) {
	g, file := f.groups[path.Dir(name)], path.Base(name)
	if g == nil || f.absent[file] {
		return nil, file, syscall.ENOENT
	}
	_, plain := g.files[file]
	if !plain && file != "cgroup.procs" && (file != "cgroup.events" || g.files["cgroup.freeze"] == "") {
		return nil, file, syscall.ENOENT
	}
	return g, file, nil
}

func (f *Fake) get(name string) (string, error) {
	g, file, err := f.find(name)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	switch file {
	case "cgroup.procs":
		var text strings.Builder
		for _, pid := range g.pids {
			fmt.Fprintln(&text, pid)
		}
		return text.String(), nil
	case "cgroup.events":
		populated := 0
		for at, other := range f.groups {
			if Group(at).Within(Group(path.Dir(name))) && len(other.pids) > 0 {
				populated = 1
			}
		}
		return fmt.Sprintf("populated %d\nfrozen %s\n", populated, g.files["cgroup.freeze"]), nil
	case "freezer.state":
		for at := path.Dir(name); at != "/"; at = path.Dir(at) {
			if up := f.groups[at]; up != nil && up.files[file] == "FROZEN" {
				return "FROZEN\n", nil
			}
		}
	}
	return strings.TrimSuffix(g.files[file], "\n") + "\n", nil
}

// set writes a file by the kernel's rules.
func (f *Fake) set(name, text string) error {
	err := f.rule(name, strings.TrimSpace(text))
	if err != nil {
		return &os.PathError{Op: "write", Path: name, Err: err}
	}
	f.tell(name)
	return nil
}

func (f *Fake) rule(name, text string) error {
	if f.readOnly {
		return syscall.EROFS
	}
	g, file, err := f.find(name)
	if err != nil {
		return err
	}
	n, notNumber := strconv.ParseInt(text, 10, 64)
	within := func(lo, hi int64, outside error) error {
		if notNumber != nil {
			return syscall.EINVAL
		}
		if n < lo || n > hi {
			return outside
		}
		g.files[file] = text
		return nil
	}
	switch file {
	case "cpu.idle":
		was := g.files[file]
		if err := within(0, 1, syscall.EINVAL); err != nil || was == text {
			return err
		}
		if f.version == V1 {
			g.files["cpu.shares"] = map[string]string{"0": "1024", "1": "3"}[text]
		} else {
			g.files["cpu.weight"] = map[string]string{"0": "100", "1": "1"}[text]
		}
		return nil
	case "cpu.shares", "cpu.weight":
		if g.files["cpu.idle"] == "1" && notNumber == nil {
			return syscall.EINVAL
		}
		if file == "cpu.weight" {
			return within(1, 10000, syscall.ERANGE)
		}
		if notNumber != nil || n < 0 {
			return syscall.EINVAL
		}
		g.files[file] = strconv.FormatInt(min(max(n, 2), 262144), 10)
		return nil
	case "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.cfs_burst_us", "cpu.max", "cpu.max.burst":
		return f.bandwidth(path.Dir(name), g, file, text)
	case "memory.limit_in_bytes", "memory.max", "memory.high", "memory.low":
		unlimited := "max"
		if f.version == V1 {
			unlimited = "-1"
		}
		switch {
		case text == unlimited && f.version == V1:
			g.files[file] = fakeMemory[file]
		case text == unlimited:
			g.files[file] = text
		case notNumber != nil || n < 0:
			return syscall.EINVAL
		default:
			g.files[file] = strconv.FormatInt(n&^4095, 10)
		}
		return nil
	case "cgroup.freeze":
		return within(0, 1, syscall.ERANGE)
	case "freezer.state":
		if text != "FROZEN" && text != "THAWED" {
			return syscall.EINVAL
		}
		g.files[file] = text
		return nil
	case "blkio.bfq.weight":
		return within(1, 1000, syscall.ERANGE)
	case "io.weight":
		if err := within(1, 10000, syscall.ERANGE); err != nil {
			return err
		}
		g.files[file] = "default " + text
		return nil
	case "cgroup.subtree_control":
		return nil
	case "cgroup.procs":
		if notNumber != nil || n < 0 {
			return syscall.EINVAL
		}
		root := f.rootOf(path.Dir(name))
		for at, other := range f.groups {
			if f.rootOf(at) == root {
				other.pids = slices.DeleteFunc(other.pids, func(p int) bool { return p == int(n) })
			}
		}
		g.pids = append(g.pids, int(n))
		return nil
	}
	return syscall.EINVAL
}

func (f *Fake) rootOf(dir string) string {
	if f.version == V2 {
		return "/"
	}
	root, _, _ := strings.Cut(strings.TrimPrefix(dir, "/"), "/")
	return root
}

// A bandwidth is a group's ceiling in microseconds; a quota below 0 is none.
type bandwidth struct{ quota, period, burst int64 }

// ratio is what the kernel compares parents and children by.
func (b bandwidth) ratio() int64 { return b.quota << 20 / b.period }

func (f *Fake) bandwidthOf(g *fakeGroup) (b bandwidth) {
	read := func(text string) int64 { v, _ := strconv.ParseInt(text, 10, 64); return v }
	if f.version == V1 {
		return bandwidth{read(g.files["cpu.cfs_quota_us"]), read(g.files["cpu.cfs_period_us"]), read(g.files["cpu.cfs_burst_us"])}
	}
	quota, period, _ := strings.Cut(g.files["cpu.max"], " ")
	b = bandwidth{-1, read(period), read(g.files["cpu.max.burst"])}
	if quota != "max" {
		b.quota = read(quota)
	}
	return b
}

// bandwidth writes a quota, period or burst.
func (f *Fake) bandwidth(dir string, g *fakeGroup, file, text string) error {
	b := f.bandwidthOf(g)
	var err error
	number := func(s string) (v int64) {
		if err == nil {
			v, err = strconv.ParseInt(s, 10, 64)
		}
		return v
	}
	switch file {
	case "cpu.cfs_quota_us":
		b.quota = max(number(text), -1)
	case "cpu.cfs_period_us":
		b.period = number(text)
	case "cpu.max":
		quota, period, two := strings.Cut(text, " ")
		if b.quota = -1; quota != "max" {
			b.quota = number(quota)
		}
		if two {
			b.period = number(period)
		}
	default:
		b.burst = number(text)
	}
	const second = 1_000_000
	switch {
	case err != nil, b.period < 1000, b.period > second, b.burst < 0:
		return syscall.EINVAL
	case b.quota >= 0 && (b.quota < 1000 || b.burst > b.quota):
		return syscall.EINVAL
	}
	if f.version == V1 && b.quota >= 0 {
		for up := path.Dir(dir); up != "/" && f.groups[up] != nil; up = path.Dir(up) {
			if p := f.bandwidthOf(f.groups[up]); p.quota >= 0 {
				if b.ratio() > p.ratio() {
					return syscall.EINVAL
				}
				break
			}
		}
	}
	if f.version == V1 {
		limit := b
		for up := path.Dir(dir); limit.quota < 0 && up != "/" && f.groups[up] != nil; up = path.Dir(up) {
			limit = f.bandwidthOf(f.groups[up])
		}
		for at, below := range f.groups {
			if c := f.bandwidthOf(below); at != dir && Group(at).Within(Group(dir)) && c.quota >= 0 && limit.quota >= 0 && c.ratio() > limit.ratio() {
				return syscall.EINVAL
			}
		}
		g.files["cpu.cfs_quota_us"] = strconv.FormatInt(b.quota, 10)
		g.files["cpu.cfs_period_us"] = strconv.FormatInt(b.period, 10)
		g.files["cpu.cfs_burst_us"] = strconv.FormatInt(b.burst, 10)
		return nil
	}
	quota := "max"
	if b.quota >= 0 {
		quota = strconv.FormatInt(b.quota, 10)
	}
	g.files["cpu.max"] = quota + " " + strconv.FormatInt(b.period, 10)
	g.files["cpu.max.burst"] = strconv.FormatInt(b.burst, 10)
	return nil
}

// What a tree asks of its files.

func (f *Fake) read(name string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.get(name)
}

func (f *Fake) write(name, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.ContainsFunc(f.leases, func(l *fakeLease) bool { return l.name == name && l.held }) {
		return &os.PathError{Op: "open", Path: name, Err: syscall.EDEADLK} // the machine would wait for ourselves
	}
	return f.set(name, text)
}

func (f *Fake) mkdir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.groups[name] != nil:
		return os.ErrExist
	case f.groups[path.Dir(name)] == nil:
		return os.ErrNotExist
	case f.readOnly:
		return syscall.EROFS
	}
	f.grow(name)
	return nil
}

func (f *Fake) rmdir(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	g := f.groups[name]
	if g == nil {
		return os.ErrNotExist
	}
	for at := range f.groups {
		if path.Dir(at) == name {
			return syscall.EBUSY
		}
	}
	if len(g.pids) > 0 {
		return syscall.EBUSY
	}
	delete(f.groups, name)
	return nil
}

func (f *Fake) dirs(name string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.groups[name] == nil {
		return nil, os.ErrNotExist
	}
	var names []string
	for at := range f.groups {
		if at != name && path.Dir(at) == name {
			names = append(names, path.Base(at))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (f *Fake) exists(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _, err := f.find(name)
	return f.groups[name] != nil || err == nil
}

func (f *Fake) inode(name string) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g := f.groups[name]; g != nil {
		return g.inode, nil
	}
	return 0, os.ErrNotExist
}

func (f *Fake) boot() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return "boot " + strconv.Itoa(f.boots)
}

func (f *Fake) lock(name string) (func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.groups[name] == nil:
		return nil, os.ErrNotExist
	case f.locks[name]:
		return nil, ErrOwned
	}
	f.locks[name] = true
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.locks, name)
	}, nil
}

func (f *Fake) open(name string) (handle, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, file, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return &fakeHandle{f, g, name, file}, nil
}

// A fakeHandle reads a file of the group that was there when it was opened.
type fakeHandle struct {
	f          *Fake
	group      *fakeGroup
	name, file string
}

func (h *fakeHandle) ReadAt(p []byte, at int64) (int, error) {
	h.f.mu.Lock()
	defer h.f.mu.Unlock()
	if h.f.groups[path.Dir(h.name)] != h.group {
		return 0, syscall.ENODEV
	}
	text := h.group.files[h.file]
	if at > int64(len(text)) {
		return 0, io.EOF
	}
	n := copy(p, text[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (h *fakeHandle) Close() error { return nil }

// A fakeLease is a lease on a fake's file.
type fakeLease struct {
	f           *Fake
	name        string
	held, asked bool
}

func (f *Fake) lease(name string) (lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, _, err := f.find(name); err != nil {
		return nil, err
	}
	l := &fakeLease{f: f, name: name}
	f.leases = append(f.leases, l)
	return l, nil
}

func (l *fakeLease) take() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	if l.f.noLeases {
		return syscall.EINVAL
	}
	l.held, l.asked = true, false
	return nil
}

func (l *fakeLease) broken() bool {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	return !l.held || l.asked
}

func (l *fakeLease) give() error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.held = false
	l.f.freed.Broadcast()
	return nil
}

func (l *fakeLease) read() (string, error) { return l.f.read(l.name) }

func (l *fakeLease) write(text string) error {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	return l.f.set(l.name, text)
}

func (l *fakeLease) close() error {
	l.give()
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.leases = slices.DeleteFunc(l.f.leases, func(o *fakeLease) bool { return o == l })
	return nil
}

// A fakeWatch hears of a fake's files.
type fakeWatch struct {
	f     *Fake
	heard chan event
	names map[string]bool
}

func (f *Fake) watch() (watch, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := &fakeWatch{f, make(chan event, 1024), map[string]bool{}}
	f.watches = append(f.watches, w)
	return w, nil
}

func (w *fakeWatch) events() <-chan event { return w.heard }

func (w *fakeWatch) add(name string) error {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.names[name] = true
	return nil
}

func (w *fakeWatch) remove(name string) {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	delete(w.names, name)
}

func (w *fakeWatch) close() error {
	w.f.mu.Lock()
	defer w.f.mu.Unlock()
	w.f.watches = slices.DeleteFunc(w.f.watches, func(o *fakeWatch) bool { return o == w })
	return nil
}
