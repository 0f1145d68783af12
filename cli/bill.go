package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/store/focus"
)

// groupingNames are what --by takes, and what the bill calls it.
var groupingNames = map[string]string{
	"module": bill.ByModule, "namespace": bill.ByNamespace, "pool": bill.ByPool,
	"machine-type": bill.ByMachineType, "machineType": bill.ByMachineType, "feature": bill.ByFeature,
}

func newBillCommand() *cobra.Command {
	var (
		src      sourceFlags
		from, to string
		last     string
		by       string
		format   string
		out      string
		top      int
	)
	cmd := &cobra.Command{
		Use:   "bill",
		Short: "Show what the cluster cost and where the money went",
		Long: `Show what a cluster cost in a window of time, and where the money went.

The cluster is the one your kubeconfig points to; it is only read, and nothing
is installed in it. With --store, or where no cluster is configured, the bill
comes from the store that neap up keeps.

  bill = used + idle boxes (system, declared spare, request slack, stranded by
  shape, stranded by constraint, waiting to scale down), to the last unit

A live cluster knows its present pods and those that ended but are not deleted
yet. Use is measured with --prometheus; else it is estimated, and marked so.
Machines cost what their MachineType says, or the file of --prices; a machine
that neither knows is priced by its shape, and a note says so.

` + windowHelp,
		Example: `  neap bill                                        # the last 24 hours of the current context
  neap bill --by namespace --last 6h --prometheus http://localhost:9090
  neap bill --prices prices.csv --strict           # refuse to estimate a price
  neap bill --store ~/.local/state/neap --from 2026-03-02 --to 2026-03-03 --format json
  neap bill --format focus --out focus.csv         # FOCUS 1.2; .parquet writes Parquet`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			grouping, err := parseBy(by)
			if err != nil {
				return err
			}
			if !slices.Contains([]string{"table", "json", "csv", "focus"}, format) {
				return usagef("--format %s is not one of table, json, csv, focus", format)
			}
			if (from != "" || to != "") && cmd.Flags().Changed("last") {
				return usagef("--last and --from or --to exclude each other; see neap bill --help")
			}
			if to != "" && from == "" {
				return usagef("--to needs --from; see neap bill --help")
			}
			ctx := cmd.Context()
			s, err := src.open(ctx, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer s.Close()
			w, err := billWindow(from, to, last, s.Now())
			if err != nil {
				return usagef("%v", err)
			}
			if format == "focus" {
				return writeFocus(ctx, s, w, out, cmd.OutOrStdout())
			}
			r, err := s.Report(ctx, w, grouping)
			if err != nil {
				return err
			}
			if r.UnexplainedNano != 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "neap: warning: %s %s of this bill is unexplained; that is a defect of neap, please report it\n", r.UnexplainedNano, r.Currency)
			}
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				switch format {
				case "json":
					return writeJSON(w, r)
				case "csv":
					return writeBillCSV(w, r)
				}
				return writeBillTable(w, r, s.Describe(), top)
			})
		},
	}
	src.register(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "start of the window, or a whole window such as yesterday")
	f.StringVar(&to, "to", "", "end of the window (default now)")
	f.StringVar(&last, "last", "24h", "the window is this long and ends now")
	f.StringVar(&by, "by", "module", "one line for each module, namespace, pool, machine-type, feature or label:KEY")
	f.StringVar(&format, "format", "table", "table, json, csv or focus")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	f.IntVar(&top, "top", 30, "show at most so many lines in the table; 0 shows all")
	cmd.AddCommand(newBillDiffCommand())
	return cmd
}

