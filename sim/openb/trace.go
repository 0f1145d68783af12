package openb

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/neap-dev/neap/core/gpu"
)

// A Pod is one line of a pod list. Memory is MiB.
type Pod struct {
	Name   string
	Demand gpu.Demand
}

// A Node is one line of a node list. Memory is MiB.
type Node struct {
	Name    string
	Machine gpu.Machine
}

// A Catalogue numbers GPU models in the order in which they are met. The zero
// Catalogue is empty.
type Catalogue struct{ names []string }

// Model returns the number of a name, giving it one if it has none.
func (c *Catalogue) Model(name string) (gpu.Model, error) {
	if i := slices.Index(c.names, name); i >= 0 {
		return gpu.Model(i), nil
	}
	if len(c.names) == gpu.MaxModels {
		return 0, fmt.Errorf("%q is the %dth GPU model; at most %d are told apart", name, gpu.MaxModels+1, gpu.MaxModels)
	}
	c.names = append(c.names, name)
	return gpu.Model(len(c.names) - 1), nil
}

// Names returns the models' names; a model is its index.
func (c *Catalogue) Names() []string { return slices.Clone(c.names) }

// ReadNodes reads a node list (sn,cpu_milli,memory_mib,gpu,model). Errors name
// file and line, and all of them are returned, joined.
func ReadNodes(path string, models *Catalogue) ([]Node, error) {
	var nodes []Node
	err := readFile(path, []string{"sn", "cpu_milli", "memory_mib", "gpu"}, func(r row) error {
		n := Node{Name: r.text("sn")}
		m := &n.Machine
		m.CPU, m.Memory, m.GPUs = r.number("cpu_milli"), r.number("memory_mib"), int(r.number("gpu"))
		if r.err != nil {
			return r.err
		}
		if m.GPUs > gpu.MaxDevices {
			return fmt.Errorf("gpu: %d are more than a machine can have, which is %d", m.GPUs, gpu.MaxDevices)
		}
		if m.GPUs > 0 {
			name := r.text("model")
			if name == "" {
				return fmt.Errorf("model: is missing, and the machine has %d GPUs", m.GPUs)
			}
			model, err := models.Model(name)
			if err != nil {
				return fmt.Errorf("model: %w", err)
			}
			for i := range m.GPUs {
				m.Model[i], m.Idle[i] = model, gpu.Whole
			}
		}
		nodes = append(nodes, n)
		return nil
	})
	if err == nil {
		err = unique(path, nodes, func(n Node) string { return n.Name })
	}
	if err == nil && !slices.ContainsFunc(nodes, func(n Node) bool { return n.Machine.GPUs > 0 }) {
		err = fmt.Errorf("%s: no machine has a GPU", path)
	}
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// ReadPods reads a pod list (name,cpu_milli,memory_mib,num_gpu,gpu_milli and
// optionally gpu_spec, a list of models separated by |). Errors name file and
// line, and all of them are returned, joined.
func ReadPods(path string, models *Catalogue) ([]Pod, error) {
	var pods []Pod
	err := readFile(path, []string{"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}, func(r row) error {
		p := Pod{Name: r.text("name")}
		d := &p.Demand
		d.CPU, d.Memory, d.Devices, d.Milli = r.number("cpu_milli"), r.number("memory_mib"), int(r.number("num_gpu")), r.number("gpu_milli")
		if r.err != nil {
			return r.err
		}
		if d.Devices == 0 {
			d.Milli = 0
		} else if spec := r.text("gpu_spec"); spec != "" {
			for name := range strings.SplitSeq(spec, "|") {
				m, err := models.Model(strings.TrimSpace(name))
				if err != nil {
					return fmt.Errorf("gpu_spec: %w", err)
				}
				d.Models = d.Models.With(m)
			}
		}
		if err := d.Validate(); err != nil {
			return err
		}
		if d.Devices > 1 && d.Milli != gpu.Whole {
			return fmt.Errorf("gpu milli %d of each of %d GPUs; this format gives several GPUs whole", d.Milli, d.Devices)
		}
		pods = append(pods, p)
		return nil
	})
	if err == nil {
		err = unique(path, pods, func(p Pod) string { return p.Name })
	}
	if err == nil && !slices.ContainsFunc(pods, func(p Pod) bool { return p.Demand.Devices > 0 }) {
		err = fmt.Errorf("%s: no pod asks for a GPU", path)
	}
	if err != nil {
		return nil, err
	}
	return pods, nil
}

// TraceName returns the name of the trace in a pod list: "default" for
// openb_pod_list_default.csv.
func TraceName(path string) string {
	return strings.TrimPrefix(strings.TrimSuffix(filepath.Base(path), ".csv"), "openb_pod_list_")
}

// unique makes sure that no two lines have the same name: the order of
// arrivals is drawn over the names.
func unique[T any](path string, all []T, name func(T) string) error {
	seen := map[string]bool{}
	for _, v := range all {
		n := name(v)
		if seen[n] {
			return fmt.Errorf("%s: %q is named twice; every line needs a name of its own", path, n)
		}
		seen[n] = true
	}
	return nil
}

// A row is one line of a CSV file with the columns' names.
type row struct {
	at     map[string]int
	fields []string
	err    error // the first field that was not a number
}

func (r *row) text(column string) string {
	if i, ok := r.at[column]; ok && i < len(r.fields) {
		return strings.TrimSpace(r.fields[i])
	}
	return ""
}

// maxNumber bounds every number read, so that sums of them do not overflow.
const maxNumber = 1_000_000_000_000

func (r *row) number(column string) int64 {
	s := r.text(column)
	v, err := strconv.ParseInt(s, 10, 64)
	switch {
	case r.err != nil:
	case err != nil:
		r.err = fmt.Errorf("%s: %q is not a whole number", column, s)
	case v < 0:
		r.err = fmt.Errorf("%s: %d is negative", column, v)
	case v > maxNumber:
		r.err = fmt.Errorf("%s: %d is more than %d", column, v, int64(maxNumber))
	}
	return v
}

func readFile(path string, need []string, each func(row) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return read(f, path, need, each)
}

// maxMistakes bounds how many mistakes of a file are told.
const maxMistakes = 20

func read(from io.Reader, path string, need []string, each func(row) error) error {
	in := csv.NewReader(bufio.NewReader(from))
	in.FieldsPerRecord = -1
	head, err := in.Read()
	if err == io.EOF {
		return fmt.Errorf("%s: is empty; its first line names the columns", path)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	at := map[string]int{}
	for i, h := range head {
		at[strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))] = i
	}
	for _, n := range need {
		if _, ok := at[n]; !ok {
			return fmt.Errorf("%s:1: there is no column %s; the first line names the columns %s", path, n, strings.Join(need, ","))
		}
	}
	var wrong []error
	for len(wrong) < maxMistakes {
		fields, err := in.Read()
		if err == io.EOF {
			break
		}
		if err != nil {
			var at *csv.ParseError
			if errors.As(err, &at) {
				err = fmt.Errorf("%s:%d: %w", path, at.Line, at.Err)
			}
			wrong = append(wrong, err)
			break
		}
		if len(fields) != len(head) {
			err = fmt.Errorf("%d fields, but the first line names %d", len(fields), len(head))
		} else {
			err = each(row{at: at, fields: fields})
		}
		if err != nil {
			line, _ := in.FieldPos(0)
			wrong = append(wrong, fmt.Errorf("%s:%d: %w", path, line, err))
		}
	}
	return errors.Join(wrong...)
}

