package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/internal/timetablefile"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/kube/observe"
)

// timetableImport is what `neap timetable import` was asked for.
type timetableImport struct {
	file                   string
	name, namespace, zone  string
	year, minutes          int
	dateOrder, termStart   string
	weeks, mapping, format string
	modules                []string
	dry, partial, replace  bool
}

func newTimetableImportCommand(at *clusterFlags) *cobra.Command {
	i := &timetableImport{}
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import the classes of a term from .ics, .xlsx or .csv",
		Long: `Read a timetable and show what it changes: classes that are added, cancelled,
moved or changed. Without --dry-run the change is then made; a class that is gone
from the file takes its floor away. The same file again changes nothing.

A list needs a row that names its columns, in English or Chinese: at least course
and start; also room, end, minutes, date, weekday, weeks, periods, enrolled,
modules, status, id. A grid has times of day at its left and days above. A
calendar's events say enrolled: 160 in a line of their description, or
X-NEAP-ENROLLED:160.

Every line that cannot be read is named with the reason. Then nothing is
imported, unless --partial says that the rest will do. A file that takes away
more than half of the classes that are still to come needs --replace.

Without any cluster, or with --format yaml, the Timetable is written to standard
output as YAML, for kubectl apply --server-side -f -.`,
		Example: `  neap timetable import autumn.ics --name autumn -n live --dry-run
  neap timetable import autumn.csv --name autumn -n live --zone Asia/Shanghai --modules "COMP*=chat+video=2,*=chat"
  neap timetable import grid.xlsx --zone Europe/Dublin --year 2026 --format yaml`,
		Args: theseArgs("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			i.file = args[0]
			return i.run(cmd, at)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.name, "name", "", "of the Timetable (default the file's name)")
	f.StringVarP(&i.namespace, "namespace", "n", "default", "where the Timetable is")
	f.StringVar(&i.zone, "zone", "", "IANA zone of times that have none, such as Europe/Dublin (default that of the Timetable, if it is there)")
	f.IntVar(&i.year, "year", 0, "of dates that have none")
	f.StringVar(&i.dateOrder, "date-order", "", "of dates such as 3/4/2026: dmy or mdy")
	f.StringVar(&i.termStart, "term-start", "", "a day of the term's week 1, for classes that name only a weekday")
	f.StringVar(&i.weeks, "weeks", "", "of the term in which those meet that do not say, such as 1-8,10-16")
	f.IntVar(&i.minutes, "minutes", 60, "that a class lasts whose end is not given")
	f.StringSliceVar(&i.modules, "modules", nil, "what classes need that do not say, such as COMP*=chat+video=2; the first that fits counts")
	f.StringVar(&i.mapping, "mapping", "", "YAML with columns, periods, zones, modules and any of the flags above")
	f.BoolVar(&i.dry, "dry-run", false, "show what would change, and change nothing")
	f.BoolVar(&i.partial, "partial", false, "import the rest although some lines cannot be read")
	f.BoolVar(&i.replace, "replace", false, "take away more than half of the classes to come")
	f.StringVar(&i.format, "format", "text", "text, json, or yaml (the Timetable itself; no cluster is asked)")
	return cmd
}

// mappingFile is the form of --mapping. What a flag says counts instead.
type mappingFile struct {
	Zone      string            `json:"zone"`
	Year      int               `json:"year"`
	DateOrder string            `json:"dateOrder"`
	TermStart string            `json:"termStart"`
	Weeks     string            `json:"weeks"`
	Minutes   int               `json:"minutes"`
	Columns   map[string]string `json:"columns"` // header: field
	Periods   map[string]string `json:"periods"` // "1": 08:00-08:45
	Zones     map[string]string `json:"zones"`   // name in the file: IANA zone
	Modules   []string          `json:"modules"` // as --modules
}

var clocks = regexp.MustCompile(`^\s*(\d{1,2}):(\d{2})\s*[-–]\s*(\d{1,2}):(\d{2})\s*$`)

