// Package nvml looks at a machine's GPUs by calling the driver's own library,
// libnvidia-ml.so.1, which it loads when it is first asked. It needs no cgo, but
// makes a program dynamically linked (docs/adr/0013).
//
// [NVML] implements device.Finder. A GPU is sick when it has fallen off the bus, when
// remapping its memory's rows has failed, or after an Xid error that is not the fault
// of a program; such an error is remembered until the program ends, as a reset of the
// GPU needs the agent to let go of it anyway.
//
// Every call of the library is made by one goroutine: a driver that hangs holds up
// that one and nobody else.
package nvml

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/ebitengine/purego"

	"github.com/neap-dev/neap/host/device"
)

// Library is the name of the driver's library, found as the loader finds libraries.
const Library = "libnvidia-ml.so.1"

// What the library returns.
const (
	success          = 0
	notSupported     = 3
	notFound         = 6
	insufficientSize = 7
	driverNotLoaded  = 9
	gpuIsLost        = 15
)

// Events: a double-bit error of memory, and Xid errors.
const (
	eventDoubleBit = 0x2
	eventXid       = 0x8
)

// programs are the Xid errors that a program causes, not the GPU: a page fault, an
// exception, a channel that was reset.
var programs = []uint64{13, 31, 43, 45, 68, 109}

type handle uintptr

// The library's structures, as nvml.h lays them out.
type (
	memory struct {
		total uint64
		_     [2]uint64 // free, used
	}
	pci struct {
		_  [16 + 5*4]byte // an older address, and numbers
		id [32]byte
	}
	process struct {
		pid    uint32
		_      uint32
		memory uint64
		_      [2]uint32 // MIG instance
	}
	event struct {
		device handle
		kind   uint64
		data   uint64
		_      [2]uint32 // MIG instance
	}
)

// library holds its functions. Those that older drivers lack may be nil.
type library struct {
	init         func() int32
	text         func(int32) string
	driver       func(*byte, uint32) int32
	cuda         func(*int32) int32
	count        func(*uint32) int32
	byIndex      func(uint32, *handle) int32
	uuid         func(handle, *byte, uint32) int32
	name         func(handle, *byte, uint32) int32
	minor        func(handle, *uint32) int32
	memory       func(handle, *memory) int32
	pci          func(handle, *pci) int32
	migMode      func(handle, *uint32, *uint32) int32
	migMost      func(handle, *uint32) int32
	migByIndex   func(handle, uint32, *handle) int32
	remapped     func(handle, *uint32, *uint32, *uint32, *uint32) int32
	newEvents    func(*handle) int32
	register     func(handle, uint64, handle) int32
	nextEvent    func(handle, *event, uint32) int32
	running      []func(handle, *uint32, *process) int32
	events       handle
	registeredOn map[string]bool // UUIDs
}

// NVML is the driver's library. The zero value is ready.
type NVML struct {
	Path string // of the library; empty means [Library]

	start sync.Once
	asks  chan func() // run one after the other
	lib   *library
	xids  map[string]string // why a GPU is sick, by UUID
}

var _ device.Finder = (*NVML)(nil)

// Find implements [device.Finder].
func (n *NVML) Find(ctx context.Context) (device.Inventory, error) {
	return ask(ctx, n, (*NVML).find)
}

// Processes implements [device.Finder].
func (n *NVML) Processes(ctx context.Context) ([]device.Process, error) {
	return ask(ctx, n, (*NVML).processes)
}

// ask has the library's goroutine answer a question, or returns when ctx ends.
func ask[T any](ctx context.Context, n *NVML, question func(*NVML) (T, error)) (T, error) {
	n.start.Do(func() {
		n.asks = make(chan func())
		go func() {
			for f := range n.asks {
				f()
			}
		}()
	})
	var got T
	var err error
	done := make(chan struct{})
	hung := func() (T, error) {
		var none T
		return none, fmt.Errorf("%s does not answer: %w", n.path(), ctx.Err())
	}
	select {
	case n.asks <- func() { defer close(done); got, err = question(n) }:
	case <-ctx.Done():
		return hung()
	}
	select {
	case <-done:
		return got, err
	case <-ctx.Done():
		return hung()
	}
}

func (n *NVML) path() string {
	if n.Path == "" {
		return Library
	}
	return n.Path
}

// load loads the library at the first question, and again if that failed.
func (n *NVML) load() error {
	if n.lib != nil {
		return nil
	}
	l, err := open(n.path())
	if err != nil {
		return err
	}
	if r := l.init(); r != success {
		err := fmt.Errorf("start %s: %s", n.path(), l.text(r))
		if r == driverNotLoaded {
			err = fmt.Errorf("%w: %w", device.ErrNoDriver, err)
		}
		return err
	}
	n.lib, n.xids = l, map[string]string{}
	return nil
}

