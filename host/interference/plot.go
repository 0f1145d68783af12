package interference

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// Plot draws the frontier as an SVG: for each burner and load a panel, batch cores
// to the right, p99 ratio upwards (logarithmic), for each arm its median with the
// range over the rounds. Further right and further down is better. ours is drawn
// filled.
func Plot(w io.Writer, summaries []Summary, ours string, cores int) error {
	type key struct {
		burner string
		load   float64
	}
	var keys []key
	panels := map[key][]Summary{}
	top := 2.0
	for _, s := range summaries {
		if s.Arm == Solo || s.P99Ratio.N == 0 {
			continue
		}
		k := key{s.Burner, s.OnlinePercent}
		if panels[k] == nil {
			keys = append(keys, k)
		}
		panels[k] = append(panels[k], s)
		top = max(top, s.P99Ratio.Max)
	}
	const (
		width, height    = 360.0, 300.0
		left, right      = 44.0, 12.0
		above, below     = 30.0, 36.0
		columns, lowest  = 3, 0.8
		highestThatShows = 20.0
	)
	top = min(top*1.1, highestThatShows)
	rows := (len(keys) + columns - 1) / columns
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="system-ui, sans-serif" font-size="11">`+"\n",
		width*float64(min(max(len(keys), 1), columns)), height*float64(max(rows, 1)))
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i, k := range keys {
		ox, oy := float64(i%columns)*width, float64(i/columns)*height
		x := func(c float64) float64 {
			return ox + left + min(c/float64(cores), 1)*(width-left-right)
		}
		y := func(ratio float64) float64 {
			ratio = min(max(ratio, lowest), top)
			return oy + above + (1-math.Log(ratio/lowest)/math.Log(top/lowest))*(height-above-below)
		}
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" font-weight="600">online %g %%, %s burner</text>`+"\n", ox+left, oy+18, k.load, html.EscapeString(k.burner))
		for _, t := range []float64{0.8, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10, 20} {
			if t > top {
				break
			}
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%.1f" y="%.1f" text-anchor="end" fill="#555">%g×</text>`+"\n",
				x(0), x(float64(cores)), y(t), y(t), ox+left-5, y(t)+4, t)
		}
		for step := 0.0; step <= float64(cores); step += float64(cores) / 4 {
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#555">%g</text>`+"\n", x(step), oy+height-below+14, step)
		}
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="middle" fill="#555">batch cores of %d</text>`+"\n", x(float64(cores)/2), oy+height-6, cores)
		// Names stand beside their points, above or below where another name is.
		type place struct{ from, to, y float64 }
		var taken []place
		free := func(p place) bool {
			return p.y > oy+above-8 && p.y < oy+height-below && !slices.ContainsFunc(taken, func(q place) bool {
				return p.from < q.to && q.from < p.to && math.Abs(p.y-q.y) < 11
			})
		}
		arms := slices.Clone(panels[k])
		slices.SortStableFunc(arms, func(a, c Summary) int { return cmp.Compare(y(a.P99Ratio.Median), y(c.P99Ratio.Median)) })
		for _, s := range arms {
			px, py := x(s.BatchCores.Median), y(s.P99Ratio.Median)
			colour, fill := "#4a5a6a", "#fff"
			if s.Arm == ours {
				colour, fill = "#0a7d4f", "#0a7d4f"
			}
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`, px, px, y(s.P99Ratio.Min), y(s.P99Ratio.Max), colour)
			fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="%s"/>`, x(s.BatchCores.Min), x(s.BatchCores.Max), py, py, colour)
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" stroke="%s"/>`, px, py, fill, colour)
			long := 6.5 * float64(len(s.Arm))
			anchor, tx, at := "start", px+7, place{px + 7, px + 7 + long, py + 4}
			if px+7+long > ox+width {
				anchor, tx, at.from, at.to = "end", px-7, px-7-long, px-7
			}
			for try := 1; !free(at) && try < 40; try++ {
				at.y = py + 4 + float64(6*(try/2)*(1-2*(try%2)))
			}
			taken = append(taken, at)
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s">%s</text>`+"\n", tx, at.y, anchor, colour, html.EscapeString(s.Arm))
		}
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}
