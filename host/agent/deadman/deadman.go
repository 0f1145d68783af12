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
// Two things take both of them at once. Who ends a pod in order ends both its
// containers: the deadman then stays until the agent has given everything back, and
// does it itself if the agent dies of it or hangs. And if both are killed, the orders
// are still in the ledger's directory: of the two the one that comes back first puts
// the files back, the deadman after [Silence] without an agent.
//
// Not here: what the bounds are, which host/agent/warden says.
package deadman

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
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

// kept is the name of the file in a ledger's directory with the orders in force.
const kept = "deadman.json"

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
	// Unbound takes all bounds off what batch sends; nil is netqos.Restore.
	Unbound func() error
}

// Watch waits for agents at the socket, one after the other, until ctx ends. If an
// agent is there then, it stays until that has said goodbye, is dead or silent, but no
// longer than silence lasts. What a dead agent left is as it was found when Watch
// returns because ctx has ended. It is an error when another deadman is there.
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
	if o.Unbound == nil {
		o.Unbound = func() error { return netqos.Restore("") }
	}
	l, err := listen(o.Dir)
	if err != nil {
		return err
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	orders := recall(o) // in force: of an agent that was killed, and a deadman with it
	alone := orders.Scope != ""
	for {
		switch {
		case alone:
			l.SetDeadline(time.Now().Add(o.Silence))
		case o.Idle > 0:
			l.SetDeadline(time.Now().Add(o.Idle))
		default:
			l.SetDeadline(time.Time{})
		}
		conn, err := l.AcceptUnix()
		silent := errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case ctx.Err() != nil:
			return giveBack(o, orders, false)
		case silent && alone:
			alone = false
			o.Log.Warn("neither the agent nor its deadman was there: batch is bounded")
			if err := carryOut(ctx, o, orders, false); err != nil {
				o.Log.Error("batch is not bounded as it should be", "error", err)
			}
			continue
		case silent:
			return nil
		case err != nil:
			return fmt.Errorf("wait for the agent: %w", err)
		}
		alone = false
		said, how := hear(ctx, conn, o)
		conn.Close()
		switch {
		case said.Bye || how == lives:
			orders = Orders{}
		case said.Scope == "": // nothing was said; what was left before still is
		case ctx.Err() != nil:
			return giveBack(o, said, how == hangs)
		default:
			orders = said
			o.Log.Warn("the agent is gone: batch is bounded", "hangs", how == hangs, "pid", orders.PID)
			if err := carryOut(ctx, o, orders, how == hangs); err != nil {
				o.Log.Error("batch is not bounded as it should be", "error", err)
			}
		}
	}
}

// recall returns the orders that a deadman left which was killed.
func recall(o Options) (orders Orders) {
	text, err := os.ReadFile(filepath.Join(o.Dir, kept))
	if err == nil {
		err = json.Unmarshal(text, &orders)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		o.Log.Warn("the last orders cannot be read", "error", err)
		return Orders{}
	}
	orders.PID = 0 // which is another process' by now
	return orders
}

// keep has orders outlive the deadman, whole or not at all; text is what was sent.
func keep(o Options, orders Orders, text []byte) error {
	path := filepath.Join(o.Dir, kept)
	if orders.Bye {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
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

// An ending is how it ends that an agent is heard.
type ending int

const (
	gone  ending = iota // its connection is
	hangs               // it says nothing
	lives               // it does, and only the deadman is to end
)

// hear listens to an agent until it is gone or silent, and returns its last orders.
// When ctx ends it listens on for as long as silence lasts.
func hear(ctx context.Context, conn *net.UnixConn, o Options) (last Orders, how ending) {
	var mu sync.Mutex
	parting := false
	defer context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		parting = true
		conn.SetReadDeadline(time.Now().Add(min(o.Silence, Silence)))
	})()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 1<<16), 1<<22)
	heard := time.Now()
	var before []byte
	for {
		mu.Lock()
		if !parting {
			conn.SetReadDeadline(time.Now().Add(o.Silence))
		}
		mu.Unlock()
		if !lines.Scan() {
			break
		}
		heard = time.Now()
		var now Orders
		if json.Unmarshal(lines.Bytes(), &now) != nil {
			continue
		}
		if last = now; last.Scope == "" && !last.Bye || bytes.Equal(before, lines.Bytes()) {
			continue
		}
		before = bytes.Clone(lines.Bytes())
		if err := keep(o, last, before); err != nil {
			o.Log.Warn("the orders cannot be kept", "error", err)
		}
	}
	switch {
	case !errors.Is(lines.Err(), os.ErrDeadlineExceeded):
		return last, gone
	case ctx.Err() != nil && time.Since(heard) < min(o.Silence, Silence)/2:
		return last, lives
	}
	return last, hangs
}

// carryOut ends an agent that hangs, and writes the bounds.
func carryOut(ctx context.Context, d Options, o Orders, hangs bool) error {
	kill(d, o, hangs)
	var errs []error
	if o.Network {
		errs = append(errs, d.Bound())
	}
	ledger, err := takeOver(ctx, d, o)
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

// giveBack does what the agent would have done had it ended in order: nobody comes
// after it who would take the bounds off.
func giveBack(d Options, o Orders, hangs bool) error {
	if o.Bye || o.Scope == "" {
		return nil
	}
	d.Log.Warn("the agent did not give everything back: its deadman does", "hangs", hangs)
	kill(d, o, hangs)
	ledger, err := takeOver(context.Background(), d, o)
	switch {
	case errors.Is(err, cgroup.ErrOwned):
		return nil // its successor is there
	case errors.Is(err, cgroup.ErrGone):
		err = nil
	case err == nil:
		err = ledger.Close()
	}
	if o.Network {
		err = errors.Join(err, d.Unbound())
	}
	return errors.Join(err, keep(d, Orders{Bye: true}, nil))
}

// kill ends an agent that hangs.
func kill(d Options, o Orders, hangs bool) {
	if !hangs || o.PID <= 1 {
		return
	}
	if err := d.Kill(o.PID); err != nil && !errors.Is(err, syscall.ESRCH) {
		d.Log.Error("the agent hangs and cannot be ended", "pid", o.PID, "error", err)
	}
}

// takeOver takes over the groups of an agent, whose files are then as it found them.
func takeOver(ctx context.Context, d Options, o Orders) (ledger *cgroup.Ledger, err error) {
	for range 20 { // whoever was just killed holds the groups for a moment
		ledger, err = cgroup.OpenLedger(d.Tree, cgroup.Options{Scope: o.Scope, Dir: o.Dir})
		if !errors.Is(err, cgroup.ErrOwned) || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return ledger, err
}
