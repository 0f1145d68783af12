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
	done   chan error
}

func newBench(t *testing.T, silence time.Duration) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), tree: cgroup.NewFake(cgroup.V1).Tree(), killed: make(chan int, 10), done: make(chan error, 1)}
	if err := b.tree.Make(batch); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		b.done <- Watch(ctx, Options{Tree: b.tree, Dir: b.dir, Silence: silence, Kill: func(pid int) error {
			b.killed <- pid
			return b.ledger.Leave() // its death lets go of the groups
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-b.done; err != nil {
			t.Error(err)
		}
	})
	b.orders = Orders{PID: 4711, Scope: "/kubepods", Dir: b.dir, Wants: []cgroup.Want{
		{Group: batch, Knob: cgroup.Quota, Value: 100, Reason: "the agent is gone"},
		{Group: batch.Child("gone"), Knob: cgroup.Freeze, Value: 0},
	}}
	b.take()
	b.dial()
	return b
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
