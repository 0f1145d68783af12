package runqueue

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
)

// A tracer counts in the kernel. Its program and maps end with the process that
// holds them, however it ends.
type tracer struct {
	groups  *ebpf.Map // a group's inode → its slot
	waits   *ebpf.Map // slot → Histogram
	threads *ebpf.Map // per thread: run_delay when it last left a CPU
	program *ebpf.Program
	link    link.Link

	slots map[uint64]uint32
	free  []uint32
}

// trace loads the program and attaches it to sched_switch.
func trace(groups int) (_ reader, err error) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("the kernel tells no types (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	at, err := find(kernel)
	if err != nil {
		return nil, err
	}
	t := &tracer{slots: map[uint64]uint32{}}
	defer func() {
		if err != nil {
			t.Close()
		}
	}()
	for slot := range uint32(groups) {
		t.free = append(t.free, slot)
	}
	slices.Reverse(t.free)
	u64 := &btf.Int{Name: "u64", Size: 8}
	for _, m := range []struct {
		at   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&t.groups, ebpf.MapSpec{Name: "neap_groups", Type: ebpf.Hash, KeySize: 8, ValueSize: 4, MaxEntries: uint32(groups)}},
		{&t.waits, ebpf.MapSpec{Name: "neap_waits", Type: ebpf.Array, KeySize: 4, ValueSize: histogramSize, MaxEntries: uint32(groups)}},
		{&t.threads, ebpf.MapSpec{Name: "neap_threads", Type: ebpf.TaskStorage, KeySize: 4, ValueSize: 16, Flags: noPreallocation,
			Key: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed},
			Value: &btf.Struct{Name: "left", Size: 16, Members: []btf.Member{
				{Name: "run_delay", Type: u64}, {Name: "known", Type: u64, Offset: 64}}}}},
	} {
		if *m.at, err = ebpf.NewMap(&m.spec); err != nil {
			return nil, fmt.Errorf("map %s: %w", m.spec.Name, err)
		}
	}
	t.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "neap_runqueue", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_switch",
		Instructions: onSwitch(at, t.groups.FD(), t.waits.FD(), t.threads.FD()),
		License:      "Dual BSD/GPL", // the kernel lets only such programs read its structures
	})
	if err != nil {
		return nil, fmt.Errorf("the kernel refuses the program: %w", err)
	}
	if t.link, err = link.AttachTracing(link.TracingOptions{Program: t.program}); err != nil {
		return nil, fmt.Errorf("attach to sched_switch: %w", err)
	}
	return t, nil
}

const (
	noPreallocation = 1                 // BPF_F_NO_PREALLOC
	create          = 1                 // BPF_LOCAL_STORAGE_GET_F_CREATE
	histogramSize   = (buckets + 2) * 8 // of a Histogram, laid out as Go does
)

// offsets are those of the fields that the program reads in the running kernel.
type offsets struct {
	runDelay, runs int16 // in task_struct
	taskGroup      int16 // in task_struct
	cgroup, above  int16 // in task_group
	node           int16 // in cgroup
	id             int16 // in kernfs_node
}

func find(kernel *btf.Spec) (at offsets, err error) {
	for _, f := range []struct {
		at   *int16
		path []string
	}{
		{&at.runDelay, []string{"task_struct", "sched_info", "run_delay"}},
		{&at.runs, []string{"task_struct", "sched_info", "pcount"}},
		{&at.taskGroup, []string{"task_struct", "sched_task_group"}},
		{&at.cgroup, []string{"task_group", "css", "cgroup"}},
		{&at.above, []string{"task_group", "parent"}},
		{&at.node, []string{"cgroup", "kn"}},
		{&at.id, []string{"kernfs_node", "id"}},
	} {
		if *f.at, err = offset(kernel, f.path); err != nil {
			return at, err
		}
	}
	return at, nil
}

