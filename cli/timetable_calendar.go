package cli

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
	"github.com/neap-dev/neap/internal/timetablefile"
	"github.com/neap-dev/neap/kube/observe"
)

func newTimetableCalendarCommand(at *clusterFlags) *cobra.Command {
	return group(&cobra.Command{
		Use:     "calendar",
		Short:   "Import holidays and the weekend days worked to make up for them",
		Example: `  neap timetable calendar import 2026.json --name cn --zone Asia/Shanghai`,
	}, newTimetableCalendarImportCommand(at))
}

func newTimetableCalendarImportCommand(at *clusterFlags) *cobra.Command {
	name, zone, format, dry := "", "", "", false
	cmd := &cobra.Command{
		Use:   "import FILE…",
		Short: "Import holidays from .json, .ics or .csv",
		Long: `Read holidays and make-up days into a HolidayCalendar, which ElasticPolicies name.
A file replaces the years that it has days in; other years stay.

Read are the JSON of holiday-cn ({"days": [{"date", "isOffDay", "name"}]}), .ics
with an event for each holiday (one whose name says 班 or make-up is a day that is
worked), and .csv with the columns date, kind (holiday or makeup) and name.`,
		Example: `  neap timetable calendar import 2026.json 2027.json --name cn --zone Asia/Shanghai --dry-run
  neap timetable calendar import holidays.ics --name ie --zone Europe/Dublin`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("%s needs a FILE; see %[1]s --help", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkFormat(format, "text", "yaml"); err != nil {
				return err
			}
			if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
				return usagef("--name %q: name the calendar, in small letters, digits and -, such as cn", name)
			}
			location, err := time.LoadLocation(zone)
			if err != nil || zone == "" || zone == "Local" {
				return usagef("--zone %q is no IANA zone such as Asia/Shanghai", zone)
			}
			days := map[string]v1alpha1.CalendarDay{}
			unread := 0
			var sources []string
			for _, file := range args {
				raw, err := readBounded(file, timetablefile.MaxBytes)
				if err != nil {
					return err
				}
				read, problems, err := timetablefile.ReadCalendar(file, raw, timetablefile.Options{Zone: location})
				if err != nil {
					return err
				}
				sources = append(sources, filepath.Base(file))
				for _, p := range problems {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", filepath.Base(file), printable(p.String()))
				}
				unread += len(problems)
				for _, d := range read {
					kind := v1alpha1.DayHoliday
					if d.Kind == elastic.MakeUp {
						kind = v1alpha1.DayMakeUp
					}
					days[d.Date.String()] = v1alpha1.CalendarDay{Date: d.Date.String(), Kind: kind, Name: d.Name}
				}
			}
			if unread > 0 {
				return fmt.Errorf("%s that cannot be read; nothing was imported: correct the file", count(unread, "place"))
			}

			c := &v1alpha1.HolidayCalendar{ObjectMeta: metav1.ObjectMeta{Name: name}}
			c.APIVersion, c.Kind = v1alpha1.GroupVersion.String(), "HolidayCalendar"
			edit := func(c *v1alpha1.HolidayCalendar) error {
				merged := maps.Clone(days)
				years := map[string]bool{}
				for d := range days {
					years[d[:4]] = true
				}
				for _, d := range c.Spec.Days {
					if !years[d.Date[:min(4, len(d.Date))]] {
						merged[d.Date] = d
					}
				}
				c.Spec.TimeZone = zone
				c.Spec.Days = nil
				for _, d := range slices.Sorted(maps.Keys(merged)) {
					c.Spec.Days = append(c.Spec.Days, merged[d])
				}
				if s := strings.Join(sources, ", "); len(s) <= 512 {
					c.Spec.Source = s
				}
				return nil
			}
			var k client.Client
			cluster := ""
			if format != "yaml" {
				if k, cluster, err = at.open(); errors.Is(err, observe.ErrNoCluster) && at.kubeconfig == "" && at.context == "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "neap: no cluster is configured; the HolidayCalendar is written as YAML\n")
					k = nil
				} else if err != nil {
					return err
				}
			}
			if k == nil {
				if err := edit(c); err != nil {
					return err
				}
				return writeObjects(cmd.OutOrStdout(), []*v1alpha1.HolidayCalendar{c})
			}
			there := c.DeepCopy()
			err = k.Get(cmd.Context(), client.ObjectKeyFromObject(c), there)
			if apierrors.IsNotFound(err) && !strings.Contains(err.Error(), "could not find the requested resource") {
				there, err = nil, nil
			}
			if err != nil {
				return explain(err, cluster, "get", "holidaycalendars")
			}
			old := map[string]v1alpha1.CalendarDay{}
			if there != nil {
				for _, d := range there.Spec.Days {
					old[d.Date] = d
				}
				there.DeepCopyInto(c)
			}
			if err := edit(c); err != nil {
				return err
			}
			changes := 0
			now := map[string]bool{}
			for _, d := range c.Spec.Days {
				now[d.Date] = true
				if was, ok := old[d.Date]; !ok {
					fmt.Fprintf(cmd.OutOrStdout(), "added %s %s %s\n", d.Date, d.Kind, printable(d.Name))
				} else if was != d {
					fmt.Fprintf(cmd.OutOrStdout(), "changed %s %s %s, was %s %s\n", d.Date, d.Kind, printable(d.Name), was.Kind, printable(was.Name))
				} else {
					continue
				}
				changes++
			}
			for _, d := range slices.Sorted(maps.Keys(old)) {
				if !now[d] {
					changes++
					fmt.Fprintf(cmd.OutOrStdout(), "removed %s %s %s\n", d, old[d].Kind, printable(old[d].Name))
				}
			}
			switch {
			case changes == 0 && there != nil && there.Spec.TimeZone == zone:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "No change: everything is there already.")
				return err
			case dry:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s. Nothing was changed: this is a dry run.\n", count(changes, "day"))
				return err
			case there == nil:
				err = explain(k.Create(cmd.Context(), c), cluster, "create", "holidaycalendars")
			default:
				_, err = change(cmd.Context(), k, &v1alpha1.HolidayCalendar{ObjectMeta: metav1.ObjectMeta{Name: name}}, edit,
					func(err error) error { return explain(err, cluster, "patch", "holidaycalendars") })
			}
			if err == nil {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s imported into HolidayCalendar %s of %s; policies name it in holidayCalendar.\n", count(changes, "day"), name, cluster)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "of the HolidayCalendar, such as cn (required)")
	f.StringVar(&zone, "zone", "", "IANA zone in which its days begin (required)")
	f.BoolVar(&dry, "dry-run", false, "show what would change, and change nothing")
	f.StringVar(&format, "format", "text", "text, or yaml (the HolidayCalendar itself; no cluster is asked)")
	return cmd
}
