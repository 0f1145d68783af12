package cli

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/internal/benchreport"
	"github.com/neap-dev/neap/internal/browser"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/server/servertest"
)

// A pageRow is one raw measurement of `neap bench page`.
type pageRow struct {
	What         string  `json:"what"` // "paint" or "pan"
	Run          int     `json:"run"`
	FirstPaint   float64 `json:"firstPaintSeconds,omitempty"`
	FiguresShown float64 `json:"figuresSeconds,omitempty"` // the bill's headline
	Modules      int     `json:"modules,omitempty"`
	Points       int     `json:"points,omitempty"` // of each curve
	Frames       int     `json:"frames,omitempty"`
	PerSecond    float64 `json:"framesPerSecond,omitempty"`
	FrameP50     float64 `json:"frameP50Millis,omitempty"`
	FrameP95     float64 `json:"frameP95Millis,omitempty"`
	DrawP50      float64 `json:"drawP50Millis,omitempty"` // the page's own work in a frame
	DrawP95      float64 `json:"drawP95Millis,omitempty"`
}

func newBenchPageCommand() *cobra.Command {
	var format string
	var runs int
	var pan time.Duration
	cmd := &cobra.Command{
		Use:   "page",
		Short: "Measure how soon the dashboard paints and how smoothly it pans",
		Long: `Measure how soon the dashboard paints and how smoothly it pans.

Serves the embedded page on loopback with two days of a made-up fleet of 60
modules, opens it in a headless Chromium with an empty cache, and drags a day of
load curves at one-minute points to and fro. There is no GPU in it: everything
is drawn by the CPU, so a desktop does better. Run it on an idle machine. The
browser is chromium or google-chrome from the PATH, or NEAP_BROWSER.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := benchPage(cmd.Context(), runs, pan, func(f string, a ...any) { fmt.Fprintf(cmd.ErrOrStderr(), f+"\n", a...) })
			if err != nil {
				return err
			}
			if err := report.Write(cmd.OutOrStdout(), format); err != nil {
				return err
			}
			if missed := report.Missed(); len(missed) > 0 {
				return fmt.Errorf("bars missed: %q", missed)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&format, "format", "table", "table or json")
	cmd.Flags().IntVar(&runs, "runs", 5, "how often each is measured; the bars hold the median")
	cmd.Flags().DurationVar(&pan, "pan", 5*time.Second, "how long each drag takes")
	return cmd
}

func benchPage(ctx context.Context, runs int, long time.Duration, log func(string, ...any)) (benchreport.Report, error) {
	report := benchreport.Report{Machine: benchreport.ThisMachine()}
	if runs < 1 || long < time.Second {
		return report, fmt.Errorf("runs is %d and pan is %v; measure at least once and a second", runs, long)
	}
	fleet, err := servertest.New(48)
	if err != nil {
		return report, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return report, err
	}
	handler := server.New(server.Options{Store: fleet, Metrics: fleet, Live: fleet, Title: "Made-up fleet", Zone: servertest.Zone})
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(listener) }() // ends with Close below
	defer func() {
		handler.Close()
		_ = srv.Close()
	}()
	url := "http://" + listener.Addr().String() + "/"

	// The browser that measures is the second: the first reads the programs from disk.
	warm, err := browser.Start(ctx)
	if err != nil {
		return report, err
	}
	_, err = warm.FirstPaint(ctx, url)
	warm.Close()
	if err != nil {
		return report, err
	}

	var paints, frames, rates []time.Duration
	for run := range runs {
		b, err := browser.Start(ctx) // a fresh profile each time: nothing is cached
		if err != nil {
			return report, err
		}
		paint, err := b.FirstPaint(ctx, url)
		if err == nil {
			log("run %d of %d: first paint after %v, figures after %v", run+1, runs, paint.First.Round(time.Millisecond), paint.Figures.Round(time.Millisecond))
			report.Rows = append(report.Rows, pageRow{What: "paint", Run: run + 1, FirstPaint: paint.First.Seconds(), FiguresShown: paint.Figures.Seconds()})
			paints = append(paints, paint.First)
			var p browser.Pan
			if p, err = b.PanDay(ctx, url, long); err == nil {
				row := pageRow{What: "pan", Run: run + 1, Modules: p.Modules, Points: p.Points, Frames: len(p.Frames), PerSecond: p.PerSecond(),
					FrameP50: millis(browser.Quantile(p.Frames, 0.5)), FrameP95: millis(browser.Quantile(p.Frames, 0.95)),
					DrawP50: millis(browser.Quantile(p.Work, 0.5)), DrawP95: millis(browser.Quantile(p.Work, 0.95))}
				log("run %d of %d: %d curves of %d points pan at %.1f frames a second, p95 %.1f ms", run+1, runs, p.Modules, p.Points, row.PerSecond, row.FrameP95)
				report.Rows = append(report.Rows, row)
				frames = append(frames, browser.Quantile(p.Frames, 0.95))
				rates = append(rates, time.Duration(p.PerSecond()*float64(time.Second)))
			}
		}
		b.Close()
		if err != nil {
			return report, err
		}
	}
	report.Bars = []benchreport.Bar{
		benchreport.Below("first paint on loopback, median", browser.Quantile(paints, 0.5).Seconds(), "s", 1),
		// A display of 60 Hz shows a frame each 16.67 ms, and the clock is coarse.
		benchreport.AtMost("frame to frame when panned, p95, median", millis(browser.Quantile(frames, 0.5)), "ms", 16.8),
		benchreport.AtLeast("frames a second when panned, median", browser.Quantile(rates, 0.5).Seconds(), "1/s", 59.5),
	}
	return report, nil
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
