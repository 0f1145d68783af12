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
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/server/servertest"
	"github.com/neap-dev/neap/test/browser/measure"
	"github.com/neap-dev/neap/ui"
)

// A stage is a server over a made-up fleet, and a browser.
type stage struct {
	fleet   *servertest.Fleet
	url     string
	browser *measure.Browser
}

var (
	once     sync.Once
	shared   *stage
	sharedBy error
)

// set returns the stage that the tests share.
func set(t *testing.T) *stage {
	t.Helper()
	once.Do(func() { shared, sharedBy = newStage() })
	if sharedBy != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(sharedBy)
		}
		t.Skip(sharedBy)
	}
	return shared
}

func newStage() (*stage, error) {
	if _, err := fs.Stat(ui.Assets(), "index.html"); err != nil {
		return nil, errors.New("the page is not built: run make ui first")
	}
	fleet, err := servertest.New(48)
	if err != nil {
		return nil, err
	}
	b, err := measure.Start(context.Background())
	if err != nil {
		return nil, err
	}
	handler := server.New(server.Options{Store: fleet, Metrics: fleet, Live: fleet, Title: "Made-up fleet", Zone: servertest.Zone, Tick: 100 * time.Millisecond})
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
	ctx, stop := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(stop)
	p := &tab{Context: ctx, t: t}
	err = chromedp.Listen(ctx, func(ev any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		switch e := ev.(type) {
		case *runtime.EventExceptionThrown:
			p.problems = append(p.problems, fmt.Sprintf("exception: %+v", e.ExceptionDetails))
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
	p.do(chromedp.Navigate(s.url + "#/" + page))
	if l.chinese {
		p.until(`document.querySelector("#lang") !== null`)
		p.js(`(document.querySelector("#lang").click(), true)`)
		p.until(`document.documentElement.lang === "zh-CN"`)
	}
	return p
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
	if _, err := chromedp.Run(p, chromedp.Poll[bool](script)); err != nil {
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
var shows = map[string]string{
	"bill": `document.querySelectorAll("main table tbody tr").length > 20`,
}

var order = []string{"bill"}

func TestPages(t *testing.T) {
	s := set(t)
	for _, l := range []look{{width: 1280, height: 900}, {width: 390, height: 844}, {width: 1280, height: 900, dark: true}, {width: 390, height: 844, dark: true, chinese: true}, {width: 1280, height: 900, chinese: true}} {
		for _, page := range order {
			t.Run(page+" at "+l.String(), func(t *testing.T) {
				p := s.open(t, page, l)
				p.until(shows[page])
				p.js(`document.documentElement.scrollWidth <= innerWidth`)
				p.shoot(page + "-" + l.String())
				p.js(`(localStorage.clear(), true)`)
				p.clean()
			})
		}
	}
}