// options puts flags and mapping together.
func (i *timetableImport) options(cmd *cobra.Command) (timetablefile.Options, error) {
	opts := timetablefile.Options{}
	var m mappingFile
	if i.mapping != "" {
		raw, err := os.ReadFile(i.mapping)
		if err != nil {
			return opts, unread(err, "--mapping")
		}
		if err := yaml.UnmarshalStrict(raw, &m); err != nil {
			return opts, fmt.Errorf("--mapping %s cannot be understood: %w", i.mapping, err)
		}
	}
	take := func(flag string, have *string, from string) {
		if !cmd.Flags().Changed(flag) && from != "" {
			*have = from
		}
	}
	take("zone", &i.zone, m.Zone)
	take("date-order", &i.dateOrder, m.DateOrder)
	take("term-start", &i.termStart, m.TermStart)
	take("weeks", &i.weeks, m.Weeks)
	if !cmd.Flags().Changed("year") && m.Year != 0 {
		i.year = m.Year
	}
	if !cmd.Flags().Changed("minutes") && m.Minutes != 0 {
		i.minutes = m.Minutes
	}
	i.modules = append(i.modules, m.Modules...)
	opts.Year, opts.DateOrder, opts.Weeks, opts.Minutes = i.year, i.dateOrder, i.weeks, i.minutes
	opts.Columns, opts.Zones = m.Columns, m.Zones
	if i.termStart != "" {
		var err error
		if opts.TermStart, err = timetable.ParseDate(i.termStart); err != nil {
			return opts, usagef("--term-start: %v", err)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(m.Periods)) {
		g := clocks.FindStringSubmatch(m.Periods[key])
		n, err := strconv.Atoi(key)
		if g == nil || err != nil {
			return opts, fmt.Errorf("--mapping %s: periods: %q: %q is not such as \"1\": 08:00-08:45", i.mapping, key, m.Periods[key])
		}
		number := func(s string) int { n, _ := strconv.Atoi(s); return n }
		if opts.Periods == nil {
			opts.Periods = map[int]timetablefile.Period{}
		}
		opts.Periods[n] = timetablefile.Period{Start: number(g[1])*60 + number(g[2]), End: number(g[3])*60 + number(g[4])}
	}
	if err := opts.Validate(); err != nil {
		return opts, usagef("%v", err)
	}
	return opts, nil
}

// A courseNeed says which modules the courses need that fit a pattern.
type courseNeed struct {
	pattern string
	needs   []timetable.Need
}

// needs reads --modules.
func (i *timetableImport) needs() ([]courseNeed, error) {
	var out []courseNeed
	for _, text := range i.modules {
		pattern, list, ok := strings.Cut(text, "=")
		if _, err := path.Match(pattern, ""); !ok || err != nil || pattern == "" {
			return nil, usagef("--modules %q is not such as COMP*=chat+video=2", text)
		}
		n := courseNeed{pattern: pattern}
		for part := range strings.SplitSeq(list, "+") {
			need, err := timetable.ParseNeed(part)
			if err != nil {
				return nil, usagef("--modules %q: %v", text, err)
			}
			n.needs = append(n.needs, need)
		}
		out = append(out, n)
	}
	return out, nil
}

var notName = regexp.MustCompile(`[^a-z0-9]+`)

// check looks at everything that can be looked at before work begins.
func (i *timetableImport) check() error {
	if err := checkFormat(i.format, "text", "json", "yaml"); err != nil {
		return err
	}
	if i.name == "" {
		base := filepath.Base(i.file)
		i.name = strings.Trim(notName.ReplaceAllString(strings.ToLower(strings.TrimSuffix(base, filepath.Ext(base))), "-"), "-")
		if i.name == "" {
			return usagef("--name is missing: the file's name %q makes none", base)
		}
	}
	if problems := validation.IsDNS1123Label(i.name); len(problems) > 0 || len(i.name) > 50 {
		return usagef("--name %q: small letters, digits and -, at most 50", i.name)
	}
	return nil
}

func (i *timetableImport) run(cmd *cobra.Command, at *clusterFlags) error {
	if err := i.check(); err != nil {
		return err
	}
	opts, err := i.options(cmd)
	if err != nil {
		return err
	}
	needs, err := i.needs()
	if err != nil {
		return err
	}
	raw, err := readBounded(i.file, timetablefile.MaxBytes)
	if err != nil {
		return err
	}

	// 1. What is there already.
	var k client.Client
	cluster := ""
	if i.format != "yaml" {
		if k, cluster, err = at.open(); errors.Is(err, observe.ErrNoCluster) && at.kubeconfig == "" && at.context == "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: no cluster is configured; the Timetable is written as YAML\n")
			k, i.format = nil, "yaml"
		} else if err != nil {
			return err
		}
	}
	var now, before []*v1alpha1.Timetable
	if k != nil {
		if now, before, err = timetables(cmd.Context(), k, cluster, i.namespace, i.name); err != nil {
			return err
		}
	}
	old, err := sessionsOf(now)
	if err != nil {
		return err
	}
	if i.zone == "" && len(now) > 0 {
		i.zone = now[0].Spec.TimeZone
	}
	if i.zone == "" && filepath.Ext(i.file) != ".ics" {
		return usagef("--zone is missing: in which zone are the times of %s, such as Europe/Dublin or Asia/Shanghai?", filepath.Base(i.file))
	}
	if i.zone == "" {
		i.zone = "UTC"
	}
	if opts.Zone, err = time.LoadLocation(i.zone); err != nil || i.zone == "Local" {
		return usagef("--zone %q is no IANA zone such as Europe/Dublin", i.zone)
	}

	// 2. What the file says.
	file, err := timetablefile.Read(i.file, raw, opts)
	if err != nil {
		return err
	}
	for n := range file.Sessions {
		s := &file.Sessions[n]
		s.Start, s.End = s.Start.In(opts.Zone), s.End.In(opts.Zone)
		if fit := slices.IndexFunc(needs, func(c courseNeed) bool { ok, _ := path.Match(c.pattern, s.Course); return ok }); len(s.Modules) == 0 && fit >= 0 {
			s.Modules = needs[fit].needs
		}
	}
	kept, changes := timetable.Compare(old, file.Sessions)
	sum := sha256.Sum256(raw)
	spec := v1alpha1.TimetableSpec{Source: filepath.Base(i.file), SourceHash: hex.EncodeToString(sum[:]),
		ImportedAt: &metav1.Time{Time: time.Now().UTC().Truncate(time.Second)}, TimeZone: i.zone}
	want := convert.Timetables(i.namespace, i.name, spec, kept)

	// 3. Say it, then do it.
	report := io.Writer(cmd.OutOrStdout())
	if i.format == "yaml" {
		report = cmd.ErrOrStderr()
	}
	if i.format != "json" {
		i.write(report, file, changes, len(kept))
	}
	refused := i.refuse(file, old, changes)
	applied := false
	switch {
	case i.format == "yaml":
		if refused == nil {
			return writeObjects(cmd.OutOrStdout(), want)
		}
	case refused == nil && !i.dry && len(changes) > 0:
		if err := i.apply(cmd.Context(), k, cluster, want, now, before, old); err != nil {
			return err
		}
		applied = true
	}
	if i.format == "json" {
		if err := i.writeJSON(cmd.OutOrStdout(), file, changes, len(kept), applied); err != nil {
			return err
		}
	}
	if refused != nil && !i.dry {
		return refused
	}
	if i.format == "text" {
		switch {
		case i.dry && refused != nil:
			fmt.Fprintf(report, "Nothing was changed: this is a dry run. The import itself would end with: %s.\n", sentence(refused))
		case i.dry:
			fmt.Fprintln(report, "Nothing was changed: this is a dry run.")
		case applied:
			fmt.Fprintf(report, "Imported into Timetable %s/%s of %s; take it back with: neap timetable undo %s -n %s\n", i.namespace, i.name, cluster, i.name, i.namespace)
		}
	}
	return nil
}

