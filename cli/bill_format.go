package cli

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// boxNames are the idle boxes as people call them, with what each means.
var boxNames = map[bill.Box]struct{ name, means string }{
	bill.System:     {"system", "kept from pods by the machine itself"},
	bill.Spare:      {"declared spare", "kept free on purpose for a sudden need"},
	bill.Slack:      {"request slack", "requested by pods and not used"},
	bill.Shape:      {"stranded by shape", "free, but no packing of these pods gives a machine back"},
	bill.Constraint: {"stranded by constraint", "could be given back but for a placement rule"},
	bill.Waiting:    {"waiting to scale down", "could be given back now"},
	bill.Unexplain:  {"unexplained", "exists to be 0"},
}

// writeJSON writes v as indented JSON.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// writeBillTable writes a report for a person: the bill, its boxes, the lines.
// At most top lines are shown, 0 being all; the rest are added up in one.
func writeBillTable(w io.Writer, r bill.Report, source string, top int) error {
	out := bufio.NewWriter(w)
	d := moneyScale(r.BillNano)
	fmt.Fprintf(out, "Bill from %s to %s UTC (%s), %s\n\n", stamp(r.From), stamp(r.To), showDuration(r.To.Sub(r.From)), source)

	// 1. Where the money went.
	sum := newTable("", ">"+r.Currency, ">%", "")
	sum.add("bill", showMoney(r.BillNano, d), showPercent(r.BillNano, r.BillNano))
	sum.add("used", showMoney(r.AllocatedNano, d), showPercent(r.AllocatedNano, r.BillNano), "what pods used (allocated)")
	idle := money.Amount(0)
	for _, a := range r.IdleNano {
		idle += a
	}
	sum.add("idle", showMoney(idle, d), showPercent(idle, r.BillNano))
	for _, b := range bill.Boxes {
		if b != bill.Unexplain {
			sum.add("  "+boxNames[b].name, showMoney(r.IdleNano[b], d), showPercent(r.IdleNano[b], r.BillNano), boxNames[b].means)
		}
	}
	sum.add("unexplained", showMoney(r.UnexplainedNano, d), showPercent(r.UnexplainedNano, r.BillNano), boxNames[bill.Unexplain].means)
	if r.EstimatedNano != 0 {
		sum.add("estimated", showMoney(r.EstimatedNano, d), showPercent(r.EstimatedNano, r.BillNano), "of the bill rests on use that was not measured")
	}
	sum.write(out, "")

	// 2. Who it was for.
	lines, rest := r.Lines, bill.Line{Requests: -1}
	if top > 0 && len(lines) > top {
		for _, l := range lines[top:] {
			rest.UsedNano += l.UsedNano
			rest.SlackNano += l.SlackNano
			rest.SharedNano += l.SharedNano
			rest.CostNano += l.CostNano
			rest.Pods += l.Pods
		}
		rest.Key = fmt.Sprintf("(%d more; --top 0 shows all)", len(lines)-top)
		lines = append(slices.Clone(lines[:top]), rest)
	}
	fmt.Fprintln(out)
	t := newTable(r.By, ">used", ">slack", ">shared", ">cost", ">%", ">pods", "quality")
	for _, l := range lines {
		t.add(printable(l.Key), showMoney(l.UsedNano, d), showMoney(l.SlackNano, d), showMoney(l.SharedNano, d), showMoney(l.CostNano, d),
			showPercent(l.CostNano, r.BillNano), strconv.FormatFloat(l.Pods, 'f', 1, 64), showQuality(l))
	}
	t.write(out, "")

	// 3. Why it costs that.
	fmt.Fprintln(out, "\ncost = load × need × slack × match × price, for the resource on which each line spends most;")
	fmt.Fprintln(out, "need is hours of a normalised core, a GiB or a GPU: per million requests (/M) or, where the load is not known, in all")
	t = newTable(r.By, "resource", ">cost", ">load Q", ">need k", ">slack r", ">match f", ">price π")
	for _, l := range lines {
		name, f, ok := costliest(l)
		if !ok {
			continue
		}
		load, need := "–", showFactor(f.Need)
		if f.Load > 0 {
			load, need = showCount(int64(f.Load)), showFactor(f.Need*1e6)+" /M"
		}
		t.add(printable(l.Key), name, showMoney(f.CostNano, d), load, need, showFactor(f.Slack), showFactor(f.Match), showFactor(f.Price))
	}
	t.write(out, "")
	writeNotes(out, r.Notes)
	return out.Flush()
}

