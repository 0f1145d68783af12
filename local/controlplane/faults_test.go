package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/neap-dev/neap/local/clusterdir"
	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
	"github.com/neap-dev/neap/local/process"
)

func TestKillDuringAFirstStartIsMendedByTheNext(t *testing.T) {
	clustertest.Need(t)
	bin, err := controlplane.FindBin()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The same directory each time: what one kill left is what the next start
	// begins with.
	for _, after := range []string{"at once", "etcd", "kube-apiserver"} {
		reached := make(chan struct{}, 8)
		p, err := process.Start(process.Options{
			Path: filepath.Join(bin, "neap-cluster"),
			Args: []string{"--dir", dir, "--stop-with-stdin"},
			Line: func(line string) {
				var s clusterdir.Status
				if json.Unmarshal([]byte(line), &s) == nil && s.Step == after {
					reached <- struct{}{}
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		if after != "at once" {
			select {
			case <-reached:
			case <-p.Done():
				t.Fatalf("it ended before %s was up: %v", after, p.Err())
			case <-time.After(clustertest.Patience):
				t.Errorf("%s never came up", after)
			}
		}
		p.Kill()
	}
	clustertest.Own(t, controlplane.Options{Dir: dir})
}

func TestExpiredCertificatesAreRenewed(t *testing.T) {
	clustertest.Need(t)
	path := t.TempDir()
	dir, err := clusterdir.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	longAgo := time.Now().AddDate(-12, 0, 0)
	if err := dir.Prepare(longAgo); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteKubeconfigs("https://127.0.0.1:1", longAgo); err != nil {
		t.Fatal(err)
	}
	c := clustertest.Own(t, controlplane.Options{Dir: path})
	if _, err := clustertest.Client(t, c).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

func TestUnwritableDirectoryIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(file, "cluster")
	if _, err := controlplane.Start(t.Context(), controlplane.Options{Dir: path}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	clustertest.Need(t)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	_, err := controlplane.Start(ctx, controlplane.Options{Dir: dir, Log: func(string, ...any) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	clustertest.Own(t, controlplane.Options{Dir: dir}) // nobody has the directory
}

func TestFullDisk(t *testing.T) {
	clustertest.Need(t)

	t.Run("too little space is said before anything starts", func(t *testing.T) {
		dir := smallDisk(t, 64<<20)
		_, err := controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "MiB free") || !strings.Contains(err.Error(), dir) {
			t.Errorf("got %v", err)
		}
	})

	t.Run("a disk that fills up loses nothing acknowledged", func(t *testing.T) {
		disk := smallDisk(t, 320<<20)
		dir := filepath.Join(disk, "cluster")
		c, err := controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		client := clustertest.Client(t, c)
		full := fill(t, disk)

		// Write until one is refused: etcd has some space set aside.
		acked, deadline := map[string]bool{}, time.Now().Add(clustertest.Patience)
		for i := 0; ; i++ {
			name := fmt.Sprintf("written-%d", i)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Data:       map[string]string{"much": strings.Repeat("x", 500<<10)},
			}, metav1.CreateOptions{})
			cancel()
			if err != nil {
				t.Logf("write %d: %v", i, err)
				break
			}
			acked[name] = true
			if time.Now().After(deadline) {
				t.Fatal("the disk never filled up")
			}
		}
		select {
		case <-c.Done():
			if err := c.Err(); !errors.Is(err, controlplane.ErrDisk) || strings.Contains(fmt.Sprint(err), "goroutine") {
				t.Errorf("it ended with %v, want ErrDisk and no stack", err)
			}
		case <-time.After(15 * time.Second):
			t.Log("it runs on without space, refusing writes")
			c.Kill()
		}

		if err := os.Remove(full); err != nil {
			t.Fatal(err)
		}
		again, err := controlplane.Start(t.Context(), controlplane.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer again.Kill()
		list, err := clustertest.Client(t, again).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, cm := range list.Items {
			delete(acked, cm.Name)
		}
		if len(acked) > 0 {
			t.Errorf("acknowledged and gone: %v", acked)
		}
	})
}

// smallDisk mounts a disk of so many bytes. Where that is not allowed the test
// is skipped; in CI it fails.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("mount a small disk: %v: it takes root", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file that takes all the space that is left.
func fill(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "full")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; block = block[:len(block)/2] {
		for err = nil; err == nil; {
			_, err = f.Write(block)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return path
}
