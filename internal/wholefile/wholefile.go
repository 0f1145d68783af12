// Package wholefile writes small files so that nobody ever reads a part of one.
package wholefile

import (
	"errors"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Write replaces a file with content, mode 0600. Who reads it sees the old content
// or the new, and after a crash of the machine one of them is there. The folder
// must exist.
func Write(path string, content []byte) (err error) {
	f, err := renameio.NewPendingFile(path, renameio.WithStaticPermissions(0o600), renameio.WithTempDir(filepath.Dir(path)))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
