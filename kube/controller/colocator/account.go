package colocator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/kube/convert"
)

// A price is what an hour of a machine costs, and how that divides.
type price struct {
	hour   [resource.Kinds]money.Amount
	whole  colocate.Room
	priced bool
}

// priceOf returns the price of a node; of one without a price everything is free.
func (c *Colocator) priceOf(w *world, n *corev1.Node) price {
	if c.o.Prices == nil {
		return price{}
	}
	book := c.o.Prices()
	m := convert.Machine(n, w.pools)
	p, err := book.At(m.Type, m.Capacity, w.now)
	if err != nil {
		return price{}
	}
	out := price{whole: room(m.Capacity), priced: true}
	copy(out.hour[:], money.Split(money.Amount(p.Effective), p.Weights[:]))
	return out
}

// of returns what an hour of a part of the machine costs.
func (p price) of(r colocate.Room) money.Amount {
	var sum money.Amount
	if p.whole.CPUMilli > 0 {
		sum += p.hour[resource.CPU].Scale(r.CPUMilli, p.whole.CPUMilli)
	}
	if p.whole.MemoryMiB > 0 {
		sum += p.hour[resource.Memory].Scale(r.MemoryMiB, p.whole.MemoryMiB)
	}
	return sum
}

// of work returns what work on CPU costs: thousandths of a core times seconds.
func (p price) work(milliSeconds int64) money.Amount {
	if p.whole.CPUMilli == 0 {
		return 0
	}
	return p.hour[resource.CPU].Scale(milliSeconds, p.whole.CPUMilli*3600)
}

// An account is what batch on the nodes of one policy came to.
type account struct {
	At    time.Time `json:"at"`    // up to when it is
	Now   hour      `json:"now"`   // of the hour that At is in
	Hours []hour    `json:"hours"` // closed, of the last day, oldest first
	Total totals    `json:"total"`
}

// An hour is what one hour came to. In modes Observe and Preview it is what mode
// Auto would have offered.
type hour struct {
	From       time.Time    `json:"from"`
	CoreMillis int64        `json:"coreMillis"` // thousandths of a core times seconds that batch used
	Earned     money.Amount `json:"earned"`     // what that costs on these machines
	LostMillis int64        `json:"lostMillis"` // work that went with evicted pods
	Lost       money.Amount `json:"lost"`
	Evicted    int          `json:"evicted"`
	Violations float64      `json:"violations"` // minutes in which a service beside batch missed its quality
	Violated   money.Amount `json:"violated"`   // what its pods there cost in that time
}

func (h hour) net() money.Amount { return h.Earned - h.Lost - h.Violated }

// totals count on for ever.
type totals struct {
	LostMillis int64   `json:"lostMillis"`
	Evicted    int64   `json:"evicted"`
	Violations float64 `json:"violations"`
}

// longestMinute is the longest time between two looks that is accounted for: what
// was used in a longer one nobody knows.
const longestMinute = 10 * time.Minute

// account adds what passed since the last minute.
func (c *Colocator) account(w *world) {
	for _, p := range w.policies {
		a := &c.policies[p.UID].account
		from := a.At
		if from.IsZero() || w.now.Sub(from) > longestMinute || from.After(w.now) {
			from = w.now
		}
		a.turn(w.now)
		span := w.now.Sub(from)
		for _, m := range w.machines {
			if m.policy != p {
				continue
			}
			cost := c.priceOf(w, m.node)
			used := m.batchUse
			if p.Spec.Mode != v1alpha1.ModeAuto {
				used = m.offer.Now
			}
			a.Now.CoreMillis += used.CPUMilli * int64(span/time.Second)
			a.Now.Earned += cost.of(used).Scale(int64(span), int64(time.Hour))
			for _, e := range c.runs.evictions(from) {
				if e.node == m.node.Name && e.at.After(from) {
					a.Now.LostMillis += e.lost
					a.Total.LostMillis += e.lost
					a.Now.Lost += cost.work(e.lost)
					a.Now.Evicted++
					a.Total.Evicted++
				}
			}
		}
		for _, b := range c.policies[p.UID].broken {
			a.Now.Violations += span.Minutes()
			a.Total.Violations += span.Minutes()
			a.Now.Violated += b.cost.Scale(int64(span), int64(time.Hour))
		}
		a.At = w.now
	}
}

