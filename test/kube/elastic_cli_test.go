package kube

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/cli"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// TestAPersonOverrulesAndTakesBack pins, floors, releases, pauses and changes the
// mode of a policy as the person on call does, against a real API server.
func TestAPersonOverrulesAndTakesBack(t *testing.T) {
	c, cfg := cluster(t)
	k := newClient(t, cfg)
	ns := clustertest.Namespace(t, c)
	t.Setenv("KUBECONFIG", c.Kubeconfig)
	neap := func(want int, args ...string) string {
		t.Helper()
		var out, problems bytes.Buffer
		if got := cli.Main(t.Context(), append([]string{"elastic"}, args...), &out, &problems); got != want {
			t.Fatalf("neap elastic %s: exit %d, want %d: %s%s", strings.Join(args, " "), got, want, out.String(), problems.String())
		}
		return out.String() + problems.String()
	}
	says := func(text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not in: %s", part, text)
			}
		}
	}
	at := ns + "/chat"
	says(neap(0, "-n", ns), "No ElasticPolicy")
	says(neap(1, "explain", at), "there is no ElasticPolicy "+at)
	says(neap(1, "pin", at, "3", "--reason", "x"), "there is no ElasticPolicy "+at)

	p := &v1alpha1.ElasticPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "chat"}, Spec: v1alpha1.ElasticPolicySpec{TargetRef: v1alpha1.TargetRef{Name: "chat"}, Max: 50}}
	if err := k.Create(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	get := func() *v1alpha1.ElasticPolicy {
		t.Helper()
		if err := k.Get(t.Context(), client.ObjectKeyFromObject(p), p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	says(neap(0, "-n", ns), at, "Preview")
	says(neap(0, "explain", at), "Nothing is decided yet")

	says(neap(2, "pin", at, "many", "--reason", "x"), `"many" is no number of replicas`)
	says(neap(2, "pin", at, "3"), "--reason is missing")
	says(neap(2, "pin", "chat", "3", "--reason", "x"), "write namespace/name")
	says(neap(2, "pin", at, "--reason", "x"), "needs a number of replicas")
	says(neap(2, "pin", at, "3", "--reason", "x", "--until", "tomorrow"), `--until is "tomorrow"`)
	says(neap(2, "pin", at, "3", "--reason", "x", "--until", "2020-01-01T00:00:00Z"), "which is past")

	says(neap(0, "floor", at, "40", "--reason", "exam week", "--until", "26h", "--by", "lin"), "floor 40 until", "mode Preview: it shows this and does not act")
	m := get().Spec.Manual
	if len(m) != 1 || m[0].Floor == nil || *m[0].Floor != 40 || m[0].By != "lin" || m[0].Until == nil || time.Until(m[0].Until.Time) < 25*time.Hour {
		t.Fatalf("manual %+v", m)
	}
	until := m[0].Until.UTC().Format(time.RFC3339)
	says(neap(0, "floor", at, "40", "--reason", "exam week", "--until", until, "--by", "lin"), "is as it was")
	neap(0, "floor", at, "45", "--reason", "more came", "--by", "lin")
	neap(0, "cap", at, "48", "--reason", "the database takes no more")
	if m = get().Spec.Manual; len(m) != 2 || *m[0].Floor != 45 || *m[1].Cap != 48 {
		t.Fatalf("manual %+v", m)
	}
	says(neap(1, "release", at, "--name", "pin"), `no manual entry "pin"`)
	says(neap(0, "release", at, "--name", "cap"), "released cap")
	says(neap(0, "release", at), "released floor")
	says(neap(0, "release", at), "nothing was pinned")
	if m = get().Spec.Manual; len(m) != 0 {
		t.Fatalf("manual %+v", m)
	}

	says(neap(0, "pause", at), "paused")
	says(neap(0, "pause", at), "paused already")
	if get().Annotations[v1alpha1.AnnotationPause] != "true" {
		t.Error("the policy is not paused")
	}
	says(neap(0, "resume", at), "decides again")
	says(neap(2, "mode", at, "Fast"), "Observe, Preview or Auto")
	says(neap(0, "mode", at, "auto"), "mode Auto, was Preview")
	if get().Spec.Mode != v1alpha1.ModeAuto {
		t.Errorf("mode %s", p.Spec.Mode)
	}
}
