package metrics

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/api"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// RemoteOptions say how to reach a Prometheus, or anything that speaks its HTTP
// API. The zero value asks without credentials.
type RemoteOptions struct {
	// Timeout bounds one query, the network included; 0 means 30 seconds.
	Timeout time.Duration
	// BearerTokenFile holds a token; it is read anew for every query, for tokens
	// are rotated.
	BearerTokenFile string
	// Username and PasswordFile are for basic authentication. Credentials inside
	// the URL do the same.
	Username     string
	PasswordFile string
	// CAFile holds the certificates to trust instead of the system's, in PEM.
	CAFile string
	// MaxBytes bounds one answer; 0 means 512 MiB.
	MaxBytes int64
}

// Remote asks a Prometheus over HTTP. It never writes, and it sends its
// credentials to no other host than the one it was given.
type Remote struct {
	shown   string // the URL without credentials, for messages
	timeout time.Duration
	api     v1.API
}

// NewRemote returns a [Source] that asks the Prometheus at base, such as
// "http://prometheus.monitoring:9090". It does not connect yet.
func NewRemote(base string, opts RemoteOptions) (*Remote, error) {
	u, err := url.Parse(base)
	if err != nil {
		// The text of err would hold the URL and with it a password.
		return nil, errors.New("the address of Prometheus is not a URL; give one such as http://127.0.0.1:9090")
	}
	user := u.User
	u.User = nil
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("%q is not the address of a Prometheus; give a URL such as http://127.0.0.1:9090", u)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("the address of Prometheus %s://%s%s has a query or fragment; leave it out", u.Scheme, u.Host, u.Path)
	}
	if opts.Timeout == 0 {
		opts.Timeout = 30 * time.Second
	}
	if opts.MaxBytes == 0 {
		opts.MaxBytes = 512 << 20
	}
	if opts.BearerTokenFile != "" && (opts.Username != "" || user != nil) {
		return nil, fmt.Errorf("for Prometheus at %s both a bearer token and a user are given; give one of them", u)
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: min(10*time.Second, opts.Timeout)}).DialContext,
		TLSHandshakeTimeout:   min(10*time.Second, opts.Timeout),
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       time.Minute,
		ForceAttemptHTTP2:     true,
		ResponseHeaderTimeout: opts.Timeout,
	}
	if opts.CAFile != "" {
		pem, err := os.ReadFile(opts.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates to trust for %s: %w", u, err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM; give the CA that signed the certificate of %s", opts.CAFile, u)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	rt := &authTripper{next: t, host: u.Host, scheme: u.Scheme, user: user, opts: opts}
	c, err := api.NewClient(api.Config{Address: u.String(), RoundTripper: rt})
	if err != nil {
		return nil, fmt.Errorf("%s is not the address of a Prometheus: %w", u, err)
	}
	return &Remote{shown: u.String(), timeout: opts.Timeout, api: v1.NewAPI(c)}, nil
}

// authTripper adds credentials to requests that go to the host they are for,
// and bounds the answers.
type authTripper struct {
	next         http.RoundTripper
	scheme, host string
	user         *url.Userinfo
	opts         RemoteOptions
}

// errCredentials marks a credentials file that cannot be used.
var errCredentials = errors.New("credentials")

// RoundTrip implements [http.RoundTripper].
func (a *authTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host == a.host && r.URL.Scheme == a.scheme {
		r = r.Clone(r.Context())
		switch {
		case a.opts.BearerTokenFile != "":
			token, err := secret(a.opts.BearerTokenFile)
			if err != nil {
				return nil, err
			}
			r.Header.Set("Authorization", "Bearer "+token)
		case a.opts.Username != "":
			pass := ""
			if a.opts.PasswordFile != "" {
				var err error
				if pass, err = secret(a.opts.PasswordFile); err != nil {
					return nil, err
				}
			}
			r.SetBasicAuth(a.opts.Username, pass)
		case a.user != nil:
			pass, _ := a.user.Password()
			r.SetBasicAuth(a.user.Username(), pass)
		}
	}
	resp, err := a.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	resp.Body = &bounded{resp.Body, a.opts.MaxBytes}
	return resp, nil
}

func secret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errCredentials, err)
	}
	s := strings.TrimSpace(string(b))
	if s == "" || strings.ContainsAny(s, "\r\n") {
		return "", fmt.Errorf("%w: %s does not hold one line", errCredentials, path)
	}
	return s, nil
}

var errTooLong = errors.New("the answer is too long")

type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// Instant implements [Source].
func (r *Remote) Instant(ctx context.Context, query string, at time.Time) ([]Series, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	v, w, _, err := r.api.Query(ctx, query, at, v1.WithTimeout(r.timeout))
	return r.result(query, v, w, err)
}

// Range implements [Source].
func (r *Remote) Range(ctx context.Context, query string, from, to time.Time, step time.Duration) ([]Series, error) {
	if err := checkRange(r.shown, query, from, to, step); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	v, w, _, err := r.api.QueryRange(ctx, query, v1.Range{Start: from, End: to, Step: step}, v1.WithTimeout(r.timeout))
	return r.result(query, v, w, err)
}

