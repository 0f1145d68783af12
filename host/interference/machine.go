package interference

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticks is how many of /proc's CPU ticks make a second: USER_HZ, the same on
// every Linux that Go runs on.
const ticks = 100

// A machine reads the CPU time of the machine and of single processes.
type machine struct {
	proc    string        // where /proc is
	stretch time.Duration // that must be quiet before something is measured
}

// cpuTimes are seconds of CPU time since the machine's start, over all CPUs.
type cpuTimes struct {
	busy  float64 // of anything but idling, without steal
	steal float64 // the hypervisor gave to others what we would have used
}

func (m machine) times() (cpuTimes, error) {
	path := filepath.Join(m.proc, "stat")
	b, err := os.ReadFile(path)
	if err != nil {
		return cpuTimes{}, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	t, err := parseCPULine(string(line))
	if err != nil {
		return cpuTimes{}, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// parseCPULine reads "cpu user nice system idle iowait irq softirq steal …".
func parseCPULine(line string) (cpuTimes, error) {
	words := strings.Fields(line)
	if len(words) < 9 || words[0] != "cpu" {
		return cpuTimes{}, fmt.Errorf("first line %.80q is not the sum over CPUs", line)
	}
	var t cpuTimes
	for i, word := range words[1:9] {
		v, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			return cpuTimes{}, fmt.Errorf("time %q is not a number", word)
		}
		switch i {
		case 3, 4: // idle, and idle with I/O under way
		case 7:
			t.steal = float64(v) / ticks
		default:
			t.busy += float64(v) / ticks
		}
	}
	return t, nil
}

// lives tells whether a process is there and has not ended: an init that does not
// ask for its children leaves those that have as zombies.
func (m machine) lives(pid int) bool {
	b, err := os.ReadFile(filepath.Join(m.proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	after := b[bytes.LastIndexByte(b, ')')+1:]
	return !bytes.HasPrefix(after, []byte(" Z")) && !bytes.HasPrefix(after, []byte(" X"))
}

// process returns seconds of CPU time that a process has used.
func (m machine) process(pid int) (float64, error) {
	path := filepath.Join(m.proc, strconv.Itoa(pid), "stat")
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	v, err := parseProcessStat(string(b))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// parseProcessStat reads user and system time of "pid (name) state …"; the name
// may have spaces and brackets of its own.
func parseProcessStat(line string) (float64, error) {
	i := strings.LastIndexByte(line, ')')
	if i < 0 {
		return 0, fmt.Errorf("%.80q has no name in brackets", line)
	}
	words := strings.Fields(line[i+1:])
	if len(words) < 13 {
		return 0, fmt.Errorf("%.80q is too short", line)
	}
	user, err := strconv.ParseUint(words[11], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("user time %q is not a number", words[11])
	}
	system, err := strconv.ParseUint(words[12], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("system time %q is not a number", words[12])
	}
	return float64(user+system) / ticks, nil
}

// quiet waits until the machine used at most limit cores for a stretch of a
// second; patience at most. It says how many it used in the last stretch.
func (m machine) quiet(ctx context.Context, limit float64, patience time.Duration) (float64, bool, error) {
	end := time.Now().Add(patience)
	for {
		before, err := m.times()
		if err != nil {
			return 0, false, err
		}
		began := time.Now()
		select {
		case <-ctx.Done():
			return 0, false, ctx.Err()
		case <-time.After(m.stretch):
		}
		after, err := m.times()
		if err != nil {
			return 0, false, err
		}
		used := (after.busy - before.busy) / time.Since(began).Seconds()
		if used <= limit {
			return used, true, nil
		}
		if time.Now().After(end) {
			return used, false, nil
		}
	}
}
