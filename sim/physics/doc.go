// Package physics is how simulated machines behave: how long a pod takes to
// start, how much CPU its load needs, who gets how much on a full machine, and
// what the users of a module feel.
//
//	start    = schedule + image pull + model load + readiness      [Start]
//	need     = base + requests/s · CPU per request ÷ rating        [Need]
//	grant    = weighted max-min share of the machine, ≤ limit      [Share]
//	response = wait in an M/M/c/K queue + service                  [Station.Serve]
//
// Everything is pure and in floating point: nothing here is money. Latency is
// an approximation with the right limits (no load: service time; saturation:
// the served part is capacity ÷ load and the rest fails), not a measurement.
//
// Not here: which pods there are and where (sim/world), when they come and go
// (sim/replay and the live fleet).
package physics