func (r *Remote) result(query string, v model.Value, warnings v1.Warnings, err error) ([]Series, error) {
	if err != nil {
		return nil, r.explain(query, err)
	}
	var out []Series
	switch v := v.(type) {
	case model.Matrix:
		for _, s := range v {
			ps := make([]Point, len(s.Values))
			for i, p := range s.Values {
				ps[i] = Point{p.Timestamp.Time().UTC(), float64(p.Value)}
			}
			out = append(out, Series{Labels: labelMap(s.Metric), Points: ps})
		}
	case model.Vector:
		for _, s := range v {
			if s.Histogram == nil {
				out = append(out, Series{Labels: labelMap(s.Metric), Points: []Point{{s.Timestamp.Time().UTC(), float64(s.Value)}}})
			}
		}
	case *model.Scalar:
		out = []Series{{Labels: map[string]string{}, Points: []Point{{v.Timestamp.Time().UTC(), float64(v.Value)}}}}
	default:
		what := "nothing"
		if v != nil {
			what = "a " + v.Type().String()
		}
		return nil, &QueryError{Source: r.shown, Query: query, Reason: "it gives " + what, Advice: "ask for numbers"}
	}
	out = sortSeries(out)
	if len(warnings) > 0 {
		return out, &PartialError{Source: r.shown, Query: query, Warnings: warnings}
	}
	return out, nil
}

func labelMap(m model.Metric) map[string]string {
	out := make(map[string]string, len(m))
	for n, v := range m {
		out[string(n)] = string(v)
	}
	return out
}

// explain turns what the network and the library say into one sentence.
func (r *Remote) explain(query string, err error) error {
	q := &QueryError{Source: r.shown, Query: query, Err: err, Advice: "see whether that address is a Prometheus and reachable from here"}
	var apiErr *v1.Error
	var dns *net.DNSError
	var op *net.OpError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, errCredentials):
		q.Reason, q.Advice = "the credentials cannot be used ("+rootText(err)+")", "correct the file"
	case errors.Is(err, errTooLong):
		q.Reason, q.Advice = "the answer is longer than allowed", "ask for a shorter window or a longer step"
	case errors.As(err, &apiErr):
		// The library looks into the body of some status codes only.
		var body apiAnswer
		if json.Unmarshal([]byte(apiErr.Detail), &body) == nil && body.ErrorType != "" {
			apiErr = &v1.Error{Type: v1.ErrorType(body.ErrorType), Msg: body.Error}
		}
		q.Reason, q.Advice = apiReason(apiErr)
		if apiErr.Type == v1.ErrTimeout {
			q.Err = errors.Join(context.DeadlineExceeded, err)
		}
	case errors.Is(err, context.Canceled):
		q.Reason, q.Advice = "it was cancelled", "ask again"
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		q.Reason = fmt.Sprintf("no answer within %v", r.timeout)
		q.Advice = "see whether that Prometheus is overloaded, or ask for a shorter window or a longer step"
		q.Err = errors.Join(context.DeadlineExceeded, err)
	case errors.As(err, &cert):
		q.Reason = "its certificate is not trusted (" + oneLine(cert.Err).Error() + ")"
		q.Advice = "give the CA that signed it, or see whether it has expired"
	case errors.As(err, &record):
		q.Reason, q.Advice = "it does not speak TLS", "give an address that starts with http://"
	case errors.As(err, &dns):
		q.Reason = "the host " + dns.Name + " is not known"
	case errors.As(err, &op):
		q.Reason = "it cannot be reached (" + rootText(op) + ")"
	default:
		q.Reason = rootText(err)
	}
	return q
}

func isTimeout(err error) bool {
	var t net.Error
	return errors.As(err, &t) && t.Timeout()
}

// rootText is the innermost cause's text, which holds no URL.
func rootText(err error) string {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			break
		}
		err = next
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		if errs := j.Unwrap(); len(errs) > 0 {
			return rootText(errs[len(errs)-1])
		}
	}
	s := []rune(oneLine(err).Error())
	if len(s) > 200 {
		s = append(s[:199], '…')
	}
	return string(s)
}

func apiReason(e *v1.Error) (reason, advice string) {
	msg := rootText(errors.New(e.Msg))
	switch {
	case e.Type == v1.ErrBadData, e.Type == v1.ErrExec:
		return "it was refused (" + msg + ")", "correct the query"
	case strings.Contains(msg, "unexpected value type"):
		return "it does not give numbers", "ask for numbers"
	case e.Type == v1.ErrTimeout:
		return "it took longer there than allowed", "ask for a shorter window or a longer step"
	case strings.Contains(msg, "401"), strings.Contains(msg, "403"):
		return "access was denied (" + msg + ")", "give a bearer token or a user that may read metrics"
	case strings.Contains(msg, "404"):
		return "there is no Prometheus API (" + msg + ")", "see whether the address needs a path, such as /prometheus"
	case e.Type == v1.ErrBadResponse:
		return "the answer is not that of a Prometheus (" + msg + ")", "see whether the address is right and nothing in between rewrites answers"
	case e.Type == v1.ErrServer:
		return "the server failed (" + msg + ")", "see its log, or try again later"
	}
	return msg, "see whether the address is right"
}