// readBounded reads a file that may have at most so many bytes.
func readBounded(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, unread(err, "")
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, unread(err, "")
	}
	return raw, nil
}

// refuse says why the import may not go on, if anything.
func (i *timetableImport) refuse(file *timetablefile.File, old []timetable.Session, changes []timetable.Change) error {
	if len(file.Problems) > 0 && !i.partial {
		return fmt.Errorf("%s that cannot be read; nothing was imported: correct the file or the flags, or import the rest with --partial", count(len(file.Problems), "place"))
	}
	if len(file.Sessions) == 0 {
		return fmt.Errorf("%s holds no class; nothing was imported", filepath.Base(i.file))
	}
	coming, gone, now := 0, 0, time.Now()
	for _, s := range old {
		if s.End.After(now) {
			coming++
		}
	}
	for _, c := range changes {
		if c.Kind == timetable.Cancelled && c.Before.End.After(now) {
			gone++
		}
	}
	if gone*2 > coming && !i.replace {
		return fmt.Errorf("the file takes away %d of %d classes to come; nothing was imported: if that is meant, add --replace", gone, coming)
	}
	return nil
}

// apply keeps the classes as they were, then writes them as they are to be.
func (i *timetableImport) apply(ctx context.Context, k client.Client, cluster string, want, now, before []*v1alpha1.Timetable, old []timetable.Session) error {
	if len(now) > 0 {
		if err := put(ctx, k, cluster, previous(i.namespace, i.name, bare(now[0]), old), before); err != nil {
			return err
		}
	}
	return put(ctx, k, cluster, want, now)
}

