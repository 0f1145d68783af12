package device

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// A Fake is a machine with GPUs that are not there, for tests and simulated
// machines. The zero Fake has none; its methods may be called from several
// goroutines.
type Fake struct {
	mu        sync.Mutex
	inventory Inventory
	processes []Process
	err       error
}

// NewFake returns a machine with one GPU for each of memory, in MiB, all healthy
// and of one model. UUIDs derive from name, so that those of machines with
// different names differ.
func NewFake(name, model string, memory ...int64) *Fake {
	f := &Fake{inventory: Inventory{Source: "fake", Driver: "580.65.06", CUDA: 13000}}
	for i, m := range memory {
		f.inventory.Devices = append(f.inventory.Devices, Device{
			Index: i, Minor: -1, Model: ModelName(model), Memory: m, Healthy: true,
			UUID: fmt.Sprintf("GPU-%s-%d", name, i),
		})
	}
	return f
}

// Find implements [Finder].
func (f *Fake) Find(ctx context.Context) (Inventory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return Inventory{}, f.err
	}
	found := f.inventory
	found.Devices = slices.Clone(found.Devices)
	return found, ctx.Err()
}

// Processes implements [Finder].
func (f *Fake) Processes(ctx context.Context) ([]Process, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return nil, f.err
	}
	return slices.Clone(f.processes), ctx.Err()
}

// Change lets edit change what is found from now on.
func (f *Fake) Change(edit func(*Inventory)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(&f.inventory)
}

// Run replaces the processes that hold memory.
func (f *Fake) Run(processes ...Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes = processes
}

// Fail makes every look fail with err until it is nil again.
func (f *Fake) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}
