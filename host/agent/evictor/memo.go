package evictor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/internal/wholefile"
)

// A memo is how long ago pods were evicted, as it is kept on disk.
type memo struct {
	Boot string          // of the machine
	Up   time.Duration   // how long it was up when this was written: no setting of the clock changes that
	At   time.Time       // the same by the clock, for another boot
	Ages []time.Duration // of the evictions, then
}

// made adds an eviction that is about to be asked for, and keeps it.
func (e *Evictor) made(now time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.recall(now)
	e.past = append(e.past, now)
	err := errors.Join(e.fault, e.keep(now))
	e.fault = nil
	return err
}

// unmade takes an eviction back that was refused.
func (e *Evictor) unmade(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.Index(e.past, now); i >= 0 {
		e.past = slices.Delete(e.past, i, i+1)
	}
	_ = e.keep(now) // one eviction less may be made then, which is safe
}

// recall reads the file, once; e.mu is held. What cannot be read is forgotten, and told
// with the next eviction.
func (e *Evictor) recall(now time.Time) {
	if e.recalled || e.File == "" {
		return
	}
	e.recalled = true
	text, err := os.ReadFile(e.File)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var m memo
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		e.fault = fmt.Errorf("read the evictions of the last hour in %s: %w; the hour begins anew", e.File, err)
		return
	}
	passed := now.Sub(m.At)
	if boot, up := e.thisBoot(); boot != "" && boot == m.Boot {
		passed = up - m.Up
	}
	for _, age := range m.Ages {
		e.past = append(e.past, now.Add(-max(age, 0)-max(passed, 0)))
	}
}

// keep writes the file, whole or not at all; e.mu is held.
func (e *Evictor) keep(now time.Time) error {
	if e.File == "" {
		return nil
	}
	m := memo{At: now}
	m.Boot, m.Up = e.thisBoot()
	for _, at := range e.past {
		m.Ages = append(m.Ages, now.Sub(at))
	}
	if err := m.write(e.File); err != nil {
		return fmt.Errorf("keep when pods were evicted: %w; a restart forgets it", err)
	}
	return nil
}

func (m memo) write(path string) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return wholefile.Write(path, text)
}

// thisBoot tells one boot of the machine from another, and how long this one has
// lasted; "" where the kernel does not tell.
func (e *Evictor) thisBoot() (id string, up time.Duration) {
	if e.boot != nil {
		return e.boot()
	}
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0
	}
	uptime, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return "", 0
	}
	first, _, _ := strings.Cut(string(uptime), " ")
	seconds, err := strconv.ParseFloat(first, 64)
	if err != nil || !(seconds >= 0 && seconds < 1e9) {
		return "", 0
	}
	return strings.TrimSpace(string(text)), time.Duration(seconds * float64(time.Second))
}
