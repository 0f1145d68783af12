package clusterdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/neap-dev/neap/internal/wholefile"
)

// A Dir is the path of a cluster's data directory. Make it with [Open].
type Dir string

// MinFree is the free space, in bytes, below which a cluster does not start:
// etcd's write-ahead log is allocated 64 MiB at a time, and its database and
// the logs need room beside it.
const MinFree = 192 << 20

// Open makes the directory, with its folders, where it does not exist, and
// makes them private where it does. It fails when the path is no directory,
// cannot be written, or lies on a disk with less than [MinFree] bytes free.
func Open(path string) (Dir, error) {
	if path == "" {
		return "", errors.New("open data directory: no path given")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", fmt.Errorf("open data directory %s: %w", path, err)
	}
	d := Dir(abs)
	for _, dir := range []string{abs, d.in("pki"), d.in("identities"), d.in("log")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", explainDisk(fmt.Errorf("make data directory %s: %w", dir, err), abs)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			return "", fmt.Errorf("make data directory private: %w", err)
		}
	}
	if free, err := d.Free(); err == nil && free < MinFree {
		return "", fmt.Errorf("the disk of %s has %d MiB free, and the cluster needs %d MiB: free some space or choose another data directory",
			abs, free>>20, MinFree>>20)
	}
	return d, nil
}

// Free is the space left on the directory's disk, in bytes.
func (d Dir) Free() (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(string(d), &st); err != nil {
		return 0, fmt.Errorf("look at the disk of %s: %w", d, err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

func explainDisk(err error, path string) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of %s is full: free some space or choose another data directory (%w)", path, err)
	}
	return err
}

func (d Dir) in(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Kubeconfig is the administrator's kubeconfig.
func (d Dir) Kubeconfig() string { return d.in("kubeconfig") }

// Identity is the kubeconfig of a component, such as "scheduler".
func (d Dir) Identity(name string) string { return d.in("identities", name+".kubeconfig") }

// Log is the log file of a component.
func (d Dir) Log(name string) string { return d.in("log", name+".log") }

// Etcd is the directory that etcd keeps its data in.
func (d Dir) Etcd() string { return d.in("etcd") }

// PKI is a file with a certificate or key.
func (d Dir) PKI(name string) string { return d.in("pki", name) }

// File is any other file of the directory, by its name.
func (d Dir) File(name string) string { return d.in(name) }

// Ports are the ports that a cluster used last.
type Ports struct {
	API int `json:"api"`
}

// Ports reads the ports of the last run; zero where there was none.
func (d Dir) Ports() Ports {
	var p Ports
	if b, err := os.ReadFile(d.in("ports.json")); err == nil {
		// An unreadable file is as good as none: new ports are chosen.
		_ = json.Unmarshal(b, &p)
	}
	return p
}

// SetPorts records the ports for the next run.
func (d Dir) SetPorts(p Ports) error {
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("record ports: %w", err)
	}
	return WriteFile(d.in("ports.json"), append(b, '\n'))
}

// WriteFile replaces a file, mode 0600, so that a reader sees the old content
// or the new, and a crash leaves one of them.
func WriteFile(path string, content []byte) error {
	if err := wholefile.Write(path, content); err != nil {
		return explainDisk(fmt.Errorf("write %s: %w", path, err), filepath.Dir(path))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
