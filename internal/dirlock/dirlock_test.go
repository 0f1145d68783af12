package dirlock_test

import (
	"errors"
	"testing"

	"github.com/neap-dev/neap/internal/dirlock"
)

func TestAcquire(t *testing.T) {
	dir := t.TempDir()
	first, err := dirlock.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dirlock.Acquire(dir); !errors.Is(err, dirlock.ErrHeld) {
		t.Errorf("a second holder: %v, want ErrHeld", err)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	again, err := dirlock.Acquire(dir)
	if err != nil {
		t.Fatalf("after the release: %v", err)
	}
	if err := again.Release(); err != nil {
		t.Error(err)
	}
	if _, err := dirlock.Acquire(dir + "/missing"); err == nil || errors.Is(err, dirlock.ErrHeld) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
