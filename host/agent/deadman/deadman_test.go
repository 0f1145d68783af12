package deadman

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/neap-dev/neap/host/cgroup"
)

const batch = cgroup.Group("/kubepods/besteffort")

// A bench is a machine with a deadman, and an agent that holds batch to two cores.
type bench struct {
	t      *testing.T
	dir    string
	tree   *cgroup.Tree
	ledger *cgroup.Ledger
	line   *Line
	orders Orders
	killed chan int
	end    context.CancelFunc // of the deadman, in order
	done   chan error
}

func newBench(t *testing.T, silence time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), tree: cgroup.NewFake(cgroup.V1).Tree(), killed: make(chan int, 10), done: make(chan error, 1)}
	if err := b.tree.Make(batch); err != nil {
		t.Fatal(err)
	}
	b.watch(silence)
	b.orders = Orders{PID: 4711, Scope: "/kubepods", Dir: b.dir, Wants: []cgroup.Want{
		{Group: batch, Knob: cgroup.Quota, Value: 100, Reason: "the agent is gone"},
		{Group: batch.Child("gone"), Knob: cgroup.Freeze, Value: 0},
	}}
	b.take()
	b.dial()
	return b
}

// watch starts a deadman.
func (b *bench) watch(silence time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	b.end = cancel
	done := make(chan error, 1)
	b.done = done
	go func() {
		defer close(done)
		done <- Watch(ctx, Options{Tree: b.tree, Dir: b.dir, Silence: silence, Kill: func(pid int) error {
			b.killed <- pid
			return b.ledger.Leave() // its death lets go of the groups
		}})
	}()
	b.t.Cleanup(func() {
		if b.line != nil {
			b.line.Send(Orders{Bye: true}) // else it waits for that
			b.line.Close()
		}
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
}

// kept waits until the deadman has heard its orders.
func (b *bench) kept() {
	b.t.Helper()
	b.eventually("the orders are kept", func() bool {
		_, err := os.Stat(filepath.Join(b.dir, kept))
		return err == nil
	})
}

// ended waits until the deadman is.
func (b *bench) ended() {
	b.t.Helper()
	select {
	case err := <-b.done:
		if err != nil {
			b.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		b.t.Fatal("the deadman goes on after 20 s")
	}
}

// take makes the agent own the groups, and hold batch.
func (b *bench) take() {
	b.t.Helper()
	var err error
	if b.ledger, err = cgroup.OpenLedger(b.tree, cgroup.Options{Scope: "/kubepods", Dir: b.dir}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { b.ledger.Close() })
	if err := b.ledger.Set(cgroup.Want{Group: batch, Knob: cgroup.Idle, Value: 1}, cgroup.Want{Group: batch, Knob: cgroup.Quota, Value: 2000}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) dial() {
	b.t.Helper()
	b.eventually("the deadman listens", func() bool {
		var err error
		b.line, err = Dial(b.dir)
		return err == nil
	})
}

func (b *bench) send() {
	b.t.Helper()
	if err := b.line.Send(b.orders); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("not so after 20 s: %s", what)
		}
	}
}

func (b *bench) knob(k cgroup.Knob) int64 {
	b.t.Helper()
	v, err := b.tree.Get(batch, k)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

// asFound fails the test unless nothing holds batch and nothing is left in the folder.
func (b *bench) asFound() {
	b.t.Helper()
	if quota, idle := b.knob(cgroup.Quota), b.knob(cgroup.Idle); quota != cgroup.Unlimited || idle != 0 {
		b.t.Errorf("the quota is %d, idle %d: not as they were found", quota, idle)
	}
	left, err := os.ReadDir(b.dir)
	if err != nil || len(left) > 0 {
		b.t.Errorf("in its folder it left %v, %v", left, err)
	}
}

func (b *bench) bounded() bool { return b.knob(cgroup.Quota) == 100 && b.knob(cgroup.Idle) == 0 }

func TestAKilledAgentLeavesBatchBounded(t *testing.T) {
	b := newBench(t, time.Hour)
	b.send()
	b.send()
	b.ledger.Leave() // as its death lets go of the groups, but for idle
	b.line.Close()
	b.eventually("batch is bounded", b.bounded)

	// Its successor finds the files as they were before everything.
	b.eventually("the successor owns the groups", func() bool {
		l, err := cgroup.OpenLedger(b.tree, cgroup.Options{Scope: "/kubepods", Dir: b.dir})
		if errors.Is(err, cgroup.ErrOwned) {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return b.knob(cgroup.Quota) == cgroup.Unlimited
	})
}

func TestAnAgentThatHangsIsEnded(t *testing.T) {
	b := newBench(t, 100*time.Millisecond)
	b.send()
	if pid := <-b.killed; pid != 4711 {
		t.Errorf("process %d is ended", pid)
	}
	b.eventually("batch is bounded", b.bounded)
}

// TestWhoEndsBothInOrder ends the deadman while an agent is there, as the end of a
// pod does.
func TestWhoEndsBothInOrder(t *testing.T) {
	t.Run("and the agent dies of it", func(t *testing.T) {
		b := newBench(t, time.Hour)
		b.send()
		b.kept()
		b.end()
		b.ledger.Leave()
		b.line.Close()
		b.ended()
		b.asFound()
	})
	t.Run("and the agent hangs", func(t *testing.T) {
		b := newBench(t, time.Second)
		b.send()
		b.kept()
		b.end()
		if pid := <-b.killed; pid != 4711 {
			t.Errorf("process %d is ended", pid)
		}
		b.ended()
		b.asFound()
	})
	t.Run("and the agent says goodbye", func(t *testing.T) {
		b := newBench(t, time.Hour)
		b.send()
		b.kept()
		b.end()
		if err := b.ledger.Close(); err != nil {
			t.Error(err)
		}
		b.orders.Bye = true
		b.send()
		b.line.Close()
		b.ended()
		b.asFound()
	})
	t.Run("and the agent had died before", func(t *testing.T) {
		b := newBench(t, time.Hour)
		b.send()
		b.ledger.Leave()
		b.line.Close()
		b.eventually("batch is bounded", b.bounded)
		b.end()
		b.ended()
		b.asFound()
	})
}

// TestADeadmanThatEndsAlone leaves an agent that lives to itself.
func TestADeadmanThatEndsAlone(t *testing.T) {
	b := newBench(t, 5*time.Second)
	b.send()
	b.kept()
	b.end()
	for over := false; !over; {
		select {
		case err := <-b.done:
			if over = true; err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Millisecond):
			b.line.Send(b.orders) // which fails in the end, for nobody listens any more
		}
	}
	if quota, idle := b.knob(cgroup.Quota), b.knob(cgroup.Idle); quota != 2000 || idle != 1 || len(b.killed) > 0 {
		t.Errorf("the quota is %d, idle %d, and %d agents were killed", quota, idle, len(b.killed))
	}
}

// TestBothAreKilled: the deadman that comes back knows what it has to do, and gives
// an agent that comes back with it the time to do better.
func TestBothAreKilled(t *testing.T) {
	killed := func(t *testing.T) *bench {
		b := newBench(t, time.Hour)
		b.send()
		b.kept()
		text, err := os.ReadFile(filepath.Join(b.dir, kept))
		if err != nil {
			t.Fatal(err)
		}
		b.ledger.Leave() // as its death lets go of the groups, but for idle
		b.orders.Bye = true
		b.send() // for there is no other way to end a deadman here
		b.line.Close()
		b.end()
		b.ended()
		b.orders.Bye = false
		if err := os.WriteFile(filepath.Join(b.dir, kept), text, 0o600); err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("and the deadman alone comes back", func(t *testing.T) {
		b := killed(t)
		b.watch(100 * time.Millisecond)
		b.eventually("batch is bounded", b.bounded)
		b.end()
		b.ended()
		b.asFound()
	})
	t.Run("and both come back", func(t *testing.T) {
		b := killed(t)
		b.watch(time.Hour)
		b.take()
		b.dial()
		b.send()
		b.orders.Bye = true
		b.send()
		b.line.Close()
		b.dial() // the deadman is done with the line before
		if got := b.knob(cgroup.Quota); got != 2000 {
			t.Errorf("the quota is %d", got)
		}
	})
	t.Run("and what they left cannot be read", func(t *testing.T) {
		b := killed(t)
		if err := os.WriteFile(filepath.Join(b.dir, kept), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		b.watch(time.Second)
		b.take()
		b.dial()
		b.send()
		if pid := <-b.killed; pid != 4711 {
			t.Errorf("process %d is ended", pid)
		}
		b.eventually("batch is bounded", b.bounded)
	})
}

func TestAnAgentThatSaysGoodbyeIsLeftAlone(t *testing.T) {
	b := newBench(t, time.Hour)
	b.send()
	b.orders.Bye = true
	b.send()
	b.line.Close()
	b.dial() // the deadman is done with the line before
	b.send()
	if got := b.knob(cgroup.Quota); got != 2000 {
		t.Errorf("the quota is %d", got)
	}
}

func TestWhatIsNoOrderIsNotCarriedOut(t *testing.T) {
	b := newBench(t, time.Hour)
	if _, err := b.line.conn.Write([]byte("{\"Scope\": 7}\nnonsense\n\n")); err != nil {
		t.Fatal(err)
	}
	b.line.Close()
	b.dial()
	b.orders.Bye = true
	b.send()
	if got := b.knob(cgroup.Quota); got != 2000 {
		t.Errorf("the quota is %d", got)
	}
}

func TestASuccessorIsNotDisturbed(t *testing.T) {
	b := newBench(t, time.Hour)
	b.send()
	b.line.Close() // it died, and its successor, here the ledger, already owns the groups
	b.dial()
	b.orders.Bye = true
	b.send()
	b.line.Close()
	b.dial()
	if got := b.knob(cgroup.Quota); got != 2000 {
		t.Errorf("the quota is %d", got)
	}
}

func TestTwoDeadmenAreOneTooMany(t *testing.T) {
	b := newBench(t, time.Hour)
	if err := Watch(t.Context(), Options{Tree: b.tree, Dir: b.dir}); err == nil {
		t.Error("a second deadman began to listen")
	}
}

func TestADeadmanEndsWhenNobodyNeedsIt(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Socket), nil, 0o600); err != nil { // what a dead one left
		t.Fatal(err)
	}
	if err := Watch(t.Context(), Options{Tree: cgroup.NewFake(cgroup.V2).Tree(), Dir: dir, Idle: 10 * time.Millisecond}); err != nil {
		t.Error(err)
	}
}
