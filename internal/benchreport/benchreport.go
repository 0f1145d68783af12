// Package benchreport is what every `neap bench` command prints: the machine it
// ran on, its bars (what was measured against what was promised) and the raw
// rows behind them.
package benchreport

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// A Report is the outcome of one measurement. Its JSON is stable:
// {"machine":…, "bars":[{"name","value","unit","bar","met"}…], "rows":[…]}.
type Report struct {
	Machine Machine `json:"machine"`
	Bars    []Bar   `json:"bars"`
	// Rows are the raw measurements, each a flat struct or map; the same keys in
	// every row. Never null in JSON.
	Rows []any `json:"rows"`
}

// A Bar is one promise and what was measured of it.
type Bar struct {
	Name  string  `json:"name"`  // what was measured, such as "ready"
	Value float64 `json:"value"` // in Unit
	Unit  string  `json:"unit"`  // such as "s", "MiB", "nano"
	Bar   string  `json:"bar"`   // the promise, such as "< 15"
	Met   bool    `json:"met"`
}

// A Machine is what the measurement ran on. It names no host.
type Machine struct {
	CPU    string    `json:"cpu"`    // model name, "" if unknown
	Cores  int       `json:"cores"`  // logical
	Memory int64     `json:"memory"` // bytes, 0 if unknown
	OS     string    `json:"os"`
	Arch   string    `json:"arch"`
	Kernel string    `json:"kernel"` // release, "" if unknown
	Go     string    `json:"go"`
	Load   float64   `json:"load"` // load average over the last minute, −1 if unknown
	At     time.Time `json:"at"`
}

// Below returns the bar "value < limit".
func Below(name string, value float64, unit string, limit float64) Bar {
	return Bar{name, value, unit, "< " + number(limit), value < limit}
}

// AtMost returns the bar "value ≤ limit".
func AtMost(name string, value float64, unit string, limit float64) Bar {
	return Bar{name, value, unit, "<= " + number(limit), value <= limit}
}

// AtLeast returns the bar "value ≥ limit".
func AtLeast(name string, value float64, unit string, limit float64) Bar {
	return Bar{name, value, unit, ">= " + number(limit), value >= limit}
}

// Equal returns the bar "value = want", compared exactly.
func Equal(name string, value float64, unit string, want float64) Bar {
	return Bar{name, value, unit, "= " + number(want), value == want}
}

// Met reports whether every bar was met.
func (r Report) Met() bool {
	for _, b := range r.Bars {
		if !b.Met {
			return false
		}
	}
	return true
}

// Missed returns the names of the bars that were not met.
func (r Report) Missed() []string {
	var names []string
	for _, b := range r.Bars {
		if !b.Met {
			names = append(names, b.Name)
		}
	}
	return names
}

// Write writes r to w as "table" or "json".
func (r Report) Write(w io.Writer, format string) error {
	switch format {
	case "json":
		if r.Bars == nil {
			r.Bars = []Bar{}
		}
		if r.Rows == nil {
			r.Rows = []any{}
		}
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(r)
	case "table", "":
		return r.table(w)
	}
	return fmt.Errorf("format %q is not one of table, json", format)
}

func (r Report) table(w io.Writer) error {
	out := bufio.NewWriter(w)
	m := r.Machine
	fmt.Fprintf(out, "on %s, %d cores, %.1f GiB, load %.2f, %s\n\n", orUnknown(m.CPU), m.Cores, float64(m.Memory)/(1<<30), m.Load, m.Go)
	name, value, bar := len("bar"), len("value"), len("promise")
	for _, b := range r.Bars {
		name = max(name, len([]rune(b.Name)))
		value = max(value, len(number(b.Value)+" "+b.Unit))
		bar = max(bar, len(b.Bar))
	}
	fmt.Fprintf(out, "%-*s  %*s  %-*s  met\n", name, "bar", value, "value", bar, "promise")
	for _, b := range r.Bars {
		met := "yes"
		if !b.Met {
			met = "NO"
		}
		fmt.Fprintf(out, "%-*s  %*s  %-*s  %s\n", name, b.Name, value, number(b.Value)+" "+b.Unit, bar, b.Bar, met)
	}
	return out.Flush()
}

// ThisMachine describes the machine the program runs on.
func ThisMachine() Machine {
	m := Machine{
		Cores: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH,
		Go: runtime.Version(), Load: -1, At: time.Now().UTC().Truncate(time.Second),
	}
	m.CPU = field("/proc/cpuinfo", "model name")
	if kb, ok := strings.CutSuffix(field("/proc/meminfo", "MemTotal"), " kB"); ok {
		if v, err := strconv.ParseInt(kb, 10, 64); err == nil {
			m.Memory = v << 10
		}
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if v, err := strconv.ParseFloat(strings.Fields(string(b))[0], 64); err == nil {
			m.Load = v
		}
	}
	return m
}

// field returns the value of the first "key : value" line of a file, "" if none.
func field(path, key string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// number writes v with as many digits as say something.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1e15 {
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

func orUnknown(s string) string {
	if s == "" {
		return "an unknown CPU"
	}
	return s
}
