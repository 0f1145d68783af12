package bridge

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
	"sigs.k8s.io/yaml"

	"github.com/neap-dev/neap/api/v1alpha1"
)

const status = `
desired: 12
decidedAt: "2026-11-23T18:00:00Z"
forecast: {skilled: true, fittedAt: "2026-11-23T17:30:00Z"}
layers:
- {layer: manual, name: exam, floor: 9, until: "2026-11-23T19:00:00Z"}
- {layer: cron, name: night, cap: 3}
- {layer: timetable, floor: 8}
- {layer: reactive, floor: 12}
- {layer: forecast, floor: 7}
- {layer: bounds, floor: 1, cap: 100}
`

func TestExternalMetrics(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 1, 0, 0, time.UTC)
	cases := map[string]struct {
		metric, selector string
		status           func(string) string
		now              time.Time
		want             string // value, "none" or a part of the error
	}{
		"the forecast":                         {metric: Forecast, want: "7"},
		"a forecast without skill asks for 0":  {metric: Forecast, status: func(s string) string { return strings.Replace(s, "skilled: true", "skilled: false", 1) }, want: "0"},
		"a forecast of yesterday asks for 0":   {metric: Forecast, now: now.AddDate(0, 0, 1), want: "0"},
		"no forecast asks for 0":               {metric: Forecast, status: func(string) string { return "desired: 1" }, want: "0"},
		"the floor is that of all who foresee": {metric: Floor, want: "9"},
		"what is over is no floor":             {metric: Floor, now: now.Add(time.Hour), want: "8"},
		"the desired number":                   {metric: Desired, want: "12"},
		"nothing is decided yet":               {metric: Desired, status: func(string) string { return "desired: 0" }, want: "none"},
		"metrics are gone":                     {metric: Desired, status: func(s string) string { return s + "conditions: [{type: MetricsFresh, status: \"False\"}]" }, want: "none"},
		"a policy that is not there":           {metric: Forecast, selector: "policy=caht", want: "no ElasticPolicy in namespace live matches"},
		"a metric that is not there":           {metric: "neap_elastic_forcast", want: "not found"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			text := status
			if tc.status != nil {
				text = tc.status(text)
			}
			p := &v1alpha1.ElasticPolicy{}
			p.Namespace, p.Name = "live", "chat"
			if err := yaml.UnmarshalStrict([]byte(text), &p.Status); err != nil {
				t.Fatal(err)
			}
			elsewhere := p.DeepCopy()
			elsewhere.Namespace = "test"
			if tc.now.IsZero() {
				tc.now = now
			}
			b := New(reader(t, p, elsewhere), clocktesting.NewFakePassiveClock(tc.now))
			if tc.selector == "" {
				tc.selector = "policy=chat"
			}
			selector, err := labels.Parse(tc.selector)
			if err != nil {
				t.Fatal(err)
			}
			list, err := b.GetExternalMetric(t.Context(), "live", selector, provider.ExternalMetricInfo{Metric: tc.metric})
			switch {
			case err != nil:
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
			case len(list.Items) == 0:
				if tc.want != "none" {
					t.Errorf("got none, want %s", tc.want)
				}
			case len(list.Items) > 1 || list.Items[0].Value.String() != tc.want || list.Items[0].MetricLabels["policy"] != "chat":
				t.Errorf("got %+v, want %s", list.Items, tc.want)
			}
		})
	}
}

func reader(t *testing.T, objs ...client.Object) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objs...).Build()
}

func TestOptionsAreChecked(t *testing.T) {
	for args, want := range map[string]string{
		"--port 0":                 "--port is 0; give 1 to 65535",
		"--tls-cert-file a.crt":    "--tls-cert-file and --tls-key-file go together",
		"--kubeconfig none/at/all": "reach the API server",
	} {
		cmd := NewCommand()
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("neap-bridge %s: got %v, want %q", args, err, want)
		}
	}
}
