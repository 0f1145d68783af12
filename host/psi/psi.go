// Package psi reads how long tasks wait for CPU, memory and I/O: the kernel's
// pressure stall information, of the machine and of cgroups.
//
// A line of a pressure file tells which share of the last 10, 60 and 300 seconds
// some of the tasks (or all of them, "full") stood still, and the sum of it since
// the group was made. The sum is what a loop should use: the difference of two
// readings divided by the time between them is exact, the averages lag.
//
//	share of a period = (Total now − Total before) ÷ period
//
// [Open] gives a reader that keeps its file open and makes no garbage; [Parse]
// reads text; [Arm] gives a trigger: the kernel wakes its holder when tasks stall
// longer than a bound within a window, at once and not at the next reading.
//
// A group that its own quota throttles shows CPU pressure too; telling that apart
// is for who knows the quota ([Package cgroup] counts throttled time). Kernels
// that were built or started without PSI answer [ErrDisabled].
//
// [Package cgroup]: github.com/neap-dev/neap/host/cgroup
package psi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// ErrDisabled says that the kernel gives no pressure: it was built without PSI,
// started without psi=1, or the group's cgroup.pressure is 0.
var ErrDisabled = errors.New("the kernel gives no pressure: start it with psi=1")

// ErrGone says that the file's group is no longer there.
var ErrGone = errors.New("the cgroup is gone")

// A Resource is what tasks wait for.
type Resource string

// The resources of which the kernel keeps pressure.
const (
	CPU    Resource = "cpu"
	Memory Resource = "memory"
	IO     Resource = "io"
)

// A Line is the share of time in which tasks stood still, 0 to 1, and the sum of
// that time since the group was made.
type Line struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// A Pressure is one reading: Some tasks stood still, or all of them (Full, zero
// where the kernel does not tell).
type Pressure struct {
	Some, Full Line
}

// A Threshold is what a trigger waits for: tasks that stood still for Stall
// within Window. The kernel allows windows of 500 ms to 10 s, and to callers
// without CAP_SYS_RESOURCE only whole multiples of 2 s.
type Threshold struct {
	Full          bool // all tasks at once, not only some
	Stall, Window time.Duration
}

// A File is a pressure file held open: reading it again makes no garbage. It is
// not for several goroutines at a time.
type File struct {
	file *os.File
	buf  [512]byte
}

// Open opens a pressure file, such as /proc/pressure/cpu or a cgroup's
// memory.pressure. Who opens it closes it.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, explain(path, err)
	}
	return &File{file: f}, nil
}

// Read reads what the pressure is now.
func (f *File) Read() (Pressure, error) {
	n, err := f.file.ReadAt(f.buf[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Pressure{}, explain(f.file.Name(), err)
	}
	p, err := Parse(f.buf[:n])
	if err != nil {
		return p, fmt.Errorf("read %s: %w", f.file.Name(), err)
	}
	return p, nil
}

// Close gives the file back.
func (f *File) Close() error { return f.file.Close() }

// explain gives the kernel's answers their names.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("%s: %w", path, ErrDisabled)
	case errors.Is(err, syscall.ENODEV):
		return fmt.Errorf("%s: %w", path, ErrGone)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s: %w", path, errors.Join(ErrGone, os.ErrNotExist))
	}
	return err
}

// Parse reads the text of a pressure file. Fields that it does not know are
// passed over; a line "some" there must be.
func Parse(text []byte) (Pressure, error) {
	var p Pressure
	seen := false
	for len(text) > 0 {
		line := text
		if i := bytes.IndexByte(text, '\n'); i >= 0 {
			line, text = text[:i], text[i+1:]
		} else {
			text = nil
		}
		word, rest := cut(line)
		var into *Line
		switch string(word) {
		case "some":
			into, seen = &p.Some, true
		case "full":
			into = &p.Full
		default:
			continue
		}
		for len(rest) > 0 {
			word, rest = cut(rest)
			key, value, ok := bytes.Cut(word, []byte("="))
			if !ok {
				return Pressure{}, fmt.Errorf("pressure: %q is not key=value", word)
			}
			var err error
			switch string(key) {
			case "avg10":
				into.Avg10, err = percent(value)
			case "avg60":
				into.Avg60, err = percent(value)
			case "avg300":
				into.Avg300, err = percent(value)
			case "total":
				var us int64
				us, err = digits(value, int64(1<<63-1)/int64(time.Microsecond))
				into.Total = time.Duration(us) * time.Microsecond
			}
			if err != nil {
				return Pressure{}, err
			}
		}
	}
	if !seen {
		return Pressure{}, errors.New("pressure: no line begins with some")
	}
	return p, nil
}

// cut takes the first word off a line.
func cut(line []byte) (word, rest []byte) {
	line = bytes.TrimLeft(line, " ")
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], bytes.TrimLeft(line[i+1:], " ")
	}
	return line, nil
}

// percent reads the kernel's "12.34" as a share.
func percent(text []byte) (float64, error) {
	whole, frac, _ := bytes.Cut(text, []byte("."))
	w, err := digits(whole, 1000)
	if err != nil {
		return 0, err
	}
	share, scale := float64(w), 1.0
	for _, c := range frac {
		if c < '0' || c > '9' || scale > 1e9 {
			return 0, fmt.Errorf("pressure: %q is no percentage", text)
		}
		scale *= 10
		share += float64(c-'0') / scale
	}
	return share / 100, nil
}

// digits reads a decimal number that is at most the bound.
func digits(text []byte, bound int64) (int64, error) {
	var n int64
	for _, c := range text {
		if c < '0' || c > '9' || n > (bound-int64(c-'0'))/10 {
			return 0, fmt.Errorf("pressure: %q is no number up to %d", text, bound)
		}
		n = n*10 + int64(c-'0')
	}
	if len(text) == 0 {
		return 0, errors.New("pressure: a number is missing")
	}
	return n, nil
}
