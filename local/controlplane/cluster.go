package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/neap-dev/neap/local/clusterdir"
	"github.com/neap-dev/neap/local/process"
)

// Errors that a caller may branch on; the message says what to do.
var (
	ErrInUse   = clusterdir.ErrInUse
	ErrMissing = process.ErrMissing
	ErrPort    = errors.New("port is taken")
	ErrDisk    = errors.New("disk is full")
	ErrCorrupt = errors.New("cluster state is corrupt")
)

const (
	// startPatience covers a machine many times slower than a 2-core laptop.
	startPatience = 5 * time.Minute
	stopPatience  = 20 * time.Second
	// nearlyFull is less space, in bytes, than etcd's next write may need.
	nearlyFull = 16 << 20
)

// Options say what to start.
type Options struct {
	Dir    string // data directory; required; made if missing, private
	BinDir string // where neap-cluster and neap-scheduler are; [FindBin] if empty
	Port   int    // of the API server on 127.0.0.1; 0 keeps the last or chooses

	// Log is told each step as it is done. Nil: nobody is.
	Log func(format string, args ...any)
}

// A Cluster is a control plane that runs. Stop must be called.
type Cluster struct {
	Dir        clusterdir.Dir
	Kubeconfig string        // path of the administrator's kubeconfig
	URL        string        // of the API server
	ReadyIn    time.Duration // from the call of Start to pods can be created

	bin  string
	log  func(format string, args ...any)
	main *process.Process

	mu        sync.Mutex
	scheduler *process.Process
	// schedulerPort is where it was last told to listen.
	schedulerPort int
	reported      clusterdir.Status // neap-cluster's last word that was an error
}

// Start starts a control plane and waits until pods can be created, or ctx
// ends. The data of an earlier run is picked up; certificates that have
// expired are renewed.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	began := time.Now()
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	dir, err := clusterdir.Open(o.Dir)
	if err != nil {
		return nil, err
	}
	bin, err := o.binary("neap-cluster")
	if err != nil {
		return nil, err
	}

	c := &Cluster{Dir: dir, Kubeconfig: dir.Kubeconfig(), bin: filepath.Dir(bin), log: o.Log}
	ready := make(chan clusterdir.Status, 1)
	c.main, err = process.Start(process.Options{
		Path:    bin,
		Args:    []string{"--dir", string(dir), "--port", strconv.Itoa(o.Port), "--stop-with-stdin"},
		LogFile: dir.Log("cluster"),
		Line: func(line string) {
			var s clusterdir.Status
			if json.Unmarshal([]byte(line), &s) != nil {
				return // not ours
			}
			switch {
			case s.Ready:
				ready <- s
			case s.Error != "":
				c.mu.Lock()
				c.reported = s
				c.mu.Unlock()
			case s.Step != "":
				o.Log("%s is up after %.1f s", s.Step, s.Seconds)
			}
		},
	})
	if err != nil {
		return nil, err
	}

	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	select {
	case s := <-ready:
		c.URL = s.URL
	case <-c.main.Done():
		return nil, c.Err()
	case <-ctx.Done():
		stopCtx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		err := fmt.Errorf("start control plane: %w (its log: %s)", ctx.Err(), dir.Log("cluster"))
		return nil, errors.Join(err, c.main.Stop(stopCtx))
	}
	if err := c.grantOwn(ctx); err != nil {
		stopCtx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		return nil, errors.Join(err, c.Stop(stopCtx))
	}
	c.ReadyIn = time.Since(began)
	return c, nil
}

