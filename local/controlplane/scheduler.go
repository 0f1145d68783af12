package controlplane

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/local/clusterdir"
	"github.com/neap-dev/neap/local/process"
)

// schedulerConfig is the KubeSchedulerConfiguration of the local cluster. The
// back-offs are short because a simulated day may pass in minutes: a pod that
// waits ten seconds on the wall would wait hours of that day.
const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: %q
  qps: 2000
  burst: 4000
leaderElection:
  leaderElect: false
parallelism: 8
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 2
enableProfiling: false
profiles:
- schedulerName: default-scheduler
  plugins:
    # The pool of an ElasticPolicy, and another machine for a pod with GPUs, are
    # looked for before preemption; pods are bound with their deletion cost and
    # their GPUs.
    postFilter:
      enabled:
      - name: ElasticFit
      - name: GPUFit
      - name: GPUClaims
    bind:
      enabled:
      - name: ElasticFit
      - name: GPUFit
    multiPoint:
      enabled:
      - name: ElasticFit
      # Which GPUs a pod gets nobody else decides.
      - name: GPUFit
        weight: 100
      # Kubernetes' own plugin for claims, that sees of Neap's GPUs what GPUFit chose.
      - name: GPUClaims
        weight: 2
      # Online pods go where the foreseen peak is lowest, batch pods where most is lent.
      - name: ColocateFit
        weight: 3
      - name: PoolOrder
        weight: 2
      # The pools that a pod prefers, in its order, come before everything else.
      - name: NodeAffinity
        weight: 20
      disabled:
      - name: DynamicResources
# Kubernetes' own plugins and nothing else, to compare with.
- schedulerName: ` + StockScheduler + `
`

// StockScheduler is the schedulerName of pods that want Kubernetes' own scheduling.
const StockScheduler = "stock-scheduler"

// StartScheduler starts neap-scheduler as system:kube-scheduler and waits
// until it schedules. It ends with the cluster, or before, on its own; then
// the returned channel is closed and pods stay pending until it is started
// again.
func (c *Cluster) StartScheduler(ctx context.Context) (<-chan struct{}, error) {
	bin, err := Options{BinDir: c.bin}.binary("neap-scheduler")
	if err != nil {
		return nil, err
	}
	config := c.Dir.File("scheduler.yaml")
	if err := clusterdir.WriteFile(config, fmt.Appendf(nil, schedulerConfig, c.Dir.Identity("scheduler"))); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	// Another program may take the port between our look and the scheduler's
	// start. A second coincidence is no coincidence.
	const tries = 3
	for try := 1; ; try++ {
		p, err := c.trySchedulerOnce(ctx, bin, config)
		if err == nil {
			c.mu.Lock()
			c.scheduler = p
			c.mu.Unlock()
			return p.Done(), nil
		}
		if try == tries || !errors.Is(err, ErrPort) {
			return nil, err
		}
	}
}

func (c *Cluster) trySchedulerOnce(ctx context.Context, bin, config string) (*process.Process, error) {
	began := time.Now()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	logFile := c.Dir.Log("scheduler")
	c.mu.Lock()
	c.schedulerPort = port
	c.mu.Unlock()
	p, err := process.Start(process.Options{
		Path: bin,
		Args: []string{
			"--config=" + config,
			"--authentication-kubeconfig=" + c.Dir.Identity("scheduler"),
			"--authorization-kubeconfig=" + c.Dir.Identity("scheduler"),
			"--bind-address=127.0.0.1",
			"--secure-port=" + strconv.Itoa(port),
			"--tls-cert-file=" + c.Dir.PKI("scheduler.crt"),
			"--tls-private-key-file=" + c.Dir.PKI("scheduler.key"),
		},
		Env:     []string{process.StopWithStdin + "=1"},
		Dir:     filepath.Dir(logFile),
		LogFile: logFile,
	})
	if err != nil {
		return nil, err
	}
	if err := c.awaitScheduler(ctx, p, "https://127.0.0.1:"+strconv.Itoa(port)+"/readyz"); err != nil {
		stopCtx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		return nil, errors.Join(err, p.Stop(stopCtx))
	}
	c.log("kube-scheduler is up after %.1f s", time.Since(began).Seconds())
	return p, nil
}

func (c *Cluster) awaitScheduler(ctx context.Context, p *process.Process, url string) error {
	ca, err := c.Dir.ServerCA()
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{
		Timeout:   5 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	}
	defer client.CloseIdleConnections()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		// The health paths answer everybody; nothing else on this port does.
		if res, err := client.Get(url); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.Done():
			tail := strings.Join(p.LogTail(30), "\n")
			if strings.Contains(tail, "address already in use") {
				return fmt.Errorf("start scheduler: %w", ErrPort)
			}
			return fmt.Errorf("start scheduler: it ended (%v): its log is %s", p.Err(), c.Dir.Log("scheduler"))
		case <-ctx.Done():
			return fmt.Errorf("start scheduler: %w (its log: %s)", ctx.Err(), c.Dir.Log("scheduler"))
		case <-tick.C:
		}
	}
}

// SchedulerMetrics returns what the scheduler says of itself, in Prometheus' text.
func (c *Cluster) SchedulerMetrics(ctx context.Context) (string, error) {
	cfg, err := c.RESTConfig()
	if err != nil {
		return "", err
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return "", fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	c.mu.Lock()
	url := "https://127.0.0.1:" + strconv.Itoa(c.schedulerPort) + "/metrics"
	c.mu.Unlock()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", res.Status)
	}
	if err != nil {
		return "", fmt.Errorf("read the scheduler's metrics: %w", err)
	}
	return string(text), nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("no port can be opened on 127.0.0.1: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
