package interference

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// A child is one of the measurement's own programs. It ends when its stdin does,
// so it outlives neither us nor stop.
type child struct {
	role  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan []byte
	errs  tail
	once  sync.Once
}

// start runs command with a role and its flags. The child is not in any group yet.
func start(command []string, role string, args ...string) (*child, error) {
	if len(command) == 0 {
		return nil, errors.New("no program is named that runs the children")
	}
	argv := append(append(append([]string{}, command[1:]...), role), args...)
	c := &child{role: role, cmd: exec.Command(command[0], argv...), lines: make(chan []byte, 16)}
	// The sender's thread must not be interrupted for the runtime's own ends.
	c.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1")
	c.cmd.Stderr = &c.errs
	own(c.cmd)
	var err error
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", role, err)
	}
	go func() {
		defer close(c.lines)
		s := bufio.NewScanner(out)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			c.lines <- append([]byte(nil), s.Bytes()...)
		}
	}()
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// read waits for the child's next line and puts it into to, which is a *string
// or takes JSON.
func (c *child) read(ctx context.Context, patience time.Duration, to any) error {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case line, ok := <-c.lines:
		if !ok {
			return fmt.Errorf("%s ended: %s", c.role, c.errs.say())
		}
		if s, ok := to.(*string); ok {
			*s = string(line)
			return nil
		}
		if err := json.Unmarshal(line, to); err != nil {
			return fmt.Errorf("%s said %.100q: %w", c.role, line, err)
		}
		return nil
	case <-t.C:
		return fmt.Errorf("%s said nothing for %v", c.role, patience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *child) say(line string) error {
	_, err := io.WriteString(c.in, line+"\n")
	if err != nil {
		return fmt.Errorf("tell %s %q: %w", c.role, line, err)
	}
	return nil
}

// stop ends the child and waits for it. It may be called again.
func (c *child) stop() {
	c.once.Do(func() {
		_ = c.in.Close()
		_ = c.cmd.Process.Kill()
		for range c.lines { // until its stdout is closed
		}
		_ = c.cmd.Wait()
	})
}

// A tail keeps the last words of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if len(t.text) > 1000 {
		t.text = t.text[len(t.text)-1000:]
	}
	return len(p), nil
}

func (t *tail) say() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := strings.TrimSpace(string(t.text)); s != "" {
		return s
	}
	return "it said nothing"
}
