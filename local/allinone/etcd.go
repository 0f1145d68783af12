package allinone

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/neap-dev/neap/local/clusterdir"
)

const (
	// Relative paths: Run has entered the directory.
	clientSocket = "unix://etcd.sock"
	peerSocket   = "unix://etcd-peer.sock" // there are no peers; etcd insists
	// etcd wants what it advertises to look like host and port.
	advertised = ":0"
)

type etcd struct{ server *embed.Etcd }

// startEtcd starts etcd and waits until it serves. What etcd calls fatal ends
// the process with a sentence, not with its stack.
func startEtcd(dir clusterdir.Dir) (_ *etcd, err error) {
	logger := etcdLogger()
	client, peer := mustURL(clientSocket), mustURL(peerSocket)
	cfg := embed.NewConfig()
	cfg.Name = "neap"
	cfg.Dir = dir.Etcd()
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{mustURL(clientSocket + advertised)}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{mustURL(peerSocket + advertised)}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(logger)
	cfg.EnableGRPCGateway = false
	cfg.StrictReconfigCheck = false

	cfg.WarningUnaryRequestDuration = time.Second // zero would warn of every request

	// A member alone elects itself; nobody's heartbeat can be late.
	cfg.TickMs, cfg.ElectionMs = 50, 250
	// Thousands of pods at 600 times real speed write a lot in little time.
	cfg.QuotaBackendBytes = 4 << 30
	cfg.SnapshotCount = 50_000
	cfg.MaxWalFiles = 3
	// kube-apiserver compacts; keep it from stalling writes while it does.
	cfg.CompactionBatchLimit = 1000
	cfg.CompactionSleepInterval = 10 * time.Millisecond

	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("start etcd: %v", r)
		}
	}()
	if err := checkLog(dir.Etcd(), logger); err != nil {
		return nil, err
	}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	select {
	case <-server.Server.ReadyNotify():
		return &etcd{server}, nil
	case err := <-server.Err():
		return nil, fmt.Errorf("start etcd: %w", err)
	case <-server.Server.StopNotify():
		return nil, fmt.Errorf("start etcd: it stopped at once")
	}
}

// checkLog reads etcd's write-ahead log, because etcd mends one that it cannot
// read by cutting it, at the start if need be, and then fails for another
// reason. A log from which not even its first record comes is not ours to cut.
func checkLog(dir string, logger *zap.Logger) error {
	path := filepath.Join(dir, "member", "wal")
	if !wal.Exist(path) {
		return nil // a first start
	}
	snaps, err := wal.ValidSnapshotEntries(logger, path)
	if err != nil {
		return fmt.Errorf("failed to read WAL %s: %w", path, err)
	}
	if len(snaps) == 0 { // every whole log begins with one
		return fmt.Errorf("failed to read WAL %s: it has no valid beginning", path)
	}
	return nil
}

// close stops etcd. What it acknowledged is on the disk already.
func (e *etcd) close() { e.server.Close() }

// failed delivers an error if etcd ends by itself.
func (e *etcd) failed() <-chan error { return e.server.Err() }

// etcdLogger writes warnings and worse to standard error, which is the log.
func etcdLogger() *zap.Logger {
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(enc), zapcore.Lock(os.Stderr), zapcore.WarnLevel)
	return zap.New(core, zap.WithFatalHook(zapcore.WriteThenPanic)).Named("etcd")
}

func mustURL(s string) url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return *u
}
