package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// An output tells what happens: plain lines, and a bar of the day if wanted.
type output struct {
	mu       sync.Mutex
	w        io.Writer // nil: nobody listens
	bars     *mpb.Progress
	bar      *mpb.Bar
	from     time.Time
	now      time.Time
	length   time.Duration // of what the bar shows; 0 is a day
	problems map[string]time.Time
}

func newOutput(w io.Writer) *output { return &output{w: w, problems: map[string]time.Time{}} }

func (o *output) line(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		return
	}
	w := o.w
	if o.bars != nil {
		w = o.bars
	}
	fmt.Fprintf(w, format+"\n", args...)
}

// step says that something is up and how long it took.
func (o *output) step(what string, began time.Time, detail string) {
	if detail != "" {
		detail = "  " + detail
	}
	o.line("  %-18s %5.1f s%s", what, time.Since(began).Seconds(), detail)
}

// repeatAfter is how long the same problem is not told again.
const repeatAfter = 30 * time.Second

// problem tells an error that does not end anything, once in a while.
func (o *output) problem(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	text := oneLine(err.Error())
	if len(text) > 600 {
		text = text[:600] + " …"
	}
	o.mu.Lock()
	key := text[:min(len(text), 40)]
	again := time.Since(o.problems[key]) < repeatAfter
	if !again {
		if len(o.problems) > 1000 {
			clear(o.problems)
		}
		o.problems[key] = time.Now()
	}
	o.mu.Unlock()
	if !again {
		o.line("problem: %s", text)
	}
}

// day begins to show the progress of the day.
func (o *output) day(bar bool, from, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.from, o.length = from, 24*time.Hour
	if !until.IsZero() {
		o.length = until.Sub(from)
	}
	if !bar || o.w == nil {
		return
	}
	o.bars = mpb.New(mpb.WithOutput(o.w), mpb.WithWidth(60), mpb.WithRefreshRate(250*time.Millisecond))
	o.bar = o.bars.AddBar(int64(o.length/time.Second),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.now.Format("02 Jan 15:04")
		})),
		mpb.AppendDecorators(decor.Percentage()),
	)
}

// progress shows where the day stands. Without an end, the bar begins again every day.
func (o *output) progress(now time.Time, _ float64) {
	o.mu.Lock()
	o.now = now
	bar, passed := o.bar, now.Sub(o.from)
	if o.length > 0 && passed > o.length {
		passed %= o.length
	}
	o.mu.Unlock()
	if bar != nil {
		bar.SetCurrent(min(int64(passed/time.Second), int64(o.length/time.Second)-1)) // never done: done bars end
	}
}

// hour tells how an hour stands, where there is no bar.
func (o *output) hour(format string, args ...any) {
	o.mu.Lock()
	silent := o.bars != nil
	o.mu.Unlock()
	if !silent {
		o.line(format, args...)
	}
}

func (o *output) close() {
	o.mu.Lock()
	bars, bar := o.bars, o.bar
	o.bars, o.bar = nil, nil
	o.mu.Unlock()
	if bars != nil {
		bar.Abort(false)
		bars.Wait()
	}
}
