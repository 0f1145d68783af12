// Package bridge serves what ElasticPolicies foresee as external metrics
// (external.metrics.k8s.io), for those who keep their HorizontalPodAutoscaler:
//
//	neap_elastic_forecast   replicas that the forecast asks for; 0 says nothing
//	neap_elastic_floor      replicas that people, the clock, the classes and the forecast ask for
//	neap_elastic_desired    replicas that the arbiter would have
//
// An HPA takes one as External metric of type AverageValue "1" with the selector
// policy=NAME, beside its own metrics: the largest counts, so that it has the
// forecast as its floor. The ElasticPolicy stays in mode Preview, for the HPA owns
// the replicas.
//
// A forecast without skill, or that nobody has renewed for hours, asks for 0: it
// must not keep the HPA from scaling in. A desired number that is not known is no
// metric, so that the HPA holds.
//
// Where to enter: [Run], or [New] for the provider alone. A cluster has one server
// of external metrics: beside KEDA's or the Prometheus adapter's, ask those for
// neap_elastic_replicas{layer="forecast"} instead.
package bridge
