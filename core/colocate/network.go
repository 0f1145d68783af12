package colocate

import (
	"fmt"
	"time"
)

const (
	linkLooks = 5 * time.Second // online's use of a link is its highest in so long
	linkRise  = 10              // percent of the link in a second
	linkFloor = 1               // percent of the link that batch keeps whatever happens
)

// A LinkRule says what a link carries one way, and how much of it stays free.
type LinkRule struct {
	Bits           int64 // a second
	ReservePercent int64 // of Bits; stays free for online to grow into
}

// Validate names the field that makes no sense.
func (r LinkRule) Validate() error {
	switch {
	case r.Bits <= 0:
		return fmt.Errorf("the Bits are %d; a link carries more than 0 bits a second", r.Bits)
	case r.ReservePercent < 0 || r.ReservePercent > 100:
		return fmt.Errorf("the ReservePercent is %d; give 0 to 100", r.ReservePercent)
	}
	return nil
}

// A LinkBudget is the loop of a link, one way: how many bits a second batch may
// have. It is Heracles' law, on online's highest use of some seconds:
//
//	batch = link − online − max(reserve · link, online / 10)
//
// down at once, up by a tenth of the link a second, never below a hundredth of it.
type LinkBudget struct {
	rule   LinkRule
	now    int64
	last   time.Duration
	begun  bool
	online []linkUse // within linkLooks, newest last
}

type linkUse struct {
	at   time.Duration
	bits int64
}

// NewLinkBudget returns a budget that begins at its floor.
func NewLinkBudget(rule LinkRule) *LinkBudget {
	rule.Bits = max(rule.Bits, 0)
	rule.ReservePercent = min(max(rule.ReservePercent, 0), 100)
	b := &LinkBudget{rule: rule}
	b.now = b.floor()
	return b
}

func (b *LinkBudget) floor() int64 { return b.rule.Bits / 100 * linkFloor }

// Next takes what online sends now, bits a second, at a time of a clock that only
// goes forward, and returns what batch may send from now on. A negative online is
// one that cannot be told: batch falls to its floor.
func (b *LinkBudget) Next(at time.Duration, online int64) int64 {
	if b.begun && at <= b.last {
		return b.now
	}
	gap := at - b.last
	first := !b.begun
	b.last, b.begun = at, true
	if online < 0 {
		b.online, b.now = b.online[:0], b.floor()
		return b.now
	}
	keep := 0
	for _, u := range b.online {
		if at-u.at < linkLooks {
			b.online[keep] = u
			keep++
		}
	}
	b.online = append(b.online[:keep], linkUse{at, min(online, b.rule.Bits)})
	var high int64
	for _, u := range b.online {
		high = max(high, u.bits)
	}
	wanted := max(b.floor(), b.rule.Bits-high-max(b.rule.Bits/100*b.rule.ReservePercent, high/10))
	if wanted > b.now && !first {
		rise := float64(b.rule.Bits) * linkRise / 100 * min(gap.Seconds(), 1)
		wanted = min(wanted, b.now+int64(rise))
	}
	b.now = wanted
	return b.now
}
