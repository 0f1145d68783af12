package device

import (
	"bytes"
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// mostOutput is how much of a program's output is read: nvidia-smi writes some
// 20 KiB for a GPU.
const mostOutput = 16 << 20

// SMI asks the program nvidia-smi, for machines where the driver's library cannot
// be called. It sees less than NVML: no Xid errors, and of MIG instances no
// processes.
type SMI struct {
	Path string // of the program; empty means nvidia-smi in $PATH
}

// Find implements [Finder].
func (s SMI) Find(ctx context.Context) (Inventory, error) {
	log, err := s.query(ctx)
	if err != nil {
		return Inventory{}, err
	}
	var list []byte
	if log.cut() {
		if list, err = s.run(ctx, "-L"); err != nil {
			return Inventory{}, err
		}
	}
	return log.inventory(list)
}

// Processes implements [Finder].
func (s SMI) Processes(ctx context.Context) ([]Process, error) {
	log, err := s.query(ctx)
	if err != nil {
		return nil, err
	}
	return log.processes(), nil
}

func (s SMI) query(ctx context.Context) (*smiLog, error) {
	out, err := s.run(ctx, "-q", "-x")
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return nil, err
	}
	log, bad := parseSMI(out)
	if err != nil && (bad != nil || len(log.GPUs) == 0) {
		return nil, fmt.Errorf("%w: %.200q", err, strings.TrimSpace(string(out)))
	}
	return log, bad // it fails for one lost GPU and still tells of the others
}

// run returns what the program wrote. A program that hangs in the kernel cannot
// be killed; it is left behind when ctx ends.
func (s SMI) run(ctx context.Context, args ...string) ([]byte, error) {
	path := cmp.Or(s.Path, "nvidia-smi")
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = 100 * time.Millisecond
	var out limited
	cmd.Stdout = &out
	err := cmd.Run()
	name := path + " " + strings.Join(args, " ")
	switch {
	case errors.Is(err, exec.ErrNotFound) || cmd.Process == nil && err != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: %w", ErrNoDriver, err)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in time: %w", name, ctx.Err())
	case out.over:
		return nil, fmt.Errorf("%s writes more than %d MiB", name, mostOutput>>20)
	case err != nil:
		return out.kept, fmt.Errorf("%s: %w", name, err)
	}
	return out.kept, nil
}

// limited keeps mostOutput bytes and refuses more. It has no ReadFrom, which
// io.Copy would prefer and which knows no limit.
type limited struct {
	kept []byte
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if len(l.kept)+len(p) > mostOutput {
		l.over = true
		return 0, io.ErrShortWrite
	}
	l.kept = append(l.kept, p...)
	return len(p), nil
}

// An smiLog is what of `nvidia-smi -q -x` matters here.
type smiLog struct {
	XMLName xml.Name `xml:"nvidia_smi_log"`
	Driver  string   `xml:"driver_version"`
	CUDA    string   `xml:"cuda_version"`
	GPUs    []smiGPU `xml:"gpu"`
}

type smiGPU struct {
	PCI      string   `xml:"id,attr"`
	Product  string   `xml:"product_name"`
	UUID     string   `xml:"uuid"`
	Minor    string   `xml:"minor_number"`
	MIG      string   `xml:"mig_mode>current_mig"`
	Slices   []smiMIG `xml:"mig_devices>mig_device"`
	Total    string   `xml:"fb_memory_usage>total"`
	Recovery string   `xml:"gpu_recovery_action"`
	Remap    string   `xml:"remapped_rows>remapped_row_failure"`
	Remapped string   `xml:"remapped_rows>row_remapper_failure"`
	Running  []smiPID `xml:"processes>process_info"`
}

type smiMIG struct {
	Index string `xml:"index"`
	UUID  string `xml:"uuid"`
	Total string `xml:"fb_memory_usage>total"`
}

type smiPID struct {
	PID    string `xml:"pid"`
	Memory string `xml:"used_memory"`
}

func parseSMI(out []byte) (*smiLog, error) {
	d := xml.NewDecoder(bytes.NewReader(out))
	d.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // names are ASCII whatever it says
	log := new(smiLog)
	if err := d.Decode(log); err != nil {
		return nil, fmt.Errorf("nvidia-smi wrote something that is not its XML: %w", err)
	}
	return log, nil
}

// cut reports whether a GPU is cut into MIG instances.
func (l *smiLog) cut() bool {
	for _, g := range l.GPUs {
		if g.MIG == "Enabled" {
			return true
		}
	}
	return false
}

