package elastic

import "fmt"

// Headroom is room on owned machines that is kept free ahead of need. The zero
// value keeps room for what is foreseen and no more.
type Headroom struct {
	Share float64 // of the replicas wanted, on top of what is foreseen
	Max   int     // the most replicas that room is kept for; None: no bound
}

// Validate says in one sentence what is wrong with h, if anything.
func (h Headroom) Validate() error {
	if !(h.Share >= 0 && h.Share <= 10) || h.Max < None {
		return fmt.Errorf("headroom is a share of %v up to %d replicas; the share must be between 0 and 10, and the most not below 0", h.Share, h.Max)
	}
	return nil
}

// Replicas says for how many more replicas than the current ones room is kept,
// and why:
//
//	foreseen = max(desired, soon)
//	room     = (foreseen − current, if above 0) + Share · foreseen
//
// soon is the most that is known to be wanted within the time that it takes to
// get machines (Decision.Soon). As replicas come, the room for them shrinks.
func (h Headroom) Replicas(current, desired, soon int) (room int, reason string) {
	foreseen := max(desired, soon, 0)
	coming := max(foreseen-max(current, 0), 0)
	share := 0
	if h.Share > 0 {
		share = replicas(h.Share*float64(foreseen), 1)
	}
	room = coming + share
	reason = fmt.Sprintf("room for %s: %d foreseen beyond the %d that are there, and %.3g %% of the %d foreseen", count(room), coming, current, 100*h.Share, foreseen)
	if h.Max != None && room > h.Max {
		room = h.Max
		reason += fmt.Sprintf(", but for no more than %d", h.Max)
	}
	return room, reason
}
