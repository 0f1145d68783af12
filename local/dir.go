package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/neap-dev/neap/internal/dirlock"
	"github.com/neap-dev/neap/local/clock"
)

// The parts of a state directory.
const (
	clockFile  = "clock.json"
	clusterDir = "cluster"
	storeDir   = "store"
	metricsDir = "metrics"
)

// StoreDir returns where, below a state directory, the closed hours are.
func StoreDir(dir string) string { return filepath.Join(dir, storeDir) }

// A dir is a state directory that is ours alone until it is closed.
type dir struct {
	path string
	lock *dirlock.Lock
}

// openDir takes a state directory, making it if need be. With fresh, what an
// earlier day left in it is removed.
func openDir(path string, fresh bool) (*dir, error) {
	if path == "" {
		return nil, errors.New("no state directory is given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("open the state directory: %w; name another with --dir", err)
	}
	lock, err := dirlock.Acquire(path)
	switch {
	case errors.Is(err, dirlock.ErrHeld):
		return nil, fmt.Errorf("another neap up is running in %s; stop it, or name another directory with --dir", path)
	case err != nil:
		return nil, fmt.Errorf("open the state directory: %w; name another with --dir", err)
	}
	d := &dir{path: path, lock: lock}
	if fresh {
		if err := d.clear(); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

// clear removes what an earlier day left, and nothing else.
func (d *dir) clear() error {
	for _, name := range []string{clusterDir, storeDir, metricsDir, clockFile} {
		if err := os.RemoveAll(d.file(name)); err != nil {
			return fmt.Errorf("remove the earlier day: %w", err)
		}
	}
	return nil
}

func (d *dir) file(name string) string { return filepath.Join(d.path, name) }

// belongs says in one sentence if the directory holds the day of another scenario.
func (d *dir) belongs(scenario string) error {
	_, day, have, err := clock.Read(d.file(clockFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case have != scenario:
		return fmt.Errorf("%s holds a day of scenario %s, which stands at %s; go on with it, name another directory with --dir, or remove it with --fresh",
			d.path, have, day.UTC().Format("2006-01-02 15:04"))
	}
	return nil
}

func (d *dir) close() { _ = d.lock.Release() } // it ends with the process at the latest
