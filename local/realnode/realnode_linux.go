package realnode

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/neap-dev/neap/local/clusterdir"
	"github.com/neap-dev/neap/local/process"
)

// Where everything is that a node makes on its machine.
const (
	runDir   = "/run/neap-node"
	stateDir = "/var/lib/neap-node"
	group    = "neap-node"
	link     = "neap-node0"

	// CgroupRoot is the cgroup, in every hierarchy, that the kubelet's cgroups are in.
	CgroupRoot = "/" + group
	// KubeletDir is the kubelet's folder.
	KubeletDir = stateDir + "/kubelet"

	// lock is a name that one process of the machine can have; no file.
	lock = "@neap-node"
	// devicePlugins is where every kubelet has its socket, wherever its folder is.
	devicePlugins = "/var/lib/kubelet/device-plugins"

	socket     = runDir + "/containerd.sock"
	pauseImage = "localhost/neap-pause:local"
)

const (
	startPatience = 3 * time.Minute
	stopPatience  = 30 * time.Second
)

// A Node is this machine as a node of a cluster. Stop must be called.
type Node struct {
	Name string

	o          Options
	held       net.Listener
	relay      *relay
	cri        *cri
	client     kubernetes.Interface
	containerd *kept
	kubelet    *kept
}

// Start makes this machine a node and waits until it is Ready, or ctx ends.
func Start(ctx context.Context, o Options) (*Node, error) {
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	if o.Name == "" {
		o.Name = DefaultName
	}
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()

	// 1. What must be there, and what must not.
	programs, err := look(o.BinDir)
	if err != nil {
		return nil, err
	}
	held, err := acquire()
	if err != nil {
		return nil, err
	}
	if err := sweep(); err != nil {
		held.Close()
		return nil, err
	}

	// 2. From here on there is something to take away.
	n := &Node{Name: o.Name, o: o, held: held}
	if err := n.start(ctx, programs); err != nil {
		return nil, errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
	}
	return n, nil
}

func (n *Node) start(ctx context.Context, programs programs) error {
	cfg, err := n.o.Cluster.RESTConfig()
	if err != nil {
		return err
	}
	if n.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("connect to the API server: %w", err)
	}
	for _, dir := range []string{runDir, stateDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the node's folder: %w", err)
		}
	}
	if err := remember(); err != nil {
		return err
	}
	if err := makeGroups(); err != nil {
		return err
	}
	network, err := makeNetwork()
	if err != nil {
		return err
	}
	if n.relay, err = serve(network, n.o.Cluster.URL); err != nil {
		return err
	}

	began := time.Now()
	if n.containerd, err = n.startContainerd(programs, network); err != nil {
		return err
	}
	if n.cri, err = dial(ctx, n.containerd); err != nil {
		return err
	}
	n.o.Log("containerd is up after %.1f s", time.Since(began).Seconds())
	if err := n.Import(ctx, Image{Name: pauseImage, Program: programs.pause}); err != nil {
		return err
	}

	began = time.Now()
	if n.kubelet, err = n.startKubelet(programs, network); err != nil {
		return err
	}
	if err := n.AwaitReady(ctx); err != nil {
		return err
	}
	n.o.Log("kubelet is up and the node %s is Ready after %.1f s", n.Name, time.Since(began).Seconds())
	return nil
}

