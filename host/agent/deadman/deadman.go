// Package deadman bounds batch pods when the machine's agent no longer does: it was
// killed, or it hangs.
//
// A small process beside the agent, its child or another container of its pod, waits
// at a socket ([Watch]). The agent ([Dial]) sends its [Orders] once a second. When the
// connection breaks, or stays silent for [Silence], the orders are carried out: the
// agent is ended if it hangs, every file is put back as it was found, and batch's
// bounds are written, without idle, for idle must not be without a holder (see
// [cgroup.Ledger.Leave]). Whoever says goodbye leaves no orders.
//
// Not here: what the bounds are, which host/agent/warden says.
package deadman

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
)

// Silence is how long an agent may say nothing. Together with what carrying out
// takes it is less than the 10 s within which batch is bounded.
const Silence = 7 * time.Second

// Socket is the name of the socket in a ledger's directory.
const Socket = "deadman.sock"

// Orders are what is to be done when an agent is silent. The zero Orders are none.
type Orders struct {
	PID   int           // the agent's; ended if it hangs
	Scope cgroup.Group  // of its ledger
	Dir   string        // of its ledger
	Wants []cgroup.Want // what holds then
	Bye   bool          // nothing is to be done any more
	// Network has what batch sends put at its floor too.
	Network bool
}

// A Line is an agent's connection to its deadman. Its methods are for one goroutine
// at a time.
type Line struct {
	conn net.Conn
}

// Dial connects to the deadman of a ledger's directory.
func Dial(dir string) (*Line, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(dir, Socket), time.Second)
	if err != nil {
		return nil, fmt.Errorf("reach the deadman: %w; start `neap-agent deadman`", err)
	}
	return &Line{conn}, nil
}

// Send renews the orders. On an error the line is dead: dial again.
func (l *Line) Send(o Orders) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	l.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := l.conn.Write(append(text, '\n')); err != nil {
		return fmt.Errorf("send orders to the deadman: %w", err)
	}
	return nil
}

// Close ends the line. Without orders that say Bye it is like dying.
func (l *Line) Close() error { return l.conn.Close() }

// Options say how a deadman works.
type Options struct {
	Tree *cgroup.Tree // required
	Dir  string       // required: where the socket is made, mode 0600
	Log  *slog.Logger // nil logs nothing
	// Idle ends the deadman when nobody has been connected for so long; zero never
	// does.
	Idle time.Duration
	// Silence is how long an agent may say nothing; the constant if zero.
	Silence time.Duration
	// Kill ends a process; nil kills it.
	Kill func(pid int) error
	// Bound puts what batch sends at its floor; nil is netqos.Bound.
	Bound func() error
}

// Watch waits for agents at the socket, one after the other, until ctx ends. It is
// an error when another deadman is there.
func Watch(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Silence <= 0 {
		o.Silence = Silence
	}
	if o.Kill == nil {
		o.Kill = func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }
	}
	if o.Bound == nil {
		o.Bound = func() error { return netqos.Bound("") }
	}
	l, err := listen(o.Dir)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		if o.Idle > 0 {
			l.SetDeadline(time.Now().Add(o.Idle))
		}
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil, errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("wait for the agent: %w", err)
		}
		orders, hangs := hear(ctx, conn, o.Silence)
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil // whoever ends the deadman in order has ended the agent so
		case orders.Bye || orders.Scope == "":
		default:
			o.Log.Warn("the agent is gone: batch is bounded", "hangs", hangs, "pid", orders.PID)
			if err := carryOut(ctx, o, orders, hangs); err != nil {
				o.Log.Error("batch is not bounded as it should be", "error", err)
			}
		}
	}
}

// listen makes the socket anew unless somebody listens at it.
func listen(dir string) (*net.UnixListener, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the deadman's folder: %w", err)
	}
	path := filepath.Join(dir, Socket)
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("%s: another deadman listens there", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove a dead socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for the agent: %w", err)
	}
	return l, nil
}

// hear listens to an agent until it is gone or silent, and returns its last orders.
func hear(ctx context.Context, conn *net.UnixConn, silence time.Duration) (last Orders, hangs bool) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 1<<16), 1<<22)
	for {
		conn.SetReadDeadline(time.Now().Add(silence))
		if !lines.Scan() {
			return last, errors.Is(lines.Err(), os.ErrDeadlineExceeded)
		}
		var o Orders
		if json.Unmarshal(lines.Bytes(), &o) == nil {
			last = o
		}
	}
}

// carryOut ends an agent that hangs, and writes the bounds.
func carryOut(ctx context.Context, d Options, o Orders, hangs bool) error {
	if hangs && o.PID > 1 {
		if err := d.Kill(o.PID); err != nil && !errors.Is(err, syscall.ESRCH) {
			d.Log.Error("the agent hangs and cannot be ended", "pid", o.PID, "error", err)
		}
	}
	var errs []error
	if o.Network {
		errs = append(errs, d.Bound())
	}
	var ledger *cgroup.Ledger
	var err error
	for range 20 { // whoever was just killed holds the groups for a moment
		ledger, err = cgroup.OpenLedger(d.Tree, cgroup.Options{Scope: o.Scope, Dir: o.Dir})
		if !errors.Is(err, cgroup.ErrOwned) || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	var set func(cgroup.Want) error
	switch {
	case errors.Is(err, cgroup.ErrGone):
		return errors.Join(errs...) // there are no pods any more
	case err == nil:
		set = func(w cgroup.Want) error { return ledger.Set(w) }
	case errors.Is(err, cgroup.ErrOwned) && !hangs:
		return errors.Join(errs...) // the agent's successor is faster than we are
	default: // the bounds are worth more than their keeping
		d.Log.Error("what the files held before cannot be kept", "error", err)
		set = func(w cgroup.Want) error { return d.Tree.Set(w.Group, w.Knob, w.Value) }
	}
	for _, w := range o.Wants {
		if err := set(w); err != nil && !errors.Is(err, cgroup.ErrGone) {
			errs = append(errs, err)
		}
	}
	if ledger != nil {
		errs = append(errs, ledger.Leave())
	}
	return errors.Join(errs...)
}
