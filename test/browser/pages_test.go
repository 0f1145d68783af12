// Package browser tests the page in a real browser, against the made-up fleet
// of server/servertest.
package browser

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/neap-dev/neap/internal/browser"
	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/server/servertest"
	"github.com/neap-dev/neap/ui"
)

// A stage is a server over a made-up fleet, and a browser.
type stage struct {
	fleet   *servertest.Fleet
	url     string
	browser *browser.Browser
}

var (
	once     sync.Once
	shared   *stage
	sharedBy error
)

// set returns the stage that the tests share.
func set(t *testing.T) *stage {
	t.Helper()
	once.Do(func() { shared, sharedBy = newStage(48) })
	if sharedBy != nil {
		missing(t, sharedBy.Error())
	}
	return shared
}

func newStage(hours int) (*stage, error) {
	if _, err := fs.Stat(ui.Assets(), "index.html"); err != nil {
		return nil, errors.New("the page is not built: run make ui first")
	}
	fleet, err := servertest.New(hours)
	if err != nil {
		return nil, err
	}
	b, err := browser.Start(context.Background())
	if err != nil {
		return nil, err
	}
	opts := server.Options{Store: fleet, Metrics: fleet, Live: fleet, Title: "Made-up fleet", Zone: servertest.Zone, Tick: 100 * time.Millisecond}
	if dir := os.Getenv("NEAP_ASSETS"); dir != "" { // a page built after this test was
		opts.Assets = os.DirFS(dir)
	}
	handler := server.New(opts)
	return &stage{fleet, httptest.NewServer(handler).URL + "/", b}, nil
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared != nil {
		shared.browser.Close()
	}
	os.Exit(code)
}

// A tab is an open page, with what went wrong on it so far.
type tab struct {
	context.Context
	t        *testing.T
	mu       sync.Mutex
	problems []string
}

// look are the circumstances a page is seen in.
type look struct {
	width, height int
	dark          bool
	chinese       bool
}

var looks = []look{{width: 1280, height: 900}, {width: 390, height: 844}, {width: 1280, height: 900, dark: true}, {width: 390, height: 844, dark: true, chinese: true}}

func (l look) String() string {
	s := fmt.Sprint(l.width)
	if l.dark {
		s += "-dark"
	}
	if l.chinese {
		s += "-zh"
	}
	return s
}

func (s *stage) open(t *testing.T, page string, l look) *tab {
	t.Helper()
	ctx, cancel, err := s.browser.Tab(l.width, l.height)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	ctx, stop := context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(stop)
	p := &tab{Context: ctx, t: t}
	err = chromedp.Listen(ctx, func(ev any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			p.problems = append(p.problems, "exception: "+describe(e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" || e.Type == "warning" {
				p.problems = append(p.problems, fmt.Sprintf("console.%s", e.Type))
			}
		case *log.EventEntryAdded:
			if e.Entry.Level == "error" {
				p.problems = append(p.problems, fmt.Sprintf("log: %s %s", e.Entry.Text, e.Entry.URL))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.dark {
		p.t.Helper()
		media := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}
		if _, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, media); err != nil {
			t.Fatal(err)
		}
	}
	lang := "en"
	if l.chinese {
		lang = "zh"
	}
	choose := cdpage.AddScriptToEvaluateOnNewDocumentParams{Source: `try { localStorage.setItem("neap.lang", "` + lang + `") } catch {}`}
	if _, err := chromedp.Call(ctx, cdpage.AddScriptToEvaluateOnNewDocument, choose); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(s.url + "#/" + page))
	return p
}

func describe(d *runtime.ExceptionDetails) string {
	if d.Exception != nil && d.Exception.Description != "" {
		return d.Exception.Description
	}
	return fmt.Sprintf("%s at %s:%d", d.Text, d.URL, d.LineNumber)
}

func (p *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p, steps...); err != nil {
		p.t.Fatal(err)
	}
}

