package observe

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// A Target says which cluster to read, as kubectl's flags do. The zero Target is
// the current context of the default kubeconfig, or the cluster one runs in.
type Target struct {
	Kubeconfig string // path; "" for $KUBECONFIG, then ~/.kube/config
	Context    string // "" for the current one
}

// ErrNoCluster says that no cluster is configured at all.
var ErrNoCluster = errors.New("no cluster is configured")

// Config returns how to reach the target, and its name for people. A client
// certificate that has expired is an error here already, for an API server's
// answer to it would not say so.
func Config(t Target, now time.Time) (cfg *rest.Config, name string, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = t.Kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: t.Context})
	where := t.Kubeconfig
	if where == "" {
		where = strings.Join(rules.GetLoadingPrecedence(), " or ")
	}

	raw, err := loader.RawConfig()
	if err != nil { // which does not wrap why a file cannot be read
		for _, path := range rules.GetLoadingPrecedence() {
			f, openErr := os.Open(path)
			if errors.Is(openErr, fs.ErrPermission) {
				where, err = path, openErr
				break
			}
			if openErr == nil {
				_ = f.Close() // it was only read
			}
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, "", fmt.Errorf("there is no kubeconfig at %s; give the right path with --kubeconfig", where)
	case errors.Is(err, fs.ErrPermission):
		return nil, "", fmt.Errorf("the kubeconfig %s may not be read by this user; change its permissions or give another with --kubeconfig", where)
	case err != nil:
		return nil, "", fmt.Errorf("the kubeconfig %s cannot be understood (%s); correct it or give another with --kubeconfig", where, cause(err))
	}
	name = raw.CurrentContext
	if t.Context != "" {
		name = t.Context
		if _, ok := raw.Contexts[name]; !ok {
			return nil, "", fmt.Errorf("the kubeconfig %s has no context %q; `kubectl config get-contexts` lists those it has", where, name)
		}
	}
	cfg, err = loader.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, "", fmt.Errorf("%w: %s names none; give a kubeconfig with --kubeconfig", ErrNoCluster, where)
	case err != nil:
		return nil, "", fmt.Errorf("the kubeconfig %s cannot be used (%s); correct it or give another with --kubeconfig", where, cause(err))
	}
	if name == "" {
		name = "the cluster this runs in"
	}
	if err := checkClientCertificate(cfg, where, now); err != nil {
		return nil, "", err
	}
	return cfg, name, nil
}

// checkClientCertificate refuses an expired client certificate.
func checkClientCertificate(cfg *rest.Config, where string, now time.Time) error {
	data := cfg.CertData
	if len(data) == 0 && cfg.CertFile != "" {
		var err error
		if data, err = os.ReadFile(cfg.CertFile); err != nil {
			return fmt.Errorf("the kubeconfig %s names a client certificate that cannot be read (%s); correct it", where, cause(err))
		}
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err == nil && now.After(cert.NotAfter) {
		return fmt.Errorf("the client certificate in the kubeconfig %s expired at %s; get a new kubeconfig from whoever runs the cluster",
			where, cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// A ForbiddenError says that reading something is not allowed, and which rule
// would allow it.
type ForbiddenError struct {
	User            string // "" if the API server did not say
	Group, Resource string
	Verb            string
	Server          string
}

// Error implements error in one sentence.
func (e *ForbiddenError) Error() string {
	user := "this user"
	if e.User != "" {
		user = fmt.Sprintf("user %q", e.User)
	}
	return fmt.Sprintf("%s may not %s %s at %s; add this rule to a ClusterRole bound to it: %s", user, e.Verb, e.Resource, e.Server, e.Rule())
}

// Rule is the RBAC rule that is missing, as YAML on one line.
func (e *ForbiddenError) Rule() string {
	return fmt.Sprintf(`{apiGroups: [%q], resources: [%q], verbs: [%q]}`, e.Group, e.Resource, e.Verb)
}

var userOf = regexp.MustCompile(`User "([^"]+)" cannot`)

// explain turns the failure of a read into one sentence: what, where, what to do.
func explain(err error, server, verb, group, resource string) error {
	var (
		op        *net.OpError
		dns       *net.DNSError
		invalid   x509.CertificateInvalidError
		unknownCA x509.UnknownAuthorityError
		hostname  x509.HostnameError
		alert     tls.AlertError
		record    tls.RecordHeaderError
		timeout   net.Error
		status    apierrors.APIStatus
	)
	at := "the API server at " + server
	switch {
	case apierrors.IsForbidden(err):
		f := &ForbiddenError{Group: group, Resource: resource, Verb: verb, Server: server}
		if m := userOf.FindStringSubmatch(err.Error()); m != nil {
			f.User = m[1]
		}
		return f
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%s does not accept the credentials; they may have expired: log in again or get a new kubeconfig", at)
	case apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsServerTimeout(err):
		return fmt.Errorf("%s is overloaded or not ready (%s); try again later", at, cause(err))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("the certificate of %s expired at %s; whoever runs the cluster must renew it", at, invalid.Cert.NotAfter.UTC().Format(time.RFC3339))
	case errors.As(err, &unknownCA):
		return fmt.Errorf("the certificate of %s is signed by an authority that the kubeconfig does not trust; get a new kubeconfig from whoever runs the cluster", at)
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return fmt.Errorf("the certificate of %s is not valid (%s); correct the address in the kubeconfig or renew the certificate", at, cause(err))
	case errors.As(err, &alert):
		return fmt.Errorf("%s refused the client certificate (%s); get a new kubeconfig from whoever runs the cluster", at, cause(err))
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Errorf("%s does not speak TLS; correct the address in the kubeconfig", at)
	case errors.As(err, &dns):
		return fmt.Errorf("the host of %s is not known; correct the address in the kubeconfig, or check the network", at)
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%s did not answer in time; see whether it is reachable from here, or allow more with --timeout", at)
	case errors.As(err, &op):
		return fmt.Errorf("%s cannot be reached (%s); see whether the cluster runs, or choose another with --context or --kubeconfig", at, cause(op))
	case errors.As(err, &status):
		return fmt.Errorf("%s could not %s %s (%s); see its log", at, verb, resource, cause(err))
	}
	return fmt.Errorf("read %s from %s: %s", resource, at, cause(err))
}

// cause is the innermost error's text, on one line and bounded.
func cause(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	text := []rune(strings.Join(strings.Fields(err.Error()), " "))
	if len(text) > 300 {
		text = append(text[:299], '…')
	}
	return string(text)
}
