package metrics_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/metrics"
	"github.com/neap-dev/neap/metrics/metricstest"
)

func remote(t *testing.T, url string, opts metrics.RemoteOptions) *metrics.Remote {
	t.Helper()
	r, err := metrics.NewRemote(url, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRemoteIsASource(t *testing.T) {
	srv := httptest.NewServer(filled(t).Handler())
	defer srv.Close()
	metricstest.Run(t, remote(t, srv.URL, metrics.RemoteOptions{}))
}

func TestRemoteFaults(t *testing.T) {
	reply := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			fmt.Fprint(w, body)
		}
	}
	cases := map[string]struct {
		handler http.HandlerFunc
		opts    metrics.RemoteOptions
		want    []string
		wantIs  error
	}{
		"a server that does not answer": {
			func(_ http.ResponseWriter, r *http.Request) {
				// Until the body is read, the server does not notice that the client left.
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			},
			metrics.RemoteOptions{Timeout: 50 * time.Millisecond},
			[]string{"no answer within 50ms", "longer step"}, context.DeadlineExceeded},
		"a query that takes too long there": {
			reply(503, `{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}`),
			metrics.RemoteOptions{}, []string{"took longer there than allowed", "shorter window"}, context.DeadlineExceeded},
		"a server error":        {reply(500, "boom\nstack"), metrics.RemoteOptions{}, []string{"the server failed", "500", "try again"}, nil},
		"no access":             {reply(403, ""), metrics.RemoteOptions{}, []string{"access was denied", "bearer token"}, nil},
		"not signed in":         {reply(401, ""), metrics.RemoteOptions{}, []string{"access was denied", "bearer token"}, nil},
		"a wrong path":          {reply(404, "not found"), metrics.RemoteOptions{}, []string{"no Prometheus API", "path"}, nil},
		"a web page":            {reply(200, "<html>"), metrics.RemoteOptions{}, []string{"not that of a Prometheus", "address is right"}, nil},
		"an answer cut off":     {reply(200, `{"status":"success","data":{"resultType":"vec`), metrics.RemoteOptions{}, []string{"not that of a Prometheus"}, nil},
		"an answer too long":    {reply(200, strings.Repeat("x", 2000)), metrics.RemoteOptions{MaxBytes: 1000}, []string{"longer than allowed", "shorter window"}, nil},
		"an error of the query": {reply(422, `{"status":"error","errorType":"execution","error":"many-to-many matching not allowed"}`), metrics.RemoteOptions{}, []string{"many-to-many", "correct the query"}, nil},
		"a connection dropped": {
			func(w http.ResponseWriter, _ *http.Request) {
				c, _, err := w.(http.Hijacker).Hijack()
				if err == nil {
					_ = c.Close() // dropped on purpose
				}
			}, metrics.RemoteOptions{}, []string{"reachable"}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(tc.handler)
			defer srv.Close()
			url := strings.Replace(srv.URL, "http://", "http://reader:hunter2@", 1)
			_, err := remote(t, url, tc.opts).Instant(t.Context(), `sum(up)`, metricstest.Start)
			wantError(t, err, append(tc.want, `query "sum(up)"`, srv.URL)...)
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "reader")) {
				t.Errorf("error shows credentials: %v", err)
			}
			if tc.wantIs != nil && !errors.Is(err, tc.wantIs) {
				t.Errorf("error %v is not %v", err, tc.wantIs)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_, err = remote(t, "http://"+addr, metrics.RemoteOptions{}).Range(t.Context(), `up`, metricstest.Start, metricstest.Start.Add(time.Hour), time.Minute)
		wantError(t, err, addr, "cannot be reached", "connection refused")
	})
	t.Run("a host nobody knows", func(t *testing.T) {
		_, err := remote(t, "http://prometheus.invalid:9090", metrics.RemoteOptions{Timeout: 5 * time.Second}).Instant(t.Context(), `up`, metricstest.Start)
		wantError(t, err, "prometheus.invalid")
	})
	t.Run("warnings come with the series", func(t *testing.T) {
		srv := httptest.NewServer(reply(200, `{"status":"success","warnings":["store 3 did not answer"],"data":{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[1,"2"]}]}}`))
		defer srv.Close()
		got, err := remote(t, srv.URL, metrics.RemoteOptions{}).Instant(t.Context(), `up`, metricstest.Start)
		wantError(t, err, "store 3 did not answer", "may not be whole", "estimated")
		if !metrics.Partial(err) || len(got) != 1 || got[0].Points[0].V != 2 {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestNewRemote(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		url  string
		opts metrics.RemoteOptions
		want string
	}{
		"an address without a scheme":    {"prometheus:9090", metrics.RemoteOptions{}, "is not the address of a Prometheus"},
		"a control character":            {"http://u:hunter2@h\x7f/", metrics.RemoteOptions{}, "is not a URL"},
		"another protocol":               {"ftp://u:hunter2@h/", metrics.RemoteOptions{}, "is not the address of a Prometheus"},
		"a query in the address":         {"http://h/?token=hunter2", metrics.RemoteOptions{}, "leave it out"},
		"a missing file of certificates": {"https://h", metrics.RemoteOptions{CAFile: empty + "x"}, "read the certificates to trust"},
		"a file without certificates":    {"https://h", metrics.RemoteOptions{CAFile: empty}, "holds no certificate"},
		"a token and a user at once":     {"https://u:hunter2@h", metrics.RemoteOptions{BearerTokenFile: "f"}, "give one of them"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := metrics.NewRemote(tc.url, tc.opts)
			wantError(t, err, tc.want)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("error shows credentials: %v", err)
			}
		})
	}
}

