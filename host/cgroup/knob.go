package cgroup

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path"
	"strconv"
	"strings"
)

// A Knob is something a group can be told, by the same name and unit on both
// versions.
type Knob string

// The knobs. Values are whole numbers; [Unlimited] stands for no bound.
const (
	Idle       Knob = "idle"        // 1: its tasks run only where siblings leave CPU, and are preempted at once
	Weight     Knob = "weight"      // CPU shares, 2 to 262144, 1024 by default; v2 weights by the tree's Curve
	Quota      Knob = "quota"       // ceiling of CPU, in thousandths of a core
	Period     Knob = "period"      // over which the quota is counted, in microseconds, 1000 to 1000000
	Burst      Knob = "burst"       // saved quota that may be used at once, in microseconds
	MemoryMax  Knob = "memory max"  // bytes; above it the kernel kills
	MemoryHigh Knob = "memory high" // bytes; above it tasks are slowed and reclaimed (v2)
	MemoryLow  Knob = "memory low"  // bytes that are reclaimed last (v2)
	Freeze     Knob = "freeze"      // 1: its tasks stand still
	IOWeight   Knob = "io weight"   // 1 to 1000, 100 by default
)

// Knobs are all knobs, in the order in which a group is set up.
var Knobs = []Knob{Idle, Weight, Period, Quota, Burst, MemoryMax, MemoryHigh, MemoryLow, Freeze, IOWeight}

// Unlimited is the value of Quota, MemoryMax and MemoryHigh that is no bound.
const Unlimited int64 = -1

// A Curve is how CPU shares become a weight of v2.
type Curve int

// The curves.
const (
	// Linear is the kubelet's: groups of pods and of classes have it.
	Linear Curve = iota
	// Quadratic is that of runtimes since runc 1.3 and crun 1.22: containers have it.
	Quadratic
)

// weight returns the v2 weight of that many shares.
func (c Curve) weight(shares int64) int64 {
	shares = min(max(shares, 2), 262144)
	if c == Quadratic {
		l := math.Log2(float64(shares))
		return min(int64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34))), 10000)
	}
	return 1 + (shares-2)*9999/262142
}

