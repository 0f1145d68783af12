package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/kube/convert"
)

func newTimetableCommand() *cobra.Command {
	at := &clusterFlags{}
	cmd := &cobra.Command{
		Use:   "timetable",
		Short: "Import class timetables and holiday calendars, show what they ask for",
		Long: `neap timetable turns the classes of a term into capacity that is ready before the
bell: it imports them from the school's own files, shows what an import would
change, and what the classes ask for minute by minute. ElasticPolicies name the
Timetable; see docs/timetable.md.`,
		Example: `  # what would this file change?
  neap timetable import autumn.xlsx --name autumn -n live --zone Europe/Dublin --year 2026 --dry-run

  # do it
  neap timetable import autumn.xlsx --name autumn -n live --zone Europe/Dublin --year 2026

  # what do the classes of Monday ask for?
  neap timetable show autumn -n live --day 2026-11-23

  # that was the wrong file
  neap timetable undo autumn -n live`,
	}
	at.register(cmd)
	return group(cmd,
		newTimetableImportCommand(at),
		newTimetableShowCommand(at),
		newTimetableUndoCommand(at),
		newTimetableCalendarCommand(at),
	)
}

// timetables returns the objects that hold a Timetable, and those that held it
// before the last import.
func timetables(ctx context.Context, k client.Client, cluster, namespace, name string) (now, before []*v1alpha1.Timetable, err error) {
	var list v1alpha1.TimetableList
	if err := k.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		return nil, nil, explain(err, cluster, "list", "timetables")
	}
	var all []*v1alpha1.Timetable
	for i := range list.Items {
		all = append(all, &list.Items[i])
	}
	for _, t := range all {
		if t.Labels[v1alpha1.LabelTimetablePrevious] == name {
			before = append(before, t)
		}
	}
	return convert.Parts(all, namespace, name), before, nil
}

// sessionsOf returns the classes of all parts of a Timetable.
func sessionsOf(parts []*v1alpha1.Timetable) ([]timetable.Session, error) {
	var all []timetable.Session
	for _, p := range parts {
		s, err := convert.Sessions(p)
		if err != nil {
			return nil, err
		}
		all = append(all, s...)
	}
	return all, nil
}

// timetableShow is what `neap timetable show` was asked for.
type timetableShow struct {
	namespace, file, day, module, format string
	release                              time.Duration
}

