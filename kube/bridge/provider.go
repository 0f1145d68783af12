package bridge

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/metrics/pkg/apis/external_metrics"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/elastic"
)

// The metrics, in replicas.
const (
	Forecast = "neap_elastic_forecast"
	Floor    = "neap_elastic_floor"
	Desired  = "neap_elastic_desired"
)

// labelPolicy is the label by which a metric's selector finds a policy.
const labelPolicy = "policy"

// stale is how old a forecast may be: one is made every hour.
const stale = 3 * time.Hour

// A Provider answers from the statuses of ElasticPolicies.
type Provider struct {
	policies client.Reader
	clock    clock.PassiveClock
}

var _ provider.ExternalMetricsProvider = (*Provider)(nil)

// New returns a Provider that reads policies from a cache.
func New(policies client.Reader, now clock.PassiveClock) *Provider {
	return &Provider{policies, now}
}

// ListAllExternalMetrics implements provider.ExternalMetricsProvider.
func (p *Provider) ListAllExternalMetrics() []provider.ExternalMetricInfo {
	return []provider.ExternalMetricInfo{{Metric: Forecast}, {Metric: Floor}, {Metric: Desired}}
}

// GetExternalMetric implements provider.ExternalMetricsProvider.
func (p *Provider) GetExternalMetric(ctx context.Context, namespace string, selector labels.Selector, info provider.ExternalMetricInfo) (*external_metrics.ExternalMetricValueList, error) {
	if info.Metric != Forecast && info.Metric != Floor && info.Metric != Desired {
		return nil, apierrors.NewNotFound(external_metrics.Resource("externalmetrics"), info.Metric)
	}
	var all v1alpha1.ElasticPolicyList
	if err := p.policies.List(ctx, &all, client.InNamespace(namespace)); err != nil {
		return nil, err
	}
	now := p.clock.Now()
	out := &external_metrics.ExternalMetricValueList{}
	found := false
	for i := range all.Items {
		policy := &all.Items[i]
		set := labels.Set{labelPolicy: policy.Name}
		if !selector.Matches(set) {
			continue
		}
		found = true
		n, known := value(policy, info.Metric, now)
		if !known {
			continue
		}
		out.Items = append(out.Items, external_metrics.ExternalMetricValue{
			MetricName: info.Metric, MetricLabels: set, Timestamp: metav1.NewTime(now),
			Value: *resource.NewQuantity(int64(n), resource.DecimalSI),
		})
	}
	if !found {
		return nil, apierrors.NewNotFound(external_metrics.Resource("externalmetrics"),
			fmt.Sprintf("%s: no ElasticPolicy in namespace %s matches the selector %q; select one by policy=NAME", info.Metric, namespace, selector))
	}
	return out, nil
}

// value is what one policy says now.
func value(p *v1alpha1.ElasticPolicy, metric string, now time.Time) (n int, known bool) {
	if metric == Desired {
		// Without metrics, or before the first decision, it is what is there anyway.
		return int(p.Status.Desired), p.Status.DecidedAt != nil && !meta.IsStatusConditionFalse(p.Status.Conditions, v1alpha1.ConditionMetricsFresh)
	}
	for _, l := range p.Status.Layers {
		if l.Floor == nil {
			continue
		}
		switch elastic.Layer(l.Layer) {
		case elastic.LayerForecast:
			f := p.Status.Forecast
			if f == nil || !f.Skilled || f.FittedAt == nil || now.Sub(f.FittedAt.Time) > stale {
				continue
			}
		case elastic.LayerManual, elastic.LayerCron, elastic.LayerTimetable:
			if metric != Floor || l.Until != nil && now.After(l.Until.Time) {
				continue
			}
		default:
			continue
		}
		n = max(n, int(*l.Floor))
	}
	return n, true
}