// shares returns the fewest shares that become that weight.
func (c Curve) shares(weight int64) int64 {
	lo, hi := int64(2), int64(262144)
	for lo < hi {
		if mid := (lo + hi) / 2; c.weight(mid) < weight {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// file returns the file that a knob is in. On V1, freezing uses the v2 hierarchy
// when the group's processes are in it: what is frozen there can still be killed.
func (t *Tree) file(g Group, k Knob) (string, error) {
	var controller, v1, v2 string
	switch k {
	case Idle:
		controller, v1, v2 = "cpu", "cpu.idle", "cpu.idle"
	case Weight:
		controller, v1, v2 = "cpu", "cpu.shares", "cpu.weight"
	case Quota:
		controller, v1, v2 = "cpu", "cpu.cfs_quota_us", "cpu.max"
	case Period:
		controller, v1, v2 = "cpu", "cpu.cfs_period_us", "cpu.max"
	case Burst:
		controller, v1, v2 = "cpu", "cpu.cfs_burst_us", "cpu.max.burst"
	case MemoryMax:
		controller, v1, v2 = "memory", "memory.limit_in_bytes", "memory.max"
	case MemoryHigh:
		controller, v2 = "memory", "memory.high"
	case MemoryLow:
		controller, v2 = "memory", "memory.low"
	case Freeze:
		if t.version == V1 && t.populated(g) {
			return path.Join(t.dir("unified", g), "cgroup.freeze"), nil
		}
		controller, v1, v2 = "freezer", "freezer.state", "cgroup.freeze"
	case IOWeight:
		controller, v1, v2 = "blkio", "blkio.bfq.weight", "io.weight"
	default:
		return "", fmt.Errorf("knob %q is unknown", k)
	}
	name := v2
	if t.version == V1 {
		name = v1
	}
	if name == "" {
		return "", fmt.Errorf("%s of %s: %w on cgroup %v", k, g, ErrAbsent, t.version)
	}
	return path.Join(t.dir(controller, g), name), nil
}

// populated tells whether a group of the v2 hierarchy has processes in it.
func (t *Tree) populated(g Group) bool {
	d, ok := t.unifiedDir(g)
	if !ok {
		return false
	}
	text, err := t.files.read(path.Join(d, "cgroup.events"))
	return err == nil && strings.Contains(text, "populated 1")
}

// Has tells whether the group has the knob: nil, or ErrAbsent or ErrGone.
func (t *Tree) Has(g Group, k Knob) error {
	_, err := t.Get(g, k)
	return err
}

// File returns where the knob's file is on this machine, for messages.
func (t *Tree) File(g Group, k Knob) string {
	name, err := t.file(g, k)
	if err != nil {
		return string(g) + " " + string(k)
	}
	return path.Join("/", t.root, name)
}

// Get reads a knob. An idle group's weight is what the kernel shows, not what it
// will have afterwards.
func (t *Tree) Get(g Group, k Knob) (int64, error) {
	name, err := t.file(g, k)
	if err != nil {
		return 0, err
	}
	text, err := t.files.read(name)
	if err != nil {
		return 0, t.missing("read", g, name, err)
	}
	period := int64(0)
	if k == Quota && t.version == V1 {
		if period, err = t.Get(g, Period); err != nil {
			return 0, err
		}
	}
	v, err := t.parse(k, text, period)
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// parse reads a knob's file. The period is needed for V1's quota only.
func (t *Tree) parse(k Knob, text string, period int64) (int64, error) {
	text = strings.TrimSpace(text)
	switch {
	case k == Freeze:
		switch text {
		case "THAWED", "0":
			return 0, nil
		case "FROZEN", "FREEZING", "1":
			return 1, nil
		}
		return 0, fmt.Errorf("%q is no state of a freezer", text)
	case t.version == V2 && (k == Quota || k == Period):
		quota, per, ok := strings.Cut(text, " ")
		if !ok {
			return 0, fmt.Errorf("%q is not quota and period", text)
		}
		p, err := whole(per)
		if err != nil || k == Period {
			return p, err
		}
		if quota == "max" {
			return Unlimited, nil
		}
		q, err := whole(quota)
		return milli(q, p), err
	case k == IOWeight:
		text = strings.TrimPrefix(text, "default ")
		text, _, _ = strings.Cut(text, "\n")
	}
	if text == "max" {
		return Unlimited, nil
	}
	v, err := whole(text)
	if err != nil {
		return 0, err
	}
	switch {
	case k == Quota && v < 0:
		return Unlimited, nil
	case k == Quota:
		return milli(v, period), nil
	case k == Weight && t.version == V2:
		return t.Curve.shares(v), nil
	case (k == MemoryMax || k == MemoryHigh) && v >= math.MaxInt64-1<<20:
		return Unlimited, nil // v1 shows no bound as the largest multiple of a page
	}
	return v, nil
}

// whole reads a whole number.
func whole(text string) (int64, error) {
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no whole number", text)
	}
	return v, nil
}

// milli returns thousandths of a core for a quota of microseconds per period.
func milli(quota, period int64) int64 {
	if period <= 0 {
		return Unlimited
	}
	return (min(max(quota, 0), math.MaxInt64/2000)*1000 + period/2) / period
}

// microseconds returns the quota of that many thousandths of a core, not below
// the millisecond that the kernel asks for.
func microseconds(milli, period int64) int64 { return max(milli*period/1000, 1000) }

// Set writes a knob, once, and says what the kernel answered. A quota is rounded
// up to the millisecond a period that the kernel asks for.
func (t *Tree) Set(g Group, k Knob, value int64) error {
	name, err := t.file(g, k)
	if err != nil {
		return err
	}
	text, err := t.format(g, k, value)
	if err != nil {
		return err
	}
	if err := t.files.write(name, text); err != nil {
		return t.refused(g, k, value, name, err)
	}
	if k == Freeze && value == 0 && t.version == V1 {
		return t.thaw(g)
	}
	return nil
}

// thaw lets a group go in both hierarchies of V1: it may have been frozen in the one
// while it had processes there, which are no more, or in the other before it had any.
// Whoever comes into a group that was forgotten frozen never runs.
func (t *Tree) thaw(g Group) error {
	for name, thawed := range map[string]string{
		path.Join(t.dir("freezer", g), "freezer.state"): "THAWED",
		path.Join(t.dir("unified", g), "cgroup.freeze"): "0",
	} {
		text, err := t.files.read(name)
		if err != nil {
			continue // this machine does not have it, or the group is gone from there
		}
		if v, err := t.parse(Freeze, text, 0); err != nil || v == 0 {
			continue
		}
		if err := t.files.write(name, thawed); err != nil && !errors.Is(err, os.ErrNotExist) {
			return explain("write", name, err)
		}
	}
	return nil
}

// format returns what is written for a value.
func (t *Tree) format(g Group, k Knob, value int64) (string, error) {
	v2 := t.version == V2
	number := strconv.FormatInt(value, 10)
	switch k {
	case Freeze:
		if name, _ := t.file(g, k); strings.HasSuffix(name, "freezer.state") {
			if value == 0 {
				return "THAWED", nil
			}
			return "FROZEN", nil
		}
	case Quota:
		if value == Unlimited {
			if v2 {
				return "max", nil
			}
			return "-1", nil
		}
		period, err := t.Get(g, Period)
		if err != nil {
			return "", err
		}
		return strconv.FormatInt(microseconds(value, period), 10), nil
	case Period:
		if v2 { // the ceiling in thousandths of a core stays what it is
			quota, err := t.Get(g, Quota)
			if err != nil {
				return "", err
			}
			if quota == Unlimited {
				return "max " + number, nil
			}
			return strconv.FormatInt(microseconds(quota, value), 10) + " " + number, nil
		}
	case Weight:
		if v2 {
			return strconv.FormatInt(t.Curve.weight(value), 10), nil
		}
	case MemoryMax, MemoryHigh:
		if value == Unlimited && v2 {
			return "max", nil
		}
	}
	return number, nil
}

// refused says which rule of the kernel a refused value meets.
func (t *Tree) refused(g Group, k Knob, value int64, name string, err error) error {
	err = t.missing("write", g, name, err)
	if !errors.Is(err, ErrRefused) {
		return err
	}
	why := ""
	switch k {
	case Weight:
		if idle, _ := t.Get(g, Idle); idle == 1 {
			why = "an idle group has no weight of its own"
		}
	case Quota, Period:
		why = "the quota may not be below the burst"
		if t.version == V1 {
			why += ", below a child's or above the parent's"
		}
	case Burst:
		why = "the burst may not be above the quota"
	}
	if why == "" {
		return fmt.Errorf("%d: %w", value, err)
	}
	return fmt.Errorf("%d: %w: %s", value, err, why)
}
