package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/internal/timetablefile"
	"github.com/neap-dev/neap/sim/autoscale"
)

// timetableReplay is what `neap replay timetable` was asked for.
type timetableReplay struct {
	timetable, counts string
	zone, from        string
	year              int
	start             int
	policies          []string
	price             string
	classes           *autoscale.Classes
	load              *autoscale.Workload
	perHour           money.Amount
}

func newReplayTimetableCommand() *cobra.Command {
	var format, out, currency string
	r := timetableReplay{}
	var policies strings.Builder
	for _, name := range autoscale.ClassPolicies() {
		fmt.Fprintf(&policies, "  %-23s %s\n", name, autoscale.ExplainClassPolicy(name))
	}
	cmd := &cobra.Command{
		Use:   "timetable --timetable FILE --counts FILE",
		Short: "Replay autoscalers over a week of classes: a timetable, and who was counted in its rooms",
		Long: `Replay autoscalers over a week of classes: a timetable, and who was counted in
its rooms.

The load is the sum of the counts of all rooms that are in the timetable. The
model, the columns and the JSON are those of neap replay elastic; the days before
--test-from are there to learn from, and the test ends with the last class's day.

Policies:
` + policies.String() + `
The timetable is what neap timetable import reads (.ics, .xlsx, .csv); lines that
cannot be read are named and left out. The counts are a CSV file with the columns
room, ts and value. Rooms have one name in both if their letters and digits are
the same, as B-002 and B0.02 have.`,
		Example: `  D=../shared/data/load/education
  neap replay timetable --timetable $D/ucd_timetable_clean.csv --counts $D/ucd_wifi_clients_5min.csv
  neap replay timetable --timetable term.ics --counts wifi.csv --zone Europe/Dublin --start-minutes 5 --policy neap,hpa --format json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"table", "json"}, format) {
				return usagef("--format %s is not one of table, json", format)
			}
			begun := time.Now()
			if err := mayWrite(out); err != nil {
				return err
			}
			if err := r.read(cmd.ErrOrStderr()); err != nil {
				return unread(err, "--timetable or --counts")
			}
			rows, err := r.run(cmd.Context(), cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "neap: replayed %d rows in %.1f s\n", len(rows), time.Since(begun).Seconds())
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				if format == "json" {
					return writeJSON(w, map[string]any{"rows": rows})
				}
				return writeElasticTable(w, rows, currency)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.timetable, "timetable", "", "the classes (.ics, .xlsx or .csv)")
	f.StringVar(&r.counts, "counts", "", "who was counted, as CSV: room,ts,value")
	f.StringVar(&r.zone, "zone", "UTC", "zone of the timetable's times that name none, such as Europe/Dublin")
	f.IntVar(&r.year, "year", 0, "year of the timetable's dates that name none (default: that of the first count)")
	f.StringVar(&r.from, "test-from", "", "first day of the test, such as 2026-03-09 (default: a week after the first class's)")
	f.IntVar(&r.start, "start-minutes", 10, "how long a pod takes to get ready, 0 to 120")
	f.StringSliceVar(&r.policies, "policy", autoscale.ClassPolicies(), "any of the policies")
	f.StringVar(&r.price, "price", "", "price of a pod for an hour, such as 0.04, to show what the days cost")
	f.StringVar(&currency, "currency", "USD", "currency of the price")
	f.StringVar(&format, "format", "table", "table or json")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	return cmd
}

// read checks what was asked for and reads the files.
func (r *timetableReplay) read(progress io.Writer) error {
	if r.timetable == "" || r.counts == "" {
		return usagef("--timetable and --counts are needed: the classes, and who was counted in their rooms")
	}
	if r.start < 0 || r.start > 120 {
		return usagef("--start-minutes %d is not within 0 to 120", r.start)
	}
	for i, p := range r.policies {
		if !slices.Contains(autoscale.ClassPolicies(), p) {
			return usagef("--policy %s is not one of %s", p, strings.Join(autoscale.ClassPolicies(), ", "))
		}
		if slices.Contains(r.policies[:i], p) {
			return usagef("--policy names %s twice", p)
		}
	}
	zone, err := time.LoadLocation(r.zone)
	if err != nil || r.zone == "Local" {
		return usagef("--zone %q is not a time zone; give one such as Europe/Dublin", r.zone)
	}
	var from time.Time
	if r.from != "" {
		if from, err = time.ParseInLocation(time.DateOnly, r.from, zone); err != nil {
			return usagef("--test-from %q is not a day such as 2026-03-09", r.from)
		}
	}
	if r.price != "" {
		if r.perHour, err = money.Parse(r.price); err != nil || r.perHour <= 0 {
			return usagef("--price %q is not an amount above 0, such as 0.04", r.price)
		}
	}
	f, err := os.Open(r.counts)
	if err != nil {
		return fmt.Errorf("read the counts: %w", err)
	}
	defer f.Close()
	rooms, err := autoscale.ReadRooms(f, r.counts)
	if err != nil {
		return err
	}
	say := func(format string, a ...any) {
		fmt.Fprintf(progress, "neap: %s\n", printable(fmt.Sprintf(format, a...)))
	}
	first := time.Time{}
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		for _, n := range rooms[room].Notes {
			say("%s: %s", rooms[room].Name, n)
		}
		if first.IsZero() || rooms[room].From.Before(first) {
			first = rooms[room].From
		}
	}
	if r.year == 0 {
		r.year = first.In(zone).Year()
	}
	data, err := os.ReadFile(r.timetable)
	if err != nil {
		return fmt.Errorf("read the timetable: %w", err)
	}
	table, err := timetablefile.Read(r.timetable, data, timetablefile.Options{Zone: zone, Year: r.year})
	if err != nil {
		return err
	}
	for _, p := range table.Problems {
		say("%s: left out: %s", r.timetable, p)
	}
	var notes []string
	if r.classes, notes, err = autoscale.Match(table.Sessions, rooms); err != nil {
		return fmt.Errorf("%s and %s: %w", r.timetable, r.counts, err)
	}
	for _, n := range notes {
		say("%s", n)
	}
	r.load, err = r.classes.Prepare(autoscale.Names([]string{r.counts})[0], from, zone)
	return err
}

// run replays the policies one after the other.
func (r *timetableReplay) run(ctx context.Context, progress io.Writer) ([]autoscale.Row, error) {
	var rows []autoscale.Row
	for i, name := range r.policies {
		p, err := r.classes.Policy(name, r.load)
		if err != nil {
			return nil, err
		}
		result, err := autoscale.Replay(ctx, r.load, p, autoscale.Options{StartMinutes: r.start})
		if err != nil {
			return nil, err
		}
		rows = append(rows, autoscale.NewRow(r.load.Name, name, r.start, result, r.perHour))
		fmt.Fprintf(progress, "neap: %d of %d: %s\n", i+1, len(r.policies), name)
	}
	return rows, nil
}
