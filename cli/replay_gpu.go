package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/sim/openb"
)

// gpuReplay is what `neap replay gpu` was asked for.
type gpuReplay struct {
	nodes, compare string
	pods, policies []string
	seeds, at      string
	bound, memory  bool
	workers        int
	gpuMoves
}

func newReplayGPUCommand() *cobra.Command {
	var format, out string
	g := gpuReplay{}
	cmd := &cobra.Command{
		Use:   "gpu --nodes FILE --pods FILE…",
		Short: "Play the openb GPU-sharing benchmark: how many GPUs each placement leaves idle",
		Long: `Play the openb GPU-sharing benchmark ("Beware of Fragmentation", USENIX ATC'23).

Pods arrive in the published order of each seed until they ask for 130 % of the
GPUs. Each is placed by the policy, or dropped if it fits nowhere; none leaves or
is moved. Shown is, at levels of what has arrived in percent of all GPUs: GPUs
not allocated, fragments (idle GPU that the usual pods cannot use), machines that
run nothing, and the time to choose a machine (measured here; every other figure
is the same for the same input).

Policies: neap is this product's, which its scheduler plugin runs too (core/gpu),
neap-sparing spares room for large pods besides, neap-without-… is it without one
of its terms. The others are the benchmark's, as published: fgd, bestfit, packing,
clustering, dotprod, random.

--churn N,… lets pods come and go instead, with what is offered held at N % of the
GPUs, and shows what of the demand that came was rejected; --moves how many moves a
thousand arrivals may cost: with some left, what fits nowhere waits until others have
made room for it. --repack-from POLICY,… --at N,… plans to give machines back from
where each policy left them. Every plan is proven move by move.

--bound adds the least that any placement could leave idle, even one that moved
pods and chose which to take: proven in whole numbers for each trace, seed and
level. It pools the processors of equal machines and leaves memory out.

--compare shows beside ours what the benchmark's authors published
(published_allo.csv), where they ran the same trace, policy and seeds.

The files are those of openb: nodes sn,cpu_milli,memory_mib,gpu,model; pods
name,cpu_milli,memory_mib,num_gpu,gpu_milli and perhaps gpu_spec. They have no
GPU memory in them; with --memory some is invented, so that shared GPUs run out of
it first, and neap-without-memory and fgd-without-memory show what it is worth to
look at it.`,
		Example: `  D=../shared/data/openb
  neap replay gpu --nodes $D/openb_node_list_gpu_node.csv --pods $D/openb_pod_list_default.csv
  neap replay gpu --nodes $D/openb_node_list_gpu_node.csv --pods $D/openb_pod_list_default.csv,$D/openb_pod_list_gpuspec33.csv \
    --seeds 42-51 --policy neap,fgd --at 50,70,80,100,130 --bound --compare $D/published_allo.csv
  neap replay gpu --nodes $D/openb_node_list_gpu_node.csv --pods $D/openb_pod_list_default.csv \
    --churn 90,95 --moves 0,10,30,100 --policy neap,fgd,bestfit --seeds 42-44 --bound
  neap replay gpu --nodes $D/openb_node_list_gpu_node.csv --pods $D/openb_pod_list_default.csv \
    --repack-from bestfit,random --at 50,70,80 --seeds 42 --bound
  neap replay gpu --nodes nodes.csv --pods pods.csv --seeds 42 --format json --out rows.json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"table", "json"}, format) {
				return usagef("--format %s is not one of table, json", format)
			}
			if g.compare != "" && format == "json" {
				return usagef("--compare is for --format table; the rows of --format json are ours alone")
			}
			if err := mayWrite(out); err != nil {
				return err
			}
			if g.churn != "" || len(g.from) > 0 {
				return g.runMoves(cmd, format, out)
			}
			if cmd.Flags().Changed("moves") || cmd.Flags().Changed("arrivals") {
				return usagef("--moves and --arrivals are for --churn, and --moves for --repack-from")
			}
			begun := time.Now()
			rows, published, err := g.run(cmd.Context())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: played %d rows in %.1f s\n", len(rows), time.Since(begun).Seconds())
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				if format == "json" {
					return writeJSON(w, map[string]any{"rows": rows})
				}
				return writeGPUTable(w, openb.Means(rows), published, g.bound)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&g.nodes, "nodes", "", "list of machines (CSV)")
	f.StringSliceVar(&g.pods, "pods", nil, "lists of pods (CSV), each a trace")
	f.StringVar(&g.seeds, "seeds", "42-51", "seeds of the arrivals, such as 42-51 or 1,2,7-9")
	f.StringSliceVar(&g.policies, "policy", []string{"neap", "fgd"}, "any of "+strings.Join(openb.Policies(), ", "))
	f.StringVar(&g.at, "at", "50,70,80,90,95,100,130", "levels of what has arrived, in percent of all GPUs, 0 to "+strconv.Itoa(openb.MaxLevel))
	f.BoolVar(&g.bound, "bound", false, "prove the least that any placement could leave idle")
	f.BoolVar(&g.memory, "memory", false, "invent memory of GPUs, which the lists lack")
	g.gpuMoves.flags(f)
	f.StringVar(&g.compare, "compare", "", "published_allo.csv, to show its figures beside ours")
	f.IntVar(&g.workers, "workers", runtime.GOMAXPROCS(0), "at most so many runs at once")
	f.StringVar(&format, "format", "table", "table (means over the seeds) or json (every run)")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	return cmd
}

// run reads the files and plays the matrix.
func (g *gpuReplay) run(ctx context.Context) ([]openb.Row, openb.Published, error) {
	if err := g.check(g.policies, "--policy"); err != nil {
		return nil, nil, err
	}
	x := openb.Matrix{Policies: g.policies, Bound: g.bound, Workers: g.workers}
	var err error
	if x.Seeds, err = parseSpans("--seeds", g.seeds, 0, 1<<31-1); err != nil {
		return nil, nil, err
	}
	levels, err := parseSpans("--at", g.at, 0, openb.MaxLevel)
	if err != nil {
		return nil, nil, err
	}
	for _, l := range levels {
		x.At = append(x.At, int(l))
	}
	if x.Traces, err = g.traces(); err != nil {
		return nil, nil, err
	}
	var published openb.Published
	if g.compare != "" {
		if published, err = openb.ReadPublished(g.compare); err != nil {
			return nil, nil, unread(err, "--compare")
		}
	}
	rows, err := x.Run(ctx)
	return rows, published, err
}

// check looks at what every kind of run needs.
func (g *gpuReplay) check(policies []string, flag string) error {
	if g.nodes == "" || len(g.pods) == 0 {
		return usagef("--nodes and --pods are needed: the benchmark's list of machines and its lists of pods")
	}
	if g.workers < 1 {
		return usagef("--workers must be at least 1")
	}
	for i, p := range policies {
		if !slices.Contains(openb.Policies(), p) {
			return usagef("%s %s is not one of %s", flag, p, strings.Join(openb.Policies(), ", "))
		}
		if slices.Contains(policies[:i], p) {
			return usagef("%s names %s twice", flag, p)
		}
	}
	return nil
}

// traces reads the files.
func (g *gpuReplay) traces() ([]*openb.Trace, error) {
	var traces []*openb.Trace
	var models openb.Catalogue
	nodes, err := openb.ReadNodes(g.nodes, &models)
	if err != nil {
		return nil, unread(err, "--nodes")
	}
	for _, path := range g.pods {
		pods, err := openb.ReadPods(path, &models)
		if err != nil {
			return nil, unread(err, "--pods")
		}
		name := openb.TraceName(path)
		if slices.ContainsFunc(traces, func(t *openb.Trace) bool { return t.Name == name }) {
			return nil, usagef("--pods names two traces %s", name)
		}
		trace := &openb.Trace{Name: name, Nodes: nodes, Pods: pods}
		if g.memory {
			trace = trace.WithMemory(models.Names())
		}
		traces = append(traces, trace)
	}
	return traces, nil
}

// maxSpans bounds how many numbers a list such as 1-1000 may stand for.
const maxSpans = 1000

// parseSpans reads a list such as 42-51,60 of numbers from low to high, each once.
func parseSpans(flag, s string, low, high int64) ([]int64, error) {
	var all []int64
	for part := range strings.SplitSeq(s, ",") {
		a, b, is := strings.Cut(strings.TrimSpace(part), "-")
		if !is {
			b = a
		}
		from, err1 := strconv.ParseInt(a, 10, 64)
		to, err2 := strconv.ParseInt(b, 10, 64)
		if err1 != nil || err2 != nil || from > to || from < low || to > high {
			return nil, usagef("%s: %q is not a number or span, such as 42 or 42-51, within %d to %d", flag, part, low, high)
		}
		if to-from >= maxSpans || len(all)+int(to-from) >= maxSpans {
			return nil, usagef("%s: more than %d numbers", flag, maxSpans)
		}
		for v := from; v <= to; v++ {
			if slices.Contains(all, v) {
				return nil, usagef("%s names %d twice", flag, v)
			}
			all = append(all, v)
		}
	}
	return all, nil
}

// writeGPUTable writes means for a person.
func writeGPUTable(w io.Writer, means []openb.Mean, published openb.Published, bound bool) error {
	buf := bufio.NewWriter(w)
	columns := []string{"trace", "policy", ">arrived %", ">seeds", ">unallocated %", ">±"}
	if published != nil {
		columns = append(columns, ">published %", ">difference")
	}
	if bound {
		columns = append(columns, ">bound %")
	}
	t := newTable(append(columns, ">fragments %", ">empty machines", ">µs")...)
	two := func(v float64) string { return strconv.FormatFloat(v, 'f', 2, 64) }
	for _, m := range means {
		cells := []string{printable(m.Trace), m.Policy, strconv.Itoa(m.ArrivedPercent), strconv.Itoa(len(m.Seeds)), two(m.Unallocated), two(m.Deviation)}
		if published != nil {
			theirs, difference := "–", ""
			if p, ok := published.Unallocated(m.Trace, m.Policy, m.Seeds, m.ArrivedPercent); ok {
				theirs, difference = two(p), fmt.Sprintf("%+.2f", m.Unallocated-p)
			}
			cells = append(cells, theirs, difference)
		}
		if bound {
			cells = append(cells, two(m.Floor))
		}
		t.add(append(cells, two(m.Frag), strconv.FormatFloat(m.Empty, 'f', 1, 64), strconv.FormatFloat(m.Micros, 'f', 1, 64))...)
	}
	t.write(buf, "")
	return buf.Flush()
}