// count returns a number of things, such as 2 classes.
func count(n int, what string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(what, "s"):
		what += "es"
	case strings.HasSuffix(what, "ry"):
		what = strings.TrimSuffix(what, "y") + "ies"
	default:
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// mostLines is how many changes are listed one by one.
const mostLines = 200

func (i *timetableImport) write(w io.Writer, file *timetablefile.File, changes []timetable.Change, total int) {
	for _, list := range []struct {
		head  string
		lines []timetablefile.Problem
	}{{"Could not be read:", file.Problems}, {"Worth a look:", file.Notes}} {
		if len(list.lines) > 0 {
			fmt.Fprintln(w, list.head)
			for _, p := range list.lines {
				fmt.Fprintln(w, "  "+printable(p.String()))
			}
			fmt.Fprintln(w)
		}
	}
	writeChanges(w, changes)
	fmt.Fprintf(w, "The file has %s", count(total, "class"))
	if file.Free > 0 {
		fmt.Fprintf(w, ", and %s that say there is none", count(file.Free, "entry"))
	}
	fmt.Fprintln(w, ".")
}

// writeChanges lists what changes: what moved or changed one by one, what was
// added or cancelled too, unless it is much; then by course.
func writeChanges(w io.Writer, changes []timetable.Change) {
	tally := map[timetable.ChangeKind]int{}
	for _, c := range changes {
		tally[c.Kind]++
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, "No change: everything is there already.")
		return
	}
	listed := 0
	for _, c := range changes {
		whole := c.Kind == timetable.Added || c.Kind == timetable.Cancelled
		if whole && tally[c.Kind] > 40 {
			continue
		}
		if listed++; listed > mostLines {
			break
		}
		fmt.Fprintln(w, printable(c.String()))
	}
	if listed > mostLines {
		fmt.Fprintln(w, "… and more; --format json lists all.")
	}
	for _, kind := range []timetable.ChangeKind{timetable.Added, timetable.Cancelled} {
		if tally[kind] <= 40 {
			continue
		}
		type course struct {
			n           int
			first, last time.Time
		}
		all := map[string]course{}
		for _, c := range changes {
			if c.Kind != kind {
				continue
			}
			s := c.After
			if kind == timetable.Cancelled {
				s = c.Before
			}
			x, ok := all[s.Course]
			if !ok {
				x.first = s.Start
			}
			x.n, x.last = x.n+1, s.Start
			all[s.Course] = x
		}
		names := slices.Sorted(maps.Keys(all))
		for _, name := range names[:min(len(names), mostLines)] {
			x := all[name]
			fmt.Fprintf(w, "%s %s: %s, %s to %s\n", kind, printable(name), count(x.n, "class"), x.first.Format("Mon 2006-01-02 15:04"), x.last.Format("Mon 2006-01-02 15:04"))
		}
		if len(names) > mostLines {
			fmt.Fprintf(w, "… and %d more courses; --format json lists all.\n", len(names)-mostLines)
		}
	}
	fmt.Fprintf(w, "%d added, %d cancelled, %d moved, %d changed.\n", tally[timetable.Added], tally[timetable.Cancelled], tally[timetable.Moved], tally[timetable.Changed])
}

func (i *timetableImport) writeJSON(w io.Writer, file *timetablefile.File, changes []timetable.Change, total int, applied bool) error {
	type change struct {
		Kind   string        `json:"kind"`
		Before *shownSession `json:"before,omitempty"`
		After  *shownSession `json:"after,omitempty"`
	}
	out := []change{}
	for _, c := range changes {
		x := change{Kind: string(c.Kind)}
		if c.Kind != timetable.Added {
			s := shown(c.Before)
			x.Before = &s
		}
		if c.Kind != timetable.Cancelled {
			s := shown(c.After)
			x.After = &s
		}
		out = append(out, x)
	}
	list := func(p []timetablefile.Problem) []timetablefile.Problem {
		return append([]timetablefile.Problem{}, p...)
	}
	return writeIndented(w, map[string]any{"name": i.name, "namespace": i.namespace, "classes": total, "free": file.Free, "applied": applied,
		"changes": out, "unread": list(file.Problems), "notes": list(file.Notes)})
}

// writeObjects writes objects as one YAML stream.
func writeObjects[T any](w io.Writer, objects []T) error {
	for n, o := range objects {
		raw, err := yaml.Marshal(o)
		if err != nil {
			return err
		}
		if n > 0 {
			if _, err := fmt.Fprintln(w, "---"); err != nil {
				return err
			}
		}
		if _, err := w.Write(raw); err != nil {
			return err
		}
	}
	return nil
}
