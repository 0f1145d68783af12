package browser

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/chromedp/chromedp"
)

// A Paint is how soon a page was seen after it was asked for.
type Paint struct {
	First   time.Duration // first paint
	Content time.Duration // first contentful paint
	Figures time.Duration // the bill's headline is on the screen
}

// FirstPaint opens the page at url in a new tab and reports when it was painted.
func (b *Browser) FirstPaint(ctx context.Context, url string) (Paint, error) {
	tab, cancel, err := b.Tab(1280, 900)
	if err != nil {
		return Paint{}, err
	}
	defer cancel()
	tab, stop := bounded(ctx, tab, time.Minute)
	defer stop()
	const script = `new Promise(done => {
		const look = () => {
			const by = Object.fromEntries(performance.getEntriesByType("paint").map(e => [e.name, e.startTime]));
			const el = document.querySelector("#headline-bill data");
			if (!el || !("first-paint" in by)) return requestAnimationFrame(look);
			done({First: by["first-paint"], Content: by["first-contentful-paint"] ?? -1, Figures: window.figuresAt ?? performance.now()});
		};
		look();
	})`
	if err := chromedp.Do(tab, chromedp.Navigate(url)); err != nil {
		return Paint{}, fmt.Errorf("open %s: %w", url, err)
	}
	at, err := chromedp.Run(tab, chromedp.Evaluate[struct{ First, Content, Figures float64 }](script, chromedp.EvalAwaitPromise))
	if err != nil {
		return Paint{}, fmt.Errorf("measure the first paint of %s: %w", url, err)
	}
	ms := func(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }
	return Paint{ms(at.First), ms(at.Content), ms(at.Figures)}, nil
}

// A Pan is how smoothly the day's curves moved under a dragging hand.
type Pan struct {
	Modules int             // curves of load
	Points  int             // of each curve
	Frames  []time.Duration // from frame to frame, in the order they were shown
	Work    []time.Duration // spent in drawing each of them
}

// Quantile returns the smallest time that a share q of the times do not exceed.
func Quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(times))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// PerSecond is the mean rate of the frames.
func (p Pan) PerSecond() float64 {
	var sum time.Duration
	for _, f := range p.Frames {
		sum += f
	}
	if sum == 0 {
		return 0
	}
	return float64(len(p.Frames)) / sum.Seconds()
}

// PanDay opens the day's page at url (the server's root), zooms in to a third of
// the day and drags the load curves to and fro for so long, a step with every
// frame, as a hand does.
func (b *Browser) PanDay(ctx context.Context, url string, long time.Duration) (Pan, error) {
	tab, cancel, err := b.Tab(1280, 900)
	if err != nil {
		return Pan{}, err
	}
	defer cancel()
	tab, stop := bounded(ctx, tab, time.Minute+long)
	defer stop()
	script := fmt.Sprintf(`new Promise(done => {
		const ready = () => {
			const box = document.querySelector("#load-chart .u-over");
			if (!box || !window.neapDay) return requestAnimationFrame(ready);
			window.neapDay.zoom(1/3);
			setTimeout(() => drag(box), 500);
		};
		const drag = (box) => {
			const r = box.getBoundingClientRect(), y = r.top + r.height/2;
			const fire = (type, x) => box.dispatchEvent(new PointerEvent(type, {bubbles: true, cancelable: true, pointerId: 7, isPrimary: true, button: 0, buttons: type === "pointerup" ? 0 : 1, clientX: x, clientY: y}));
			const frames = [], work = [], start = performance.now(), mid = r.left + r.width/2;
			fire("pointerdown", mid);
			let last = 0;
			const step = (now) => {
				if (last) frames.push(now - last);
				last = now;
				const t = now - start;
				if (t > %d) { fire("pointerup", mid); return done({Modules: window.neapDay.modules, Points: window.neapDay.points, Frames: frames, Work: window.neapDay.work.splice(0)}); }
				fire("pointermove", mid + r.width*0.4*Math.sin(t/700));
				requestAnimationFrame(step);
			};
			window.neapDay.work.length = 0;
			requestAnimationFrame(step);
		};
		ready();
	})`, long.Milliseconds())
	if err := chromedp.Do(tab, chromedp.Navigate(url+"#/day")); err != nil {
		return Pan{}, fmt.Errorf("open %s: %w", url, err)
	}
	got, err := chromedp.Run(tab, chromedp.Evaluate[struct {
		Modules, Points int
		Frames, Work    []float64
	}](script, chromedp.EvalAwaitPromise))
	if err != nil {
		return Pan{}, fmt.Errorf("pan the day at %s: %w", url, err)
	}
	p := Pan{Modules: got.Modules, Points: got.Points}
	for _, v := range got.Frames {
		p.Frames = append(p.Frames, time.Duration(v*float64(time.Millisecond)))
	}
	for _, v := range got.Work {
		p.Work = append(p.Work, time.Duration(v*float64(time.Millisecond)))
	}
	return p, nil
}

// bounded is tab, ended by ctx or after so long.
func bounded(ctx, tab context.Context, long time.Duration) (context.Context, func()) {
	tab, cancel := context.WithTimeout(tab, long)
	stop := context.AfterFunc(ctx, cancel)
	return tab, func() { stop(); cancel() }
}
