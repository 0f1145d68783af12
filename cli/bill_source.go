package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/internal/pricefile"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/store"
)

// A billSource is where a bill comes from: a live cluster or a store.
type billSource interface {
	// Now is the end of what is known: the present, or the store's last closed hour.
	Now() time.Time
	// Report is the bill of a window, grouped as bill.Summarise groups.
	Report(ctx context.Context, w span, by string) (bill.Report, error)
	// Windows are roll-ups of windows, for bill.Explain.
	Windows(ctx context.Context, w ...span) ([]bill.Window, error)
	// Hours are roll-ups of a window's closed hours, oldest first.
	Hours(ctx context.Context, w span) ([]bill.Window, error)
	// Account names what is billed in an export; "" if it has no name.
	Account() string
	// Describe names the source in a few words.
	Describe() string
	Close() error
}

// sourceFlags say where a bill comes from.
type sourceFlags struct {
	kubeconfig string
	context    string
	store      string
	timeout    time.Duration

	prometheus      string
	prometheusToken string
	prometheusCA    string

	prices   string
	currency string
	strict   bool
}

// register adds the flags to a command.
func (s *sourceFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.kubeconfig, "kubeconfig", "", "read the cluster of this kubeconfig (default $KUBECONFIG, then ~/.kube/config)")
	f.StringVar(&s.context, "context", "", "read the cluster of this context of the kubeconfig")
	f.StringVar(&s.store, "store", "", "read this store of neap up instead of a cluster")
	f.DurationVar(&s.timeout, "timeout", 30*time.Second, "give up on a request to the API server or to Prometheus after this long")
	f.StringVar(&s.prometheus, "prometheus", "", "ask this Prometheus for what pods used, such as http://localhost:9090")
	f.StringVar(&s.prometheusToken, "prometheus-token-file", "", "file with a bearer token for Prometheus")
	f.StringVar(&s.prometheusCA, "prometheus-ca-file", "", "file with the certificates to trust for Prometheus")
	f.StringVar(&s.prices, "prices", "", "prices by machine type, as CSV (name,price_per_hour,…) or as MachineTypes in YAML")
	f.StringVar(&s.currency, "currency", "", "currency of the bill (default that of the machine types, else USD)")
	f.BoolVar(&s.strict, "strict", false, "refuse a machine type that nobody priced, instead of estimating its price by its shape")
}

