package allinone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/logs"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"

	"github.com/neap-dev/neap/local/clusterdir"
)

const (
	// lockPatience is how long a start waits for a process on the same
	// directory that says it is stopping. Its own limit is stopPatience.
	lockPatience = 20 * time.Second
	// stopPatience is how long the components get to stop before the process
	// ends anyway. Nothing acknowledged is lost by that.
	stopPatience = 10 * time.Second
	// keptPortPatience is how long a start waits for its old port, which the
	// run before may still be giving up.
	keptPortPatience = time.Second
)

// Options say what to run.
type Options struct {
	Dir     string                  // the data directory; required
	Port    int                     // of the API server; 0 takes the last one if it is free, else a free one
	Report  func(clusterdir.Status) // told each step that is done; required
	Verbose int                     // klog's verbosity; 0 is enough to see what failed
	Now     func() time.Time        // the time on the wall, for certificates; nil: time.Now
}

// An Error is a start that failed, with its cause.
type Error struct {
	Cause clusterdir.Cause
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives errors.Is the error below.
func (e *Error) Unwrap() error { return e.Err }

// Run runs the control plane until ctx ends, then stops it in order. It
// returns nil for a stop that was asked for. It may be called once in the life
// of a process: the components register themselves in globals.
func Run(ctx context.Context, o Options) error {
	began := time.Now()
	if os.Getenv("GOGC") == "" {
		// A burst of jobs is garbage, mostly: an eighth of the work was collecting it.
		debug.SetGCPercent(200)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	step := func(name string) {
		o.Report(clusterdir.Status{Step: name, Seconds: time.Since(began).Seconds()})
	}

	// 1. The directory, and the right to it.
	syscall.Umask(0o077) // sockets and etcd's files
	dir, err := clusterdir.Open(o.Dir)
	if err != nil {
		return classify(err)
	}
	lock, err := dir.Acquire(lockPatience)
	if err != nil {
		return classify(err)
	}
	defer lock.Release()
	go keepSmall(ctx, dir.Log("cluster"))
	if err := os.Chdir(string(dir)); err != nil { // a Unix socket's path may have 107 bytes
		return classify(fmt.Errorf("enter data directory: %w", err))
	}
	if err := dir.Prepare(o.Now()); err != nil {
		return classify(err)
	}

	// 2. The port, held from here on, and the kubeconfigs that name it.
	listener, err := listen(o.Port, dir.Ports().API)
	if err != nil {
		return err
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	if err := dir.SetPorts(clusterdir.Ports{API: port}); err != nil {
		return classify(err)
	}
	url := "https://127.0.0.1:" + strconv.Itoa(port)
	if err := dir.WriteKubeconfigs(url, o.Now()); err != nil {
		return classify(err)
	}

	// 3. One logging configuration for all components.
	logsapi.ReapplyHandling = logsapi.ReapplyHandlingIgnoreUnchanged
	logging := logs.NewOptions()
	logging.Verbosity = logsapi.VerbosityLevel(o.Verbose)
	if err := logsapi.ValidateAndApply(logging, nil); err != nil {
		return fmt.Errorf("set up logging: %w", err)
	}
	defer klog.Flush()

	// 4. etcd, then the API server, then the controllers. Each runs until its
	// own context ends, so that they stop in the other order.
	etcd, err := startEtcd(dir)
	if err != nil {
		return classify(err)
	}
	defer etcd.close()
	step("etcd")

	var running sync.WaitGroup
	failed := make(chan error, 3)
	apiCtx, stopAPI := context.WithCancel(context.Background())
	defer stopAPI()
	if err := runAPIServer(apiCtx, dir, listener, &running, failed); err != nil {
		return classify(err)
	}
	admin, err := clientcmd.BuildConfigFromFlags("", dir.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	err = await(ctx, admin, "/readyz", failed)
	if err == nil {
		step("kube-apiserver")
		kcmCtx, stopKCM := context.WithCancel(context.Background())
		defer stopKCM()
		if err = runControllerManager(kcmCtx, dir, &running, failed); err == nil {
			// The default service account is the first thing that the
			// controllers make and that pods cannot do without.
			err = await(ctx, admin, "/api/v1/namespaces/default/serviceaccounts/default", failed)
		}
		if err == nil {
			step("kube-controller-manager")
			o.Report(clusterdir.Status{Ready: true, URL: url, Seconds: time.Since(began).Seconds()})
			select {
			case <-ctx.Done():
			case err = <-failed:
			case err = <-etcd.failed():
			}
		}

		// 5. Stop in the other order, and not for ever.
		_ = lock.Stopping() // only shortens another start's message
		stopKCM()
	}
	if ctx.Err() != nil {
		err = nil // a stop that was asked for is no error, even half-way up
	}
	stopAPI()
	stopped := make(chan struct{})
	go func() {
		running.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(stopPatience):
		klog.Warning("components did not stop in time")
	}
	if err != nil {
		return classify(err)
	}
	return nil
}

// listen holds a loopback port: the one asked for, or the one of the last run
// if nobody took it, or any.
func listen(asked, last int) (net.Listener, error) {
	if asked < 0 || asked > 65535 {
		return nil, &Error{clusterdir.CausePort, fmt.Errorf("port %d is none: choose one from 1 to 65535, or 0 for a free one", asked)}
	}
	if asked != 0 {
		l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(asked))
		if err != nil {
			return nil, &Error{clusterdir.CausePort, fmt.Errorf(
				"port %d on 127.0.0.1 is taken by another program: stop it, or let a free port be chosen with port 0 (%w)", asked, err)}
		}
		return l, nil
	}
	if last != 0 {
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			l, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(last))
			if err == nil {
				return l, nil
			}
			if time.Since(began) > keptPortPatience {
				break
			}
		}
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, &Error{clusterdir.CausePort, fmt.Errorf("no port can be opened on 127.0.0.1: %w", err)}
	}
	return l, nil
}

// await asks the API server for path until it answers 200, a component fails,
// or ctx ends. Whoever waits on the outside has the timeout.
func await(ctx context.Context, admin *rest.Config, path string, failed <-chan error) error {
	tlsConfig, err := rest.TLSConfigFor(admin)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true},
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		res, err := client.Get(admin.Host + path)
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		var wrong *tls.CertificateVerificationError
		if errors.As(err, &wrong) {
			return fmt.Errorf("ask the API server whether it is ready: %w", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case <-tick.C:
		}
	}
}
