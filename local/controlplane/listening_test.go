package controlplane_test

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// listening are the TCP addresses, as in /proc/net/tcp, that a process listens
// on.
func listening(t *testing.T, pid int) []string {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Skipf("the open files of process %d cannot be read here: %v", pid, err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				inodes[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	var out []string
	for _, table := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // no IPv6 on this machine
		}
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			const listen = "0A"
			if cols := strings.Fields(sc.Text()); len(cols) > 9 && cols[3] == listen && inodes[cols[9]] {
				out = append(out, cols[1])
			}
		}
	}
	return out
}
