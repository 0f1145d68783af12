package device

import (
	"cmp"
	"slices"
)

// patience is how many looks in a row may fail before the devices are called
// sick: a driver that is being reloaded is back by the third.
const patience = 3

// A Roll keeps what has been seen of a machine's GPUs from look to look. The zero
// Roll has seen nothing. It is not for several goroutines.
type Roll struct {
	known  []Device
	failed int
}

// NewRoll returns a Roll that remembers known, such as what the machine had said
// of itself before the program started anew. Only Index, UUID, Model and Memory
// need be set.
func NewRoll(known []Device) *Roll {
	r := &Roll{known: slices.Clone(known)}
	for i := range r.known {
		r.known[i].Healthy, r.known[i].Reason = false, "the driver has not been asked yet"
	}
	return r
}

// Look takes in what a look found, or that it failed, and returns all devices
// that were ever seen, by Index. A device that is not found any more is not
// healthy, and its Reason says so; two devices never have one Index. Failures are
// borne twice before they make every device sick.
func (r *Roll) Look(found Inventory, err error) []Device {
	if err != nil {
		if r.failed++; r.failed >= patience {
			for i := range r.known {
				r.known[i].Healthy = false
				r.known[i].Reason = "the driver does not answer: " + err.Error()
			}
		}
		return slices.Clone(r.known)
	}
	r.failed = 0
	now := slices.Clone(found.Devices)
	for _, old := range r.known {
		if slices.ContainsFunc(now, func(d Device) bool { return d.UUID == old.UUID }) {
			continue
		}
		old.Healthy, old.Reason = false, "the driver does not find it any more"
		now = append(now, old)
	}
	// A GPU that was taken out leaves its index to the next: the lost go last.
	taken := map[int]bool{}
	for i := range now {
		for taken[now[i].Index] {
			now[i].Index++
		}
		taken[now[i].Index] = true
	}
	slices.SortFunc(now, func(a, b Device) int { return cmp.Compare(a.Index, b.Index) })
	r.known = now
	return slices.Clone(now)
}

// Waiting reports whether looks have failed lately, but not often enough to call the
// devices sick.
func (r *Roll) Waiting() bool { return 0 < r.failed && r.failed < patience }

// Forget drops the devices that are lost and that keep does not name: nobody is
// on them any more.
func (r *Roll) Forget(found Inventory, keep func(uuid string) bool) {
	r.known = slices.DeleteFunc(r.known, func(d Device) bool {
		lost := !slices.ContainsFunc(found.Devices, func(f Device) bool { return f.UUID == d.UUID })
		return lost && !keep(d.UUID)
	})
}