// offset returns where in the structure path[0] the field is that path names.
func offset(kernel *btf.Spec, path []string) (int16, error) {
	var s *btf.Struct
	if err := kernel.TypeByName(path[0], &s); err != nil {
		return 0, fmt.Errorf("the kernel has no %s: %w", path[0], err)
	}
	var bytes uint32
	for i, name := range path[1:] {
		k := slices.IndexFunc(s.Members, func(m btf.Member) bool { return m.Name == name })
		if k < 0 {
			return 0, fmt.Errorf("the kernel's %s has no field %s", s.Name, name)
		}
		bytes += s.Members[k].Offset.Bytes()
		if i == len(path)-2 {
			break
		}
		inner, ok := btf.UnderlyingType(s.Members[k].Type).(*btf.Struct)
		if !ok {
			return 0, fmt.Errorf("the kernel's %s.%s is no structure", s.Name, name)
		}
		s = inner
	}
	if bytes > 1<<15-1 {
		return 0, fmt.Errorf("the kernel's %v is too far from its start", path)
	}
	return int16(bytes), nil
}

// onSwitch returns the program that runs whenever a CPU goes from one thread to
// another. It looks at the one that leaves: the growth of its run_delay since it
// last left is what it had waited before this run.
//
//	R6 the thread   R7 its group, then the wait   R8 the slot, then the histogram
func onSwitch(at offsets, groups, waits, threads int) asm.Instructions {
	const key = -8 // on the stack
	p := asm.Instructions{
		asm.LoadMem(asm.R6, asm.R1, 8, asm.DWord), // the second argument: prev
		asm.LoadMem(asm.R7, asm.R6, at.taskGroup, asm.DWord),
	}
	// The group of the thread, or one above it, if it is watched.
	for level := range depth + 1 {
		if level > 0 {
			p = append(p, asm.LoadMem(asm.R7, asm.R7, at.above, asm.DWord))
		}
		p = append(p,
			asm.JEq.Imm(asm.R7, 0, "exit"),
			asm.LoadMem(asm.R1, asm.R7, at.cgroup, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "exit"),
			asm.LoadMem(asm.R1, asm.R1, at.node, asm.DWord),
			asm.JEq.Imm(asm.R1, 0, "exit"),
			asm.LoadMem(asm.R1, asm.R1, at.id, asm.DWord),
			asm.StoreMem(asm.RFP, key, asm.R1, asm.DWord),
			asm.LoadMapPtr(asm.R1, groups),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, key),
			asm.FnMapLookupElem.Call(),
			asm.JNE.Imm(asm.R0, 0, "watched"),
		)
	}
	return append(p,
		asm.Ja.Label("exit"),
		asm.LoadMem(asm.R8, asm.R0, 0, asm.Word).WithSymbol("watched"),

		// What run_delay was, and is.
		asm.LoadMapPtr(asm.R1, threads),
		asm.Mov.Reg(asm.R2, asm.R6),
		asm.Mov.Imm(asm.R3, 0),
		asm.Mov.Imm(asm.R4, create),
		asm.FnTaskStorageGet.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.LoadMem(asm.R7, asm.R6, at.runDelay, asm.DWord),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.LoadMem(asm.R2, asm.R0, 8, asm.DWord),
		asm.StoreMem(asm.R0, 0, asm.R7, asm.DWord),
		asm.StoreImm(asm.R0, 8, 1, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "known"),
		// Seen for the first time: its waits before are not ours, unless this was its first run.
		asm.LoadMem(asm.R2, asm.R6, at.runs, asm.DWord),
		asm.JNE.Imm(asm.R2, 1, "exit"),
		asm.Sub.Reg(asm.R7, asm.R1).WithSymbol("known"),

		// The histogram.
		asm.StoreMem(asm.RFP, key, asm.R8, asm.Word),
		asm.LoadMapPtr(asm.R1, waits),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "exit"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Imm(asm.R1, 1),
		add(asm.R8, asm.R1, buckets*8),
		add(asm.R8, asm.R7, (buckets+1)*8),

		// The bucket, as bucketOf has it: R1 the bucket, R2 the logarithm, R3 what is left.
		asm.Mov.Imm(asm.R1, 0),
		asm.JLT.Imm(asm.R7, 1<<firstLog, "count"),
		asm.Mov.Imm(asm.R1, buckets-1),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.RSh.Imm(asm.R3, lastLog),
		asm.JNE.Imm(asm.R3, 0, "count"),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.RSh.Imm(asm.R3, 32),
		asm.JEq.Imm(asm.R3, 0, "below32"),
		asm.Mov.Imm(asm.R2, 32),
		asm.Ja.Label("above32"),
		asm.Mov.Reg(asm.R3, asm.R7).WithSymbol("below32"),
		asm.JLT.Imm(asm.R3, 1<<16, "log8").WithSymbol("above32"),
		asm.RSh.Imm(asm.R3, 16),
		asm.Add.Imm(asm.R2, 16),
		asm.JLT.Imm(asm.R3, 1<<8, "log4").WithSymbol("log8"),
		asm.RSh.Imm(asm.R3, 8),
		asm.Add.Imm(asm.R2, 8),
		asm.JLT.Imm(asm.R3, 1<<4, "log2").WithSymbol("log4"),
		asm.RSh.Imm(asm.R3, 4),
		asm.Add.Imm(asm.R2, 4),
		asm.JLT.Imm(asm.R3, 1<<2, "log1").WithSymbol("log2"),
		asm.RSh.Imm(asm.R3, 2),
		asm.Add.Imm(asm.R2, 2),
		asm.JLT.Imm(asm.R3, 1<<1, "log0").WithSymbol("log1"),
		asm.Add.Imm(asm.R2, 1),
		asm.Mov.Reg(asm.R1, asm.R2).WithSymbol("log0"),
		asm.Sub.Imm(asm.R1, firstLog),
		asm.Mul.Imm(asm.R1, perOctave),
		asm.Add.Imm(asm.R1, 1),
		asm.Sub.Imm(asm.R2, 2),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.RSh.Reg(asm.R3, asm.R2),
		asm.And.Imm(asm.R3, perOctave-1),
		asm.Add.Reg(asm.R1, asm.R3),
		asm.JGT.Imm(asm.R1, buckets-1, "exit"), // never; the verifier does not see that
		asm.LSh.Imm(asm.R1, 3).WithSymbol("count"),
		asm.Add.Reg(asm.R8, asm.R1),
		asm.Mov.Imm(asm.R1, 1),
		add(asm.R8, asm.R1, 0),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("exit"),
		asm.Return(),
	)
}

