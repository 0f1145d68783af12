// Command fit fits the generator's parameters to the real load series and
// writes sim/series/fitted.json: how the committed parameters came about. Run
// it from the repository's root:
//
//	go run ./hack/fit [-data ../shared/data/load] [-out sim/series/fitted.json]
//
// Only parameters are written, never the data, and only of series whose
// licence allows to build on them.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
	_ "time/tzdata"

	"github.com/neap-dev/neap/sim/series"
)

var inputs = []struct{ name, file, zone, licence string }{
	{"crane-input0", "crane/input0.csv", "Asia/Shanghai", "gocrane/crane, Apache-2.0"},
	{"crane-input1", "crane/input1.csv", "Asia/Shanghai", "gocrane/crane, Apache-2.0"},
	{"crane-input2", "crane/input2.csv", "Asia/Shanghai", "gocrane/crane, Apache-2.0"},
	{"crane-input9", "crane/input9.csv", "Asia/Shanghai", "gocrane/crane, Apache-2.0"},
	{"crane-input10", "crane/input10.csv", "Asia/Shanghai", "gocrane/crane, Apache-2.0"},
	{"nab-elb", "nab/elb_request_count_8c0756.csv", "America/New_York", "numenta/NAB, MIT"},
	{"nab-nyc-taxi", "nab/nyc_taxi.csv", "America/New_York", "numenta/NAB, MIT"},
}

func main() {
	data := flag.String("data", "../shared/data/load", "folder of the real series")
	out := flag.String("out", "sim/series/fitted.json", "file to write")
	flag.Parse()
	if err := run(*data, *out); err != nil {
		fmt.Fprintln(os.Stderr, "fit:", err)
		os.Exit(1)
	}
}

func run(data, out string) error {
	all := map[string]series.Parameters{}
	for _, in := range inputs {
		zone, err := time.LoadLocation(in.zone)
		if err != nil {
			return err
		}
		// NAB writes local time without a zone; the others write Unix seconds.
		s, err := series.ReadFile(filepath.Join(data, in.file), series.Options{Location: zone})
		if err != nil {
			return err
		}
		p, err := series.Fit(s, zone)
		if err != nil {
			return fmt.Errorf("%s: %w", in.file, err)
		}
		p.Source = fmt.Sprintf("fitted to %s (%s) of %s to %s, local time of %s", in.file, in.licence,
			s.Points[0].T.In(zone).Format(time.DateOnly), s.Points[len(s.Points)-1].T.In(zone).Format(time.DateOnly), in.zone)
		all[in.name] = p
		fmt.Printf("%-14s level %8.3f  peak/trough %7.1f  sigma at 04/12/20 h %.3f/%.3f/%.3f  rho %.3f  bursts/day %.2f ×%.1f of %.0f min\n",
			in.name, p.Level, p.PeakToTrough, p.Sigma[4], p.Sigma[12], p.Sigma[20], p.Rho, p.BurstsPerDay, p.BurstHeight, p.BurstMinutes)
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(b, '\n'), 0o644)
}
