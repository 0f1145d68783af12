package controller

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/neap-dev/neap/kube/controller/biller/billertest"
	"github.com/neap-dev/neap/kube/observe"
)

// answer is an API server that answers reads of some resources with a status.
func answer(t *testing.T, codes map[string]int) *rest.Config {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resource := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		w.Header().Set("Content-Type", "application/json")
		code, refused := codes[resource]
		if !refused {
			_, _ = w.Write([]byte(`{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[]}`))
			return
		}
		w.WriteHeader(code)
		reason := map[int]string{403: "Forbidden", 401: "Unauthorized", 404: "NotFound", 500: "InternalError"}[code]
		_, _ = w.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + reason + `","code":` + strconv.Itoa(code) + `,"message":"User \"system:serviceaccount:neap:c\" cannot list ` + resource + `"}`))
	}))
	t.Cleanup(srv.Close)
	return &rest.Config{Host: srv.URL}
}

func TestCheck(t *testing.T) {
	cases := map[string]struct {
		codes     map[string]int
		want      access
		wantErr   string
		wantWarns int
	}{
		"everything may be read": {want: access{replicaSets: true, jobs: true}},
		"pods may not be read": {
			codes:   map[string]int{"pods": 403},
			wantErr: `user "system:serviceaccount:neap:c" may not list pods`,
		},
		"ReplicaSets and Jobs may not be read": {
			codes: map[string]int{"replicasets": 403, "jobs": 403}, want: access{}, wantWarns: 2,
		},
		"the definitions are not installed": {
			codes:   map[string]int{"machinetypes": 404},
			wantErr: "does not know machinetypes.neap.dev; install Neap's definitions first",
		},
		"the credentials have expired": {
			codes:   map[string]int{"nodes": 401},
			wantErr: "does not accept the credentials",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			warned := 0
			got, err := check(t.Context(), answer(t, tc.codes), func(err error, lost string) {
				warned++
				var forbidden *observe.ForbiddenError
				if !errors.As(err, &forbidden) || lost == "" {
					t.Errorf("warned of %v, losing %q", err, lost)
				}
			})
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) || strings.Contains(err.Error(), "\n") {
					t.Errorf("got %v, want one sentence with %q", err, tc.wantErr)
				}
				return
			}
			if err != nil || got != tc.want || warned != tc.wantWarns {
				t.Errorf("got %+v, %v and %d warnings, want %+v and %d", got, err, warned, tc.want, tc.wantWarns)
			}
		})
	}
}

func TestAnUnreachableAPIServerIsNamed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	srv := httptest.NewServer(nil)
	host := srv.URL
	srv.Close() // nobody listens there now
	err := Run(ctx, Options{RESTConfig: &rest.Config{Host: host}, Store: &billertest.Memory{}})
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), host) {
		t.Errorf("got %v, want one sentence that names %s", err, host)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	for args, want := range map[string]string{
		"":                                    "--store is required",
		"--store d --grace 2h":                "--grace is 2h0m0s; give 0 to 30m",
		"--store d --log-format xml":          `--log-format is "xml"`,
		"--store d --listen here":             `--listen is "here"; give an address`,
		"--store d --kubeconfig none/at/all":  "there is no kubeconfig at none/at/all",
		"--store d --metrics-address nowhere": `--metrics-address is "nowhere"`,
	} {
		cmd := NewCommand(nil)
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("neap-controller %s: got %v, want %q", args, err, want)
		}
	}
}