func newBillDiffCommand() *cobra.Command {
	var (
		src      sourceFlags
		from, to string
		format   string
		out      string
		top      int
	)
	cmd := &cobra.Command{
		Use:   "diff --from WINDOW --to WINDOW",
		Short: "Say why the bill of one window differs from another's",
		Long: `Say why the bill of one window differs from another's.

The cost of every module is load × need × slack × match × price. The change
between the windows is divided over these factors by Shapley's value: no order
is preferred, nothing is left over, and modules or machine types may come and go.

` + windowHelp,
		Example: `  neap bill diff --from -48h/24h --to -24h/24h     # yesterday against the day before
  neap bill diff --from 2026-03-02 --to 2026-03-09 # a Monday against the next
  neap bill diff --from 2026-02 --to 2026-03 --format csv --out march.csv`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"table", "json", "csv"}, format) {
				return usagef("--format %s is not one of table, json, csv", format)
			}
			if from == "" || to == "" {
				return usagef("neap bill diff needs two windows, such as --from -48h/24h --to -24h/24h")
			}
			ctx := cmd.Context()
			s, err := src.open(ctx, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer s.Close()
			before, err := parseWindow(from, s.Now())
			if err != nil {
				return usagef("--from: %v", err)
			}
			after, err := parseWindow(to, s.Now())
			if err != nil {
				return usagef("--to: %v", err)
			}
			windows, err := s.Windows(ctx, before, after)
			if err != nil {
				return err
			}
			c, err := bill.Explain(windows[0], windows[1])
			if err != nil {
				return err
			}
			c.Notes = unique(c.Notes)
			return writeOut(out, cmd.OutOrStdout(), func(w io.Writer) error {
				switch format {
				case "json":
					return writeJSON(w, c)
				case "csv":
					return writeChangeCSV(w, c)
				}
				return writeChangeTable(w, c, s.Describe(), top)
			})
		},
	}
	src.register(cmd)
	f := cmd.Flags()
	f.StringVar(&from, "from", "", "the window before (required)")
	f.StringVar(&to, "to", "", "the window after (required)")
	f.StringVar(&format, "format", "table", "table, json or csv")
	f.StringVar(&out, "out", "", "write to this file instead of standard output")
	f.IntVar(&top, "top", 30, "show at most so many modules in the table; 0 shows all")
	return cmd
}

// unique drops what is said twice.
func unique(notes []string) []string {
	var kept []string
	for _, n := range notes {
		if !slices.Contains(kept, n) {
			kept = append(kept, n)
		}
	}
	return kept
}

// parseBy translates --by into what the bill calls it.
func parseBy(by string) (string, error) {
	if g, ok := groupingNames[by]; ok {
		return g, nil
	}
	if key, ok := strings.CutPrefix(by, bill.ByLabel); ok && key != "" {
		return by, nil
	}
	return "", usagef("--by %s is not one of module, namespace, pool, machine-type, feature, label:KEY", by)
}

// billWindow reads the flags of a window. --from alone may be a whole window.
func billWindow(from, to, last string, now time.Time) (span, error) {
	switch {
	case from == "":
		d, ok := parseDuration(last)
		if !ok || d <= 0 {
			return span{}, fmt.Errorf("--last %q is not a length of time such as 24h or 7d", last)
		}
		return span{now.Add(-d), now}, nil
	case to == "" && (strings.Contains(from, "/") || isWhole(from, now)):
		return parseWindow(from, now)
	case to == "":
		to = "now"
	}
	return parseWindow(from+"/"+to, now)
}

func isWhole(s string, now time.Time) bool {
	_, ok := wholeWindow(s, now)
	return ok
}

// writeOut lets write write to a file, or to stdout if path is empty. The file
// appears whole or not at all.
func writeOut(path string, stdout io.Writer, write func(io.Writer) error) error {
	if path == "" {
		return write(stdout)
	}
	f, err := beside(path)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // of no effect once renamed
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Chmod(f.Name(), 0o600)
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, reason(err))
	}
	return nil
}

// reason drops the path that an error of the os package repeats.
func reason(err error) error {
	var p *os.PathError
	var l *os.LinkError
	switch {
	case errors.As(err, &p):
		return p.Err
	case errors.As(err, &l):
		return l.Err
	}
	return err
}

// writeFocus exports a window as FOCUS, hour by hour: as CSV, or as Parquet to a
// file whose name says so.
func writeFocus(ctx context.Context, s billSource, w span, out string, stdout io.Writer) error {
	hours, err := s.Hours(ctx, w)
	if err != nil {
		return err
	}
	opts := focus.Options{SubAccountID: s.Account()}
	return writeOut(out, stdout, func(w io.Writer) error {
		if strings.EqualFold(filepath.Ext(out), ".parquet") {
			return focus.WriteParquet(w, hours, opts)
		}
		return focus.WriteCSV(w, hours, opts)
	})
}
