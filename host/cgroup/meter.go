package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"time"
)

// A Use is what a group has used since it was made, and what it uses now.
type Use struct {
	CPU       time.Duration // time on CPUs, of all its tasks and of groups below
	Throttled time.Duration // time its tasks stood still for its own quota, summed over CPUs
	Periods   int64         // periods of its quota, and those in which it ran out
	Exhausted int64
	Memory    int64 // bytes charged to it
	Working   int64 // bytes that cannot be had back by dropping files long unused
}

// A Meter holds a group's files open: reading makes no garbage. It is not for
// several goroutines at a time.
type Meter struct {
	group              Group
	version            Version
	usage, stat        handle // V1: cpuacct.usage, cpu.stat; V2: cpu.stat alone
	memory, memoryStat handle
	buf                []byte
}

// Meter opens a group's meter. Who opens it closes it. A machine without the
// memory controller reads 0 bytes.
func (t *Tree) Meter(g Group) (*Meter, error) {
	m := &Meter{group: g, version: t.version, buf: make([]byte, 4096)}
	usage, memory := "cpuacct.usage", "memory.usage_in_bytes"
	if t.version == V2 {
		usage, memory = "", "memory.current"
	}
	for _, f := range []struct {
		into             *handle
		controller, name string
		must             bool
	}{
		{&m.usage, "cpuacct", usage, true},
		{&m.stat, "cpu", "cpu.stat", true},
		{&m.memory, "memory", memory, false},
		{&m.memoryStat, "memory", "memory.stat", false},
	} {
		if f.name == "" {
			continue
		}
		name := path.Join(t.dir(f.controller, g), f.name)
		h, err := t.files.open(name)
		if err != nil {
			if f.must {
				m.Close()
				return nil, t.missing("read", g, name, err)
			}
			continue
		}
		*f.into = h
	}
	return m, nil
}

// Read reads everything. It is ErrGone when the group is removed.
func (m *Meter) Read() (Use, error) {
	u, err := m.ReadCPU()
	if err != nil || m.memory == nil {
		return u, err
	}
	text, err := m.text(m.memory)
	if err != nil {
		return u, err
	}
	u.Memory, _ = number(bytes.TrimSpace(text))
	u.Working = u.Memory
	if m.memoryStat == nil {
		return u, nil
	}
	if text, err = m.text(m.memoryStat); err != nil {
		return u, err
	}
	key := "inactive_file"
	if m.version == V1 {
		key = "total_inactive_file"
	}
	u.Working -= min(u.Working, field(text, key))
	return u, nil
}

// ReadCPU reads CPU time and throttling only.
func (m *Meter) ReadCPU() (Use, error) {
	var u Use
	text, err := m.text(m.stat)
	if err != nil {
		return u, err
	}
	u.Periods, u.Exhausted = field(text, "nr_periods"), field(text, "nr_throttled")
	if m.version == V2 {
		u.CPU = time.Duration(field(text, "usage_usec")) * time.Microsecond
		u.Throttled = time.Duration(field(text, "throttled_usec")) * time.Microsecond
		return u, nil
	}
	u.Throttled = time.Duration(field(text, "throttled_time"))
	if text, err = m.text(m.usage); err != nil {
		return u, err
	}
	ns, ok := number(bytes.TrimSpace(text))
	if !ok {
		return u, fmt.Errorf("read cpuacct.usage of %s: %q is no number", m.group, text)
	}
	u.CPU = time.Duration(ns)
	return u, nil
}

// Close gives the files back.
func (m *Meter) Close() error {
	var errs []error
	for _, h := range []handle{m.usage, m.stat, m.memory, m.memoryStat} {
		if h != nil {
			errs = append(errs, h.Close())
		}
	}
	return errors.Join(errs...)
}

// text reads a file into the meter's buffer, which grows once to what is needed.
func (m *Meter) text(h handle) ([]byte, error) {
	for {
		n, err := h.ReadAt(m.buf, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, explain("read", string(m.group), err)
		}
		if n < len(m.buf) {
			return m.buf[:n], nil
		}
		m.buf = make([]byte, 2*len(m.buf))
	}
}

// field returns the number that stands behind a key at the start of a line, 0
// when there is none.
func field(text []byte, key string) int64 {
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		if len(line) > len(key) && line[len(key)] == ' ' && string(line[:len(key)]) == key {
			v, _ := number(line[len(key)+1:])
			return v
		}
	}
	return 0
}

// number reads a whole number without making garbage.
func number(text []byte) (int64, bool) {
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' || n > (1<<63-1-int64(c-'0'))/10 {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, len(text) > 0
}
