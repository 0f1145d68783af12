package process_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neap-dev/neap/local/process"
)

// patience is how long a test waits for what takes milliseconds.
const patience = time.Minute

// role makes the test binary play the child, or a parent that is killed.
const role = "NEAP_PROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		os.Exit(m.Run())
	case "obedient": // stops with its parent or on SIGTERM
		gone := make(chan struct{})
		process.WatchParent(func() { close(gone) })
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("ready")
		fmt.Fprintln(os.Stderr, "a line for the log")
		select {
		case <-gone:
		case <-term:
		}
	case "watcher": // stops only with its standard input
		signal.Ignore(syscall.SIGTERM)
		gone := make(chan struct{})
		process.WatchParent(func() { close(gone) })
		fmt.Println("ready")
		<-gone
	case "signalled": // stops only on SIGTERM, and never looks at its input
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		fmt.Println("ready")
		<-term
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		select {}
	case "failing":
		fmt.Fprintln(os.Stderr, "no space left on device")
		os.Exit(3)
	case "parent": // starts a child, says its process id, and waits to be killed
		ready := make(chan struct{})
		p, err := process.Start(process.Options{
			Path: os.Args[0],
			Env:  []string{role + "=" + os.Args[1]},
			Line: func(string) { close(ready) },
		})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		<-ready
		fmt.Println(p.PID())
		select {}
	}
}

func start(t *testing.T, as string) *process.Process {
	t.Helper()
	ready := make(chan struct{})
	p, err := process.Start(process.Options{
		Path:    os.Args[0],
		Env:     []string{role + "=" + as},
		LogFile: filepath.Join(t.TempDir(), "log"),
		Line: func(line string) {
			if line == "ready" {
				close(ready)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	if as != "failing" {
		wait(t, ready)
	}
	return p
}

func wait(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("waited for ever")
	}
}

func TestStop(t *testing.T) {
	for _, as := range []string{"obedient", "watcher", "signalled"} {
		t.Run("a child that is "+as+" ends when asked", func(t *testing.T) {
			p := start(t, as)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := p.Stop(ctx); err != nil {
				t.Fatal(err)
			}
			if err := p.Err(); err != nil {
				t.Errorf("ended with %v", err)
			}
			if err := p.Stop(ctx); err != nil {
				t.Errorf("stopping twice: %v", err)
			}
		})
	}
	t.Run("a child that does not listen is killed", func(t *testing.T) {
		p := start(t, "stubborn")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Stop(ctx); err == nil || !strings.Contains(err.Error(), "was killed") {
			t.Errorf("got %v", err)
		}
		if err := syscall.Kill(p.PID(), 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("it still runs: %v", err)
		}
	})
}

func TestChildDoesNotOutliveAKilledParent(t *testing.T) {
	for _, as := range []string{"watcher", "signalled"} {
		t.Run(as, func(t *testing.T) {
			parent := exec.Command(os.Args[0], as)
			parent.Env = append(os.Environ(), role+"=parent")
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			child, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(line)
			}
			if err := parent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = parent.Wait() // it says that it was killed
			deadline := time.Now().Add(patience)
			for alive(child) {
				if time.Now().After(deadline) {
					_ = syscall.Kill(child, syscall.SIGKILL)
					t.Fatal("the child runs on")
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// alive says whether a process runs. An orphan that ended may stay a zombie
// where nobody adopts it.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return syscall.Kill(pid, 0) == nil && !os.IsNotExist(err)
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z")
}

func TestErrAndLogSayHowAChildEnded(t *testing.T) {
	p := start(t, "failing")
	wait(t, p.Done())
	var exit *exec.ExitError
	if !errors.As(p.Err(), &exit) || exit.ExitCode() != 3 {
		t.Errorf("got %v, want exit status 3", p.Err())
	}
	if got := p.LogTail(5); len(got) != 1 || got[0] != "no space left on device" {
		t.Errorf("log says %q", got)
	}
}

func TestLogTailLeavesOutEarlierRuns(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("an error of yesterday\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(process.Options{Path: os.Args[0], Env: []string{role + "=failing"}, LogFile: log})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, p.Done())
	if got := p.LogTail(5); len(got) != 1 || got[0] != "no space left on device" {
		t.Errorf("log says %q", got)
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(notExecutable, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ path, want string }{
		"a program that is not there":      {filepath.Join(t.TempDir(), "nothing"), "there is no "},
		"a file that cannot be executed":   {notExecutable, "is not an executable file"},
		"a folder where a program belongs": {t.TempDir(), "is not an executable file"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := process.Start(process.Options{Path: tc.path})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}
