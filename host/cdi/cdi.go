// Package cdi writes down what the container runtime must do so that a container
// sees the GPUs it was given, and no others: specifications of the Container Device
// Interface, one file for each grant.
//
// [Folder.Write] puts a [Grant] into the folder that the runtime reads, whole or
// not at all. Where NVIDIA's own tool has described the devices (nvidia-ctk cdi
// generate), its device nodes, libraries and hooks are taken over; where it has not,
// the grant names the driver's device nodes, and NVIDIA_VISIBLE_DEVICES for a
// runtime that brings the libraries.
//
// Not here: who is given what, which the drivers in host/agent decide.
package cdi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"github.com/neap-dev/neap/host/device"
)

// A Grant is what one container, or the containers of one claim, may use.
type Grant struct {
	Name    string            // of the CDI device: letters, digits and -_.: between them
	Devices []device.Device   // at least one
	Env     map[string]string // besides NVIDIA_VISIBLE_DEVICES
	Mounts  []Mount
	Note    map[string]string // kept beside the grant for [Folder.Grants], with names such as neap.dev/pod
}

// A Mount is a path of the machine that the container sees, too.
type Mount struct {
	Host, Container string
	ReadOnly        bool
}

// A Folder is where the runtime looks for specifications.
type Folder struct {
	Dir  string // as this program sees it, such as /var/run/cdi; made if it is missing
	Kind string // vendor and class of the grants, such as neap.dev/gpu
	// Vendor are the folders with NVIDIA's own specifications. Empty means
	// /etc/cdi and /var/run/cdi below Root.
	Vendor []string
	Root   string // where this program sees the machine's files; empty is /
}

// Qualified returns the name by which the runtime is asked for a grant.
func (f Folder) Qualified(name string) string { return f.Kind + "=" + name }

// Write makes a grant known to the runtime in the place of an earlier one with its
// name. The error says which file or device was the matter; nothing half-written
// is ever seen.
func (f Folder) Write(g Grant) error {
	if len(g.Devices) == 0 {
		return fmt.Errorf("CDI device %s has no GPU", f.Qualified(g.Name))
	}
	edits, err := f.edits(g)
	if err != nil {
		return fmt.Errorf("describe CDI device %s: %w", f.Qualified(g.Name), err)
	}
	spec := &specs.Spec{Kind: f.Kind, Devices: []specs.Device{{Name: g.Name, Annotations: g.Note, ContainerEdits: edits}}}
	if spec.Version, err = specs.MinimumRequiredVersion(spec); err != nil {
		return fmt.Errorf("describe CDI device %s: %w", f.Qualified(g.Name), err)
	}
	raw, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fmt.Errorf("describe CDI device %s: %w", f.Qualified(g.Name), err)
	}
	if err := f.replace(f.path(g.Name), raw); err != nil {
		return fmt.Errorf("write CDI device %s: %w; the container runtime reads its devices from there", f.Qualified(g.Name), err)
	}
	return nil
}

