package device

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Device is one GPU, or one MIG instance of a GPU.
type Device struct {
	Index   int    // among this machine's devices, counted from 0 in the driver's order
	Ordinal string // the driver's own number: N, or N:M for a MIG instance; empty if not known
	UUID    string // the driver's, such as GPU-fef8089b-4820-abfc-e83e-94318197576e or MIG-…
	Model   string // as [ModelName] writes the product's name, such as Tesla-T4
	Memory  int64  // MiB that the device has in all
	Minor   int    // N of /dev/nvidiaN, of the parent for a MIG instance; -1 for a simulated device
	PCI     string // bus address, such as 00000000:65:00.0; empty if not known
	Parent  string // UUID of the GPU that a MIG instance is a part of; else empty

	Healthy bool
	Reason  string // why it is not healthy, a sentence without a full stop; empty if it is
}

// An Inventory is what one look found.
type Inventory struct {
	Source  string   // who looked: nvml, nvidia-smi or fake
	Driver  string   // version of the driver, such as 580.65.06; empty if not known
	CUDA    int      // highest CUDA version of the driver, major·1000 + minor·10, such as 13040; 0 if not known
	Devices []Device // by Index, without gaps
}

// A Process holds memory of a device.
type Process struct {
	PID    int
	UUID   string // of the device
	Memory int64  // bytes
}

// A Finder looks at this machine. Its methods may be called from several
// goroutines, and return soon after ctx ends even if the driver hangs.
type Finder interface {
	// Find returns every GPU of the machine, sick ones included. A machine without
	// GPUs has an empty inventory and no error; without a driver the error is
	// [ErrNoDriver].
	Find(ctx context.Context) (Inventory, error)
	// Processes returns who holds memory of which device now, without order.
	Processes(ctx context.Context) ([]Process, error)
}

// ErrNoDriver is wrapped by the errors of a [Finder] whose way to the driver is
// not there: no library, no nvidia-smi, no kernel module.
var ErrNoDriver = errors.New("no NVIDIA driver")

// ModelName returns a product's name as labels and annotations carry it, like
// NVIDIA's feature discovery: blanks become dashes, what a label may not hold is
// dropped, and at most 63 bytes are kept. "Tesla T4" is Tesla-T4.
func ModelName(product string) string {
	var b strings.Builder
	for _, r := range strings.Join(strings.Fields(product), "-") {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("-_.", r) {
			b.WriteRune(r)
		}
	}
	s := b.String()
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.Trim(s, "-_.")
}

// FirstOf returns a Finder that asks each in turn until one answers without an
// error. A finder whose driver is not there is passed over in silence; if all
// fail, the error names each.
func FirstOf(finders ...Finder) Finder { return firstOf(finders) }

type firstOf []Finder

func (f firstOf) Find(ctx context.Context) (Inventory, error) {
	return first(ctx, f, Finder.Find)
}

func (f firstOf) Processes(ctx context.Context) ([]Process, error) {
	return first(ctx, f, Finder.Processes)
}

func first[T any](ctx context.Context, finders []Finder, ask func(Finder, context.Context) (T, error)) (T, error) {
	errs := make([]error, 0, len(finders))
	for i, f := range finders {
		// What is left of the time is divided, so that one that hangs leaves the
		// others theirs.
		part, cancel := ctx, context.CancelFunc(func() {})
		if until, ok := ctx.Deadline(); ok {
			part, cancel = context.WithTimeout(ctx, time.Until(until)/time.Duration(len(finders)-i))
		}
		got, err := ask(f, part)
		cancel()
		if err == nil {
			return got, nil
		}
		errs = append(errs, err)
	}
	var none T
	if len(errs) == 0 {
		return none, fmt.Errorf("%w: nobody to ask", ErrNoDriver)
	}
	return none, errors.Join(errs...)
}
