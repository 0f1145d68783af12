package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/neap-dev/neap/host/psi"
)

// A Group is a cgroup's path below the root of its hierarchy, "/" first:
// "/kubepods/besteffort". The root itself is "/".
type Group string

// Child returns the group of that name below g.
func (g Group) Child(name string) Group { return Group(path.Join(string(g), name)) }

// Parent returns the group that g is in; the root's is the root.
func (g Group) Parent() Group { return Group(path.Dir(string(g))) }

// Name returns the last part of g's path.
func (g Group) Name() string { return path.Base(string(g)) }

// Within tells whether g is the other group or below it.
func (g Group) Within(other Group) bool {
	return g == other || other == "/" || strings.HasPrefix(string(g), string(other)+"/")
}

// depth counts the groups above g.
func (g Group) depth() int { return strings.Count(strings.TrimSuffix(string(g), "/"), "/") }

// A Version is the version of the hierarchy that has the CPU and memory
// controllers.
type Version int

// The versions. On V1 a machine may have a v2 hierarchy without controllers
// beside it (hybrid), which serves for freezing and pressure.
const (
	V1 Version = 1
	V2 Version = 2
)

func (v Version) String() string { return "v" + strconv.Itoa(int(v)) }

// The kernel's answers by name; test for them with errors.Is. Each comes in an
// error that says what was to be done where.
var (
	// ErrGone: the group is not there, or was removed while it was used.
	ErrGone = errors.New("the cgroup is gone")
	// ErrAbsent: this kernel, or this version of cgroups, does not have the knob.
	ErrAbsent = errors.New("this kernel does not have it")
	// ErrReadOnly: the cgroup filesystem is mounted read-only, or writing is not permitted.
	ErrReadOnly = errors.New("cgroups may not be written: mount /sys/fs/cgroup read-write and run as root")
	// ErrRefused: the kernel has a rule against this value here (EINVAL).
	ErrRefused = errors.New("the kernel refuses the value")
	// ErrOwned: another process owns these groups.
	ErrOwned = errors.New("another owner holds these cgroups")
	// ErrDisk: what a file held could not be kept, so the file was not written.
	ErrDisk = errors.New("what the files held cannot be kept on disk")
)

// explain gives an error of the files below a tree its name.
func explain(doing, name string, err error) error {
	var kind error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENODEV):
		kind = ErrGone
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		kind = ErrReadOnly
	case errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ERANGE):
		kind = ErrRefused
	case errors.Is(err, syscall.EOPNOTSUPP):
		kind = ErrAbsent
	default:
		return fmt.Errorf("%s %s: %w", doing, name, err)
	}
	return fmt.Errorf("%s %s: %w (%w)", doing, name, kind, err)
}

// files are a tree's files: the machine's, or a fake's. Paths are below the
// mount point of the cgroup filesystems, "/" first.
type files interface {
	read(name string) (string, error)
	write(name, text string) error
	mkdir(name string) error
	rmdir(name string) error
	dirs(name string) ([]string, error)
	exists(name string) bool
	open(name string) (handle, error)
	inode(name string) (uint64, error)
	lock(name string) (release func(), err error)
	lease(name string) (lease, error)
	watch() (watch, error)
	boot() string
}

// A handle is a file held open for reading again and again.
type handle interface {
	ReadAt(p []byte, at int64) (int, error)
	Close() error
}

// A Tree is a machine's cgroups, or a fake's. Its methods may be called by
// several goroutines at a time.
type Tree struct {
	// Curve is how CPU shares become a v2 weight in the groups that Set writes.
	// The zero Curve is the kubelet's own.
	Curve Curve

	files   files
	root    string // of the machine's files; "" for a fake's
	version Version
	unified bool // V1 with a v2 hierarchy beside
}

// Version returns the version of the hierarchy with the controllers.
func (t *Tree) Version() Version { return t.version }

// Unified tells whether there is a v2 hierarchy, with controllers or without.
func (t *Tree) Unified() bool { return t.version == V2 || t.unified }

// hierarchies are the v1 hierarchies that Make makes groups in and Move moves
// processes in; those that the machine lacks are left out.
var hierarchies = []string{"cpu", "cpuacct", "memory", "freezer", "blkio", "pids"}

// dir returns a group's directory in the hierarchy of a controller.
func (t *Tree) dir(controller string, g Group) string {
	if t.version == V2 {
		return path.Join("/", string(g))
	}
	return path.Join("/", controller, string(g))
}

// all returns the group's directories in every hierarchy that the tree uses.
func (t *Tree) all(g Group) []string {
	if t.version == V2 {
		return []string{t.dir("", g)}
	}
	var dirs []string
	for _, h := range hierarchies {
		if t.files.exists("/" + h) {
			dirs = append(dirs, t.dir(h, g))
		}
	}
	if t.unified {
		dirs = append(dirs, t.dir("unified", g))
	}
	return dirs
}

// Exists tells whether the group is there (on V1: in the CPU hierarchy).
func (t *Tree) Exists(g Group) bool { return t.files.exists(t.dir("cpu", g)) }

