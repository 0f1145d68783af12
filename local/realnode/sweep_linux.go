package realnode

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neap-dev/neap/local/clusterdir"
)

// tunables are what the kubelet and the CNI plugins set in /proc/sys.
var tunables = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"net/ipv4/ip_forward", "vm/overcommit_memory", "vm/panic_on_oom",
}

// A record is what a sweep cannot know from what it finds.
type record struct {
	Tunables map[string]string `json:"tunables"` // as they were before
	Absent   []string          `json:"absent"`   // of elsewhere, what was not there
}

// elsewhere are the folders that containerd, the CNI plugins and the kubelet use
// whatever they are told.
var elsewhere = []string{
	"/run/containerd", "/run/containerd/s", "/var/lib/cni", "/var/lib/kubelet", "/var/lib/kubelet/device-plugins", "/var/log/containers",
}

const recordFile = runDir + "/record.json"

// remember writes down, before anything is changed, what a sweep sets back.
func remember() error {
	r := record{Tunables: map[string]string{}}
	for _, t := range tunables {
		if b, err := os.ReadFile("/proc/sys/" + t); err == nil {
			r.Tunables[t] = strings.TrimSpace(string(b))
		}
	}
	for _, dir := range elsewhere {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
			r.Absent = append(r.Absent, dir)
		}
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record how the machine was: %w", err)
	}
	return clusterdir.WriteFile(recordFile, append(b, '\n'))
}

// Left reports whether a node that did not stop has left something on this machine,
// or one runs.
func Left() bool {
	_, err := os.Stat(recordFile)
	return err == nil
}

// Sweep takes away what a node that did not stop left on this machine. With none it
// does nothing; one that runs is left alone, with [ErrInUse].
func Sweep() error {
	lock, err := acquire()
	if err != nil {
		return err
	}
	return errors.Join(sweep(), lock.Close())
}

// sweep is for the holder of the lock. It can be repeated, and goes on after a failure.
func sweep() error {
	var errs []error
	// 1. Processes: everything in our cgroups.
	errs = append(errs, killGroups())
	// 2. What they held.
	errs = append(errs, removeShimSockets(), unmountBelow(runDir, stateDir), removeNetwork(), removeGroups(), removeLogLinks(), removeResults())
	// 3. How the machine was.
	if b, err := os.ReadFile(recordFile); err == nil {
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", recordFile, err))
		}
		for _, t := range tunables {
			was, known := r.Tunables[t]
			if is, err := os.ReadFile("/proc/sys/" + t); !known || err != nil || strings.TrimSpace(string(is)) == was {
				continue
			}
			if err := os.WriteFile("/proc/sys/"+t, []byte(was), 0); err != nil {
				errs = append(errs, fmt.Errorf("set back /proc/sys/%s: %w", t, err))
			}
		}
		for _, dir := range slices.Backward(elsewhere) {
			if slices.Contains(r.Absent, dir) {
				errs = append(errs, removeEmptied(dir))
			}
		}
	}
	if errors.Join(errs...) == nil { // else a later sweep needs the record
		errs = append(errs, os.RemoveAll(stateDir), os.RemoveAll(runDir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up after the node: %w", err)
	}
	return nil
}

// removeShimSockets removes the sockets of our containers' shims, which containerd
// keeps at a place of its own.
func removeShimSockets() error {
	bundles, err := filepath.Glob(runDir + "/containerd/io.containerd.runtime.v2.task/*/*/address")
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range bundles {
		address, err := os.ReadFile(b)
		if err != nil {
			continue // gone with its container
		}
		path := strings.TrimPrefix(strings.TrimSpace(string(address)), "unix://")
		if filepath.IsAbs(path) && strings.HasPrefix(path, "/run/containerd/") {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// removeLogLinks removes the links that the kubelet makes to our pods' logs.
func removeLogLinks() error {
	const dir = "/var/log/containers"
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(path); err == nil && below(to, stateDir) {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

// removeResults removes what the CNI plugins remember of pods that were killed: their
// links are called by our network's name, and the loopback of the same pod by its id.
func removeResults() error {
	const dir = "/var/lib/cni/results/"
	links, err := filepath.Glob(dir + "neap-node-*")
	if err != nil {
		return err
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, os.Remove(l))
		id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(l), "neap-node-"), "-")
		if err := os.Remove(dir + "cni-loopback-" + id + "-lo"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeEmptied removes a folder that was not there before, unless somebody else has
// put something into it since: what our programs leave in it are folders without
// files, and the kubelet's socket.
func removeEmptied(dir string) error {
	if dir == devicePlugins {
		_ = os.Remove(dir + "/kubelet.sock")
		_ = os.Remove(dir + "/DEPRECATION")
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			_ = os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	_ = os.Remove(dir)
	return nil
}

func below(path string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return path == d || strings.HasPrefix(path, d+"/") })
}

// unmountBelow unmounts everything in some folders, the last mounted first.
func unmountBelow(dirs ...string) error {
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if !below(m.path, dirs...) {
			continue
		}
		if err := unix.Unmount(m.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.path, err))
		}
	}
	return errors.Join(errs...)
}

// A mount is a line of /proc/self/mountinfo.
type mount struct{ path, kind string }

func mountPoints() ([]mount, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMounts(f)
}

// parseMounts reads lines such as "36 35 98:0 / /mnt rw shared:1 - ext4 /dev/sda rw".
func parseMounts(r io.Reader) ([]mount, error) {
	var all []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		where, what, ok := strings.Cut(lines.Text(), " - ")
		before, after := strings.Fields(where), strings.Fields(what)
		if !ok || len(before) < 5 || len(after) < 1 {
			continue
		}
		all = append(all, mount{unescape(before[4]), after[0]})
	}
	return all, lines.Err()
}

// unescape undoes the kernel's \040 for a space, and its like.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// overlaid reports whether a folder is on an overlay.
func overlaid(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && int64(st.Type) == unix.OVERLAYFS_SUPER_MAGIC
}

// hierarchies returns where the machine's cgroup hierarchies are mounted.
func hierarchies() (v1 []string, v2 string, err error) {
	mounts, err := mountPoints()
	if err != nil {
		return nil, "", err
	}
	for _, m := range mounts {
		switch {
		case !below(m.path, "/sys/fs/cgroup"):
		case m.kind == "cgroup":
			v1 = append(v1, m.path)
		case m.kind == "cgroup2":
			v2 = m.path
		}
	}
	if len(v1) == 0 && v2 == "" {
		return nil, "", errors.New("there are no cgroups under /sys/fs/cgroup, and a node needs them")
	}
	return v1, v2, nil
}

// controllers are those that pods' cgroups need on version 2.
const controllers = "+cpuset +cpu +io +memory +pids"

// makeGroups makes our cgroup in every hierarchy, and in it the one of the node's
// own programs, beside which the kubelet makes those of pods.
func makeGroups() error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	if v2 != "" {
		v1 = append(v1, v2)
	}
	for _, h := range v1 {
		dir := filepath.Join(h, group)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make the node's cgroup: %w", err)
		}
		if h == v2 {
			for _, d := range []string{h, dir} {
				for _, c := range strings.Fields(controllers) {
					_ = os.WriteFile(d+"/cgroup.subtree_control", []byte(c), 0) // the kubelet names one that it misses
				}
			}
		}
		if err := inheritCPUs(h, dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir+"/system", 0o755); err != nil {
			return fmt.Errorf("make the node's cgroup: %w", err)
		}
	}
	return nil
}