// turn begins another hour if one has passed. What passed since the last look is of
// the hour that it ends in.
func (a *account) turn(now time.Time) {
	begin := now.Truncate(time.Hour)
	switch {
	case a.Now.From.IsZero():
		a.Now.From = begin
	case begin.After(a.Now.From):
		a.Hours = append(a.Hours, a.Now)
		a.Now = hour{From: begin}
	}
	a.Hours = slices.DeleteFunc(a.Hours, func(h hour) bool { return !h.From.After(now.Add(-25 * time.Hour)) })
}

// day returns what the last day came to.
func (a *account) day() money.Amount {
	sum := a.Now.net()
	for _, h := range a.Hours {
		if h.From.After(a.At.Add(-24 * time.Hour)) {
			sum += h.net()
		}
	}
	return sum
}

const (
	// memoryKey is what the accounts are kept under.
	memoryKey = "colocator/accounts"
	// keepEvery is how often they are kept, by the cluster's clock.
	keepEvery = 5 * time.Minute
)

// restore takes the accounts up again, once.
func (c *Colocator) restore(ctx context.Context, _ *world) error {
	if c.restored || c.o.Memory == nil {
		return nil
	}
	text, err := c.o.Memory.State(ctx, memoryKey)
	if err != nil {
		return fmt.Errorf("read what batch has earned: %w", err)
	}
	kept := map[types.UID]account{}
	if text != "" && json.Unmarshal([]byte(text), &kept) != nil {
		c.log.Warn("what batch has earned until now cannot be read; counting begins anew")
	}
	for uid, a := range kept {
		c.policies[uid] = &policyState{account: a}
	}
	c.restored = true
	return nil
}

// keep writes the accounts down now and then.
func (c *Colocator) keep(ctx context.Context, w *world) error {
	if c.o.Memory == nil || w.now.Sub(c.kept) < keepEvery && !w.now.Before(c.kept) {
		return nil
	}
	accounts := map[types.UID]account{}
	for uid, st := range c.policies {
		accounts[uid] = st.account
	}
	text, err := json.Marshal(accounts)
	if err == nil {
		err = c.o.Memory.SetState(ctx, memoryKey, string(text))
	}
	if err != nil {
		return fmt.Errorf("keep what batch has earned: %w", err)
	}
	c.kept = w.now
	return nil
}

// settle writes closed hours into the ledger. A row written twice is one.
func (c *Colocator) settle(ctx context.Context, p *v1alpha1.ColocationPolicy, st *policyState) error {
	if c.o.Ledger == nil {
		return nil
	}
	for _, h := range st.account.Hours {
		if !h.From.After(st.settled) {
			continue
		}
		d := bill.Decision{
			ID: fmt.Sprintf("colocate/account/%s/%d", p.UID, h.From.Unix()), At: h.From.Add(time.Hour), Actor: "colocator", Lever: "colocate",
			Mode: string(p.Spec.Mode), Action: "account", Subject: p.Name, Outcome: "done", PredictedNano: h.Earned,
			Inputs: map[string]string{
				"policy": p.Name, "batchCoreHours": coreHours(h.CoreMillis), "earned": money.Amount(h.Earned).String(),
				"lostCoreHours": coreHours(h.LostMillis), "lost": h.Lost.String(), "evicted": fmt.Sprint(h.Evicted),
				"violationMinutes": fmt.Sprintf("%.0f", h.Violations), "violated": h.Violated.String(),
			},
		}
		if p.Spec.Mode == v1alpha1.ModeAuto {
			net := h.net()
			d.RealisedNano = &net
			d.Reason = fmt.Sprintf("Batch used %s core-hours of %s beside online services, worth %s; %s core-hours of work were lost by %d evictions, and services beside batch missed their quality for %.0f minutes.",
				coreHours(h.CoreMillis), h.From.UTC().Format("15:04"), h.Earned, coreHours(h.LostMillis), h.Evicted, h.Violations)
		} else {
			d.Outcome = "advised"
			d.Reason = fmt.Sprintf("In mode Auto batch could have used %s core-hours in the hour of %s, worth %s at most.", coreHours(h.CoreMillis), h.From.UTC().Format("15:04"), h.Earned)
		}
		if h.CoreMillis != 0 || h.LostMillis != 0 || h.Violations != 0 {
			if err := c.o.Ledger.AppendDecision(ctx, d); err != nil {
				return fmt.Errorf("write down what batch has earned: %w", err)
			}
		}
		st.settled = h.From
	}
	return nil
}

func coreHours(milliSeconds int64) string { return fmt.Sprintf("%.2f", float64(milliSeconds)/3.6e6) }