// open binds the library's functions.
func open(path string) (*library, error) {
	lib, err := purego.Dlopen(path, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", device.ErrNoDriver, err)
	}
	l := &library{registeredOn: map[string]bool{}}
	var missing error
	bind := func(f any, name string, needed bool) {
		at, err := purego.Dlsym(lib, name)
		if err == nil {
			purego.RegisterFunc(f, at)
		} else if needed && missing == nil {
			missing = fmt.Errorf("%s is no library of a driver that this program knows: %w", path, err)
		}
	}
	bind(&l.init, "nvmlInit_v2", true)
	bind(&l.text, "nvmlErrorString", true)
	bind(&l.driver, "nvmlSystemGetDriverVersion", true)
	bind(&l.cuda, "nvmlSystemGetCudaDriverVersion_v2", false)
	bind(&l.count, "nvmlDeviceGetCount_v2", true)
	bind(&l.byIndex, "nvmlDeviceGetHandleByIndex_v2", true)
	bind(&l.uuid, "nvmlDeviceGetUUID", true)
	bind(&l.name, "nvmlDeviceGetName", true)
	bind(&l.minor, "nvmlDeviceGetMinorNumber", true)
	bind(&l.memory, "nvmlDeviceGetMemoryInfo", true)
	bind(&l.pci, "nvmlDeviceGetPciInfo_v3", false)
	bind(&l.migMode, "nvmlDeviceGetMigMode", false)
	bind(&l.migMost, "nvmlDeviceGetMaxMigDeviceCount", false)
	bind(&l.migByIndex, "nvmlDeviceGetMigDeviceHandleByIndex", false)
	bind(&l.remapped, "nvmlDeviceGetRemappedRows", false)
	bind(&l.newEvents, "nvmlEventSetCreate", false)
	bind(&l.register, "nvmlDeviceRegisterEvents", false)
	bind(&l.nextEvent, "nvmlEventSetWait_v2", false)
	for _, name := range []string{"Compute", "Graphics", "MPSCompute"} {
		var f func(handle, *uint32, *process) int32
		bind(&f, "nvmlDeviceGet"+name+"RunningProcesses_v3", false)
		if f != nil {
			l.running = append(l.running, f)
		}
	}
	return l, missing
}

func (n *NVML) find() (device.Inventory, error) {
	if err := n.load(); err != nil {
		return device.Inventory{}, err
	}
	l := n.lib
	inv := device.Inventory{Source: "nvml"}
	inv.Driver, _ = text(func(b *byte, size uint32) int32 { return l.driver(b, size) })
	if l.cuda != nil {
		var v int32
		if l.cuda(&v) == success {
			inv.CUDA = int(v)
		}
	}
	n.drain()
	err := n.each(func(d device.Device, _ handle) error {
		if slices.ContainsFunc(inv.Devices, func(o device.Device) bool { return o.UUID == d.UUID }) {
			return fmt.Errorf("%s names %s twice", n.path(), d.UUID)
		}
		d.Index = len(inv.Devices)
		inv.Devices = append(inv.Devices, d)
		return nil
	})
	if err != nil {
		return device.Inventory{}, err
	}
	return inv, nil
}

// each visits every GPU, and every instance of those that are cut. A GPU that has
// fallen off the bus has no handle and no UUID any more: it is passed over, and is
// missed.
func (n *NVML) each(visit func(device.Device, handle) error) error {
	l := n.lib
	var count uint32
	if r := l.count(&count); r != success {
		return fmt.Errorf("%s: count GPUs: %s", n.path(), l.text(r))
	}
	for i := range count {
		var h handle
		if r := l.byIndex(i, &h); r == gpuIsLost {
			continue
		} else if r != success {
			return fmt.Errorf("%s: GPU %d: %s", n.path(), i, l.text(r))
		}
		d, lost, err := n.describe(h, strconv.Itoa(int(i)))
		if err != nil {
			return err
		}
		if lost {
			continue
		}
		n.watch(d.UUID, h)
		if why, sick := n.xids[d.UUID]; sick {
			d.Healthy, d.Reason = false, why
		}
		var corrected, uncorrected, pending, failed uint32
		if l.remapped != nil && l.remapped(h, &corrected, &uncorrected, &pending, &failed) == success && failed != 0 {
			d.Healthy, d.Reason = false, "remapping of its memory's rows has failed"
		}
		instances, cut := n.instances(h)
		if !cut {
			if err := visit(d, h); err != nil {
				return err
			}
			continue
		}
		for _, m := range instances {
			part, lost, err := n.describe(m.handle, fmt.Sprintf("%d:%d", i, m.number))
			if err != nil {
				return err
			}
			if lost {
				continue
			}
			part.Parent, part.Minor, part.PCI = d.UUID, d.Minor, d.PCI
			if !d.Healthy {
				part.Healthy, part.Reason = false, d.Reason
			}
			if err := visit(part, m.handle); err != nil {
				return err
			}
		}
	}
	return nil
}

