// Package scaler gives every workload that an ElasticPolicy names the number of
// replicas that it should have, every minute of the cluster's day.
//
//	observe   the target through its /scale, its pods, the load by PromQL, classes,
//	          days, pools, and whether the Module keeps its quality
//	decide    elastic.Decide and elastic.Spread (pure, in core), with what
//	          forecast.Fit learnt within the last hour
//	act       in mode Auto: one update of /scale, if the number is another one
//	record    a line in the ledger on a change, the policy's status, metrics
//
// A decision rests on what is declared and seen now. What is remembered between
// two (stabilisation, the forecast, start times) may be lost at any moment: it
// costs a stabilisation window, not another end. Where somebody else sets the
// replicas of the target, where a person paused it, or where metrics are gone,
// nothing is taken away, and a condition says so.
//
// Where to enter: [New], then [Scaler.Run]; [Scaler.Minute] is one minute.
//
// Not here: what is decided (core/elastic), what load will come (core/forecast),
// which pods leave and when they lose their traffic (kube/controller/leaver),
// where pods are bound (kube/scheduler/elasticfit).
package scaler