// replace writes a file so that others see the old or the new, and never a part.
// Runtimes heed only names that end in .json and .yaml.
func (f Folder) replace(path string, raw []byte) (err error) {
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(f.Dir, ".neap-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(raw)
	// Everybody may read it: tools of users without rights read the folder, too.
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if _, err := cdi.ReadSpec(tmp.Name(), 0); err != nil { // as the runtime will
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Remove takes a grant away from the runtime; one that is not there is no error.
// Containers that run keep what they have.
func (f Folder) Remove(name string) error {
	if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove CDI device %s: %w", f.Qualified(name), err)
	}
	return nil
}

// Grants returns the notes of the grants in the folder by their names, and takes
// away what a crash left half-written. A grant whose file cannot be read has no
// notes. A folder that is not there has none.
func (f Folder) Grants() (map[string]map[string]string, error) {
	files, err := os.ReadDir(f.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for CDI devices: %w", err)
	}
	out := map[string]map[string]string{}
	for _, file := range files {
		path := filepath.Join(f.Dir, file.Name())
		if half, err := filepath.Match(".neap-*.tmp", file.Name()); err == nil && half {
			// Not one that is being written just now.
			if info, err := file.Info(); err == nil && time.Since(info.ModTime()) > time.Minute {
				_ = os.Remove(path)
			}
			continue
		}
		name, ours := strings.CutPrefix(file.Name(), f.prefix())
		name, whole := strings.CutSuffix(name, ".json")
		if !ours || !whole {
			continue
		}
		out[name] = nil
		if spec, err := cdi.ReadSpec(path, 0); err == nil && spec.GetDevice(name) != nil {
			out[name] = spec.GetDevice(name).Device.Annotations
		}
	}
	return out, nil
}

// path returns where a grant lies.
func (f Folder) path(name string) string { return filepath.Join(f.Dir, f.prefix()+name+".json") }

// prefix is how the names of this kind's files begin.
func (f Folder) prefix() string { return strings.ReplaceAll(f.Kind, "/", "-") + "-" }

// edits returns what the runtime must do for a grant.
func (f Folder) edits(g Grant) (specs.ContainerEdits, error) {
	var e specs.ContainerEdits
	var bare []string // devices that NVIDIA's tool has not described
	vendor := f.vendor()
	for _, d := range g.Devices {
		if d.Minor < 0 { // simulated
			bare = append(bare, d.UUID)
			continue
		}
		described, err := f.described(vendor, d)
		if err != nil {
			return e, err
		}
		if described == nil {
			if d.Parent != "" {
				return e, fmt.Errorf("MIG instance %s is in no CDI specification of NVIDIA: run nvidia-ctk cdi generate", d.UUID)
			}
			nodes, err := f.nodes(d)
			if err != nil {
				return e, err
			}
			e.DeviceNodes = append(e.DeviceNodes, nodes...)
			bare = append(bare, d.UUID)
			continue
		}
		for _, more := range described {
			e.Env = append(e.Env, more.Env...)
			e.DeviceNodes = append(e.DeviceNodes, more.DeviceNodes...)
			e.Hooks = append(e.Hooks, more.Hooks...)
			e.Mounts = append(e.Mounts, more.Mounts...)
			e.AdditionalGIDs = append(e.AdditionalGIDs, more.AdditionalGIDs...)
		}
	}
	if len(bare) == len(g.Devices) {
		e.Env = append(e.Env, "NVIDIA_VISIBLE_DEVICES="+strings.Join(bare, ","))
	} else if len(bare) > 0 {
		return e, fmt.Errorf("GPU %s is in no CDI specification of NVIDIA, though others are: run nvidia-ctk cdi generate again", bare[0])
	}
	for _, name := range slices.Sorted(maps.Keys(g.Env)) {
		e.Env = append(e.Env, name+"="+g.Env[name])
	}
	for _, m := range g.Mounts {
		options := []string{"rbind", "rprivate", "nosuid", "nodev"}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		e.Mounts = append(e.Mounts, &specs.Mount{HostPath: m.Host, ContainerPath: m.Container, Options: options})
	}
	e.Env, e.DeviceNodes, e.Hooks = distinct(e.Env), distinct(e.DeviceNodes), distinct(e.Hooks)
	e.Mounts, e.AdditionalGIDs = distinct(e.Mounts), distinct(e.AdditionalGIDs)
	return e, nil
}

// nodes returns the driver's device nodes that a program needs to use d.
func (f Folder) nodes(d device.Device) ([]*specs.DeviceNode, error) {
	var out []*specs.DeviceNode
	for i, path := range []string{fmt.Sprintf("/dev/nvidia%d", d.Minor), "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"} {
		_, err := os.Stat(filepath.Join(f.root(), path))
		switch {
		case err == nil:
			out = append(out, &specs.DeviceNode{Path: path})
		case i < 2:
			return nil, fmt.Errorf("GPU %s: %w; the driver makes it when it is loaded: run nvidia-smi or nvidia-modprobe on the machine", d.UUID, err)
		}
	}
	return out, nil
}

// vendor returns NVIDIA's own specifications. What cannot be read is the runtime's
// matter, not ours.
func (f Folder) vendor() []*cdi.Spec {
	folders := f.Vendor
	if len(folders) == 0 {
		folders = []string{filepath.Join(f.root(), "/etc/cdi"), filepath.Join(f.root(), "/var/run/cdi")}
	}
	var out []*cdi.Spec
	for _, dir := range folders {
		files, err := os.ReadDir(dir) // sorted
		if err != nil {
			continue
		}
		for _, file := range files {
			if ext := filepath.Ext(file.Name()); ext != ".json" && ext != ".yaml" {
				continue
			}
			spec, err := cdi.ReadSpec(filepath.Join(dir, file.Name()), 0)
			if err == nil && (spec.Kind == "nvidia.com/gpu" || spec.Kind == "k8s.device-plugin.nvidia.com/gpu") {
				out = append(out, spec)
			}
		}
	}
	return out
}

// Hooked reports whether NVIDIA's own specifications have a hook with such an
// argument.
func (f Folder) Hooked(arg string) bool {
	for _, spec := range f.vendor() {
		edits := []specs.ContainerEdits{spec.ContainerEdits}
		for _, d := range spec.Devices {
			edits = append(edits, d.ContainerEdits)
		}
		for _, e := range edits {
			if slices.ContainsFunc(e.Hooks, func(h *specs.Hook) bool { return slices.Contains(h.Args, arg) }) {
				return true
			}
		}
	}
	return false
}

// described returns NVIDIA's edits for d and for all devices of its specification,
// nil if there are none. An entry found by the device's number must be for its
// device node: numbers change when a GPU is taken out, and the file stays.
func (f Folder) described(vendor []*cdi.Spec, d device.Device) ([]specs.ContainerEdits, error) {
	for _, name := range []string{d.UUID, d.Ordinal} {
		for _, spec := range vendor {
			dev := spec.GetDevice(name)
			if name == "" || dev == nil {
				continue
			}
			node := fmt.Sprintf("/dev/nvidia%d", d.Minor)
			if !slices.ContainsFunc(dev.ContainerEdits.DeviceNodes, func(n *specs.DeviceNode) bool { return n.Path == node }) {
				return nil, fmt.Errorf("%s describes %s without %s, which is GPU %s: it is out of date, run nvidia-ctk cdi generate again", spec.GetPath(), name, node, d.UUID)
			}
			return []specs.ContainerEdits{spec.ContainerEdits, dev.ContainerEdits}, nil
		}
	}
	return nil, nil
}

func (f Folder) root() string {
	if f.Root == "" {
		return "/"
	}
	return f.Root
}

// distinct drops what is there already.
func distinct[T any](all []T) []T {
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(v T) bool {
		key, err := json.Marshal(v)
		again := err == nil && seen[string(key)]
		seen[string(key)] = true
		return again
	})
}
