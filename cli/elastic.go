package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

func newElasticCommand() *cobra.Command {
	at, format, namespace := &clusterFlags{}, "", ""
	cmd := &cobra.Command{
		Use:   "elastic",
		Short: "Show the ElasticPolicies of a cluster, explain a decision, pin replicas",
		Long: `neap elastic shows how many replicas Neap's ElasticPolicies want, and which layer
decided: manual, cron, timetable, forecast or reactive. Its subcommands explain
one policy and let a person overrule it for a while; everything a person does
has a reason, is recorded, and can be taken back with release.`,
		Example: `  # every policy, who decided, and why
  neap elastic

  # what each layer of one policy says now
  neap elastic explain live/chat

  # at least 40 replicas until tomorrow evening, whatever the load says
  neap elastic floor live/chat 40 --until 26h --reason "exam week"

  # take that back
  neap elastic release live/chat`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			var list v1alpha1.ElasticPolicyList
			if err := k.List(cmd.Context(), &list, client.InNamespace(namespace)); err != nil {
				return explain(err, name, "list", "elasticpolicies")
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), list.Items)
			}
			return writePolicies(cmd.OutOrStdout(), list.Items, name)
		},
	}
	at.register(cmd)
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only this namespace (default all)")
	cmd.AddCommand(
		newElasticExplainCommand(at),
		newElasticSetCommand(at, "pin", "Set the replicas to a number, whatever the layers say"),
		newElasticSetCommand(at, "floor", "Keep at least so many replicas"),
		newElasticSetCommand(at, "cap", "Allow at most so many replicas"),
		newElasticReleaseCommand(at),
		newElasticPauseCommand(at, true),
		newElasticPauseCommand(at, false),
		newElasticModeCommand(at),
	)
	return cmd
}

func checkFormat(format string, known ...string) error {
	if slices.Contains(known, format) {
		return nil
	}
	return usagef("--format is %q; it must be %s", format, strings.Join(known, " or "))
}

func writeIndented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func writePolicies(w io.Writer, policies []v1alpha1.ElasticPolicy, cluster string) error {
	if len(policies) == 0 {
		_, err := fmt.Fprintf(w, "No ElasticPolicy in %s. docs/elasticity.md shows how to write one; begin with mode Preview.\n", cluster)
		return err
	}
	t := newTable("POLICY", "MODE", ">READY", ">CURRENT", ">DESIRED", "DECIDED BY", "WHY")
	for i := range policies {
		p := &policies[i]
		s := &p.Status
		why := s.Reason
		for _, c := range troubles(p) {
			why = c.Message
		}
		t.add(p.Namespace+"/"+p.Name, string(p.Spec.Mode), strconv.Itoa(int(s.Ready)), strconv.Itoa(int(s.Current)), strconv.Itoa(int(s.Desired)), orDash(s.Winner), orDash(why))
	}
	t.write(w, "")
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// troubles are the conditions that say that something is not as it should be.
func troubles(p *v1alpha1.ElasticPolicy) []metav1.Condition {
	var out []metav1.Condition
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case v1alpha1.ConditionForecastSkilled, v1alpha1.ConditionScaleInAllowed: // false is an everyday answer
		default:
			if c.Status == metav1.ConditionFalse {
				out = append(out, c)
			}
		}
	}
	return out
}