// An instance is a MIG instance of a GPU.
type instance struct {
	number uint32
	handle handle
}

// instances returns the MIG instances of a GPU, and whether it is cut at all.
func (n *NVML) instances(h handle) ([]instance, bool) {
	l := n.lib
	var now, pending, most uint32
	if l.migMode == nil || l.migMost == nil || l.migByIndex == nil || l.migMode(h, &now, &pending) != success || now == 0 {
		return nil, false
	}
	var out []instance
	if l.migMost(h, &most) == success {
		for j := range most {
			var m handle
			if l.migByIndex(h, j, &m) == success {
				out = append(out, instance{j, m})
			}
		}
	}
	return out, true
}

// describe asks for what a device is.
func (n *NVML) describe(h handle, ordinal string) (d device.Device, lost bool, err error) {
	l := n.lib
	fail := func(what string, r int32) (device.Device, bool, error) {
		if r == gpuIsLost {
			return device.Device{}, true, nil
		}
		return device.Device{}, false, fmt.Errorf("%s: %s of GPU %s: %s", n.path(), what, ordinal, l.text(r))
	}
	d = device.Device{Ordinal: ordinal, Healthy: true}
	var r int32
	if d.UUID, r = text(func(b *byte, size uint32) int32 { return l.uuid(h, b, size) }); r != success {
		return fail("UUID", r)
	}
	var product string
	if product, r = text(func(b *byte, size uint32) int32 { return l.name(h, b, size) }); r != success {
		return fail("name", r)
	}
	d.Model = device.ModelName(product)
	var m memory
	if r := l.memory(h, &m); r != success {
		return fail("memory", r)
	}
	d.Memory = int64(m.total >> 20)
	var minor uint32
	if r := l.minor(h, &minor); r == success {
		d.Minor = int(minor)
	} else if r != notSupported && r != notFound { // a MIG instance has none
		return fail("number", r)
	}
	var p pci
	if l.pci != nil && l.pci(h, &p) == success {
		d.PCI = cstring(p.id[:])
	}
	if d.UUID == "" || d.Model == "" {
		return device.Device{}, false, fmt.Errorf("%s: GPU %s has no UUID or no name", n.path(), ordinal)
	}
	return d, false, nil
}

// watch asks for the errors of a GPU from now on.
func (n *NVML) watch(uuid string, h handle) {
	l := n.lib
	if l.newEvents == nil || l.register == nil || l.nextEvent == nil || l.registeredOn[uuid] {
		return
	}
	if l.events == 0 && l.newEvents(&l.events) != success {
		return
	}
	l.register(h, eventXid|eventDoubleBit, l.events) // not supported by all
	l.registeredOn[uuid] = true
}

// drain takes in the errors since the last look.
func (n *NVML) drain() {
	l := n.lib
	for range 1000 {
		var e event
		if l.events == 0 || l.nextEvent(l.events, &e, 0) != success {
			return
		}
		uuid, r := text(func(b *byte, size uint32) int32 { return l.uuid(e.device, b, size) })
		switch {
		case r != success:
		case e.kind&eventDoubleBit != 0:
			n.xids[uuid] = "an error of its memory that could not be corrected"
		case e.kind&eventXid != 0 && !slices.Contains(programs, e.data):
			n.xids[uuid] = fmt.Sprintf("Xid error %d", e.data)
		}
	}
}

func (n *NVML) processes() ([]device.Process, error) {
	if err := n.load(); err != nil {
		return nil, err
	}
	var out []device.Process
	err := n.each(func(d device.Device, h handle) error {
		most := map[uint32]uint64{} // a process may be in several lists
		for _, list := range n.lib.running {
			for _, p := range all(h, list) {
				if p.memory != ^uint64(0) { // not known
					most[p.pid] = max(most[p.pid], p.memory)
				}
			}
		}
		for pid, used := range most {
			out = append(out, device.Process{PID: int(pid), UUID: d.UUID, Memory: int64(used)})
		}
		return nil
	})
	return out, err
}

// all reads a list that may grow between asking for its length and for itself.
func all(h handle, list func(handle, *uint32, *process) int32) []process {
	buf := make([]process, 16)
	for range 5 {
		n := uint32(len(buf))
		switch list(h, &n, &buf[0]) {
		case success:
			return buf[:min(int(n), len(buf))]
		case insufficientSize:
			buf = make([]process, min(max(2*int(n), 2*len(buf)), 1<<16))
		default:
			return nil
		}
	}
	return nil
}

// text has the library write a text.
func text(write func(*byte, uint32) int32) (string, int32) {
	var buf [256]byte
	r := write(&buf[0], uint32(len(buf)))
	return cstring(buf[:]), r
}

func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
