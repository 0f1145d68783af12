package cgroup

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/neap-dev/neap/internal/wholefile"
)

// A record is what files held before they were first written, kept on disk.
type record struct {
	path string
	Boot string  // the groups of another boot are gone
	Kept []found // in the order in which they were found
}

// A found is what one knob's file held.
type found struct {
	Group Group
	Knob  Knob
	Text  string
	Inode uint64 // of the group: another group of that name is not the one found
}

// load reads the record of a directory; none, or one of another boot, is empty.
func load(dir, boot string) (*record, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep what cgroups held: %w: %w", ErrDisk, err)
	}
	r := &record{path: filepath.Join(dir, "cgroups.json")}
	text, err := os.ReadFile(r.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read what cgroups held: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(text, r); err != nil {
			return nil, fmt.Errorf("read what cgroups held in %s: %w; remove it when the groups are as they should be", r.path, err)
		}
	}
	if r.Boot == boot {
		return r, nil
	}
	r.Boot, r.Kept = boot, nil
	if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("keep what cgroups held: %w: %w", ErrDisk, err)
	}
	return r, nil
}

// save writes the record whole or not at all, durably.
func (r *record) save() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return wholefile.Write(r.path, text)
}

// places are what writing a knob changes: a period takes quota and burst away for
// a moment (V2 has quota and period in one file), and ending idle resets the weight.
func (t *Tree) places(p place) []place {
	switch {
	case t.version == V2 && p.knob == Period:
		return []place{{p.group, Quota}, {p.group, Burst}}
	case p.knob == Idle:
		return []place{{p.group, Weight}, p}
	case p.knob == Period:
		return []place{p, {p.group, Quota}, {p.group, Burst}}
	}
	return []place{p}
}

// add notes what a place holds, and returns the places that are new.
func (r *record) add(t *Tree, p place) (added []place, err error) {
	for _, p := range t.places(p) {
		if r.index(p) >= 0 {
			if r.still(t, p) {
				continue
			}
			r.forget(p.group)
		}
		name, err := t.file(p.group, p.knob)
		if err != nil {
			return added, err
		}
		text, err := t.files.read(name)
		if err != nil {
			return added, t.missing("read", p.group, name, err)
		}
		inode, err := t.files.inode(t.dir("cpu", p.group))
		if err != nil {
			return added, t.missing("read", p.group, name, err)
		}
		r.Kept = append(r.Kept, found{p.group, p.knob, strings.TrimSpace(text), inode})
		added = append(added, p)
	}
	return added, nil
}

func (r *record) index(p place) int {
	return slices.IndexFunc(r.Kept, func(f found) bool { return f.Group == p.group && f.Knob == p.knob })
}

// forget strikes a group that is gone off the record; disk follows with the next save.
func (r *record) forget(g Group) {
	r.Kept = slices.DeleteFunc(r.Kept, func(f found) bool { return f.Group.Within(g) })
}

// learn notes what a place held later, before we wrote it again.
func (r *record) learn(p place, text string) {
	if i := r.index(p); i >= 0 && text != "" {
		r.Kept[i].Text = strings.TrimSpace(text)
	}
}

// strike takes places off the record.
func (r *record) strike(places []place) {
	r.Kept = slices.DeleteFunc(r.Kept, func(f found) bool { return slices.Contains(places, place{f.Group, f.Knob}) })
}

// still tells whether a place's group is the one that was found, not another that
// has its name by now.
func (r *record) still(t *Tree, p place) bool {
	i := r.index(p)
	inode, err := t.files.inode(t.dir("cpu", p.group))
	return i < 0 || (err == nil && inode == r.Kept[i].Inode)
}

// write writes what a place held when it was found.
func (r *record) write(t *Tree, p place) error {
	i := r.index(p)
	if i < 0 {
		return nil
	}
	f := r.Kept[i]
	name, err := t.file(p.group, p.knob)
	if err != nil {
		return err
	}
	if !r.still(t, p) {
		return nil // that group is gone
	}
	text := f.Text
	if f.Knob == Freeze { // the file may be the other hierarchy's by now
		v, err := t.parse(Freeze, text, 0)
		if err != nil {
			return err
		}
		return t.Set(p.group, Freeze, v)
	}
	if t.version == V1 && f.Knob == MemoryMax {
		if v, err := t.parse(MemoryMax, text, 0); err == nil && v == Unlimited {
			text = "-1"
		}
	}
	if err := t.files.write(name, text); err != nil {
		return t.missing("put back", p.group, name, err)
	}
	return nil
}

// restore puts everything within a group back and strikes it off, on disk too.
// What the kernel refuses stays on the record and is tried again by the next.
func (r *record) restore(t *Tree, within Group) error {
	mine := slices.DeleteFunc(slices.Clone(r.Kept), func(f found) bool { return !f.Group.Within(within) })
	if len(mine) == 0 {
		return nil
	}
	// Bursts and ceilings out of the way, children's first, so that no order among
	// what was found can be refused; then parents first.
	slices.SortStableFunc(mine, func(a, b found) int {
		return place{a.Group, a.Knob}.compare(place{b.Group, b.Knob})
	})
	for _, f := range slices.Backward(mine) {
		switch f.Knob {
		case Burst:
			t.Set(f.Group, Burst, 0)
		case Quota:
			t.Set(f.Group, Burst, 0)
			t.Set(f.Group, Quota, Unlimited)
		}
	}
	var errs []error
	for _, f := range mine {
		if f.Knob == Weight {
			if idle := r.index(place{f.Group, Idle}); idle >= 0 && r.Kept[idle].Text != "0" {
				continue // found idle: its weight cannot be written
			}
		}
		err := r.write(t, place{f.Group, f.Knob})
		if err != nil && !errors.Is(err, ErrGone) {
			errs = append(errs, err)
			continue
		}
		r.strike([]place{{f.Group, f.Knob}})
	}
	if len(r.Kept) == 0 {
		if err := os.Remove(r.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if err := r.save(); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrDisk, err))
	}
	return errors.Join(errs...)
}

// same tells whether what was read is what was written, by the kernel's rounding.
func (t *Tree) same(k Knob, want, got int64) bool {
	switch {
	case want == got:
		return true
	case want == Unlimited || got == Unlimited:
		return false
	}
	switch k {
	case Quota: // a millisecond a period is the least, and µs are whole
		return abs(want-got) <= 1 || (got > want && got <= 1000)
	case Weight:
		return t.version == V2 && t.Curve.weight(want) == t.Curve.weight(got)
	case MemoryMax, MemoryHigh, MemoryLow: // whole pages
		return got <= want && want-got < 1<<16
	}
	return false
}

func abs(v int64) int64 { return max(v, -v) }

// bootID tells one boot of the machine from another.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return strconv.Itoa(0)
	}
	return strings.TrimSpace(string(text))
}
