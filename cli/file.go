package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// beside makes an empty file beside the one that is to be written.
func beside(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil, fmt.Errorf("write %s: it is a folder; name a file in it", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return nil, fmt.Errorf("write %s: %w; name a file in a folder that exists and may be written", path, reason(err))
	}
	return f, nil
}

// mayWrite says what [writeOut] would say of a file that cannot be written, before the
// work for it is done. The empty path is standard output.
func mayWrite(path string) error {
	if path == "" {
		return nil
	}
	f, err := beside(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// unread says what to do where err comes of a file or folder that cannot be read, and
// returns any other error as it is. flag is the one that names it; empty for none.
func unread(err error, flag string) error {
	var p *os.PathError
	if !errors.As(err, &p) {
		return err
	}
	if flag != "" {
		flag = " with " + flag
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("read %s: %w; let this user read it, or give another path%s", p.Path, p.Err, flag)
	}
	return fmt.Errorf("read %s: %w; give the right path%s", p.Path, p.Err, flag)
}