// costliest returns the resource on which a line spends most, and its factors.
func costliest(l bill.Line) (name string, f bill.Factors, ok bool) {
	for _, k := range resource.All {
		if of, has := l.Factors[k.String()]; has && (!ok || of.CostNano > f.CostNano) {
			name, f, ok = k.String(), of, true
		}
	}
	return name, f, ok
}

// showQuality says how the line's guards fared, always beside money.
func showQuality(l bill.Line) string {
	if l.KnownHours == 0 {
		return "unknown"
	}
	return fmt.Sprintf("%s %d/%d h", l.Quality, l.MetHours, l.KnownHours)
}

func writeNotes(w io.Writer, notes []string) {
	for i, n := range notes {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "note: %s\n", printable(n))
	}
}

// writeBillCSV writes a report as one table: the totals, the boxes, the lines,
// with exact amounts.
func writeBillCSV(w io.Writer, r bill.Report) error {
	out := csv.NewWriter(w)
	out.Write([]string{"kind", "key", "currency", "from", "to", "cost", "used", "slack", "shared", "opencost", "requests", "pods", "quality"})
	row := func(kind, key string, cost money.Amount, rest ...string) {
		out.Write(append([]string{kind, cell(key), r.Currency, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339), cost.String()},
			append(rest, make([]string, 7-len(rest))...)...))
	}
	row("total", "bill", r.BillNano)
	row("total", "allocated", r.AllocatedNano)
	row("total", "estimated", r.EstimatedNano)
	for _, b := range bill.Boxes {
		if b != bill.Unexplain {
			row("box", string(b), r.IdleNano[b])
		}
	}
	row("box", string(bill.Unexplain), r.UnexplainedNano)
	for _, l := range r.Lines {
		requests := ""
		if l.Requests >= 0 {
			requests = strconv.FormatInt(l.Requests, 10)
		}
		row(r.By, l.Key, l.CostNano, l.UsedNano.String(), l.SlackNano.String(), l.SharedNano.String(), l.OpenCostNano.String(),
			requests, strconv.FormatFloat(l.Pods, 'f', 3, 64), l.Quality)
	}
	out.Flush()
	return out.Error()
}

// cell keeps a spreadsheet from taking a name for a formula.
func cell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

// writeChangeTable writes why the bill changed, for a person.
func writeChangeTable(w io.Writer, c bill.Change, source string, top int) error {
	out := bufio.NewWriter(w)
	d := moneyScale(max(c.BeforeNano, c.AfterNano))
	fmt.Fprintf(out, "Why the bill changed, %s\n\n", source)
	t := newTable("", "window (UTC)", ">"+c.Currency)
	t.add("before", stamp(c.Before.From)+" to "+stamp(c.Before.To), showMoney(c.BeforeNano, d))
	for _, e := range c.Effects {
		if shows(e.Nano, d) {
			t.add("  "+string(e.Effect), effectMeans[e.Effect], signed(e.Nano, d))
		}
	}
	t.add("  residual", "exists to be 0", signed(c.ResidualNano, d))
	t.add("after", stamp(c.After.From)+" to "+stamp(c.After.To), showMoney(c.AfterNano, d))
	t.add("change", showPercent(c.ChangeNano, c.BeforeNano), signed(c.ChangeNano, d))
	t.write(out, "")

	lines := c.Lines
	if top > 0 && len(lines) > top {
		lines = lines[:top]
	}
	fmt.Fprintln(out)
	t = newTable("module", ">before", ">after", ">change", "mostly by")
	for _, l := range lines {
		t.add(printable(l.Key), showMoney(l.BeforeNano, d), showMoney(l.AfterNano, d), signed(l.ChangeNano, d), mostly(l.Effects, d))
	}
	if hidden := c.Lines[len(lines):]; len(hidden) > 0 {
		var before, after money.Amount
		for _, l := range hidden {
			before, after = before+l.BeforeNano, after+l.AfterNano
		}
		t.add(fmt.Sprintf("(%d more; --top 0 shows all)", len(hidden)), showMoney(before, d), showMoney(after, d), signed(after-before, d))
	}
	t.write(out, "")
	writeNotes(out, c.Notes)
	return out.Flush()
}

