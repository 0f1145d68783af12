package observe

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTheKubeconfigOfSomebodyElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte("apiVersion: v1\nkind: Config\n"), 0o000); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 { // who may read everything, unless files take this thread for nobody's
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setfsuid(0)
	}
	_, _, err := Config(Target{Kubeconfig: path}, time.Now())
	if err == nil || !strings.Contains(err.Error(), path+" may not be read by this user; change its permissions") {
		t.Errorf("it is told as %v", err)
	}
}
