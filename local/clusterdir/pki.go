package clusterdir

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"slices"
	"time"
)

const (
	authorityLife   = 10 * 365 * 24 * time.Hour
	certificateLife = 365 * 24 * time.Hour
	// renewBefore is longer than any cluster is left running on a laptop, and
	// certificates are looked at on every start.
	renewBefore = 60 * 24 * time.Hour
)

// An Identity is who a kubeconfig speaks as. Kubernetes reads User and Groups
// from the client certificate.
type Identity struct {
	Name   string // of the file in identities/; empty: the administrator
	User   string
	Groups []string
}

// Identities are the kubeconfigs that every cluster has. Only the
// administrator is in system:masters.
var Identities = []Identity{
	{User: "neap-admin", Groups: []string{"system:masters"}},
	{Name: "controller-manager", User: "system:kube-controller-manager"},
	{Name: "scheduler", User: "system:kube-scheduler"},
	{Name: "controller", User: "neap-controller", Groups: []string{"neap:controllers"}},
	{Name: "fleet", User: "neap-fleet", Groups: []string{"neap:fleet"}},
	{Name: "player", User: "neap-player", Groups: []string{"neap:players"}},
	{Name: "observer", User: "neap-observer", Groups: []string{"neap:observers"}},
}

// Prepare makes what is missing and renews what has expired or soon will: the
// authorities (one for servers, one for clients), the API server's serving
// certificate, the key that signs service-account tokens. A renewed authority
// takes the certificates below it along. now is the time on the wall.
func (d Dir) Prepare(now time.Time) error {
	server, fresh, err := d.authority("server-ca", now)
	if err != nil {
		return err
	}
	if fresh || !d.valid("apiserver", now) {
		if err := d.issue(server, "apiserver", now, &x509.Certificate{
			Subject:     pkix.Name{CommonName: "kube-apiserver"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:    []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)},
		}); err != nil {
			return err
		}
	}
	if fresh || !d.valid("scheduler", now) {
		if err := d.issue(server, "scheduler", now, &x509.Certificate{
			Subject:     pkix.Name{CommonName: "kube-scheduler"},
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames:    []string{"localhost"},
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}); err != nil {
			return err
		}
	}
	if _, _, err := d.authority("client-ca", now); err != nil {
		return err
	}
	if !exists(d.PKI("service-account.key")) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return fmt.Errorf("make service-account key: %w", err)
		}
		return writeKey(d.PKI("service-account.key"), key)
	}
	return nil
}

// ClientCertificate signs a client certificate, and returns it with its key
// as PEM. The caller must be allowed to read the directory, and that is all
// the authority there is: RBAC decides what the identity may do.
func (d Dir) ClientCertificate(user string, groups []string, now time.Time) (cert, key []byte, err error) {
	ca, err := d.readPair("client-ca")
	if err != nil {
		return nil, nil, err
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", user, err)
	}
	der, err := sign(ca, &k.PublicKey, now, &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: slices.Clone(groups)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", user, err)
	}
	keyPEM, err := encodeKey(k)
	if err != nil {
		return nil, nil, err
	}
	return encodeCert(der), keyPEM, nil
}

// ServerCA is the certificate, as PEM, by which clients know the servers.
func (d Dir) ServerCA() ([]byte, error) {
	b, err := os.ReadFile(d.PKI("server-ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("read server authority: %w", err)
	}
	return b, nil
}

// errMismatch is what a crash between the writing of a key and of its
// certificate leaves.
var errMismatch = errors.New("it does not belong to its key")

type pair struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// authority reads an authority or makes it; fresh says that it was made.
func (d Dir) authority(name string, now time.Time) (ca pair, fresh bool, err error) {
	if exists(d.PKI(name + ".crt")) {
		switch ca, err := d.readPair(name); {
		case errors.Is(err, errMismatch): // a crash between two writes: begin again
		case err != nil:
			return pair{}, false, err
		case current(ca.cert, now):
			return ca, false, nil
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, false, fmt.Errorf("make key of %s: %w", name, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return pair{}, false, fmt.Errorf("make serial of %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "neap " + name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return pair{}, false, fmt.Errorf("sign %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return pair{}, false, fmt.Errorf("read back %s: %w", name, err)
	}
	// The key first: a certificate without its key could not be mended.
	if err := writeKey(d.PKI(name+".key"), key); err != nil {
		return pair{}, false, err
	}
	if err := WriteFile(d.PKI(name+".crt"), encodeCert(der)); err != nil {
		return pair{}, false, err
	}
	return pair{cert, key}, true, nil
}

func (d Dir) valid(name string, now time.Time) bool {
	p, err := d.readPair(name)
	return err == nil && current(p.cert, now)
}

// current says that a certificate is valid now and for a while longer.
func current(cert *x509.Certificate, now time.Time) bool {
	return now.After(cert.NotBefore) && now.Add(renewBefore).Before(cert.NotAfter)
}

func (d Dir) issue(ca pair, name string, now time.Time, template *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key of %s: %w", name, err)
	}
	der, err := sign(ca, &key.PublicKey, now, template)
	if err != nil {
		return fmt.Errorf("sign %s: %w", name, err)
	}
	if err := writeKey(d.PKI(name+".key"), key); err != nil {
		return err
	}
	return WriteFile(d.PKI(name+".crt"), encodeCert(der))
}

func sign(ca pair, public crypto.PublicKey, now time.Time, template *x509.Certificate) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore = now.Add(-time.Hour) // a clock that steps back a little
	template.NotAfter = now.Add(certificateLife)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	return x509.CreateCertificate(rand.Reader, template, ca.cert, public, ca.key)
}

func (d Dir) readPair(name string) (pair, error) {
	certPath, keyPath := d.PKI(name+".crt"), d.PKI(name+".key")
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return pair{}, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return pair{}, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return pair{}, fmt.Errorf("read certificate %s: not PEM: move %s away to have new certificates made", certPath, d.in("pki"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return pair{}, fmt.Errorf("read certificate %s: %w: move %s away to have new certificates made", certPath, err, d.in("pki"))
	}
	block, _ = pem.Decode(keyPEM)
	if block == nil {
		return pair{}, fmt.Errorf("read key %s: not PEM: move %s away to have new certificates made", keyPath, d.in("pki"))
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		return pair{}, fmt.Errorf("read key %s: %w: move %s away to have new certificates made", keyPath, err, d.in("pki"))
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return pair{}, fmt.Errorf("read certificate %s: %w", certPath, errMismatch)
	}
	return pair{cert, key}, nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	b, err := encodeKey(key)
	if err != nil {
		return err
	}
	return WriteFile(path, b)
}
