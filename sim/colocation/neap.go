package colocation

import (
	"time"

	"github.com/neap-dev/neap/core/colocate"
)

// Neap is core/colocate.
type Neap struct {
	Policy  colocate.Policy
	Machine *Machine
	// Blind takes every job for one of the policy's run time.
	Blind bool
	Past  *past // of that machine
	Hours []colocate.Hours
	offer colocate.Offer
}

// past is what Neap has learnt of one machine, however many ask.
type past struct {
	*colocate.Past
	upTo int
}

func (p *past) see(s Seen) {
	if p.Past == nil {
		p.Past = colocate.Learn(colocate.History{})
	}
	for ; p.upTo < len(s.Online); p.upTo++ {
		t := s.Now.Add(time.Duration(p.upTo-s.Minute) * time.Minute)
		p.Observe(t, s.Online[p.upTo], 0)
	}
}

// Look implements [Lender]. Online pods ask for what they use at their peak.
func (n *Neap) Look(s Seen) {
	n.Past.see(s)
	allow := n.Policy
	allow.Windows = colocate.Windows(n.Hours, s.Now, s.Now.Add(colocate.Steps*colocate.Step))
	n.offer = colocate.Capacity(colocate.Observation{
		Now: s.Now, Machine: colocate.Room{CPUMilli: int64(n.Machine.Milli), MemoryMiB: 1 << 20}, Past: n.Past.Past,
		Requests: colocate.Room{CPUMilli: int64(n.Machine.Peak)}, Last: n.offer,
	}, allow)
}

// Fits implements [Lender].
func (n *Neap) Fits(now time.Time, asks colocate.Task, running []colocate.Task) bool {
	if n.Blind {
		asks.RunTime = n.Policy.RunTime
	}
	return colocate.Admit(n.offer.Curve, now, asks, running).Fits
}

// Leave implements [Lender].
func (n *Neap) Leave(now time.Time, running []colocate.Task) (leave []int) {
	if len(n.Hours) == 0 {
		return nil
	}
	for i, d := range colocate.Drain(n.offer.Peak, now, running, colocate.Leaving{Notice: 30 * time.Second}) {
		if d.Fate == colocate.Leave && !d.At.After(now) {
			leave = append(leave, i)
		}
	}
	return leave
}