// add adds register src to the number at offset of what dst points to, whichever
// other CPUs do so as well.
func add(dst, src asm.Register, offset int16) asm.Instruction {
	return asm.AddAtomic.Mem(dst, src, asm.DWord, offset)
}

func (t *tracer) watch(_ string, id uint64) error {
	if len(t.free) == 0 {
		return fmt.Errorf("%w: %d are", ErrFull, len(t.slots))
	}
	slot := t.free[len(t.free)-1]
	if err := t.waits.Put(slot, &Histogram{}); err != nil {
		return err
	}
	if err := t.groups.Put(id, slot); err != nil {
		return err
	}
	t.free = t.free[:len(t.free)-1]
	t.slots[id] = slot
	return nil
}

func (t *tracer) forget(_ string, id uint64) {
	t.groups.Delete(id)
	t.free = append(t.free, t.slots[id])
	delete(t.slots, id)
}

func (t *tracer) read(dir string, id uint64, h *Histogram) error {
	if now, err := inode(dir); err != nil {
		return err
	} else if now != id {
		return fmt.Errorf("read %s: %w: another has its name now", dir, ErrGone)
	}
	slot := t.slots[id]
	return t.waits.Lookup(&slot, h)
}

// cost returns how often the program ran and how long in all, while the kernel
// counts that (sysctl kernel.bpf_stats_enabled, or [ebpf.EnableStats]).
func (t *tracer) cost() (runs uint64, took time.Duration, err error) {
	s, err := t.program.Stats()
	if err != nil {
		return 0, 0, err
	}
	return s.RunCount, s.Runtime, nil
}

func (t *tracer) Close() error {
	var errs error
	if t.link != nil {
		errs = t.link.Close()
	}
	return errors.Join(errs, t.program.Close(), t.groups.Close(), t.waits.Close(), t.threads.Close())
}
