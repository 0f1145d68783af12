// Package replay plays a scenario as a discrete-event simulation: the same
// scenario, physics, placement and bill as the live fleet, without an API
// server, a day in seconds.
//
//	what should be   sim/scenario.Desired, at every change; core/elastic and
//	                 core/forecast, every minute, for modules with a policy
//	where it runs    core/place, pool by pool in the module's order; core/gpu, for
//	                 pods that need pieces of GPUs
//	what it does     sim/physics and sim/world, minute by minute
//	what it costs    core/bill, hour by hour
//
// [Run] plays a day; [Compare] plays it reserved, scheduled and with its policies.
// Equal scenarios give equal results, byte by byte. A policy's forecast learns
// from the days before the scenario's start, which are as simulated as the day
// itself ([Before]); it sees a minute's load when the minute is over, and replicas
// that it asks for then take as long to start as any.
// Everything in a [Result] is simulated and says so.
package replay