// inflatedPercent is how much of the fleet's GPUs arrives in total.
const inflatedPercent = 130

// informerDraws is how often the published program's ten informers, started just
// before the nodes were ranked, drew from the same dice for the length of their
// watches. With it most published runs are met to the last digit.
const informerDraws = 10

// Arrivals returns the pods in the published order for a seed, and the nodes in
// the order that decides between equal scores. The order is math/rand's of Go 1:
// what it draws when is part of the protocol.
func Arrivals(nodes []Node, pods []Pod, seed int64) ([]Pod, []Node) {
	order, ranked, _ := arrivals(nodes, pods, seed)
	return order, ranked
}

// arrivals also returns the dice, for a policy that goes on with them.
func arrivals(nodes []Node, pods []Pod, seed int64) ([]Pod, []Node, *rand.Rand) {
	rng := rand.New(rand.NewSource(seed))
	rng.Int() // the published program drew once before
	sorted := slices.Clone(pods)
	slices.SortFunc(sorted, func(a, b Pod) int { return strings.Compare(a.Name, b.Name) })
	order := slices.Clone(sorted)
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })

	var capacity, total int64
	for _, n := range nodes {
		capacity += int64(n.Machine.GPUs) * gpu.Whole
	}
	for _, p := range order {
		total += p.Demand.GPU()
	}
	target := capacity * inflatedPercent / 100
	for total > target {
		i := rng.Intn(len(order))
		total -= order[i].Demand.GPU()
		order = slices.Delete(order, i, i+1)
	}
	for total < target {
		p := sorted[rng.Intn(len(sorted))]
		if total+p.Demand.Milli > target { // of one device: so was it published
			break
		}
		order = append(order, p)
		total += p.Demand.GPU()
	}

	byName := slices.Clone(nodes)
	slices.SortFunc(byName, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for range informerDraws {
		rng.Int63()
	}
	ranked := make([]Node, len(byName))
	for i, rank := range rng.Perm(len(byName)) {
		ranked[rank] = byName[i]
	}
	return order, ranked, rng
}

// MixOf returns how often each demand occurs in a pod list.
func MixOf(pods []Pod) []gpu.Share {
	at := map[gpu.Demand]int{}
	var shares []gpu.Share
	for _, p := range pods {
		i, ok := at[p.Demand]
		if !ok {
			i = len(shares)
			at[p.Demand] = i
			shares = append(shares, gpu.Share{Demand: p.Demand})
		}
		shares[i].Count++
	}
	return shares
}