// open finds the source that the flags name, else the configured cluster, else
// the store of neap up.
func (s *sourceFlags) open(ctx context.Context, progress io.Writer) (billSource, error) {
	cluster := s.kubeconfig != "" || s.context != ""
	switch {
	case s.store != "" && (cluster || s.prometheus != "" || s.prices != ""):
		return nil, usagef("--store holds closed hours with their use and prices; --kubeconfig, --context, --prometheus and --prices are for a live cluster")
	case s.store != "":
		return openStore(ctx, s.store)
	}
	now := time.Now().UTC().Truncate(time.Second)
	cfg, name, err := observe.Config(observe.Target{Kubeconfig: s.kubeconfig, Context: s.context}, now)
	if errors.Is(err, observe.ErrNoCluster) && !cluster {
		dir, dirErr := stateDir()
		if dirErr != nil {
			return nil, dirErr
		}
		if _, statErr := os.Stat(dir); statErr == nil {
			return openStore(ctx, dir)
		}
		return nil, fmt.Errorf("%w, and neap up has left no store at %s; give --kubeconfig, give --store, or run neap up", err, dir)
	}
	if err != nil {
		return nil, err
	}
	cfg.Timeout = s.timeout

	c := &clusterSource{name: name, now: now, opts: observe.Options{
		Config: cfg, Currency: s.currency, Strict: s.strict, Now: now,
	}}
	if s.prices != "" {
		if c.opts.Types, err = readPrices(s.prices); err != nil {
			return nil, err
		}
	}
	if s.prometheus != "" {
		c.opts.Metrics, err = metrics.NewRemote(s.prometheus, metrics.RemoteOptions{
			Timeout: s.timeout, BearerTokenFile: s.prometheusToken, CAFile: s.prometheusCA,
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

// readPrices reads a file of prices, as CSV or as MachineTypes in YAML.
func readPrices(path string) ([]machine.Type, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the prices in %s: %w; give the right path with --prices", path, reason(err))
	}
	defer f.Close()
	switch strings.ToLower(filepath.Ext(path)) {
	case ".yaml", ".yml", ".json":
		return observe.ReadTypes(f, path)
	}
	return pricefile.Read(f, path)
}

// A clusterSource bills a live cluster.
type clusterSource struct {
	name string
	now  time.Time
	opts observe.Options
}

func (c *clusterSource) Now() time.Time   { return c.now }
func (c *clusterSource) Describe() string { return "cluster " + printable(c.name) }
func (c *clusterSource) Close() error     { return nil }

// observe reads the cluster and calls do with every closed hour of a window. It
// returns the snapshot for its features and notes.
func (c *clusterSource) observe(ctx context.Context, w span, do func(bill.Facts) error) (*observe.Snapshot, error) {
	if w.To.After(c.now) {
		w.To = c.now
	}
	if !w.From.Before(w.To) {
		return nil, fmt.Errorf("the window starts at %s, which is not before now, %s; a bill is of the past", stamp(w.From), stamp(c.now))
	}
	opts := c.opts
	opts.From, opts.To = w.From, w.To
	snap, err := observe.Cluster(ctx, opts)
	if err != nil {
		return nil, err
	}
	machines := 0
	err = snap.EachHour(ctx, func(h bill.Hour) error {
		f, err := bill.Close(h, snap.Book, bill.Options{})
		if err != nil {
			return fmt.Errorf("close the hour from %s: %w", stamp(h.From), err)
		}
		machines += len(f.Machines)
		return do(f)
	})
	if err != nil {
		return nil, err
	}
	if machines == 0 {
		return nil, fmt.Errorf("no machine of cluster %s was there from %s to %s UTC; ask for a later window", c.name, stamp(w.From), stamp(w.To))
	}
	return snap, nil
}

func (c *clusterSource) Report(ctx context.Context, w span, by string) (bill.Report, error) {
	labels := strings.HasPrefix(by, bill.ByLabel)
	var facts []bill.Facts // kept only for labels, which roll-ups do not have
	var hours []bill.Window
	snap, err := c.observe(ctx, w, func(f bill.Facts) error {
		if labels {
			facts = append(facts, f)
			return nil
		}
		rolled, err := bill.Rollup(f)
		hours = append(hours, rolled)
		return err
	})
	if err != nil {
		return bill.Report{}, err
	}
	var r bill.Report
	if labels {
		r, err = bill.Summarise(facts, by, snap.Features)
	} else {
		var rolled bill.Window
		if rolled, err = bill.Merge(hours...); err == nil {
			r, err = bill.SummariseWindow(rolled, by, snap.Features)
		}
	}
	if err != nil {
		return bill.Report{}, err
	}
	r.Notes = append(r.Notes, snap.Notes...)
	return r, nil
}

func (c *clusterSource) Account() string { return c.name }

func (c *clusterSource) Hours(ctx context.Context, w span) ([]bill.Window, error) {
	var hours []bill.Window
	snap, err := c.observe(ctx, w, func(f bill.Facts) error {
		rolled, err := bill.Rollup(f)
		hours = append(hours, rolled)
		return err
	})
	if err != nil {
		return nil, err
	}
	last := &hours[len(hours)-1]
	last.Notes = append(last.Notes, snap.Notes...)
	return hours, nil
}

func (c *clusterSource) Windows(ctx context.Context, spans ...span) ([]bill.Window, error) {
	var out []bill.Window
	for _, s := range spans {
		hours, err := c.Hours(ctx, s)
		if err != nil {
			return nil, err
		}
		w, err := bill.Merge(hours...)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

// A storeSource bills from the closed hours of a store.
type storeSource struct {
	st        *store.Store
	now       time.Time
	simulated bool // by neap up or neap replay
}

// openStore opens a store for reading: dir is the store's own directory or the
// state directory of neap up that holds it.
func openStore(ctx context.Context, dir string) (billSource, error) {
	st, err := store.OpenRead(local.StoreDir(dir))
	if errors.Is(err, store.ErrNoStore) {
		st, err = store.OpenRead(dir)
	}
	if err != nil {
		return nil, err
	}
	s := &storeSource{st: st}
	if s.simulated, err = isSimulated(ctx, st); err == nil {
		s.now, err = s.end(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return s, nil
}

// isSimulated reports whether a store was filled by a replay or by neap up,
// which keeps it in its state directory.
func isSimulated(ctx context.Context, st *store.Store) (bool, error) {
	who, err := st.State(ctx, replayStateKey)
	if err != nil || who != "" {
		return who != "", err
	}
	dir, err := filepath.Abs(st.Dir())
	return err == nil && local.StoreDir(filepath.Dir(dir)) == dir, err
}

// end is the end of the last closed hour.
func (s *storeSource) end(ctx context.Context) (time.Time, error) {
	hours, err := s.st.Hours(ctx, time.Time{}, time.Time{})
	if err != nil {
		return time.Time{}, err
	}
	if len(hours) == 0 {
		return time.Time{}, fmt.Errorf("the store in %s has no closed hour yet; the first is there when its first hour is over", s.st.Dir())
	}
	w, err := s.st.Window(ctx, hours[len(hours)-1], time.Time{})
	return w.To, err
}

func (s *storeSource) Now() time.Time { return s.now }
func (s *storeSource) Describe() string {
	text := "store " + printable(s.st.Dir())
	if s.simulated {
		text += ", simulated"
	}
	return text
}
func (s *storeSource) Close() error { return s.st.Close() }

// whole widens a window to whole hours, for the store keeps no smaller ones, and
// says what the store holds instead if it holds nothing of it.
func (s *storeSource) whole(ctx context.Context, w span) (span, error) {
	w.From = w.From.Truncate(time.Hour)
	if up := w.To.Truncate(time.Hour); up.Before(w.To) {
		w.To = up.Add(time.Hour)
	}
	hours, err := s.st.Hours(ctx, w.From, w.To)
	if err != nil || len(hours) > 0 {
		return w, err
	}
	all, err := s.st.Hours(ctx, time.Time{}, time.Time{})
	if err != nil {
		return w, err
	}
	return w, fmt.Errorf("the store in %s has no closed hour from %s to %s UTC; it holds %s to %s",
		s.st.Dir(), stamp(w.From), stamp(w.To), stamp(all[0]), stamp(s.now))
}

func (s *storeSource) Report(ctx context.Context, w span, by string) (bill.Report, error) {
	w, err := s.whole(ctx, w)
	if err != nil {
		return bill.Report{}, err
	}
	r, err := s.st.Report(ctx, w.From, w.To, by)
	if s.simulated {
		r.Notes = append(r.Notes, "These machines, their load and their use are simulated.")
	}
	return r, err
}

func (s *storeSource) Account() string { return "" }

func (s *storeSource) Hours(ctx context.Context, w span) ([]bill.Window, error) {
	w, err := s.whole(ctx, w)
	if err != nil {
		return nil, err
	}
	starts, err := s.st.Hours(ctx, w.From, w.To)
	if err != nil {
		return nil, err
	}
	hours := make([]bill.Window, 0, len(starts))
	for _, at := range starts {
		rolled, err := s.st.Window(ctx, at, at.Truncate(time.Hour).Add(time.Hour))
		if err != nil {
			return nil, err
		}
		hours = append(hours, rolled)
	}
	return hours, nil
}

func (s *storeSource) Windows(ctx context.Context, spans ...span) ([]bill.Window, error) {
	var out []bill.Window
	for _, w := range spans {
		w, err := s.whole(ctx, w)
		if err != nil {
			return nil, err
		}
		rolled, err := s.st.Window(ctx, w.From, w.To)
		if err != nil {
			return nil, err
		}
		out = append(out, rolled)
	}
	return out, nil
}
