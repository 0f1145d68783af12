package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// maxLog is the size, in bytes, at which a log file is put aside when the next
// start begins: a few hours of a busy control plane.
const maxLog = 16 << 20

// ErrMissing is the error of a program that is not there.
var ErrMissing = errors.New("program is missing")

// Options say what to start.
type Options struct {
	Name string   // in messages; the file's base name if empty
	Path string   // of the program; required
	Args []string // without the program's name
	Env  []string // in addition to the parent's environment
	Dir  string   // working directory; the parent's if empty

	// LogFile gets the child's standard error, appended, mode 0600. Empty
	// throws it away.
	LogFile string
	// Line is called, one call at a time, for each line of the child's
	// standard output. Nil throws them away.
	Line func(line string)
}

// A Process is a running child.
type Process struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}

	logFile string
	logFrom int64 // where this child's lines begin

	mu  sync.Mutex
	err error // set before done is closed
}

// Start starts a program. When the parent dies, the child gets SIGTERM from
// the kernel and its standard input closes. The caller must call Stop, or
// Kill, or wait for Done.
func Start(o Options) (*Process, error) {
	if o.Name == "" {
		o.Name = filepath.Base(o.Path)
	}
	if st, err := os.Stat(o.Path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("start %s: %w: there is no %s", o.Name, ErrMissing, o.Path)
	} else if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	} else if st.IsDir() || st.Mode()&0o111 == 0 {
		return nil, fmt.Errorf("start %s: %s is not an executable file", o.Name, o.Path)
	}

	cmd := exec.Command(o.Path, o.Args...)
	cmd.Dir = o.Dir
	cmd.Env = append(os.Environ(), o.Env...)
	cmd.SysProcAttr = attributes()
	var logFrom int64
	if o.LogFile != "" {
		log, err := openLog(o.LogFile)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", o.Name, err)
		}
		defer log.Close() // the child has its own
		if st, err := log.Stat(); err == nil {
			logFrom = st.Size()
		}
		cmd.Stderr = log
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	stdout, childOut, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	cmd.Stdout = childOut

	p := &Process{name: o.Name, cmd: cmd, stdin: stdin, done: make(chan struct{}), logFile: o.LogFile, logFrom: logFrom}
	started := make(chan error, 1)
	go func() {
		// The kernel sends the parent-death signal when this thread ends, so
		// the thread must live exactly as long as the child.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		childOut.Close()
		started <- err
		if err != nil {
			return
		}
		lines := make(chan struct{})
		go func() {
			defer close(lines)
			readLines(stdout, o.Line)
		}()
		err = cmd.Wait()
		// A grandchild may hold the pipe; what it says is not waited for long.
		select {
		case <-lines:
		case <-time.After(time.Second):
		}
		stdout.Close()
		<-lines
		p.mu.Lock()
		p.err = err
		p.mu.Unlock()
		close(p.done)
	}()
	if err := <-started; err != nil {
		stdout.Close()
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended and its last line was read.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the child ended: nil for exit status 0, and before Done.
func (p *Process) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Stop asks the child to end and waits for it. When ctx ends first, the child
// is killed, with everything in its process group, and Stop says so. Stopping
// what has ended does nothing.
func (p *Process) Stop(ctx context.Context) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	p.stdin.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already: Done follows
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("stop %s: it did not end in time and was killed: %w", p.name, ctx.Err())
	}
}

// Kill ends the child at once, with everything in its process group, and
// waits for it.
func (p *Process) Kill() {
	select {
	case <-p.done:
		return
	default:
	}
	killGroup(p.cmd.Process)
	<-p.done
}

// WatchParent calls gone, once, when the parent has closed its end of this
// process's standard input, which it does at the latest by dying. It is for
// programs that [Start] started; it returns at once.
func WatchParent(gone func()) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // an error is an end as well
		gone()
	}()
}

func readLines(r io.Reader, line func(string)) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), 1<<20)
	for sc.Scan() {
		if line != nil {
			line(sc.Text())
		}
	}
	_, _ = io.Copy(io.Discard, r) // after a line beyond the buffer: never block the child
}

// openLog opens a log for appending. One that has grown beyond maxLog becomes
// FILE.1, in place of an older one.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("put log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// LogTail returns the last lines, at most n, that this child and nobody before
// it has written to its log file: for a search after the cause of an end.
func (p *Process) LogTail(n int) []string {
	f, err := os.Open(p.logFile)
	if err != nil {
		return nil
	}
	defer f.Close()
	const most = 256 << 10
	from := p.logFrom
	if st, err := f.Stat(); err == nil {
		if st.Size() < from {
			from = 0 // cut meanwhile
		}
		from = max(from, st.Size()-most)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, from, most))
	if err != nil || len(b) == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return lines[max(0, len(lines)-n):]
}

// StopWithStdin is the environment variable that tells a program which reads
// no flag of ours to watch its parent.
const StopWithStdin = "NEAP_STOP_WITH_STDIN"
