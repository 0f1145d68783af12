package netqos

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

const (
	deepest = 7 // levels of groups below the root that are looked at
	maxPods = 4096
	license = "Dual BSD/GPL"
	goOn    = -1 // TC_ACT_UNSPEC: whoever comes next decides
	accept  = 0  // TC_ACT_OK
	markAt  = 8  // of struct __sk_buff
	classAt = 72 // its tc_classid
)

// newGroups returns the map of the cgroup ids that are batch's.
func newGroups() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "neap_batch", Type: ebpf.Hash, KeySize: 8, ValueSize: 1, MaxEntries: maxPods})
	if err != nil {
		return nil, fmt.Errorf("map of batch groups: %w", explain(err))
	}
	return m, nil
}

// newClassifier returns the program that puts batch's packets into the class minor.
func newClassifier(groups *ebpf.Map, minor int32) (*ebpf.Program, error) {
	p := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R1, asm.R6, markAt, asm.Word),
		asm.And.Imm(asm.R1, Mark),
		asm.JNE.Imm(asm.R1, 0, "batch"),
	}
	for level := int32(1); level <= deepest; level++ {
		p = append(p,
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Imm(asm.R2, level),
			asm.FnSkbAncestorCgroupId.Call(),
			asm.JEq.Imm(asm.R0, 0, "online"), // no socket, or no deeper group
			asm.StoreMem(asm.RFP, -8, asm.R0, asm.DWord),
			asm.LoadMapPtr(asm.R1, groups.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -8),
			asm.FnMapLookupElem.Call(),
			asm.JNE.Imm(asm.R0, 0, "batch"),
		)
	}
	p = append(p,
		asm.Mov.Imm(asm.R0, goOn).WithSymbol("online"),
		asm.Return(),
		asm.Mov.Imm(asm.R1, minor).WithSymbol("batch"),
		asm.StoreMem(asm.R6, classAt, asm.R1, asm.Word),
		asm.Mov.Imm(asm.R0, accept),
		asm.Return(),
	)
	return load("neap_class", p)
}

// newMarker returns the program that marks whatever passes.
func newMarker() (*ebpf.Program, error) {
	return load("neap_mark", asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, markAt, asm.Word),
		asm.Or.Imm(asm.R2, Mark),
		asm.StoreMem(asm.R1, markAt, asm.R2, asm.Word),
		asm.Mov.Imm(asm.R0, goOn),
		asm.Return(),
	})
}

func load(name string, p asm.Instructions) (*ebpf.Program, error) {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, Instructions: p, License: license})
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", name, explain(err))
	}
	return program, nil
}
