package browser

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/neap-dev/neap/internal/browser"
)

var wide = look{width: 1280, height: 900}

func TestABarOpensTheModulesBehindIt(t *testing.T) {
	p := set(t).open(t, "bridge", wide)
	p.until(`document.querySelectorAll("main .step").length > 5`)
	p.do(chromedp.Click(chromedp.CSS(`.step[data-effect="load"]`)))
	p.until(`document.querySelector("#behind") !== null`)
	p.js(`location.hash.includes("effect=load") && document.querySelectorAll("main table tbody tr").length >= 20`)
	p.js(`document.querySelector('.step[data-effect="load"]').getAttribute("aria-pressed") === "true"`)
	// The modules behind the bar add up to it, to the last unit.
	p.js(`(async () => {
		const d = await (await fetch("api/v1/bill/diff")).json();
		return d.effects.every(e => d.lines.reduce((a, l) => a + (l.effects?.[e.effect] ?? 0), 0) === e.nano);
	})()`)
	p.clean()
}

func TestThePageWorksFromTheKeyboard(t *testing.T) {
	p := set(t).open(t, "bill", wide)
	p.until(`document.querySelectorAll("main table tbody tr").length > 20`)

	p.press(kb.Tab)
	p.js(`document.activeElement.classList.contains("skip") && document.activeElement.getBoundingClientRect().top >= 0`)
	p.press(kb.Enter)
	p.js(`document.activeElement.id === "main"`)

	p.js(`(document.querySelector("nav a").focus(), true)`)
	p.press(kb.ArrowRight)
	p.js(`document.activeElement.getAttribute("href") === "#/bridge"`)
	p.press(kb.Enter)
	p.until(`document.querySelectorAll("main .step").length > 5`)
	p.js(`document.activeElement.id === "main"`)

	p.js(`(document.querySelector(".step[tabindex='0']").focus(), true)`)
	p.press(kb.ArrowRight)
	p.js(`document.activeElement.dataset.effect === "load"`)
	p.press(kb.Enter)
	p.until(`document.querySelector("#behind") !== null`)

	p.do(chromedp.Navigate(set(t).url + "#/idle"))
	p.until(`document.querySelector("main canvas")?.height > 100`)
	p.js(`(document.querySelector(".heat").focus(), true)`)
	p.press(kb.ArrowDown, kb.ArrowDown, kb.ArrowRight)
	p.until(`/of|not bought/.test(document.querySelector("#heat-cell").textContent)`)

	p.do(chromedp.Navigate(set(t).url + "#/day"))
	p.until(`!!window.neapDay && document.querySelectorAll("main canvas").length === 2`)
	p.js(`(document.querySelector(".day").focus(), window.neapDay.view() === null)`)
	p.press("+", "+", kb.ArrowLeft)
	p.until(`window.neapDay.view() !== null`)
	p.press("0")
	p.until(`window.neapDay.view() === null`)

	p.do(chromedp.Navigate(set(t).url + "#/machines"))
	p.until(`document.querySelectorAll("main .tile").length > 10`)
	p.js(`(document.querySelector(".tile[tabindex='0']").focus(), true)`)
	p.press(kb.ArrowRight, kb.Enter)
	p.until(`document.querySelectorAll(".panel table tbody tr").length > 0`)
	p.clean()
}

func TestEveryChartHasATable(t *testing.T) {
	for _, page := range []string{"bridge", "flow", "day", "machines", "idle"} {
		t.Run(page, func(t *testing.T) {
			p := set(t).open(t, page, wide)
			p.until(`[...document.querySelectorAll("main button.link")].some(b => b.textContent === "Show as table")`)
			p.js(`([...document.querySelectorAll("main button.link")].find(b => b.textContent === "Show as table").click(), true)`)
			p.until(`document.querySelectorAll("main table tbody tr").length > 5`)
			p.clean()
		})
	}
}

func TestTheBillIsGroupedAndSortedAsAsked(t *testing.T) {
	p := set(t).open(t, "bill", wide)
	p.until(`document.querySelectorAll("main table tbody tr").length > 20`)
	p.js(`document.querySelector("thead th[aria-sort]").textContent.startsWith("Cost")`)
	for _, by := range []string{"namespace", "pool", "machineType", "feature", "label:team"} {
		p.js(`(() => { const s = document.querySelector("main .tools select"); s.value = "` + by + `"; s.dispatchEvent(new Event("change", {bubbles: true})); return true })()`)
		p.until(`location.hash.includes("` + strings.ReplaceAll(by, ":", "%3A") + `") && document.querySelectorAll("main table tbody tr").length > 1 && document.querySelectorAll("main table tbody tr").length < 20`)
	}
	p.js(`(document.querySelector("tbody .opener").click(), true)`)
	p.until(`document.querySelector("tr.detail .factors") !== null`)
	p.clean()
}