// FindBin is the folder with the binaries: NEAP_BIN if set, else the folder of
// the running program, else the nearest folder "bin" at or above the working
// directory that has neap-cluster in it.
func FindBin() (string, error) {
	if dir := os.Getenv("NEAP_BIN"); dir != "" {
		return dir, nil
	}
	var candidates []string
	if exe, err := os.Executable(); err == nil {
		candidates = append(candidates, filepath.Dir(exe))
	}
	if wd, err := os.Getwd(); err == nil {
		for dir := wd; ; dir = filepath.Dir(dir) {
			candidates = append(candidates, filepath.Join(dir, "bin"))
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	for _, dir := range candidates {
		if _, err := os.Stat(filepath.Join(dir, "neap-cluster")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("the control plane is not built: run `make build`, or set NEAP_BIN to the folder of neap-cluster: %w", ErrMissing)
}

func (o Options) binary(name string) (string, error) {
	dir := o.BinDir
	if dir == "" {
		var err error
		if dir, err = FindBin(); err != nil {
			return "", err
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s is not built: there is no %s: run `make build`: %w", name, path, ErrMissing)
	}
	return path, nil
}

// PID is the process id of neap-cluster.
func (c *Cluster) PID() int { return c.main.PID() }

// SchedulerPID is the process id of the scheduler; 0 if none was started.
func (c *Cluster) SchedulerPID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scheduler == nil {
		return 0
	}
	return c.scheduler.PID()
}

// PIDs are the process ids of neap-cluster and, once it was started, of the
// scheduler.
func (c *Cluster) PIDs() []int {
	pids := []int{c.main.PID()}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scheduler != nil {
		pids = append(pids, c.scheduler.PID())
	}
	return pids
}

// Done is closed when the control plane has ended, asked or not.
func (c *Cluster) Done() <-chan struct{} { return c.main.Done() }

// Err says in one sentence why the control plane ended by itself. It is nil
// while it runs and after a stop that was asked for.
func (c *Cluster) Err() error {
	select {
	case <-c.main.Done():
	default:
		return nil
	}
	exit := c.main.Err()
	c.mu.Lock()
	reported := c.reported
	c.mu.Unlock()
	if exit == nil && reported.Error == "" {
		return nil
	}
	if reported.Error == "" {
		// It died without a word: a panic, or a signal. The log may say why,
		// unless the disk that it is on is what was full.
		reported.Cause, reported.Error = clusterdir.Explain(strings.Join(c.main.LogTail(1000), "\n"))
		if free, err := c.Dir.Free(); reported.Error == "" && err == nil && free < nearlyFull {
			reported.Cause, reported.Error = clusterdir.CauseDisk, clusterdir.DiskFull
		}
		if reported.Error == "" {
			reported.Error = fmt.Sprintf("neap-cluster ended (%v): its log is %s; start again, nothing acknowledged is lost", exit, c.Dir.Log("cluster"))
		}
	}
	return &failure{reported.Error, causes[reported.Cause]}
}

var causes = map[clusterdir.Cause]error{
	clusterdir.CauseInUse:   ErrInUse,
	clusterdir.CausePort:    ErrPort,
	clusterdir.CauseDisk:    ErrDisk,
	clusterdir.CauseCorrupt: ErrCorrupt,
}

type failure struct {
	sentence string
	cause    error // nil: none of the known
}

func (f *failure) Error() string { return f.sentence }
func (f *failure) Unwrap() error { return f.cause }

// RESTConfig speaks as the administrator. The caller may change it.
func (c *Cluster) RESTConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", c.Kubeconfig, err)
	}
	cfg.QPS, cfg.Burst = 500, 1000
	return cfg, nil
}

// ConfigFor speaks as any user, with a client certificate made for the
// occasion. The caller may change it.
func (c *Cluster) ConfigFor(user string, groups ...string) (*rest.Config, error) {
	return c.Dir.RESTConfig(user, groups...)
}

// ConfigOf speaks as one of [clusterdir.Identities], by its name, such as
// "fleet" or "controller".
func (c *Cluster) ConfigOf(identity string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.Dir.Identity(identity))
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig of %s: %w", identity, err)
	}
	return cfg, nil
}

// Stop stops the scheduler, then the control plane, and waits for both. When
// ctx ends first they are killed; nothing acknowledged is lost by that.
// Stopping twice does nothing.
func (c *Cluster) Stop(ctx context.Context) error {
	var errs []error
	c.mu.Lock()
	scheduler := c.scheduler
	c.mu.Unlock()
	if scheduler != nil {
		errs = append(errs, scheduler.Stop(ctx))
	}
	return errors.Join(append(errs, c.main.Stop(ctx))...)
}

// Kill ends everything at once, as a power cut would.
func (c *Cluster) Kill() {
	c.mu.Lock()
	scheduler := c.scheduler
	c.mu.Unlock()
	if scheduler != nil {
		scheduler.Kill()
	}
	c.main.Kill()
}

// ResidentMiB is the memory of neap-cluster that is in RAM now, in MiB.
func (c *Cluster) ResidentMiB() (float64, error) { return residentMiB(c.main.PID()) }

func residentMiB(pid int) (float64, error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0, fmt.Errorf("read memory of process %d: %w", pid, err)
			}
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("read memory of process %d: no VmRSS in %s: %w", pid, path, syscall.ENOENT)
}