func newElasticExplainCommand(at *clusterFlags) *cobra.Command {
	format := ""
	cmd := &cobra.Command{
		Use:     "explain NAMESPACE/POLICY",
		Short:   "Say what each layer of a policy wants now, who won and why",
		Example: `  neap elastic explain live/chat`,
		Args:    theseArgs("NAMESPACE/POLICY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "table", "json"); err != nil {
				return err
			}
			p, err := policyNamed(args[0])
			if err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			if err := k.Get(cmd.Context(), client.ObjectKeyFromObject(p), p); err != nil {
				return explainPolicy(err, name, "get", args[0])
			}
			if format == "json" {
				return writeIndented(cmd.OutOrStdout(), p)
			}
			return writePolicy(cmd.OutOrStdout(), p)
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	return cmd
}

// policyNamed is the policy that a command line names.
func policyNamed(arg string) (*v1alpha1.ElasticPolicy, error) {
	namespace, name, ok := strings.Cut(arg, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return nil, usagef("%q names no policy; write namespace/name, such as live/chat", arg)
	}
	return &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, nil
}

func explainPolicy(err error, cluster, verb, policy string) error {
	if client.IgnoreNotFound(err) == nil && !strings.Contains(err.Error(), "could not find the requested resource") {
		return fmt.Errorf("there is no ElasticPolicy %s in %s; neap elastic lists them", policy, cluster)
	}
	return explain(err, cluster, verb, "elasticpolicies")
}

func writePolicy(w io.Writer, p *v1alpha1.ElasticPolicy) error {
	s := &p.Status
	fmt.Fprintf(w, "%s/%s, %s %s, mode %s\n", p.Namespace, p.Name, p.Spec.TargetRef.Kind, p.Spec.TargetRef.Name, p.Spec.Mode)
	if s.DecidedAt == nil {
		_, err := fmt.Fprintln(w, "Nothing is decided yet: is Neap's controller running?")
		return err
	}
	fmt.Fprintf(w, "%s  %d replicas desired, %d there, %d ready; between %d and %d\n", s.DecidedAt.UTC().Format(time.RFC3339), s.Desired, s.Current, s.Ready, p.Spec.Min, p.Spec.Max)
	fmt.Fprintf(w, "%s: %s\n\n", orDash(s.Winner), orDash(s.Reason))

	t := newTable("LAYER", "NAME", ">FLOOR", ">CAP", "UNTIL", "WHY")
	for _, l := range s.Layers {
		until := ""
		if l.Until != nil {
			until = l.Until.UTC().Format(time.RFC3339)
		}
		t.add(l.Layer, l.Name, number(l.Floor), number(l.Cap), until, l.Reason)
	}
	t.write(w, "")
	if len(s.Pools) > 0 {
		fmt.Fprintln(w)
		t := newTable("POOL", ">PLANNED", ">PODS", ">READY", ">START P95", "WHY NOT MORE")
		for _, pool := range s.Pools {
			start := "-"
			if pool.StartP95 != nil {
				start = pool.StartP95.Duration.Round(100 * time.Millisecond).String()
			}
			t.add(pool.Name, strconv.Itoa(int(pool.Planned)), strconv.Itoa(int(pool.Pods)), strconv.Itoa(int(pool.Ready)), start, pool.Reason)
		}
		t.write(w, "")
	}
	if f := s.Forecast; f != nil {
		fmt.Fprintln(w)
		if f.Skilled {
			fmt.Fprintf(w, "Forecast: skill %s over the best naive one, 90 %% band held %s", orDash(f.Skill), orDash(f.Coverage))
			if f.Horizon != nil {
				fmt.Fprintf(w, ", looks %s ahead", f.Horizon.Duration.Round(time.Second))
			}
			fmt.Fprintln(w)
		} else {
			fmt.Fprintf(w, "No forecast: %s\n", orDash(f.Reason))
		}
	}
	if len(s.Conditions) > 0 {
		fmt.Fprintln(w)
		t := newTable("CONDITION", "STATUS", "MESSAGE")
		for _, c := range s.Conditions {
			t.add(c.Type, string(c.Status), c.Message)
		}
		t.write(w, "")
	}
	return nil
}

func number(n *int32) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(int(*n))
}

// A setting is what a person decides about a policy's replicas.
type setting struct {
	verb                    string
	name, from, until       string
	reason, by              string
	replicas                int32
	policy                  *v1alpha1.ElasticPolicy
	fromTime, untilTime     *metav1.Time
	fromOffset, untilOffset time.Duration
}