func TestRemoteCredentials(t *testing.T) {
	e := filled(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	guarded := func(ok func(*http.Request) bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ok(r) {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			e.Handler().ServeHTTP(w, r)
		})
	}
	ask := func(r *metrics.Remote) error {
		_, err := r.Instant(t.Context(), `container_cpu_usage_seconds_total`, metricstest.Start)
		return err
	}
	t.Run("a bearer token is read anew each time", func(t *testing.T) {
		want := "one"
		srv := httptest.NewServer(guarded(func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer "+want }))
		defer srv.Close()
		r := remote(t, srv.URL, metrics.RemoteOptions{BearerTokenFile: write("token", "one\n")})
		if err := ask(r); err != nil {
			t.Fatal(err)
		}
		want = "two"
		wantError(t, ask(r), "access was denied")
		write("token", "two\n")
		if err := ask(r); err != nil {
			t.Fatal(err)
		}
		write("token", "")
		wantError(t, ask(r), "credentials cannot be used", "correct the file")
	})
	t.Run("user and password, from a file and from the address", func(t *testing.T) {
		srv := httptest.NewServer(guarded(func(r *http.Request) bool {
			u, p, _ := r.BasicAuth()
			return u == "reader" && p == "hunter2"
		}))
		defer srv.Close()
		if err := ask(remote(t, srv.URL, metrics.RemoteOptions{Username: "reader", PasswordFile: write("pw", "hunter2\n")})); err != nil {
			t.Error(err)
		}
		if err := ask(remote(t, strings.Replace(srv.URL, "//", "//reader:hunter2@", 1), metrics.RemoteOptions{})); err != nil {
			t.Error(err)
		}
		err := ask(remote(t, srv.URL, metrics.RemoteOptions{Username: "reader", PasswordFile: filepath.Join(dir, "nothing")}))
		wantError(t, err, "credentials cannot be used")
	})
	t.Run("credentials do not follow a redirect to another host", func(t *testing.T) {
		var leaked string
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked = r.Header.Get("Authorization") }))
		defer other.Close()
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}))
		defer srv.Close()
		r := remote(t, srv.URL, metrics.RemoteOptions{BearerTokenFile: write("token2", "secret")})
		if err := ask(r); err == nil {
			t.Error("an empty answer was taken")
		}
		if leaked != "" {
			t.Errorf("the other host was told %q", leaked)
		}
	})
	t.Run("a certificate of our own CA is trusted, another is named", func(t *testing.T) {
		srv := httptest.NewTLSServer(e.Handler())
		defer srv.Close()
		srv.Config.ErrorLog = nil
		ca := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})))
		if err := ask(remote(t, srv.URL, metrics.RemoteOptions{CAFile: ca})); err != nil {
			t.Error(err)
		}
		wantError(t, ask(remote(t, srv.URL, metrics.RemoteOptions{})), "certificate is not trusted", "give the CA")
	})
}
