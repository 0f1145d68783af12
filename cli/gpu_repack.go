package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func newGPURepackCommand(at *clusterFlags) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use:   "repack",
		Short: "Plan moves of pods with GPUs, and have them made",
		Long: `neap gpu repack shows the RepackPlans of a cluster. Its subcommands make a plan, show
its moves, have them made, hold them up and give them up.

A plan gives machines back (Empty), makes room for pods that wait (Admit) or takes
everything off machines and GPUs (Evacuate). It is a dry run until it is applied.
Then every pod gets a replacement at its new place first, and goes when that one is
ready and the disruption budget lets it.`,
		Example: `  # which machines could be given back, by which moves
  neap gpu repack plan --goal Empty

  # make room for a pod that waits, at most 5 moves
  neap gpu repack plan --goal Admit --pod live/llm-7d9f-x2x5k --max-moves 5

  # make the moves of a plan; stop it for lunch; give the rest up
  neap gpu repack apply empty-x8k2p
  neap gpu repack pause empty-x8k2p
  neap gpu repack abort empty-x8k2p`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			var list v1alpha1.RepackPlanList
			if err := k.List(cmd.Context(), &list); err != nil {
				return explain(err, name, "list", "repackplans")
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), list.Items)
			}
			return writeRepackPlans(cmd.OutOrStdout(), list.Items, name)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.AddCommand(
		newRepackPlanCommand(at),
		newRepackShowCommand(at),
		newRepackChangeCommand(at, "apply", "Have the moves of a plan made", func(s *v1alpha1.RepackPlanSpec) { s.Mode, s.Paused = v1alpha1.RepackExecute, false },
			"its moves are made; neap gpu repack show %[1]s tells how far, neap gpu repack abort %[1]s gives the rest up", "it is carried out already"),
		newRepackChangeCommand(at, "pause", "Begin no further move, until resume", func(s *v1alpha1.RepackPlanSpec) { s.Paused = true },
			"no further move begins; those under way are brought to their end. neap gpu repack resume %[1]s goes on", "it is paused already"),
		newRepackChangeCommand(at, "resume", "Go on after a pause", func(s *v1alpha1.RepackPlanSpec) { s.Paused = false },
			"it goes on", "it was not paused"),
		newRepackChangeCommand(at, "abort", "Give a plan up: what is not finished is taken back", func(s *v1alpha1.RepackPlanSpec) { s.Abort = true },
			"replacements that no service has yet are deleted; moves that were made stay made", "it is aborted already"),
	)
	return cmd
}