// TestAWorkloadsDay opens a policy from the list: the curves, the minutes that
// were short and the table tell the same, and the keyboard moves through the day.
func TestAWorkloadsDay(t *testing.T) {
	p := set(t).open(t, "elastic", wide)
	p.until(`document.querySelectorAll("main table tbody tr").length === 4`)
	p.js(`([...document.querySelectorAll("main table a")].find(a => a.textContent === "homework/api").click(), true)`)
	p.until(`!!window.neapTwin && document.querySelectorAll("main canvas").length === 2`)
	p.js(`location.hash.includes("policy=homework%2Fapi")`)
	p.js(`([...document.querySelectorAll("main button.link")].find(b => b.textContent === "Show as table").click(), true)`)
	p.until(`document.querySelectorAll("main table tbody tr").length >= 24`)
	p.js(`(async () => {
		const d = await (await fetch("api/v1/elastic/day?policy=homework%2Fapi")).json();
		const said = document.querySelector("#under").textContent;
		return said.startsWith(String(d.underSteps) + " min") && document.querySelector("#under").classList.contains(d.underSteps ? "broken" : "met");
	})()`)
	p.js(`(document.querySelector("figure.day").focus(), window.neapTwin.view() === null)`)
	p.press("+", kb.ArrowLeft)
	p.until(`window.neapTwin.view() !== null`)
	p.press("0")
	p.until(`window.neapTwin.view() === null`)
	p.clean()
}

// TestAMachinesBatchWork opens a machine from the list: its minutes without slack are
// those of the answer, and the same is there as a table.
func TestAMachinesBatchWork(t *testing.T) {
	p := set(t).open(t, "colocation", wide)
	p.until(`document.querySelectorAll("main table tbody tr").length === 6`)
	p.js(`([...document.querySelectorAll("main table a")].find(a => a.textContent === "general-003").click(), true)`)
	p.until(`document.querySelectorAll("main table").length === 0 && document.querySelector("#short")?.classList.contains("broken")`)
	p.js(`(async () => {
		const d = await (await fetch("api/v1/colocation/day?machine=general-003")).json();
		const minutes = d.short.reduce((a, s) => a + (Date.parse(s.to) - Date.parse(s.from)) / 60000, 0);
		return minutes > 0 && document.querySelector("#short").textContent === minutes + " min";
	})()`)
	p.js(`([...document.querySelectorAll("main button.link")].find(b => b.textContent === "Show as table").click(), true)`)
	p.until(`document.querySelectorAll("main table tbody tr").length >= 24`)
	p.clean()
}

// TestTheDayGoesOn moves the fleet's clock: the hour so far changes on the page,
// and when the hour closes the bill is asked for again, without a reload.
func TestTheDayGoesOn(t *testing.T) {
	s, err := newStage(3)
	if err != nil {
		missing(t, err.Error())
	}
	defer s.browser.Close()
	p := s.open(t, "bill", wide)
	p.until(`document.querySelectorAll("main table tbody tr").length > 20 && document.querySelector("#provisional") !== null`)
	before := p.text(`(window.wasHere = true, document.querySelector("#provisional").textContent)`)
	if err := s.fleet.Advance(5 * time.Minute); err != nil {
		t.Fatal(err)
	}
	p.until(`document.querySelector("#provisional").textContent !== ` + "`" + before + "`")
	window := p.text(`document.querySelector(".picker .quiet").textContent`)
	if err := s.fleet.Advance(time.Hour); err != nil {
		t.Fatal(err)
	}
	p.until(`document.querySelector(".picker .quiet").textContent !== ` + "`" + window + "`")
	p.js(`window.wasHere === true`)
	p.clean()
}

// TestTheFirstHourAppears opens the page before any hour is closed: it says so,
// and shows the bill by itself once there is one.
func TestTheFirstHourAppears(t *testing.T) {
	s, err := newStage(0)
	if err != nil {
		missing(t, err.Error())
	}
	defer s.browser.Close()
	p := s.open(t, "bill", wide)
	p.until(`document.querySelector("[role=alert]")?.textContent.includes("No hour is closed yet")`)
	if err := s.fleet.Advance(time.Hour); err != nil {
		t.Fatal(err)
	}
	p.until(`document.querySelectorAll("main table tbody tr").length > 20 && document.querySelector("[role=alert]") === null`)
}

// TestFirstPaint prints how soon the page is painted. The bar of a second is
// held by `neap bench local` on an idle machine; a busy one must not fail here.
func TestFirstPaint(t *testing.T) {
	s := set(t)
	for range 3 {
		at, err := s.browser.FirstPaint(context.Background(), s.url)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("first paint %v, content %v, figures %v", at.First, at.Content, at.Figures)
	}
}

// TestPanning prints how smoothly a day of 60 modules pans; see TestFirstPaint.
func TestPanning(t *testing.T) {
	s := set(t)
	pan, err := s.browser.PanDay(context.Background(), s.url, 4*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if pan.Modules < 50 || pan.Points < 1440 || len(pan.Frames) < 10 {
		t.Fatalf("panned %d modules of %d points for %d frames", pan.Modules, pan.Points, len(pan.Frames))
	}
	t.Logf("%d curves of %d points: %.1f frames a second, frame p50 %v p95 %v, drawing p50 %v p95 %v", pan.Modules, pan.Points, pan.PerSecond(),
		browser.Quantile(pan.Frames, 0.5), browser.Quantile(pan.Frames, 0.95), browser.Quantile(pan.Work, 0.5), browser.Quantile(pan.Work, 0.95))
}