var effectMeans = map[bill.Effect]string{
	bill.EffectLoad:     "asked to do more or less",
	bill.EffectNew:      "modules that were not there before",
	bill.EffectGone:     "modules that are not there any more",
	bill.EffectUse:      "used more or less, where the load is not known",
	bill.EffectNeed:     "resources used per request",
	bill.EffectSlack:    "requested ÷ used",
	bill.EffectHeld:     "held more or less, where nothing was used",
	bill.EffectMatch:    "bought ÷ requested",
	bill.EffectList:     "list prices",
	bill.EffectDiscount: "discounts",
	bill.EffectMix:      "other machine types",
	bill.EffectNobody:   "money that no module could carry",
}

// mostly names the two largest effects.
func mostly(effects map[bill.Effect]money.Amount, decimals int) string {
	var order []bill.Effect
	for _, e := range bill.Effects {
		if shows(effects[e], decimals) {
			order = append(order, e)
		}
	}
	size := func(e bill.Effect) money.Amount { return max(effects[e], -effects[e]) }
	slices.SortStableFunc(order, func(a, b bill.Effect) int {
		switch {
		case size(a) > size(b):
			return -1
		case size(a) < size(b):
			return 1
		}
		return 0
	})
	var parts []string
	for _, e := range order[:min(2, len(order))] {
		parts = append(parts, string(e)+" "+signed(effects[e], decimals))
	}
	return strings.Join(parts, ", ")
}

func signed(a money.Amount, decimals int) string {
	s := showMoney(a, decimals)
	if a > 0 && shows(a, decimals) {
		return "+" + s
	}
	return s
}

// shows reports whether an amount is more than zeros with so many decimals.
func shows(a money.Amount, decimals int) bool {
	return strings.Trim(showMoney(a, decimals), "0.,") != ""
}

// writeChangeCSV writes a change as one table: total and modules, by resource
// and effect, with exact amounts.
func writeChangeCSV(w io.Writer, c bill.Change) error {
	out := csv.NewWriter(w)
	out.Write([]string{"kind", "key", "resource", "effect", "currency", "before", "after", "change"})
	out.Write([]string{"total", "bill", "", "", c.Currency, c.BeforeNano.String(), c.AfterNano.String(), c.ChangeNano.String()})
	for _, e := range c.Effects {
		out.Write([]string{"effect", "bill", "", string(e.Effect), c.Currency, "", "", e.Nano.String()})
	}
	out.Write([]string{"effect", "bill", "", "residual", c.Currency, "", "", c.ResidualNano.String()})
	for _, l := range c.Lines {
		out.Write([]string{"module", cell(l.Key), "", "", c.Currency, l.BeforeNano.String(), l.AfterNano.String(), l.ChangeNano.String()})
		for _, r := range l.Resources {
			for _, e := range bill.Effects {
				if a := r.Effects[e]; a != 0 {
					out.Write([]string{"module-effect", cell(l.Key), r.Resource, string(e), c.Currency, "", "", a.String()})
				}
			}
		}
	}
	out.Flush()
	return out.Error()
}

// showDuration writes a length of time without empty parts: 24h, 90m, 30s.
func showDuration(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
