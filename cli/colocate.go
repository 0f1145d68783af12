package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/colocate"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

func newColocateCommand() *cobra.Command {
	at, format := &clusterFlags{}, ""
	cmd := &cobra.Command{
		Use:   "colocate [NODE…]",
		Short: "Show what batch pods may use beside online services, node by node, and why",
		Long: `neap colocate shows every ColocationPolicy and the nodes that it holds for: what online
pods use, what batch pods use, may use at this moment (budget) and are offered by the
scheduler, and how batch is held back. What is offered is what will still be free
over a batch pod's run time. With names of nodes it tells what makes the figure,
which term binds, how it goes on over the day, and which batch pods run there.
Nothing is changed.`,
		Example: `  # all nodes
  neap colocate

  # why a node offers what it does, and how it goes on
  neap colocate general-001

  # for a script
  neap colocate --format json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			v, err := readColocation(cmd.Context(), k, time.Now())
			if err != nil {
				return explain(err, name, "list", "colocationpolicies")
			}
			if len(args) > 0 {
				for _, a := range args {
					if !slices.ContainsFunc(v.Nodes, func(n colocationNode) bool { return n.Name == a }) {
						return fmt.Errorf("no ColocationPolicy in %s holds for a node %s; neap colocate lists the nodes", name, a)
					}
				}
				v.Nodes = slices.DeleteFunc(v.Nodes, func(n colocationNode) bool { return !slices.Contains(args, n.Name) })
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), v)
			}
			return writeColocation(cmd.OutOrStdout(), v, name, len(args) > 0)
		},
	}
	at.register(cmd)
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

// A colocationView is what a cluster says of batch work beside online services.
type colocationView struct {
	At       time.Time                   `json:"at"`
	Policies []v1alpha1.ColocationPolicy `json:"policies"`
	Nodes    []colocationNode            `json:"nodes"`
	Waiting  []colocationPod             `json:"waiting"` // batch pods without a node
}

type colocationNode struct {
	Name     string                    `json:"name"`
	Policy   string                    `json:"policy"`
	Capacity *convert.BatchCapacity    `json:"capacity,omitempty"` // as it stands, also when it has run out
	Holds    bool                      `json:"holds"`              // the capacity has not run out
	Report   *convert.ColocationReport `json:"report,omitempty"`   // of the agent
	State    *corev1.NodeCondition     `json:"state,omitempty"`
	Offered  int64                     `json:"offeredMilli"` // what batch pods may have in all, now
	Pods     []colocationPod           `json:"pods"`
	Problems []string                  `json:"problems,omitempty"`

	now time.Time // of its clock
}

type colocationPod struct {
	Name      string    `json:"name"` // namespace/name
	CPUMilli  int64     `json:"cpuMilli"`
	MemoryMiB int64     `json:"memoryMiB"`
	Started   time.Time `json:"started,omitzero"`
	RunTime   string    `json:"runTime,omitempty"` // expected
	Why       string    `json:"why,omitempty"`     // it waits
}

// readColocation reads what there is. now tells what has run out.
func readColocation(ctx context.Context, k client.Client, now time.Time) (*colocationView, error) {
	v := &colocationView{At: now, Nodes: []colocationNode{}, Waiting: []colocationPod{}}
	var policies v1alpha1.ColocationPolicyList
	if err := k.List(ctx, &policies); err != nil {
		return nil, err
	}
	v.Policies = append([]v1alpha1.ColocationPolicy{}, policies.Items...)
	var hold []*v1alpha1.ColocationPolicy
	for i := range v.Policies {
		hold = append(hold, &v.Policies[i])
	}
	var nodes corev1.NodeList
	var pools v1alpha1.ResourcePoolList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&nodes, &pools} {
		if err := k.List(ctx, list); err != nil {
			return nil, err
		}
	}
	if err := k.List(ctx, &pods, client.MatchingLabels{v1alpha1.LabelClass: v1alpha1.ClassBatch}); err != nil {
		return nil, err
	}
	var declared []*v1alpha1.ResourcePool
	for i := range pools.Items {
		declared = append(declared, &pools.Items[i])
	}
	known, _ := convert.NewPools(declared) // of the others it is enough
	var owners convert.Owners
	learnt := convert.LearntRunTimes(hold...)
	// Simulated machines live in a day of their own, which their newest word tells.
	var day time.Time
	for i := range nodes.Items {
		if c, err := convert.NodeBatchCapacity(&nodes.Items[i]); err == nil && nodes.Items[i].Labels[v1alpha1.LabelSimulated] == "true" && c.At.After(day) {
			day = c.At
		}
	}
	for i := range nodes.Items {
		n := &nodes.Items[i]
		now := now
		if n.Labels[v1alpha1.LabelSimulated] == "true" {
			now = day
		}
		p := convert.ColocationOf(n, hold, known)
		_, told := n.Annotations[v1alpha1.AnnotationBatchCapacity]
		if p == nil && !told {
			continue
		}
		out := colocationNode{Name: n.Name, Pods: []colocationPod{}, now: now}
		if p != nil {
			out.Policy = p.Name
		}
		if c, err := convert.NodeBatchCapacity(n); err == nil {
			if out.Capacity, out.Holds = &c, c.Fresh(now); out.Holds {
				out.Offered = c.Curve().At(now).CPUMilli
			}
		} else if !errors.Is(err, convert.ErrNoBatchCapacity) {
			out.Problems = append(out.Problems, err.Error())
		}
		report, err := convert.NodeColocation(n)
		if err != nil {
			out.Problems = append(out.Problems, err.Error())
		}
		out.Report = report
		if c := slices.IndexFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool { return c.Type == v1alpha1.NodeConditionColocation }); c >= 0 {
			out.State = &n.Status.Conditions[c]
			if out.State.Status != corev1.ConditionTrue {
				out.Problems = append(out.Problems, out.State.Message)
			}
		}
		for j := range pods.Items {
			if pod := &pods.Items[j]; pod.Spec.NodeName == n.Name && !convert.Over(pod) {
				out.Pods = append(out.Pods, batchPod(pod, &owners, learnt))
			}
		}
		v.Nodes = append(v.Nodes, out)
	}
	for j := range pods.Items {
		if pod := &pods.Items[j]; pod.Spec.NodeName == "" && !convert.Over(pod) {
			w := batchPod(pod, &owners, learnt)
			for _, c := range pod.Status.Conditions {
				if c.Type == corev1.PodScheduled {
					w.Why = c.Message
				}
			}
			v.Waiting = append(v.Waiting, w)
		}
	}
	return v, nil
}

func batchPod(pod *corev1.Pod, owners *convert.Owners, learnt map[workload.Key]time.Duration) colocationPod {
	task := convert.BatchTask(pod, owners.Of(pod), learnt, 0)
	out := colocationPod{Name: task.Name, CPUMilli: task.Need.CPUMilli, MemoryMiB: task.Need.MemoryMiB, Started: task.Started}
	if task.RunTime > 0 {
		out.RunTime = task.RunTime.String()
	}
	return out
}

func writeColocation(w io.Writer, v *colocationView, cluster string, detail bool) error {
	if len(v.Policies) == 0 && len(v.Nodes) == 0 {
		_, err := fmt.Fprintf(w, "No ColocationPolicy in %s. docs/colocation.md shows how to make one, in mode Observe to look first.\n", cluster)
		return err
	}
	if detail {
		for i := range v.Nodes {
			if i > 0 {
				fmt.Fprintln(w)
			}
			writeColocationNode(w, &v.Nodes[i])
		}
		return nil
	}
	t := newTable("POLICY", "MODE", ">NODES", ">CORES OFFERED", ">ASKED FOR", ">WOULD BE OFFERED", ">EARNED/DAY", "WHY")
	for i := range v.Policies {
		p := &v.Policies[i]
		s := &p.Status
		t.add(p.Name, string(p.Spec.Mode), fmt.Sprint(s.Nodes), inCores(s.CapacityMilli), inCores(s.UsedMilli), inCores(s.WouldReclaimMilli),
			orDash(strings.TrimSpace(s.EarnedPerDay+" "+s.Currency)), orDash(s.Reason))
	}
	t.write(w, "")
	fmt.Fprintln(w)
	t = newTable("NODE", "POLICY", "STEP", ">ONLINE", ">BATCH", ">BUDGET", ">OFFERED", ">ASKED FOR", ">PODS", "BINDS")
	for i := range v.Nodes {
		n := &v.Nodes[i]
		step, online, batch, budget, binds := "-", "-", "-", "-", "no capacity was given"
		if r := n.Report; r != nil {
			step, online, batch, budget = r.Step, inCores(r.OnlineMilli), inCores(r.BatchMilli), inCores(r.BudgetMilli)
		}
		if c := n.Capacity; c != nil {
			if binds = orDash(c.Binds); !n.Holds {
				binds = "ran out at " + c.Until.UTC().Format("15:04:05") + " UTC"
			}
		}
		asked := int64(0)
		for _, p := range n.Pods {
			asked += p.CPUMilli
		}
		t.add(n.Name, orDash(n.Policy), step, online, batch, budget, inCores(n.Offered), inCores(asked), fmt.Sprint(len(n.Pods)), binds)
	}
	t.write(w, "")
	if len(v.Waiting) > 0 {
		fmt.Fprintln(w)
		t := newTable("WAITING POD", ">CORES", ">MEMORY", "RUNS FOR", "WHY")
		for _, p := range v.Waiting[:min(len(v.Waiting), mostWaiting)] {
			t.add(p.Name, inCores(p.CPUMilli), mib(p.MemoryMiB), orDash(p.RunTime), orDash(p.Why))
		}
		t.write(w, "")
		if n := len(v.Waiting) - mostWaiting; n > 0 {
			fmt.Fprintf(w, "and %d more; --format json has all\n", n)
		}
	}
	for i := range v.Nodes {
		for _, p := range v.Nodes[i].Problems {
			fmt.Fprintf(w, "\n! %s: %s\n", v.Nodes[i].Name, p)
		}
	}
	return nil
}

// writeColocationNode explains one node.
func writeColocationNode(w io.Writer, n *colocationNode) {
	fmt.Fprintf(w, "%s, policy %s\n", n.Name, orDash(n.Policy))
	for _, p := range n.Problems {
		fmt.Fprintf(w, "  ! %s\n", p)
	}
	if r := n.Report; r == nil {
		fmt.Fprintln(w, "  no agent has told of it: neap-agent --colocation runs on the node")
	} else {
		fmt.Fprintf(w, "  now:     online %s, system %s, batch %s of a budget of %s cores; step %s, avoidance %s\n",
			inCores(r.OnlineMilli), inCores(r.SystemMilli), inCores(r.BatchMilli), inCores(r.BudgetMilli), r.Step, r.Avoidance)
		if r.Why != "" {
			fmt.Fprintf(w, "           %s\n", r.Why)
		}
		if r.ForeignWrites > 0 {
			fmt.Fprintf(w, "  ! somebody else wrote %d times to cgroup files that Neap owns\n", r.ForeignWrites)
		}
	}
	c := n.Capacity
	switch {
	case c == nil:
		fmt.Fprintln(w, "  offered: nothing: no controller has given it a capacity")
		return
	case !n.Holds:
		fmt.Fprintf(w, "  offered: nothing: the capacity ran out at %s; is Neap's controller running?\n", c.Until.UTC().Format(time.RFC3339))
		return
	default:
		fmt.Fprintf(w, "  offered: %s cores. %s\n", inCores(n.Offered), c.Why)
	}
	t := newTable("term", ">cores")
	risen := int64(0) // it is no term of what is offered unless it holds that back
	if c.Binds == string(colocate.BoundRise) {
		risen = c.Terms.Risen
	}
	for _, term := range []struct {
		name  string
		milli int64
	}{
		{"machine", c.Terms.Machine}, {"of it online and batch may use", c.Terms.Allowed}, {"online and system will use", c.Terms.Online},
		{"pods without metrics", c.Terms.Unmeasured}, {"may have risen to by now", risen},
	} {
		if term.milli != 0 {
			t.add(term.name, inCores(term.milli))
		}
	}
	t.write(w, "    ")
	t = newTable("from (UTC)", ">batch, cores", ">online, cores")
	per := max(1, int(time.Hour/time.Duration(c.Step)))
	curve := c.Curve()
	for i := max(curve.Index(n.now), 0); i < curve.Steps(); i += per {
		online := "-"
		if i < len(c.OnlineMilli) {
			online = inCores(slices.Max(c.OnlineMilli[i:min(i+per, len(c.OnlineMilli))]))
		}
		t.add(curve.Begin(i).UTC().Format("15:04"), inCores(slices.Min(c.CPUMilli[i:min(i+per, curve.Steps())])), online)
	}
	fmt.Fprintln(w, "  over the day, by the hour:")
	t.write(w, "    ")
	if len(n.Pods) > 0 {
		t := newTable("batch pod", ">cores", ">memory", "started (UTC)", "runs for")
		for _, p := range n.Pods {
			started := "-"
			if !p.Started.IsZero() {
				started = p.Started.UTC().Format("15:04")
			}
			t.add(p.Name, inCores(p.CPUMilli), mib(p.MemoryMiB), started, orDash(p.RunTime))
		}
		t.write(w, "  ")
	}
}

// inCores writes thousandths of a core as cores.
func inCores(milli int64) string { return fmt.Sprintf("%.1f", float64(milli)/1000) }
