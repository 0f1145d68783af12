package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Mount is where the cgroup filesystems are on a Linux machine.
const Mount = "/sys/fs/cgroup"

// Open opens the machine's cgroups, mounted at the directory: "" for [Mount],
// elsewhere when a container has the host's mounted.
func Open(mount string) (*Tree, error) {
	if mount == "" {
		mount = Mount
	}
	t := &Tree{files: &machine{root: mount}, root: mount, version: V1}
	var fs unix.Statfs_t
	if err := unix.Statfs(mount, &fs); err != nil {
		return nil, fmt.Errorf("open cgroups at %s: %w", mount, err)
	}
	if fs.Type == unix.CGROUP2_SUPER_MAGIC {
		t.version = V2
		return t, nil
	}
	if err := unix.Statfs(path.Join(mount, "cpu"), &fs); err != nil || fs.Type != unix.CGROUP_SUPER_MAGIC {
		return nil, fmt.Errorf("open cgroups at %s: there is neither a v2 hierarchy nor a v1 hierarchy of the CPU controller", mount)
	}
	err := unix.Statfs(path.Join(mount, "unified"), &fs)
	t.unified = err == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
	return t, nil
}

// machine are the files of a mounted cgroup filesystem.
type machine struct {
	root string
}

func (m *machine) read(name string) (string, error) {
	f, err := os.Open(m.root + name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var text bytes.Buffer
	_, err = text.ReadFrom(f)
	return text.String(), err
}

// write writes in one call, as the kernel wants it. It does not wait for another
// holder of a lease: that would be ourselves.
func (m *machine) write(name, text string) error {
	fd, err := unix.Open(m.root+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	for errors.Is(err, unix.EINTR) {
		fd, err = unix.Open(m.root+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: m.root + name, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: m.root + name, Err: err}
	}
	return nil
}

func (m *machine) mkdir(name string) error { return os.Mkdir(m.root+name, 0o755) }

func (m *machine) rmdir(name string) error { return unix.Rmdir(m.root + name) }

func (m *machine) dirs(name string) ([]string, error) {
	entries, err := os.ReadDir(m.root + name)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func (m *machine) exists(name string) bool {
	_, err := os.Stat(m.root + name)
	return err == nil
}

func (m *machine) open(name string) (handle, error) { return os.Open(m.root + name) }

func (m *machine) inode(name string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Stat(m.root+name, &st)
	return st.Ino, err
}

// lock takes the flock of a group's directory, which every process that sees the
// hierarchy shares, whatever it calls its own directories.
func (m *machine) lock(name string) (func(), error) {
	fd, err := unix.Open(m.root+name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.root + name, Err: err}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrOwned
		}
		return nil, err
	}
	return func() { unix.Close(fd) }, nil
}
