package clusterdir

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const url = "https://127.0.0.1:6443"

func prepared(t *testing.T, now time.Time) Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "cluster"))
	if err != nil {
		t.Fatal(err)
	}
	prepare(t, d, now)
	return d
}

func prepare(t *testing.T, d Dir, now time.Time) {
	t.Helper()
	if err := d.Prepare(now); err != nil {
		t.Fatal(err)
	}
	if err := d.WriteKubeconfigs(url, now); err != nil {
		t.Fatal(err)
	}
}

// contents are all files of the directory but the lock.
func contents(t *testing.T, d Dir) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		rel, _ := filepath.Rel(string(d), path)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// check fails unless every certificate is right at a time: the server's by its
// authority, each kubeconfig's by the clients'.
func check(t *testing.T, d Dir, now time.Time) {
	t.Helper()
	pool := func(name string) *x509.CertPool {
		b, err := os.ReadFile(d.PKI(name + ".crt"))
		if err != nil {
			t.Fatal(err)
		}
		p := x509.NewCertPool()
		p.AppendCertsFromPEM(b)
		return p
	}
	server, err := d.readPair("apiserver")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.cert.Verify(x509.VerifyOptions{Roots: pool("server-ca"), CurrentTime: now, DNSName: "127.0.0.1"}); err != nil {
		t.Errorf("serving certificate: %v", err)
	}
	for _, id := range Identities {
		path := d.Identity(id.Name)
		if id.Name == "" {
			path = d.Kubeconfig()
		}
		c, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(c.CertData)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if cert.Subject.CommonName != id.User {
			t.Errorf("%s speaks as %q", path, cert.Subject.CommonName)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool("client-ca"), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("certificate of %s: %v", id.User, err)
		}
	}
}

func TestPrepare(t *testing.T) {
	t.Run("a first start makes everything", func(t *testing.T) {
		check(t, prepared(t, noon), noon)
	})
	t.Run("the next start changes nothing", func(t *testing.T) {
		d := prepared(t, noon)
		before := contents(t, d)
		prepare(t, d, noon.Add(24*time.Hour))
		for name, want := range before {
			if got := contents(t, d)[name]; got != want {
				t.Errorf("%s was made again", name)
			}
		}
	})
	t.Run("certificates that have expired are renewed, authorities stay", func(t *testing.T) {
		d := prepared(t, noon)
		before := contents(t, d)
		later := noon.AddDate(2, 0, 0)
		prepare(t, d, later)
		check(t, d, later)
		for _, name := range []string{"pki/client-ca.crt", "pki/server-ca.crt", "pki/service-account.key"} {
			if contents(t, d)[name] != before[name] {
				t.Errorf("%s was made again", name)
			}
		}
	})
	t.Run("an authority that has expired takes its certificates along", func(t *testing.T) {
		d := prepared(t, noon)
		later := noon.AddDate(11, 0, 0)
		prepare(t, d, later)
		check(t, d, later)
	})
	t.Run("a clock that steps back for years gets certificates of its own time", func(t *testing.T) {
		d := prepared(t, noon)
		earlier := noon.AddDate(-3, 0, 0)
		prepare(t, d, earlier)
		check(t, d, earlier)
	})
	t.Run("a crash between a key and its certificate is mended", func(t *testing.T) {
		for _, name := range []string{"client-ca", "server-ca", "apiserver"} {
			d, other := prepared(t, noon), prepared(t, noon)
			key, err := os.ReadFile(other.PKI(name + ".key"))
			if err != nil {
				t.Fatal(err)
			}
			if err := WriteFile(d.PKI(name+".key"), key); err != nil {
				t.Fatal(err)
			}
			prepare(t, d, noon)
			check(t, d, noon)
		}
	})
	t.Run("an authority that cannot be read is named, with what to do", func(t *testing.T) {
		d := prepared(t, noon)
		if err := WriteFile(d.PKI("client-ca.crt"), []byte("nonsense")); err != nil {
			t.Fatal(err)
		}
		err := d.Prepare(noon)
		if err == nil || !strings.Contains(err.Error(), "client-ca.crt") || !strings.Contains(err.Error(), "move ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("another address rewrites the kubeconfigs", func(t *testing.T) {
		d := prepared(t, noon)
		const moved = "https://127.0.0.1:7443"
		if err := d.WriteKubeconfigs(moved, noon); err != nil {
			t.Fatal(err)
		}
		c, err := clientcmd.BuildConfigFromFlags("", d.Kubeconfig())
		if err != nil || c.Host != moved {
			t.Errorf("got %v, %v", c, err)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Run("what others could read is made private", func(t *testing.T) {
		path := t.TempDir()
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
	})
	t.Run("a file where the directory belongs is named", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no path is an error and not the working directory", func(t *testing.T) {
		if _, err := Open(""); err == nil {
			t.Error("got none")
		}
	})
}

func TestAcquire(t *testing.T) {
	d := prepared(t, noon)
	held, err := d.Acquire(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Acquire(0); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), string(d)) {
		t.Errorf("got %v, want ErrInUse that names the directory", err)
	}
	if err := held.Stopping(); err != nil {
		t.Fatal(err)
	}
	next := make(chan error, 1)
	go func() {
		l, err := d.Acquire(time.Minute)
		if err == nil {
			err = l.Release()
		}
		next <- err
	}()
	if err := held.Release(); err != nil {
		t.Fatal(err)
	}
	if err := <-next; err != nil {
		t.Errorf("a start that waits for one that stops: %v", err)
	}
}

func TestPorts(t *testing.T) {
	d := prepared(t, noon)
	if got := d.Ports(); got != (Ports{}) {
		t.Errorf("before the first run: %v", got)
	}
	if err := d.SetPorts(Ports{API: 6443}); err != nil {
		t.Fatal(err)
	}
	if got := d.Ports(); got.API != 6443 {
		t.Errorf("got %v", got)
	}
	if err := WriteFile(d.in("ports.json"), []byte("{")); err != nil {
		t.Fatal(err)
	}
	if got := d.Ports(); got != (Ports{}) {
		t.Errorf("a torn file: %v", got)
	}
}

func TestExplain(t *testing.T) {
	cases := map[string]struct {
		text string
		want Cause
	}{
		"a disk without space":            {"panic: write /data/etcd/member/snap/db: no space left on device", CauseDisk},
		"a log whose checksum is wrong":   {"walpb: crc mismatch", CauseCorrupt},
		"a database that is none":         {"failed to open database: invalid database", CauseCorrupt},
		"whatever else stays as it is":    {"context deadline exceeded", CauseOther},
		"nothing at all explains nothing": {"", CauseOther},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cause, sentence := Explain(tc.text)
			if cause != tc.want || (sentence == "") != (tc.want == CauseOther) {
				t.Errorf("got %q, %q", cause, sentence)
			}
		})
	}
}
