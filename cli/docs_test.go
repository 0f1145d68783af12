package cli

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

var update = flag.Bool("update", false, "write the worked example of docs/bill.md anew")

// TestWorkedExample checks every figure of the worked example in docs/bill.md:
// what stands between the markers is what neap prints for it.
func TestWorkedExample(t *testing.T) {
	morning, evening := exampleHour(t, 9, 1_000_000, 3000, 4), exampleHour(t, 20, 2_000_000, 4800, 6)
	report, err := bill.Summarise([]bill.Facts{morning}, bill.ByModule, nil)
	if err != nil {
		t.Fatal(err)
	}
	var before, after bill.Window
	if before, err = bill.Rollup(morning); err == nil {
		after, err = bill.Rollup(evening)
	}
	if err != nil {
		t.Fatal(err)
	}
	change, err := bill.Explain(before, after)
	if err != nil {
		t.Fatal(err)
	}

	blocks := map[string]string{}
	var out bytes.Buffer
	if err := writeBillTable(&out, report, "the example", 0); err != nil {
		t.Fatal(err)
	}
	blocks["bill"] = out.String()
	out.Reset()
	if err := writeChangeTable(&out, change, "the example", 0); err != nil {
		t.Fatal(err)
	}
	blocks["change"] = out.String()

	path := filepath.Join("..", "docs", "bill.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	for name, want := range blocks {
		begin, end := fmt.Sprintf("<!-- %s: begin -->\n```text\n", name), fmt.Sprintf("```\n<!-- %s: end -->", name)
		head, rest, ok := strings.Cut(doc, begin)
		got, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("docs/bill.md has no block %q", name)
		}
		if got != want {
			t.Errorf("docs/bill.md does not show what neap prints; run go test ./cli -run TestWorkedExample -update\ngot\n%s\nwant\n%s", got, want)
		}
		doc = head + begin + want + end + tail
	}
	if *update {
		if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	// The figures of the prose, derived by hand there.
	for what, want := range map[string]int64{
		"the machine":         388_472_000, // its price for the hour
		"system":              24_279_500,  // half a core and two GiB
		"the report's slack":  0,           // it used all it asked for
		"the cart's used":     3*31_611_000 + 6*4_237_000,
		"the cart's slack":    1*31_611_000 + 2*4_237_000,
		"the report's used":   (2*31_611_000 + 2*4_237_000) / 2,
		"everything together": 388_472_000,
	} {
		got := map[string]int64{
			"the machine":         int64(report.BillNano),
			"system":              int64(report.IdleNano[bill.System]),
			"the report's slack":  int64(line(t, report, "shop/CronJob/report").SlackNano),
			"the cart's used":     int64(line(t, report, "shop/Deployment/cart").UsedNano),
			"the cart's slack":    int64(line(t, report, "shop/Deployment/cart").SlackNano),
			"the report's used":   int64(line(t, report, "shop/CronJob/report").UsedNano),
			"everything together": int64(line(t, report, "shop/Deployment/cart").CostNano + line(t, report, "shop/CronJob/report").CostNano),
		}[what]
		if got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
}

func line(t *testing.T, r bill.Report, key string) bill.Line {
	t.Helper()
	for _, l := range r.Lines {
		if l.Key == key {
			return l
		}
	}
	t.Fatalf("no line %s", key)
	return bill.Line{}
}

// exampleHour is one hour of the worked example: one machine, a service, and a
// report that runs for half an hour.
func exampleHour(t *testing.T, hour int, requests, useMilli, cores int64) bill.Facts {
	t.Helper()
	from := time.Date(2026, 3, 2, hour, 0, 0, 0, time.UTC)
	to := from.Add(time.Hour)
	book := machine.NewPriceBook("USD")
	if err := book.Set(time.Time{}, machine.Type{Name: "big.8", Capacity: resource.Vector{8000, 32 * resource.GiB}, List: 388_472_000, Currency: "USD"}); err != nil {
		t.Fatal(err)
	}
	cart := workload.Key{Namespace: "shop", Kind: "Deployment", Name: "cart"}
	report := workload.Key{Namespace: "shop", Kind: "CronJob", Name: "report"}
	h := bill.Hour{From: from, To: to,
		Machines: []bill.Machine{{Name: "m1", Pool: "general", Type: "big.8", From: from, To: to,
			Capacity: resource.Vector{8000, 32 * resource.GiB}, Allocatable: resource.Vector{7500, 30 * resource.GiB}}},
		Pods: []bill.Pod{
			{UID: "1", Namespace: "shop", Name: "cart-1", Module: cart, Machine: "m1", From: from, To: to,
				Requests: []bill.Step{{At: from, Request: resource.Vector{cores * 1000, 8 * resource.GiB}}},
				Usage:    []bill.Sample{{From: from, To: to, Use: resource.Vector{useMilli, 6 * resource.GiB}}}},
			{UID: "2", Namespace: "shop", Name: "report-1", Module: report, Machine: "m1", From: from, To: from.Add(30 * time.Minute),
				Requests: []bill.Step{{At: from, Request: resource.Vector{1000, 2 * resource.GiB}}},
				Usage:    []bill.Sample{{From: from, To: from.Add(30 * time.Minute), Use: resource.Vector{2000, 2 * resource.GiB}}}},
		},
		Loads: []bill.Load{{Module: cart, Requests: requests, Known: true, SuccessMicros: 999_900, P99: 80 * time.Millisecond, Met: true}},
	}
	f, err := bill.Close(h, book, bill.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// documents are the pages whose commands and links must be true.
func documents(t *testing.T) map[string]string {
	t.Helper()
	root := filepath.Join("..")
	pages := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "bench/*.md", "deploy/chart/*/*.md", "kube/scheduler/*/*.md"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			pages[f] = string(text)
		}
	}
	if len(pages) < 8 {
		t.Fatalf("found only %d pages", len(pages))
	}
	return pages
}

// TestDocumentedCommands tries every command line in the pages and in the help
// texts: targets of make exist, commands of neap and their flags are known.
func TestDocumentedCommands(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join("..", "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	known := func(t *testing.T, words []string) {
		t.Helper()
		root, _ := newRoot()
		cmd, args, err := root.Find(words)
		if err == nil {
			err = cmd.ParseFlags(args)
		}
		if err == nil {
			err = cmd.ValidateArgs(cmd.Flags().Args())
		}
		if err != nil && !strings.Contains(err.Error(), "flag needs an argument") { // a span that only names a flag
			t.Errorf("%q: %v", strings.Join(words, " "), err)
		}
	}
	tried := 0
	for page, text := range documents(t) {
		for _, code := range commandLines(text) {
			words := shellWords(code)
			switch filepath.Base(words[0]) {
			case "neap":
				known(t, words[1:])
				tried++
			case "make":
				for _, target := range words[1:] {
					if !strings.Contains(target, "=") && !strings.Contains(string(makefile), "\n"+target+":") {
						t.Errorf("%s: there is no target %q", page, target)
					}
				}
				tried++
			}
		}
	}
	root, _ := newRoot()
	var examples func(c *cobra.Command)
	examples = func(c *cobra.Command) {
		for l := range strings.Lines(strings.ReplaceAll(c.Example, "\\\n", " ")) {
			for part := range strings.SplitSeq(l, "&&") {
				if words := shellWords(strings.Split(part, "#")[0]); len(words) > 0 && words[0] == "neap" {
					known(t, words[1:])
					tried++
				}
			}
		}
		for _, below := range c.Commands() {
			examples(below)
		}
	}
	examples(root)
	if tried < 20 {
		t.Errorf("only %d command lines were found", tried)
	}
}

// shellWords splits a command line as a shell does, quotes and all.
func shellWords(line string) []string {
	var words []string
	for _, w := range quoted.FindAllString(line, -1) {
		words = append(words, strings.NewReplacer(`"`, "", "'", "").Replace(w))
	}
	return words
}

var quoted = regexp.MustCompile(`(?:"[^"]*"|'[^']*'|[^\s"'])+`)

// commandLines returns the lines of shell blocks, and code spans that are
// commands of neap or make.
func commandLines(text string) []string {
	var lines []string
	block := ""
	for l := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		l = strings.TrimSpace(l)
		if lang, fence := strings.CutPrefix(l, "```"); fence {
			if block != "" {
				block = ""
			} else {
				block = "x" + lang
			}
			continue
		}
		if block == "xsh" || block == "xbash" {
			for part := range strings.SplitSeq(strings.Split(l, " #")[0], "&&") {
				if part = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(part), "$ ")); part != "" {
					lines = append(lines, part)
				}
			}
			continue
		}
		if block != "" {
			continue
		}
		for i, span := range strings.Split(l, "`") {
			if i%2 == 1 && (strings.HasPrefix(span, "neap ") || strings.HasPrefix(span, "bin/neap ") || strings.HasPrefix(span, "make ")) && !strings.ContainsAny(span, "…<|[") {
				lines = append(lines, span)
			}
		}
	}
	return lines
}

// TestLinks checks that what the pages point to within the repository is there.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)(#[^)]*)?\)`)
	for page, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s points to %s, which is not there", page, m[1])
			}
		}
	}
}