// inheritCPUs gives a new cpuset of version 1, which begins with no CPU, its parent's.
func inheritCPUs(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		b, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil || strings.TrimSpace(string(b)) == "" {
			continue // another controller, or version 2
		}
		if err := os.WriteFile(filepath.Join(dir, file), b, 0); err != nil {
			return fmt.Errorf("give the node its CPUs: %w", err)
		}
	}
	return nil
}

// join puts a program of the node's own, with all that it will start, where a sweep
// finds it: on version 1 in one hierarchy, so that it shares the machine as before.
func join(pid int) error {
	v1, v2, err := hierarchies()
	if err != nil {
		return err
	}
	in := v2
	if i := slices.IndexFunc(v1, func(h string) bool { return filepath.Base(h) == "pids" }); i >= 0 {
		in = v1[i]
	}
	if err := os.WriteFile(filepath.Join(in, group, "system/cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("put process %d into the node's cgroup: %w", pid, err)
	}
	return nil
}

// groups returns all our cgroups, children first.
func groups() ([]string, error) {
	v1, v2, err := hierarchies()
	if err != nil {
		return nil, err
	}
	if v2 != "" {
		v1 = append(v1, v2)
	}
	var all []string
	for _, h := range v1 {
		_ = filepath.WalkDir(filepath.Join(h, group), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil // gone meanwhile
		})
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all, nil
}

// sweepPatience is how long killed processes may take to be gone: one that writes to
// a slow disk ends when that is done.
const sweepPatience = 30 * time.Second

// killGroups ends every process in our cgroups, frozen ones as well.
func killGroups() error {
	deadline := time.Now().Add(sweepPatience)
	for {
		all, err := groups()
		if err != nil {
			return err
		}
		left := map[int]bool{}
		for _, dir := range all {
			_ = os.WriteFile(dir+"/freezer.state", []byte("THAWED"), 0) // in the freezer's hierarchy
			_ = os.WriteFile(dir+"/cgroup.freeze", []byte("0"), 0)      // in version 2's
			b, _ := os.ReadFile(dir + "/cgroup.procs")
			for field := range strings.FieldsSeq(string(b)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
					left[pid] = true
				}
			}
		}
		if len(left) == 0 {
			return nil
		}
		for pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is fine
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes in %s did not end within %v of being killed", len(left), CgroupRoot, sweepPatience)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeGroups removes our cgroups, once nobody is in them.
func removeGroups() error {
	deadline := time.Now().Add(sweepPatience)
	for {
		all, err := groups()
		if err != nil || len(all) == 0 {
			return err
		}
		var last error
		for _, dir := range all {
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
		}
		if last != nil && time.Now().After(deadline) {
			return last
		}
		if last != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
}
