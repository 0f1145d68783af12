// Package browser drives a browser over the page: it starts one, says how soon
// the first paint comes and how smoothly a day of curves pans.
//
// The tests of the page and `neap bench` use it. It needs a Chromium; see [Find].
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/chromedp/chromedp"
)

// ErrNoBrowser says that no Chromium is installed.
var ErrNoBrowser = errors.New("find a browser: neither chromium nor google-chrome is installed; install Debian's package chromium, or name the program in NEAP_BROWSER")

// Find returns the path of a Chromium: that in NEAP_BROWSER, or the first known
// name on the PATH.
func Find() (string, error) {
	if p := os.Getenv("NEAP_BROWSER"); p != "" {
		return p, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", ErrNoBrowser
}

// A Browser is a running headless Chromium with a fresh profile.
type Browser struct {
	ctx    context.Context
	cancel func()
	dir    string
}

// Start starts a browser. The caller closes it.
func Start(ctx context.Context) (*Browser, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "neap-browser-")
	if err != nil {
		return nil, err
	}
	alloc, stop := chromedp.NewExecAllocator(ctx,
		chromedp.ExecPath(path), chromedp.UserDataDir(dir),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-default-apps", true), chromedp.Flag("disable-extensions", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true), chromedp.Flag("mute-audio", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"), // the page may name no other host
	)
	bctx, stopTab := chromedp.NewContext(alloc)
	b := &Browser{ctx: bctx, dir: dir, cancel: func() { stopTab(); stop() }}
	if err := chromedp.Do(bctx); err != nil {
		b.Close()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return b, nil
}

// Close ends the browser and removes its profile.
func (b *Browser) Close() {
	b.cancel()
	for range 20 { // its processes may write for a moment after they were told to end
		if os.RemoveAll(b.dir) == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// Tab opens a tab of so many CSS pixels. cancel closes it.
func (b *Browser) Tab(width, height int) (tab context.Context, cancel func(), err error) {
	tab, cancel = chromedp.NewContext(b.ctx)
	var opts []chromedp.EmulateViewportOption
	if width < 600 {
		opts = append(opts, chromedp.EmulateMobile)
	}
	if err := chromedp.Do(tab, chromedp.EmulateViewport(int64(width), int64(height), opts...)); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("open a tab: %w", err)
	}
	return tab, cancel, nil
}