// Make makes a group, and those above it, in every hierarchy; a group that is
// there stays as it is. On V2 it lets the groups above hand down CPU and memory.
func (t *Tree) Make(g Group) error {
	if g == "/" || g == "" {
		return nil
	}
	if err := t.Make(g.Parent()); err != nil {
		return err
	}
	for _, d := range t.all(g) {
		if err := t.files.mkdir(d); err != nil && !errors.Is(err, os.ErrExist) {
			return explain("make", d, err)
		}
	}
	if t.version == V2 {
		t.delegate(g.Parent())
	}
	return nil
}

// delegate hands the controllers that a group has down to its children. What
// cannot be handed down shows when a knob is absent.
func (t *Tree) delegate(g Group) {
	have, err := t.files.read(path.Join(t.dir("", g), "cgroup.controllers"))
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(have) {
		if slices.Contains([]string{"cpu", "memory", "io", "pids"}, c) {
			t.files.write(path.Join(t.dir("", g), "cgroup.subtree_control"), "+"+c)
		}
	}
}

// Remove removes a group without processes and all below it, in every
// hierarchy. A group that is not there is no error.
func (t *Tree) Remove(g Group) error {
	var errs []error
	for _, d := range t.all(g) {
		errs = append(errs, t.remove(d))
	}
	return errors.Join(errs...)
}

func (t *Tree) remove(dir string) error {
	below, err := t.files.dirs(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, name := range below {
		if err := t.remove(path.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := t.files.rmdir(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return explain("remove", dir, err)
	}
	return nil
}

// Children returns the groups in g, sorted by name.
func (t *Tree) Children(g Group) ([]Group, error) {
	names, err := t.files.dirs(t.dir("cpu", g))
	if err != nil {
		return nil, t.missing("list", g, t.dir("cpu", g), err)
	}
	groups := make([]Group, len(names))
	for i, name := range names {
		groups[i] = g.Child(name)
	}
	slices.Sort(groups)
	return groups, nil
}

// Processes returns the ids of the processes in g, not of those in groups below.
func (t *Tree) Processes(g Group) ([]int, error) {
	name := path.Join(t.dir("cpu", g), "cgroup.procs")
	text, err := t.files.read(name)
	if err != nil {
		return nil, t.missing("read", g, name, err)
	}
	var pids []int
	for word := range strings.FieldsSeq(text) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("read %s: %q is no process id", name, word)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Move moves a process into g, in every hierarchy.
func (t *Tree) Move(g Group, pid int) error {
	for _, d := range t.all(g) {
		name := path.Join(d, "cgroup.procs")
		if err := t.files.write(name, strconv.Itoa(pid)); err != nil {
			if errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("move process %d into %s: it has ended: %w", pid, g, err)
			}
			return t.missing("move into", g, name, err)
		}
	}
	return nil
}

// ID returns the group's id in the v2 hierarchy, as eBPF programs see it. On V1
// without a v2 hierarchy it is ErrAbsent.
func (t *Tree) ID(g Group) (uint64, error) {
	d, ok := t.unifiedDir(g)
	if !ok {
		return 0, fmt.Errorf("id of %s: %w: there is no v2 hierarchy", g, ErrAbsent)
	}
	id, err := t.files.inode(d)
	if err != nil {
		return 0, t.missing("id of", g, d, err)
	}
	return id, nil
}

// Dir returns where the group's directory in the v2 hierarchy is on this
// machine, for those who hand it to the kernel themselves; "" when there is none.
func (t *Tree) Dir(g Group) string {
	d, ok := t.unifiedDir(g)
	if !ok || t.root == "" {
		return ""
	}
	return path.Join(t.root, d)
}

func (t *Tree) unifiedDir(g Group) (string, bool) {
	if t.version == V2 {
		return t.dir("", g), true
	}
	return t.dir("unified", g), t.unified
}

// Pressure reads how long the group's tasks waited. [psi.ErrDisabled] when the
// kernel does not tell, ErrAbsent when there is no v2 hierarchy.
func (t *Tree) Pressure(g Group, of psi.Resource) (psi.Pressure, error) {
	d, ok := t.unifiedDir(g)
	if !ok {
		return psi.Pressure{}, fmt.Errorf("pressure of %s: %w: there is no v2 hierarchy", g, ErrAbsent)
	}
	name := path.Join(d, string(of)+".pressure")
	text, err := t.files.read(name)
	if errors.Is(err, syscall.EOPNOTSUPP) || (err != nil && t.files.exists(d)) {
		return psi.Pressure{}, fmt.Errorf("pressure of %s: %w", g, psi.ErrDisabled)
	}
	if err != nil {
		return psi.Pressure{}, t.missing("pressure of", g, name, err)
	}
	return psi.Parse([]byte(text))
}

// missing tells a group that is not there from a file that the kernel lacks.
func (t *Tree) missing(doing string, g Group, name string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		if t.files.exists(path.Dir(name)) {
			return fmt.Errorf("%s %s: %w", doing, name, ErrAbsent)
		}
		return fmt.Errorf("%s %s: %w", doing, name, ErrGone)
	}
	return explain(doing, name, err)
}