func newElasticSetCommand(at *clusterFlags, verb, short string) *cobra.Command {
	s := &setting{verb: verb}
	cmd := &cobra.Command{
		Use:   verb + " NAMESPACE/POLICY REPLICAS",
		Short: short,
		Long: short + `.

The entry is one of the policy's manual layers. Setting it again changes it;
neap elastic release takes it away. Times are RFC 3339, or a duration from the
policy's now, such as 2h.`,
		Example: fmt.Sprintf(`  neap elastic %s live/chat 40 --until 2h --reason "exam at eight"`, verb),
		Args:    theseArgs("NAMESPACE/POLICY", "a number of replicas"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := s.parse(args); err != nil {
				return err
			}
			k, name, err := at.open()
			if err != nil {
				return err
			}
			changed, err := change(cmd.Context(), k, s.policy, s.apply, func(err error) error { return explainPolicy(err, name, "patch", args[0]) })
			if err != nil {
				return err
			}
			if !changed {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is as it was: %s %d\n", args[0], verb, s.replicas)
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s %d%s, entry %q; take it back with: neap elastic release %s --name %s\n", args[0], verb, s.replicas, s.during(), s.name, args[0], s.name)
			if s.policy.Spec.Mode != v1alpha1.ModeAuto && err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "The policy is in mode %s: it shows this and does not act.\n", s.policy.Spec.Mode)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.reason, "reason", "", "why; shown wherever this decides (required)")
	f.StringVar(&s.from, "from", "", "when it begins: a time or a duration from now (default now)")
	f.StringVar(&s.until, "until", "", "when it ends: a time or a duration from now (default when it is released)")
	f.StringVar(&s.by, "by", "", "who decides (default your user name)")
	f.StringVar(&s.name, "name", verb, "name of the entry, to have several")
	return cmd
}

func (s *setting) parse(args []string) (err error) {
	if s.policy, err = policyNamed(args[0]); err != nil {
		return err
	}
	n, err := strconv.ParseInt(args[1], 10, 32)
	if err != nil || n < 0 {
		return usagef("%q is no number of replicas; write a whole number from 0", args[1])
	}
	s.replicas = int32(n)
	if s.reason == "" {
		return usagef("--reason is missing: say why, in a few words, for those who see it tonight")
	}
	if s.by == "" {
		if u, err := user.Current(); err == nil {
			s.by = u.Username
		}
	}
	if s.fromTime, s.fromOffset, err = moment("--from", s.from); err != nil {
		return err
	}
	s.untilTime, s.untilOffset, err = moment("--until", s.until)
	return err
}

// moment reads a time or a duration from now.
func moment(flag, text string) (*metav1.Time, time.Duration, error) {
	if text == "" {
		return nil, 0, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return nil, d, nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return &metav1.Time{Time: t.UTC()}, 0, nil
	}
	return nil, 0, usagef("%s is %q; write a time such as 2026-11-23T18:30:00+08:00, or a duration from now such as 2h", flag, text)
}

// apply puts the entry into the policy.
func (s *setting) apply(p *v1alpha1.ElasticPolicy) error {
	now := policyNow(p, time.Now())
	entry := v1alpha1.ManualLayer{Name: s.name, Reason: s.reason, By: s.by, From: s.fromTime, Until: s.untilTime}
	if s.fromOffset > 0 {
		entry.From = &metav1.Time{Time: now.Add(s.fromOffset).UTC().Truncate(time.Second)}
	}
	if s.untilOffset > 0 {
		entry.Until = &metav1.Time{Time: now.Add(s.untilOffset).UTC().Truncate(time.Second)}
	}
	s.fromTime, s.untilTime = entry.From, entry.Until
	if entry.Until != nil && !entry.Until.After(now) {
		return usagef("--until is %s, which is past: it is %s", entry.Until.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	switch s.verb {
	case "pin":
		entry.Pin = &s.replicas
	case "floor":
		entry.Floor = &s.replicas
	case "cap":
		entry.Cap = &s.replicas
	}
	if i := slices.IndexFunc(p.Spec.Manual, func(m v1alpha1.ManualLayer) bool { return m.Name == s.name }); i >= 0 {
		p.Spec.Manual[i] = entry
	} else {
		p.Spec.Manual = append(p.Spec.Manual, entry)
	}
	return nil
}

// during says when the entry holds.
func (s *setting) during() string {
	text := ""
	if s.fromTime != nil {
		text += " from " + s.fromTime.UTC().Format(time.RFC3339)
	}
	if s.untilTime != nil {
		text += " until " + s.untilTime.UTC().Format(time.RFC3339)
	}
	return text
}

// policyNow is the policy's now: the clock's, or in a simulated cluster, whose
// day passes at another pace, that of the last decision.
func policyNow(p *v1alpha1.ElasticPolicy, wall time.Time) time.Time {
	if p.Labels[v1alpha1.LabelSimulated] == "true" && p.Status.DecidedAt != nil {
		return p.Status.DecidedAt.Time
	}
	return wall
}

func newElasticReleaseCommand(at *clusterFlags) *cobra.Command {
	name := ""
	cmd := &cobra.Command{
		Use:     "release NAMESPACE/POLICY",
		Short:   "Take back what people decided about a policy",
		Long:    "neap elastic release takes the manual layers of a policy away: all of them, or the one with --name.",
		Example: `  neap elastic release live/chat --name floor`,
		Args:    theseArgs("NAMESPACE/POLICY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			gone := []string{}
			return edit(cmd, at, args[0], func(p *v1alpha1.ElasticPolicy) error {
				gone = gone[:0]
				p.Spec.Manual = slices.DeleteFunc(p.Spec.Manual, func(m v1alpha1.ManualLayer) bool {
					drop := name == "" || m.Name == name
					if drop {
						gone = append(gone, m.Name)
					}
					return drop
				})
				if name != "" && len(gone) == 0 {
					return fmt.Errorf("%s has no manual entry %q; neap elastic explain shows those it has", args[0], name)
				}
				return nil
			}, func() string { return "released " + strings.Join(gone, ", ") }, "nothing was pinned, floored or capped")
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "only this entry (default all)")
	return cmd
}

func newElasticPauseCommand(at *clusterFlags, pause bool) *cobra.Command {
	use, short, done, was := "resume", "Let Neap decide again after a pause", "Neap decides again", "it was not paused"
	if pause {
		use, short, done, was = "pause", "Leave a workload's replicas as they are, until resume", "paused: replicas stay as they are", "it is paused already"
	}
	return &cobra.Command{
		Use:     use + " NAMESPACE/POLICY",
		Short:   short,
		Example: "  neap elastic " + use + " live/chat",
		Args:    theseArgs("NAMESPACE/POLICY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return edit(cmd, at, args[0], func(p *v1alpha1.ElasticPolicy) error {
				if !pause {
					delete(p.Annotations, v1alpha1.AnnotationPause)
					return nil
				}
				metav1.SetMetaDataAnnotation(&p.ObjectMeta, v1alpha1.AnnotationPause, "true")
				return nil
			}, func() string { return done }, was)
		},
	}
}

func newElasticModeCommand(at *clusterFlags) *cobra.Command {
	modes := []v1alpha1.Mode{v1alpha1.ModeObserve, v1alpha1.ModePreview, v1alpha1.ModeAuto}
	return &cobra.Command{
		Use:     "mode NAMESPACE/POLICY Observe|Preview|Auto",
		Short:   "Say how far a policy goes: report, decide and record, or act",
		Example: "  neap elastic mode live/chat Auto",
		Args:    theseArgs("NAMESPACE/POLICY", "a mode"),
		RunE: func(cmd *cobra.Command, args []string) error {
			i := slices.IndexFunc(modes, func(m v1alpha1.Mode) bool { return strings.EqualFold(string(m), args[1]) })
			if i < 0 {
				return usagef("%q is no mode; it is Observe, Preview or Auto", args[1])
			}
			was := v1alpha1.Mode("")
			return edit(cmd, at, args[0], func(p *v1alpha1.ElasticPolicy) error {
				was, p.Spec.Mode = p.Spec.Mode, modes[i]
				return nil
			}, func() string { return fmt.Sprintf("mode %s, was %s", modes[i], was) }, "it is in mode "+string(modes[i])+" already")
		},
	}
}

// edit changes one policy and says so.
func edit(cmd *cobra.Command, at *clusterFlags, policy string, how func(*v1alpha1.ElasticPolicy) error, done func() string, same string) error {
	p, err := policyNamed(policy)
	if err != nil {
		return err
	}
	k, name, err := at.open()
	if err != nil {
		return err
	}
	changed, err := change(cmd.Context(), k, p, how, func(err error) error { return explainPolicy(err, name, "patch", policy) })
	if err != nil {
		return err
	}
	text := same
	if changed {
		text = done()
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", policy, text)
	return err
}