func newTimetableShowCommand(at *clusterFlags) *cobra.Command {
	s := &timetableShow{}
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show timetables, the classes of one, or what a day of it asks for",
		Long: `Without a name, the timetables of the namespace. With a name, its classes; with
--day, the classes of that day and the people whom they make the workload expect,
minute by minute, before anything is learnt: half of a class is there before the
bell, and its floor goes 15 minutes after it (docs/timetable.md). The controller
learns both from the load; neap elastic explain shows what it makes of them.`,
		Example: `  neap timetable show autumn -n live --day 2026-11-23
  neap timetable show --file autumn.yaml --day 2026-11-23 --module chat --format json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef("%s takes one NAME and was given %q as well; see %[1]s --help", cmd.CommandPath(), args[1])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(s.format, "table", "json"); err != nil {
				return err
			}
			var day timetable.Date
			if s.day != "" {
				var err error
				if day, err = timetable.ParseDate(s.day); err != nil {
					return usagef("--day: %v", err)
				}
			}
			parts, err := s.parts(cmd.Context(), at, args)
			if err != nil {
				return err
			}
			if parts == nil {
				return nil // the list was written
			}
			sessions, err := sessionsOf(parts)
			if err != nil {
				return err
			}
			zone := time.UTC
			if len(sessions) > 0 {
				zone = sessions[0].Start.Location()
			}
			if s.day == "" {
				return s.sessions(cmd.OutOrStdout(), timetable.New(sessions).Sessions())
			}
			return s.floors(cmd.OutOrStdout(), timetable.New(sessions), time.Date(day.Year, day.Month, day.Day, 0, 0, 0, 0, zone))
		},
	}
	f := cmd.Flags()
	f.StringVarP(&s.namespace, "namespace", "n", "default", "where the Timetable is")
	f.StringVar(&s.file, "file", "", "read the Timetable from this YAML (of neap timetable import --format yaml) instead of a cluster")
	f.StringVar(&s.day, "day", "", "show what this day asks for, such as 2026-11-23")
	f.StringVar(&s.module, "module", "", "only what this module is asked for")
	f.DurationVar(&s.release, "release-after", timetable.DefaultRelease, "how long after its start a class is held")
	f.StringVar(&s.format, "format", "table", "table or json")
	return cmd
}

// parts finds the Timetable; nil if there was no name and the list was written.
func (s *timetableShow) parts(ctx context.Context, at *clusterFlags, args []string) ([]*v1alpha1.Timetable, error) {
	if s.file != "" {
		return readTimetables(s.file)
	}
	if len(args) == 0 {
		return nil, usagef("name the Timetable, or a YAML with --file; `kubectl get timetables -A` lists those of the cluster")
	}
	k, cluster, err := at.open()
	if err != nil {
		return nil, err
	}
	parts, _, err := timetables(ctx, k, cluster, s.namespace, args[0])
	if err == nil && len(parts) == 0 {
		err = fmt.Errorf("there is no Timetable %s/%s in %s; kubectl get timetables -A lists those there are", s.namespace, args[0], cluster)
	}
	return parts, err
}

// readTimetables reads the objects of a YAML file.
func readTimetables(path string) ([]*v1alpha1.Timetable, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, unread(err, "--file")
	}
	var out []*v1alpha1.Timetable
	for doc := range strings.SplitSeq("\n"+string(raw), "\n---\n") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		t := &v1alpha1.Timetable{}
		if err := yaml.UnmarshalStrict([]byte(doc), t); err != nil || t.Kind != "Timetable" {
			return nil, fmt.Errorf("%s holds something else than Timetables (%v); neap timetable import --format yaml writes such a file", path, errors.Join(err))
		}
		out = append(out, t)
	}
	return out, nil
}

// A shownSession is one class in JSON.
type shownSession struct {
	ID       string    `json:"id"`
	Course   string    `json:"course"`
	Room     string    `json:"room,omitempty"`
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	Enrolled int       `json:"enrolled"`
	Modules  []string  `json:"modules,omitempty"`
}

func shown(s timetable.Session) shownSession {
	out := shownSession{ID: s.ID, Course: s.Course, Room: s.Room, Start: s.Start, End: s.End, Enrolled: s.Enrolled}
	for _, n := range s.Modules {
		out.Modules = append(out.Modules, n.String())
	}
	return out
}

// wanted reports whether the class asks for the module that is shown.
func (s *timetableShow) wanted(c timetable.Session) bool {
	return s.module == "" || c.Factor(s.module) > 0
}

func (s *timetableShow) sessions(w io.Writer, sessions []timetable.Session) error {
	out := []shownSession{}
	t := newTable("START", "END", "COURSE", "ROOM", ">ENROLLED", "MODULES", "ID")
	for _, c := range sessions {
		if s.wanted(c) {
			x := shown(c)
			out = append(out, x)
			t.add(c.Start.Format("Mon 2006-01-02 15:04"), c.End.Format("15:04"), printable(c.Course), printable(c.Room), strconv.Itoa(c.Enrolled), orAll(x.Modules), printable(c.ID))
		}
	}
	if s.format == "json" {
		return writeIndented(w, map[string]any{"sessions": out})
	}
	t.write(w, "")
	return nil
}

func orAll(modules []string) string {
	if len(modules) == 0 {
		return "all"
	}
	return strings.Join(modules, ", ")
}

// floors writes the classes of a day and what they ask for.
func (s *timetableShow) floors(w io.Writer, t timetable.Timetable, day time.Time) error {
	end := day.AddDate(0, 0, 1)
	today := slices.DeleteFunc(slices.Clone(t.Sessions()), func(c timetable.Session) bool {
		return !c.End.After(day) || !c.Start.Before(end) || !s.wanted(c)
	})
	if s.module == "" { // all modules together: every class asks for each person once
		all := slices.Clone(t.Sessions())
		for i := range all {
			all[i].Modules = nil
		}
		t = timetable.New(all)
	}
	opts := timetable.Options{Module: s.module, Release: max(s.release, 1)}
	type minute struct {
		At      time.Time `json:"at"`
		Floor   float64   `json:"floor"`
		Classes int       `json:"classes"`
	}
	minutes := []minute{}
	for at := day; at.Before(end); at = at.Add(time.Minute) {
		if f := (timetable.Attendance{}).Floor(t, at, at, opts); f.Demand > 0 {
			minutes = append(minutes, minute{at, float64(int(f.Demand*10+.5)) / 10, f.Classes})
		}
	}
	if s.format == "json" {
		out := []shownSession{}
		for _, c := range today {
			out = append(out, shown(c))
		}
		return writeIndented(w, map[string]any{"day": day.Format(time.DateOnly), "sessions": out, "floors": minutes})
	}
	if len(today) == 0 {
		_, err := fmt.Fprintf(w, "No classes on %s.\n", day.Format("Monday 2006-01-02"))
		return err
	}
	if err := s.sessions(w, today); err != nil {
		return err
	}
	fmt.Fprintln(w)
	table := newTable("FROM", "TO", ">PEOPLE EXPECTED (P90)", ">CLASSES")
	for i := 0; i < len(minutes); {
		// Rows of five minutes, and a new one after a gap.
		j, most := i, minutes[i]
		for j+1 < len(minutes) && minutes[j+1].At.Sub(minutes[j].At) == time.Minute && minutes[j+1].At.Minute()%5 != 0 {
			if j++; minutes[j].Floor > most.Floor {
				most = minutes[j]
			}
		}
		table.add(minutes[i].At.Format("15:04"), minutes[j].At.Add(time.Minute).Format("15:04"), strconv.FormatFloat(most.Floor, 'f', 0, 64), strconv.Itoa(most.Classes))
		i = j + 1
	}
	table.write(w, "")
	return nil
}

// put writes the objects of a Timetable, and takes away those parts that it has
// no more.
func put(ctx context.Context, k client.Client, cluster string, want, there []*v1alpha1.Timetable) error {
	for _, t := range want {
		is := &v1alpha1.Timetable{ObjectMeta: metav1.ObjectMeta{Namespace: t.Namespace, Name: t.Name}}
		if !slices.ContainsFunc(there, func(o *v1alpha1.Timetable) bool { return o.Name == t.Name }) {
			if err := k.Create(ctx, t.DeepCopy()); err != nil {
				return explain(err, cluster, "create", "timetables")
			}
			continue
		}
		_, err := change(ctx, k, is, func(o *v1alpha1.Timetable) error {
			o.Spec = *t.Spec.DeepCopy()
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			for key, value := range t.Labels {
				o.Labels[key] = value
			}
			return nil
		}, func(err error) error { return explain(err, cluster, "patch", "timetables") })
		if err != nil {
			return err
		}
	}
	for _, o := range there {
		if !slices.ContainsFunc(want, func(t *v1alpha1.Timetable) bool { return o.Name == t.Name }) {
			if err := client.IgnoreNotFound(k.Delete(ctx, o)); err != nil {
				return explain(err, cluster, "delete", "timetables")
			}
		}
	}
	return nil
}

// previous returns the objects that keep a Timetable as it was.
func previous(namespace, name string, base v1alpha1.TimetableSpec, sessions []timetable.Session) []*v1alpha1.Timetable {
	out := convert.Timetables(namespace, name+".previous", base, sessions)
	for _, t := range out {
		t.Labels = map[string]string{v1alpha1.LabelTimetablePrevious: name}
	}
	return out
}

func newTimetableUndoCommand(at *clusterFlags) *cobra.Command {
	namespace, dry := "", false
	cmd := &cobra.Command{
		Use:   "undo NAME",
		Short: "Take the last import of a timetable back",
		Long: `neap timetable undo puts a Timetable back as it was before the last import, and
shows what that changes. Undone twice, it is as it was.`,
		Example: `  neap timetable undo autumn -n live`,
		Args:    theseArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, cluster, err := at.open()
			if err != nil {
				return err
			}
			now, before, err := timetables(cmd.Context(), k, cluster, namespace, args[0])
			if err != nil {
				return err
			}
			if len(now) == 0 || len(before) == 0 {
				return fmt.Errorf("there is nothing to undo: %s keeps no import of %s/%s before the last; kubectl delete timetable takes all of it away", cluster, namespace, args[0])
			}
			is, err := sessionsOf(now)
			if err != nil {
				return err
			}
			was, err := sessionsOf(before)
			if err != nil {
				return err
			}
			was, changes := timetable.Compare(is, was)
			writeChanges(cmd.OutOrStdout(), changes)
			if dry {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "Nothing was changed: this is a dry run.")
				return err
			}
			if err := put(cmd.Context(), k, cluster, convert.Timetables(namespace, args[0], bare(before[0]), was), now); err != nil {
				return err
			}
			if err := put(cmd.Context(), k, cluster, previous(namespace, args[0], bare(now[0]), is), before); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s/%s is as it was before the last import: %d classes.\n", namespace, args[0], len(was))
			return err
		},
	}
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "where the Timetable is")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	return cmd
}

// bare is a Timetable's spec without its classes.
func bare(t *v1alpha1.Timetable) v1alpha1.TimetableSpec {
	spec := *t.Spec.DeepCopy()
	spec.Sessions = nil
	return spec
}
