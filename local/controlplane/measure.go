package controlplane

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A Measurement is one start of a control plane.
type Measurement struct {
	Start          string  `json:"start"`          // "first", "again" after a stop, "again after kill -9"
	ReadySeconds   float64 `json:"readySeconds"`   // from nothing running to pods can be created
	ResidentMiB    float64 `json:"residentMiB"`    // the most in RAM over Settle after that; 0 if not looked at
	StopSeconds    float64 `json:"stopSeconds"`    // from being asked to gone; 0 for kill -9
	Acknowledged   int     `json:"acknowledged"`   // writes acknowledged before kill -9
	Lost           int     `json:"lost"`           // of these, gone at the next start
	WritesASecond  float64 `json:"writesASecond"`  // acknowledged, each synced to the disk, from eight clients
	SchedulerReady float64 `json:"schedulerReady"` // seconds for the scheduler beside it; 0 if not started
}

// MeasureOptions say how to measure; the zero value is fit for a bench.
type MeasureOptions struct {
	BinDir string
	Settle time.Duration // how long memory is looked at; 0: 10 s
	Writes int           // before the kill; 0: 2000
	Log    func(format string, args ...any)
}

// Measure starts a control plane in an empty directory, looks at its memory
// with nothing in it, stops it, starts it again, kills it in the midst of
// writes, and starts it once more to see whether one that was acknowledged is
// gone. It returns one row a start, and those it has on an error.
func Measure(ctx context.Context, o MeasureOptions) (rows []Measurement, err error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Settle == 0 {
		o.Settle = 10 * time.Second
	}
	if o.Writes == 0 {
		o.Writes = 2000
	}
	dir, err := os.MkdirTemp("", "neap-bench-local-")
	if err != nil {
		return nil, fmt.Errorf("measure control plane: %w", err)
	}
	defer os.RemoveAll(dir)
	start := Options{Dir: dir, BinDir: o.BinDir}

	// 1. From nothing, and what it takes to sit there.
	o.Log("starting a control plane with nothing in it")
	c, err := Start(ctx, start)
	if err != nil {
		return rows, err
	}
	first := Measurement{Start: "first", ReadySeconds: c.ReadyIn.Seconds()}
	o.Log("ready in %.1f s; looking at its memory for %v", first.ReadySeconds, o.Settle)
	first.ResidentMiB, err = peak(ctx, c, o.Settle)
	if err == nil {
		began := time.Now()
		if _, err = c.StartScheduler(ctx); err == nil {
			first.SchedulerReady = time.Since(began).Seconds()
		}
	}
	first.StopSeconds, err = timedStop(c, err)
	rows = append(rows, first)
	if err != nil {
		return rows, err
	}

	// 2. Again, and the plug pulled in the midst of writes.
	o.Log("starting it again, and killing it in the midst of %d writes", o.Writes)
	c, err = Start(ctx, start)
	if err != nil {
		return rows, err
	}
	again := Measurement{Start: "again", ReadySeconds: c.ReadyIn.Seconds()}
	acked, seconds, err := writeAndKill(ctx, c, o.Writes)
	if err != nil {
		return append(rows, again), err
	}
	again.Acknowledged, again.WritesASecond = len(acked), float64(len(acked))/seconds
	rows = append(rows, again)

	// 3. Once more: is everything there?
	c, err = Start(ctx, start)
	if err != nil {
		return rows, err
	}
	last := Measurement{Start: "again after kill -9", ReadySeconds: c.ReadyIn.Seconds(), Acknowledged: len(acked)}
	last.Lost, err = lost(ctx, c, acked)
	last.StopSeconds, err = timedStop(c, err)
	o.Log("%d writes were acknowledged before the kill, %d are gone", len(acked), last.Lost)
	return append(rows, last), err
}

func peak(ctx context.Context, c *Cluster, settle time.Duration) (most float64, err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	end := time.After(settle)
	for {
		mib, err := c.ResidentMiB()
		if err != nil {
			return most, err
		}
		most = max(most, mib)
		select {
		case <-ctx.Done():
			return most, ctx.Err()
		case <-end:
			return most, nil
		case <-tick.C:
		}
	}
}

func timedStop(c *Cluster, earlier error) (seconds float64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	began := time.Now()
	err = c.Stop(ctx)
	return time.Since(began).Seconds(), errors.Join(earlier, err)
}

const writtenIn = "default"

// writeAndKill writes from eight clients until enough is acknowledged, then
// kills the control plane while they go on.
func writeAndKill(ctx context.Context, c *Cluster, enough int) (acked map[string]bool, seconds float64, err error) {
	cfg, err := c.RESTConfig()
	if err != nil {
		c.Kill()
		return nil, 0, err
	}
	cfg.QPS = -1 // no limit of the client's own
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		c.Kill()
		return nil, 0, fmt.Errorf("measure control plane: %w", err)
	}
	const clients = 8
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		reached = make(chan struct{})
		broken  error
	)
	acked = map[string]bool{}
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	for n := range clients {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("written-%d-%d", n, i)
				_, err := client.CoreV1().ConfigMaps(writtenIn).Create(writing, &corev1.ConfigMap{
					ObjectMeta: metav1.ObjectMeta{Name: name},
					Data:       map[string]string{"written": name},
				}, metav1.CreateOptions{})
				mu.Lock()
				if err != nil {
					if len(acked) < enough {
						broken = err // before the kill
						cancel()
					}
					mu.Unlock()
					return
				}
				acked[name] = true
				if len(acked) == enough {
					seconds = time.Since(began).Seconds()
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-reached:
	case <-writing.Done():
	}
	c.Kill()
	wg.Wait()
	if broken != nil {
		return acked, seconds, fmt.Errorf("measure control plane: write: %w", broken)
	}
	return acked, seconds, ctx.Err()
}

func lost(ctx context.Context, c *Cluster, acked map[string]bool) (int, error) {
	cfg, err := c.RESTConfig()
	if err != nil {
		return 0, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return 0, fmt.Errorf("measure control plane: %w", err)
	}
	list, err := client.CoreV1().ConfigMaps(writtenIn).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("measure control plane: %w", err)
	}
	n := len(acked)
	for _, cm := range list.Items {
		if acked[cm.Name] {
			n--
		}
	}
	return n, nil
}