// inventory makes devices of the log; list is the output of `nvidia-smi -L`, which
// alone names the profiles of MIG instances.
func (l *smiLog) inventory(list []byte) (Inventory, error) {
	inv := Inventory{Source: "nvidia-smi", Driver: said(l.Driver), CUDA: cuda(l.CUDA)}
	profiles := map[string]string{}
	for _, m := range migLine.FindAllSubmatch(list, -1) {
		profiles[string(m[3])] = string(m[1])
	}
	names := migNames(list)
	seen := map[string]bool{}
	add := func(d Device) error {
		switch {
		case said(d.UUID) == "":
			return fmt.Errorf("nvidia-smi gives GPU %s no UUID", d.Ordinal)
		case seen[d.UUID]:
			return fmt.Errorf("nvidia-smi names %s twice", d.UUID)
		case d.Model == "":
			return fmt.Errorf("nvidia-smi gives GPU %s no name", d.UUID)
		}
		seen[d.UUID] = true
		d.Index = len(inv.Devices)
		inv.Devices = append(inv.Devices, d)
		return nil
	}
	for i, g := range l.GPUs {
		d := Device{
			Ordinal: strconv.Itoa(i), UUID: strings.TrimSpace(g.UUID), Model: ModelName(g.Product), PCI: said(g.PCI), Healthy: true,
		}
		d.Memory, d.Healthy = mebibytes(g.Total)
		if !d.Healthy && g.MIG != "Enabled" {
			d.Reason = fmt.Sprintf("nvidia-smi says its memory is %.20q", g.Total)
		}
		minor, err := strconv.Atoi(strings.TrimSpace(g.Minor))
		if d.Minor = minor; err != nil || minor < 0 {
			d.Minor, d.Healthy, d.Reason = i, false, fmt.Sprintf("nvidia-smi says its number is %.20q", g.Minor)
		}
		if strings.EqualFold(said(g.Remap), "Yes") || strings.EqualFold(said(g.Remapped), "Yes") {
			d.Healthy, d.Reason = false, "remapping of its memory's rows has failed"
		}
		if what := said(g.Recovery); what != "" && !strings.EqualFold(what, "None") {
			d.Healthy, d.Reason = false, fmt.Sprintf("the driver asks for this: %.40s", what)
		}
		if g.MIG != "Enabled" {
			if err := add(d); err != nil {
				return Inventory{}, err
			}
			continue
		}
		for _, s := range g.Slices {
			m := d
			m.Parent, m.Ordinal = d.UUID, d.Ordinal+":"+strings.TrimSpace(s.Index)
			m.UUID = cmp.Or(said(s.UUID), names[m.Ordinal])
			m.Model = ModelName(g.Product + " MIG " + profiles[m.UUID])
			var known bool
			if m.Memory, known = mebibytes(s.Total); !known && m.Reason == "" {
				m.Healthy, m.Reason = false, fmt.Sprintf("nvidia-smi says its memory is %.20q", s.Total)
			} else if m.Reason == "" {
				m.Healthy = true
			}
			if err := add(m); err != nil {
				return Inventory{}, err
			}
		}
	}
	return inv, nil
}

// processes returns who holds memory. What nvidia-smi does not know is left out.
func (l *smiLog) processes() []Process {
	var out []Process
	for _, g := range l.GPUs {
		for _, p := range g.Running {
			pid, err := strconv.Atoi(strings.TrimSpace(p.PID))
			memory, ok := mebibytes(p.Memory)
			if err == nil && pid > 0 && ok && said(g.UUID) != "" && g.MIG != "Enabled" {
				out = append(out, Process{PID: pid, UUID: strings.TrimSpace(g.UUID), Memory: memory << 20})
			}
		}
	}
	return out
}

var (
	gpuLine = regexp.MustCompile(`^GPU (\d+): `)
	migLine = regexp.MustCompile(`(?m)^\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: (MIG-[^)\s]+)\)`)
)

// migNames returns the UUIDs of MIG instances by GPU and instance, as 0:1.
func migNames(list []byte) map[string]string {
	out := map[string]string{}
	gpu := ""
	for line := range bytes.Lines(list) {
		if m := gpuLine.FindSubmatch(line); m != nil {
			gpu = string(m[1])
		} else if m := migLine.FindSubmatch(line); m != nil {
			out[gpu+":"+string(m[2])] = string(m[3])
		}
	}
	return out
}

// said returns what nvidia-smi says of a thing, empty where it does not know.
func said(s string) string {
	s = strings.TrimSpace(s)
	if strings.EqualFold(s, "N/A") || strings.EqualFold(s, "[N/A]") || strings.EqualFold(s, "Unknown Error") || s == "ERR!" {
		return ""
	}
	return s
}

// mebibytes reads "15360 MiB". A GPU has no more than 16 TiB.
func mebibytes(s string) (int64, bool) {
	n, unit, _ := strings.Cut(strings.TrimSpace(s), " ")
	v, err := strconv.ParseInt(n, 10, 64)
	return v, err == nil && unit == "MiB" && 0 <= v && v <= 1<<24
}

// cuda reads "13.4" as 13040, the way the driver's library says it.
func cuda(s string) int {
	major, minor, _ := strings.Cut(strings.TrimSpace(s), ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || a < 0 || a > 1000 || b < 0 || b > 99 {
		return 0
	}
	return a*1000 + b*10
}
