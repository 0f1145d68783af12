//go:build unix && !linux

package process

import (
	"os"
	"syscall"
)

// Without a parent-death signal, the closing standard input is what ends the
// child.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func killGroup(p *os.Process) {
	if syscall.Kill(-p.Pid, syscall.SIGKILL) != nil {
		_ = p.Kill()
	}
}
