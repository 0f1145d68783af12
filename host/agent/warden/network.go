package warden

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/host/cgroup"
	"github.com/neap-dev/neap/host/netqos"
)

// A Shaper holds the network to what online leaves of it. A [netqos.Shaper] is one.
type Shaper interface {
	SetBatch(groups []string) ([]netqos.Blind, error)
	Step(at time.Duration) (netqos.Use, error)
	Close() error
}

// A network is the network of the machine while a policy bounds it.
type network struct {
	shaper Shaper // nil while there is none
	spec   v1alpha1.ColocationNetwork
	batch  []string
	blind  []netqos.Blind
	use    netqos.Use
	failed time.Time // when it last could not be opened
	fault  error     // and why
}

// shape has the network shaped as the policy wants, or left alone.
func (w *Warden) shape(world World, batch []Pod, active bool, at time.Duration) {
	n := &w.net
	want := world.Spec.Network
	if !active || want == nil {
		w.unshape()
		return
	}
	if n.shaper != nil && n.spec != *want {
		w.unshape()
	}
	if n.shaper == nil {
		if time.Since(n.failed) < 10*time.Second {
			return
		}
		shaper, err := w.opts.Shape(netqos.Options{
			Interface: want.Interface, Bits: int64(want.Megabits) * 1e6, ReservePercent: int64(want.ReservePercent), Proc: w.opts.Proc,
		})
		if err != nil {
			n.failed = time.Now()
			n.fault = fmt.Errorf("the network is not shared: %w", err)
			return
		}
		n.shaper, n.spec, n.batch, n.fault = shaper, *want, nil, nil
	}
	var groups []string
	for _, p := range batch {
		if g, held := w.held[p.UID]; held {
			groups = append(groups, w.directory(g))
		}
	}
	if !slices.Equal(groups, n.batch) {
		blind, err := n.shaper.SetBatch(groups)
		if err != nil {
			w.wanting = append(w.wanting, err)
		} else {
			n.batch, n.blind = groups, blind
		}
	}
	var err error
	if n.use, err = n.shaper.Step(at); err != nil {
		w.wanting = append(w.wanting, err)
	}
}

// faults says what of the network is not as it should be.
func (n *network) faults() error {
	if n.fault != nil || len(n.blind) == 0 {
		return n.fault
	}
	var why []string
	for _, b := range n.blind {
		why = append(why, b.Group+": "+b.Reason)
	}
	return errors.New("what batch pods send is not told apart: " + strings.Join(why, "; "))
}

// unshape leaves the network as it was found.
func (w *Warden) unshape() {
	if w.net.shaper != nil {
		if err := w.net.shaper.Close(); err != nil {
			w.wanting = append(w.wanting, err)
		}
	}
	w.net = network{failed: w.net.failed}
}

// directory returns a group's directory in the v2 tree, or in that of CPUs where its
// processes are in no v2 group.
func (w *Warden) directory(g cgroup.Group) string {
	if dir := w.opts.Tree.Dir(g); dir != "" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	return filepath.Dir(w.opts.Tree.File(g, cgroup.Weight))
}