// AwaitReady waits until the kubelet has said, after this call, that the node is Ready.
func (n *Node) AwaitReady(ctx context.Context) error {
	began := metav1.NewTime(time.Now().Truncate(time.Second).Add(time.Second)) // the API server knows seconds
	last := "it has not registered"
	for {
		node, err := n.client.CoreV1().Nodes().Get(ctx, n.Name, metav1.GetOptions{})
		if err == nil {
			for _, c := range node.Status.Conditions {
				if c.Type != corev1.NodeReady {
					continue
				}
				if c.Status == corev1.ConditionTrue && !c.LastHeartbeatTime.Before(&began) {
					return nil
				}
				last = c.Message
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the node %s is not Ready: %s (the kubelet's log: %s): %w", n.Name, last, n.o.Cluster.Dir.Log("kubelet"), ctx.Err())
		case err := <-n.kubelet.gaveUp:
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Failed gets an error when the kubelet or containerd ends again and again.
func (n *Node) Failed() <-chan error { return n.kubelet.gaveUp }

// KubeletPID is the process id of the kubelet that runs, and Restarts how often it
// was started again after it had ended.
func (n *Node) KubeletPID() (pid, restarts int) { return n.kubelet.now() }

// Stop ends every pod and takes away all that Start made. When ctx ends pods are no
// longer asked, but killed.
func (n *Node) Stop(ctx context.Context) error {
	if n.held == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	var errs []error
	if n.kubelet != nil {
		n.kubelet.stop(ctx)
		// Without its Node nobody waits for the pods' ends.
		if err := n.client.CoreV1().Nodes().Delete(ctx, n.Name, metav1.DeleteOptions{}); err != nil {
			n.o.Log("the node %s stays in the cluster: %v", n.Name, err)
		}
	}
	if n.cri != nil {
		if err := n.cri.removeAll(ctx); err != nil {
			n.o.Log("pods that did not end are killed: %v", err)
		}
		n.cri.close()
	}
	if n.containerd != nil {
		n.containerd.stop(ctx)
	}
	if n.relay != nil {
		n.relay.close()
	}
	errs = append(errs, sweep())
	errs = append(errs, n.held.Close())
	n.held = nil
	return errors.Join(errs...)
}

// Import makes an image known to the node's containerd.
func (n *Node) Import(ctx context.Context, image Image) error {
	f, err := os.CreateTemp(stateDir, "image-*.tar")
	if err != nil {
		return fmt.Errorf("import the image %s: %w", image.Name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := image.write(f, stateDir); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "ctr", "--address", socket, "--namespace", "k8s.io", "images", "import", f.Name()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("import the image %s: %w: %s", image.Name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// programs are paths of what a node runs.
type programs struct{ containerd, runc, plugins, kubelet, pause string }

// packages are Debian's, which have what a node needs.
const packages = "containerd runc containernetworking-plugins"

// Check says what is missing for this machine to be made a node, nil if nothing is.
func Check(binDir string) error {
	_, err := look(binDir)
	return err
}

// look finds what a node runs, or says all that is missing.
func look(binDir string) (programs, error) {
	var p programs
	if os.Geteuid() != 0 {
		return p, errors.New("to make this machine a node of the cluster takes root: a kubelet makes cgroups, mounts and network namespaces; use sudo, or leave --join-host out")
	}
	var missing []string
	for _, program := range []struct {
		name string
		path *string
	}{{"containerd", &p.containerd}, {"ctr", new(string)}, {"runc", &p.runc}} {
		found, err := exec.LookPath(program.name)
		if err != nil {
			missing = append(missing, program.name)
		}
		*program.path = found
	}
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"} {
		if _, err := os.Stat(filepath.Join(dir, "ptp")); err == nil {
			p.plugins = dir
			break
		}
	}
	if p.plugins == "" {
		missing = append(missing, "the CNI plugin ptp")
	}
	if len(missing) > 0 {
		return p, fmt.Errorf("this machine cannot be made a node: there is no %s; run `make node`, or on Debian or Ubuntu: apt-get install %s: %w",
			strings.Join(missing, ", no "), packages, ErrMissing)
	}
	for name, path := range map[string]*string{"neap-kubelet": &p.kubelet, "neap-pause": &p.pause} {
		*path = filepath.Join(binDir, name)
		if _, err := os.Stat(*path); err != nil {
			return p, fmt.Errorf("%s is not built: there is no %s: run `make node`: %w", name, *path, ErrMissing)
		}
	}
	return p, nil
}

// acquire makes sure that this machine is one node, and no other kubelet's. What it
// holds goes with the process that holds it.
func acquire() (net.Listener, error) {
	held, err := net.Listen("unix", lock)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("this machine is a node already, of a cluster that `neap up --join-host` runs: stop that one first: %w", ErrInUse)
	}
	if err != nil {
		return nil, fmt.Errorf("make this machine a node: %w", err)
	}
	if _, err := os.Stat(recordFile); err == nil {
		return held, nil // what answers below was ours, and is swept
	}
	if c, err := net.Dial("unix", devicePlugins+"/kubelet.sock"); err == nil {
		c.Close()
		held.Close()
		return nil, fmt.Errorf("this machine is a node already: a kubelet answers at %s/kubelet.sock, and a machine has one: %w", devicePlugins, ErrInUse)
	}
	return held, nil
}

// A kept is a program that is started again when it ends, as systemd would.
type kept struct {
	name   string
	start  func() (*process.Process, error)
	gaveUp chan error // at most one

	mu       sync.Mutex
	running  *process.Process
	restarts int
	stopping chan struct{}
	ended    chan struct{}
}

// quickEnds is how often in a row a program may end on its own within a minute of its
// start. Who is killed is started again, however often.
const quickEnds = 5

func keep(name string, start func() (*process.Process, error)) (*kept, error) {
	p, err := start()
	if err != nil {
		return nil, err
	}
	k := &kept{name: name, start: start, gaveUp: make(chan error, 1), running: p, stopping: make(chan struct{}), ended: make(chan struct{})}
	go k.watch(p)
	return k, nil
}

func (k *kept) watch(p *process.Process) {
	defer close(k.ended)
	quick := 0
	for {
		began := time.Now()
		select {
		case <-k.stopping:
			return
		case <-p.Done():
		}
		if time.Since(began) > time.Minute {
			quick = 0
		}
		var end *exec.ExitError
		if killed := errors.As(p.Err(), &end) && !end.Exited(); !killed {
			quick++
		}
		if quick > quickEnds {
			tail := strings.Join(p.LogTail(3), " / ")
			k.gaveUp <- fmt.Errorf("%s ends again and again (%v): %s", k.name, p.Err(), tail)
			return
		}
		select {
		case <-k.stopping:
			return
		case <-time.After(time.Second):
		}
		again, err := k.start()
		if err != nil {
			k.gaveUp <- err
			return
		}
		k.mu.Lock()
		k.running, p = again, again
		k.restarts++
		k.mu.Unlock()
	}
}

func (k *kept) now() (pid, restarts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.running.PID(), k.restarts
}

// stop ends the program for good; one that does not end in time is killed.
func (k *kept) stop(ctx context.Context) {
	close(k.stopping)
	<-k.ended
	k.mu.Lock()
	defer k.mu.Unlock()
	_ = k.running.Stop(ctx) // killed is ended as well
}

func (n *Node) startContainerd(p programs, on network) (*kept, error) {
	snapshotter := "overlayfs"
	if overlaid(stateDir) {
		snapshotter = "native" // an overlay does not lie on another
	}
	config := runDir + "/containerd.toml"
	if err := clusterdir.WriteFile(config, fmt.Appendf(nil, containerdConfig, p.plugins, snapshotter, p.runc)); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cniDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the node's folder: %w", err)
	}
	if err := clusterdir.WriteFile(cniDir+"/10-neap.conflist", on.cni()); err != nil {
		return nil, err
	}
	return keep("containerd", func() (*process.Process, error) {
		c, err := process.Start(process.Options{Path: p.containerd, Args: []string{"--config", config}, LogFile: n.o.Cluster.Dir.Log("containerd")})
		if err == nil {
			err = join(c.PID())
		}
		return c, err
	})
}

const cniDir = runDir + "/cni"

// containerdConfig is for containerd 1.6 and later. The machine may lack
// CAP_SYS_RESOURCE, so no container asks for a better OOM score than the kubelet's.
const containerdConfig = `version = 2
root = "` + stateDir + `/containerd"
state = "` + runDir + `/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "` + socket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + pauseImage + `"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = "` + cniDir + `"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = %q
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = %q
        Root = "` + runDir + `/runc"
        SystemdCgroup = false
`

func (n *Node) startKubelet(p programs, on network) (*kept, error) {
	dir := n.o.Cluster.Dir
	kubeconfig, err := n.kubeconfig()
	if err != nil {
		return nil, err
	}
	kubeconfigFile, config := runDir+"/kubelet.kubeconfig", runDir+"/kubelet.yaml"
	if err := errors.Join(
		clusterdir.WriteFile(kubeconfigFile, kubeconfig),
		clusterdir.WriteFile(config, fmt.Appendf(nil, kubeletConfig, dir.PKI("client-ca.crt"))),
	); err != nil {
		return nil, err
	}
	return keep("kubelet", func() (*process.Process, error) {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		k, err := process.Start(process.Options{
			Path: p.kubelet,
			Args: []string{
				"--config=" + config,
				"--kubeconfig=" + kubeconfigFile,
				"--root-dir=" + KubeletDir,
				"--cert-dir=" + KubeletDir + "/pki",
				"--hostname-override=" + n.Name,
				"--node-ip=" + on.node.String(),
				"--port=" + strconv.Itoa(port),
				"--node-labels=" + LabelReal + "=true",
				"--register-with-taints=" + LabelReal + "=true:NoSchedule",
				"--v=2",
			},
			Env:     []string{process.StopWithStdin + "=1"},
			LogFile: dir.Log("kubelet"),
		})
		if err == nil {
			err = join(k.PID())
		}
		return k, err
	})
}

// kubeconfig speaks as the node.
func (n *Node) kubeconfig() ([]byte, error) {
	user := "system:node:" + n.Name
	cfg, err := n.o.Cluster.ConfigFor(user, "system:nodes")
	if err != nil {
		return nil, err
	}
	content, err := clientcmd.Write(clientcmdapi.Config{
		CurrentContext: "neap",
		Clusters:       map[string]*clientcmdapi.Cluster{"neap": {Server: cfg.Host, CertificateAuthorityData: cfg.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificateData: cfg.CertData, ClientKeyData: cfg.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"neap": {Cluster: "neap", AuthInfo: user}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode the kubelet's kubeconfig: %w", err)
	}
	return content, nil
}

// kubeletConfig leaves alone what is the machine's: its iptables, its swap; and the
// disk, which is not the node's, is full only when it really is.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 127.0.0.1
readOnlyPort: 0
healthzPort: 0
authentication:
  anonymous: {enabled: false}
  x509: {clientCAFile: %q}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://` + socket + `
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: ` + CgroupRoot + `
podLogsDir: ` + stateDir + `/logs
volumePluginDir: ` + stateDir + `/volume-plugins
makeIPTablesUtilChains: false
failSwapOn: false
localStorageCapacityIsolation: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%, imagefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
nodeStatusUpdateFrequency: 5s
registerNode: true
`