// js evaluates a script, a promise's value included, that must be true.
func (p *tab) js(script string) {
	p.t.Helper()
	ok, err := chromedp.Run(p, chromedp.Evaluate[bool](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	if !ok {
		p.t.Errorf("not so on the page: %s", script)
	}
}

// until waits for a condition on the page.
func (p *tab) until(script string) {
	p.t.Helper()
	if _, err := chromedp.Run(p, chromedp.Poll[bool](script, chromedp.WithPollingTimeout(2*time.Minute))); err != nil {
		p.clean() // says more than the wait does
		p.t.Fatalf("wait for %s: %v", script, err)
	}
}

func (p *tab) shoot(name string) {
	dir := os.Getenv("NEAP_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(p, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *tab) clean() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.problems) > 0 {
		p.t.Errorf("the page reports:\n%s", strings.Join(p.problems, "\n"))
	}
}

// shows says when a page has its data on the screen.
var shows = []struct{ page, when string }{
	{"bill", `document.querySelectorAll("main table tbody tr").length > 20`},
	{"bridge", `document.querySelectorAll("main .step").length > 5`},
	{"bridge?effect=load", `document.querySelectorAll("main table tbody tr").length > 20`},
	{"flow", `document.querySelectorAll("main .node").length > 20 && document.querySelectorAll("main .band").length > 20`},
	{"day", `!!window.neapDay && document.querySelectorAll("main canvas").length === 2`},
	{"elastic", `document.querySelectorAll("main table tbody tr").length === 4`},
	{"elastic?policy=live/chat", `!!window.neapTwin && document.querySelectorAll("main canvas").length === 2 && document.querySelectorAll("main .ledger > li").length > 0`},
	{"colocation", `!!window.neapTwin && document.querySelectorAll("main canvas").length === 2 && document.querySelectorAll("main table tbody tr").length === 6`},
	{"colocation?machine=general-003", `!!window.neapTwin && document.querySelectorAll("main canvas").length === 2 && document.querySelectorAll("main table").length === 0`},
	{"gpus", `document.querySelectorAll("main .pool .tile").length === 24 && document.querySelectorAll("main .stepper .tile").length === 2`},
	{"machines", `document.querySelectorAll("main .tile").length > 10`},
	{"idle", `document.querySelector("main canvas")?.height > 100`},
	{"decisions", `document.querySelectorAll("main .ledger > li").length > 10`},
}

// TestPages opens every page in every look: it shows its data, fits the width,
// says that it is simulated, reports no error, and axe finds nothing wrong.
func TestPages(t *testing.T) {
	s := set(t)
	axe, err := os.ReadFile(filepath.Join("..", "..", "ui", "node_modules", "axe-core", "axe.min.js"))
	if err != nil {
		missing(t, "read axe: "+err.Error()+"; run make ui")
	}
	for _, l := range looks {
		for _, show := range shows {
			t.Run(show.page+" at "+l.String(), func(t *testing.T) {
				p := s.open(t, show.page, l)
				p.until(show.when)
				p.js(`document.querySelector("#simulated")?.getClientRects().length === 1`)
				p.js(`document.documentElement.scrollWidth <= innerWidth`)
				p.js(`document.querySelectorAll("h1").length === 1 && document.querySelectorAll("main").length === 1`)
				p.shoot(strings.NewReplacer("?", "-", "=", "-", "/", "-").Replace(show.page) + "-" + l.String())
				if found := p.text(string(axe) + axeRun); found != "" {
					t.Errorf("axe finds:\n%s", found)
				}
				p.clean()
			})
		}
	}
}

// axeRun asks axe for the violations of WCAG 2.1 A and AA, one a line. Without
// resultTypes it would describe every element that passes, too, for nobody to read.
const axeRun = `;axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"], resultTypes: ["violations"]}).then(r =>
	r.violations.map(v => v.id + ": " + v.help + "\n" + v.nodes.slice(0, 4).map(n => "    " + n.html.slice(0, 160) + "\n    " + n.failureSummary.replace(/\s+/g, " ")).join("\n")).join("\n"))`

// missing fails in CI, where everything must be there, and skips elsewhere.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// text evaluates a script, a promise's value included, to a string.
func (p *tab) text(script string) string {
	p.t.Helper()
	s, err := chromedp.Run(p, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *tab) press(keys ...string) {
	p.t.Helper()
	for _, k := range keys {
		p.do(chromedp.KeyEvent(k))
	}
}
