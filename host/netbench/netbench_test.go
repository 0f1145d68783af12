package netbench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// The test binary plays the roles itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "neap-role" {
		if err := Role(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func self(role string, args ...string) *exec.Cmd {
	return exec.Command(os.Args[0], append([]string{"neap-role", role}, args...)...)
}

func TestOnlineAndBulkShareALink(t *testing.T) {
	rows, err := Run(context.Background(), Options{Rounds: 1, Tries: 1, Time: 1500 * time.Millisecond, Warm: 2500 * time.Millisecond, Self: self, Say: t.Logf})
	if errors.Is(err, ErrUnable) && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != len(Arms()) {
		t.Fatalf("%d rows for %d arms", len(rows), len(Arms()))
	}
	p99 := map[string]float64{}
	for _, r := range rows {
		t.Logf("%+v", r)
		p99[r.Arm] = r.P99Ms
		if r.Calls == 0 || r.Failed > 0 {
			t.Errorf("%s: %d calls, %d failed", r.Arm, r.Calls, r.Failed)
		}
		if r.Arm == Solo && r.BulkMbit != 0 {
			t.Errorf("alone, bulk got %.1f Mbit/s", r.BulkMbit)
		}
		if r.Arm != Solo && (r.BulkMbit < 1 || r.BulkMbit > 101) {
			t.Errorf("%s: bulk got %.1f of 100 Mbit/s", r.Arm, r.BulkMbit)
		}
	}
	// The link's buffer is 21 ms long, so this does not hang on the machine's pace.
	if p99[Neap] >= p99[None] {
		t.Errorf("p99 is %.2f ms shaped and %.2f ms not", p99[Neap], p99[None])
	}
}