func writeRepackPlans(w io.Writer, plans []v1alpha1.RepackPlan, cluster string) error {
	if len(plans) == 0 {
		_, err := fmt.Fprintf(w, "No RepackPlan in %s. Make one with: neap gpu repack plan --goal Empty\n", cluster)
		return err
	}
	slices.SortStableFunc(plans, func(a, b v1alpha1.RepackPlan) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	t := newTable("PLAN", "GOAL", "MODE", "PHASE", ">MOVES", ">DONE", ">MACHINES FREED", ">SAVED/H", "WHY")
	for i := range plans {
		p := &plans[i]
		machines, saved := "-", "-"
		if f := p.Status.Freed; f != nil {
			machines, saved = strconv.Itoa(int(f.Machines)), orDash(string(f.PerHour))
		}
		t.add(p.Name, string(p.Spec.Goal), string(p.Spec.Mode), orDash(string(p.Status.Phase)), strconv.Itoa(int(p.Status.Planned)), strconv.Itoa(int(p.Status.Done)), machines, saved, orDash(p.Status.Reason))
	}
	t.write(w, "")
	return nil
}

func newRepackPlanCommand(at *clusterFlags) *cobra.Command {
	var (
		goal, cooldown, saving, ready, format string
		pods, machines, devices               []string
		perHour, most, parallel               int32
		evict                                 bool
		wait                                  time.Duration
	)
	cmd := &cobra.Command{
		Use:   "plan [NAME]",
		Short: "Make a plan, as a dry run, and show it",
		Long: `neap gpu repack plan makes a RepackPlan in mode DryRun, waits until Neap's controller
has found its moves, and shows them. Nothing is moved before neap gpu repack apply.`,
		Example: `  neap gpu repack plan --goal Empty --min-saving 2
  neap gpu repack plan --goal Admit --pod live/llm-7d9f-x2x5k
  neap gpu repack plan --goal Evacuate --machine gpu-7`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one name and was given %q as well; see %[1]s --help", cmd.CommandPath(), args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			goals := []v1alpha1.RepackGoal{v1alpha1.RepackAdmit, v1alpha1.RepackEmpty, v1alpha1.RepackEvacuate}
			i := slices.IndexFunc(goals, func(g v1alpha1.RepackGoal) bool { return strings.EqualFold(string(g), goal) })
			switch {
			case i < 0:
				return usagef("--goal is %q; it must be Empty, Admit or Evacuate", goal)
			case goals[i] == v1alpha1.RepackAdmit && len(pods) == 0:
				return usagef("--goal Admit needs --pod: the pods that wait, as namespace/name")
			}
			p := &v1alpha1.RepackPlan{Spec: v1alpha1.RepackPlanSpec{
				Goal: goals[i], Machines: machines, Devices: devices, Mode: v1alpha1.RepackDryRun,
				Limits: v1alpha1.RepackLimits{MovesPerHour: perHour, MaxMoves: most, Parallel: parallel, Cooldown: cooldown, ReadyWithin: ready},
			}}
			for _, pod := range pods {
				p.Spec.Pods = append(p.Spec.Pods, v1alpha1.PodName(pod))
			}
			if saving != "" {
				m := v1alpha1.Money(saving)
				p.Spec.MinimumSaving = &m
			}
			if evict {
				p.Spec.Unsurged = v1alpha1.UnsurgedEvict
			}
			if p.GenerateName = strings.ToLower(string(goals[i])) + "-"; len(args) == 1 {
				p.GenerateName, p.Name = "", args[0]
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			if err := k.Create(cmd.Context(), p); err != nil {
				if apierrors.IsAlreadyExists(err) {
					return fmt.Errorf("there is a RepackPlan %s in %s already; neap gpu repack show %[1]s", args[0], name)
				}
				return explain(err, name, "create", "repackplans")
			}
			if err := awaitPlan(cmd.Context(), k, p, wait); err != nil {
				return explain(err, name, "get", "repackplans")
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), p)
			}
			if err := writeRepackPlan(cmd.OutOrStdout(), p); err != nil {
				return err
			}
			if p.Status.PlannedAt != nil && len(p.Status.Moves) > 0 {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nNothing is moved yet. Have it done with: neap gpu repack apply %s\n", p.Name)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&goal, "goal", "", "Empty gives machines back, Admit makes room for pods, Evacuate takes everything off machines or GPUs (required)")
	f.StringArrayVar(&pods, "pod", nil, "with Admit: a pod that waits, as namespace/name; again for more, the most urgent first")
	f.StringArrayVar(&machines, "machine", nil, "with Empty or Evacuate: only this machine; again for more")
	f.StringArrayVar(&devices, "device", nil, "with Evacuate: only this GPU, by UUID; again for more (default all that are sick)")
	f.Int32Var(&perHour, "per-hour", 0, "how many moves may begin within any hour (default 30)")
	f.Int32Var(&most, "max-moves", 0, "how many moves the plan may have (default 100)")
	f.Int32Var(&parallel, "parallel", 0, "how many moves may be under way at once (default 1)")
	f.StringVar(&cooldown, "cooldown", "", "how long after a move no other pod of the same service is moved (default 30m)")
	f.StringVar(&saving, "min-saving", "", "what moves that belong together must save in an hour, such as 2.50")
	f.StringVar(&ready, "ready-within", "", "how long a replacement may take to be ready (default three times what its service took, and 10m at least)")
	f.BoolVar(&evict, "evict", false, "also evict pods that cannot have a replacement first, such as those of a StatefulSet")
	f.DurationVar(&wait, "wait", time.Minute, "how long to wait for the moves to be found")
	f.StringVar(&format, "format", "table", "table or json")
	return cmd
}

// awaitPlan waits until a plan's moves are found.
func awaitPlan(ctx context.Context, k client.Client, p *v1alpha1.RepackPlan, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	key := client.ObjectKeyFromObject(p)
	for {
		var is v1alpha1.RepackPlan
		if err := k.Get(ctx, key, &is); err == nil {
			*p = is
		} else if ctx.Err() == nil {
			return err
		}
		if p.Status.PlannedAt != nil || p.Status.Phase.Over() {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // what is known is shown
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func newRepackShowCommand(at *clusterFlags) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use:     "show PLAN",
		Short:   "Show a plan, its moves, and what it is worth",
		Example: `  neap gpu repack show empty-x8k2p`,
		Args:    theseArgs("a plan"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			p := &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: args[0]}}
			if err := k.Get(cmd.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				return explainRepackPlan(err, name, "get", args[0])
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), p)
			}
			return writeRepackPlan(cmd.OutOrStdout(), p)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

func explainRepackPlan(err error, cluster, verb, plan string) error {
	if apierrors.IsNotFound(err) && !strings.Contains(err.Error(), "could not find the requested resource") {
		return fmt.Errorf("there is no RepackPlan %s in %s; neap gpu repack lists them", plan, cluster)
	}
	return explain(err, cluster, verb, "repackplans")
}

func newRepackChangeCommand(at *clusterFlags, verb, short string, how func(*v1alpha1.RepackPlanSpec), done, same string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " PLAN",
		Short:   short,
		Example: "  neap gpu repack " + verb + " empty-x8k2p",
		Args:    theseArgs("a plan"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, name, err := at.open()
			if err != nil {
				return err
			}
			p := &v1alpha1.RepackPlan{ObjectMeta: metav1.ObjectMeta{Name: args[0]}}
			changed, err := change(cmd.Context(), k, p, func(p *v1alpha1.RepackPlan) error {
				if p.Status.Phase.Over() {
					return fmt.Errorf("plan %s is over (%s: %s); make another one with: neap gpu repack plan --goal %s", p.Name, p.Status.Phase, p.Status.Reason, p.Spec.Goal)
				}
				how(&p.Spec)
				return nil
			}, func(err error) error { return explainRepackPlan(err, name, "patch", args[0]) })
			if err != nil {
				return err
			}
			text := same
			if changed {
				text = done
				if strings.Contains(done, "%[1]s") {
					text = fmt.Sprintf(done, args[0])
				}
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", args[0], text)
			return err
		},
	}
}

func writeRepackPlan(w io.Writer, p *v1alpha1.RepackPlan) error {
	s := &p.Status
	fmt.Fprintf(w, "%s, goal %s, mode %s: %s\n", p.Name, p.Spec.Goal, p.Spec.Mode, orDash(string(s.Phase)))
	if s.Phase == "" {
		_, err := fmt.Fprintln(w, "Nothing is planned yet: is Neap's controller running?")
		return err
	}
	fmt.Fprintf(w, "%s\n", orDash(s.Reason))
	if s.Before != nil && s.Peak != nil && s.After != nil {
		fmt.Fprintf(w, "\nMachines in use: %d before, %d at most on the way, %d after; with %d, %d and %d GPUs\n",
			s.Before.Machines, s.Peak.Machines, s.After.Machines, s.Before.GPUs, s.Peak.GPUs, s.After.GPUs)
	}
	if f := s.Freed; f != nil && f.Machines > 0 {
		fmt.Fprintf(w, "Given back: %d machines with %d GPUs (%s)%s\n", f.Machines, f.GPUs, strings.Join(f.Names, ", "), perHour(f.PerHour, f.Cost))
	}
	if g := s.Gap; g != nil {
		fmt.Fprintf(w, "The best possible packing of these pods needs at most %d GPUs less than after this plan%s\n", g.GPUs, perHour(g.PerHour, ""))
	}
	if s.LostServingSeconds > 0 {
		fmt.Fprintf(w, "Without serving: %s in all\n", time.Duration(s.LostServingSeconds)*time.Second)
	}
	if len(s.Moves) > 0 {
		fmt.Fprintln(w)
		t := newTable(">", "POD", "FROM", "TO", ">GPU", ">MEMORY", ">LOADS IN", "STATE", "WHAT IS SAID")
		for i := range s.Moves {
			m := &s.Moves[i]
			t.add(strconv.Itoa(i+1), m.Pod, spotText(m.From), spotText(m.To), fmt.Sprintf("%.1f %%", float64(m.Milli)/10), mib(m.MemoryMiB),
				(time.Duration(m.LoadSeconds) * time.Second).String(), string(m.State), m.Message)
		}
		t.write(w, "")
	}
	if len(s.Places) > 0 {
		fmt.Fprintln(w)
		t := newTable("WILL BE ADMITTED", "TO")
		for _, h := range s.Places {
			t.add(h.Pod, spotText(v1alpha1.RepackSpot{Machine: h.Machine, Devices: h.Devices}))
		}
		t.write(w, "")
	}
	if len(s.Left) > 0 {
		fmt.Fprintln(w)
		t := newTable("STAYS AS IT IS", "WHY")
		for _, l := range s.Left {
			t.add(l.Pod, l.Reason)
		}
		t.write(w, "")
	}
	return nil
}

func perHour(saved, cost v1alpha1.Money) string {
	switch {
	case saved == "":
		return ""
	case cost == "":
		return fmt.Sprintf(", %s an hour", saved)
	}
	return fmt.Sprintf(", %s an hour, for moves that cost %s once", saved, cost)
}

// spotText is a machine with its GPUs, by the ends of their names.
func spotText(s v1alpha1.RepackSpot) string {
	out := s.Machine
	for _, d := range s.Devices {
		out += " …" + d[max(0, len(d)-6):]
	}
	return out
}
