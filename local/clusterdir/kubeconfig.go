package clusterdir

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfigs writes the kubeconfig of every one of [Identities] for the
// API server at url. Those that are still right stay as they are.
func (d Dir) WriteKubeconfigs(url string, now time.Time) error {
	ca, err := d.ServerCA()
	if err != nil {
		return err
	}
	for _, id := range Identities {
		path := d.Kubeconfig()
		if id.Name != "" {
			path = d.Identity(id.Name)
		}
		if d.kubeconfigStands(path, url, ca, id, now) {
			continue
		}
		cert, key, err := d.ClientCertificate(id.User, id.Groups, now)
		if err != nil {
			return err
		}
		content, err := clientcmd.Write(clientcmdapi.Config{
			CurrentContext: "neap",
			Clusters:       map[string]*clientcmdapi.Cluster{"neap": {Server: url, CertificateAuthorityData: ca}},
			AuthInfos:      map[string]*clientcmdapi.AuthInfo{id.User: {ClientCertificateData: cert, ClientKeyData: key}},
			Contexts:       map[string]*clientcmdapi.Context{"neap": {Cluster: "neap", AuthInfo: id.User}},
		})
		if err != nil {
			return fmt.Errorf("encode kubeconfig of %s: %w", id.User, err)
		}
		if err := WriteFile(path, content); err != nil {
			return err
		}
	}
	return nil
}

// RESTConfig speaks as any user to the API server that the administrator's
// kubeconfig names, with a certificate signed for the occasion.
func (d Dir) RESTConfig(user string, groups ...string) (*rest.Config, error) {
	admin, err := clientcmd.BuildConfigFromFlags("", d.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", d.Kubeconfig(), err)
	}
	cert, key, err := d.ClientCertificate(user, groups, time.Now())
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: admin.Host,
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   admin.CAData,
			CertData: cert,
			KeyData:  key,
		},
	}, nil
}

func (d Dir) kubeconfigStands(path, url string, ca []byte, id Identity, now time.Time) bool {
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil || c.Host != url || !slices.Equal(c.CAData, ca) {
		return false
	}
	block, _ := pem.Decode(c.CertData)
	if block == nil {
		return false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || cert.Subject.CommonName != id.User || !current(cert, now) {
		return false
	}
	authority, err := d.readPair("client-ca")
	return err == nil && cert.CheckSignatureFrom(authority.cert) == nil && slices.Equal(cert.Subject.Organization, id.Groups)
}
