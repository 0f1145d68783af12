// Package replay plays a scenario as a discrete-event simulation: the same
// scenario, physics, placement and bill as the live fleet, without an API
// server, a day in seconds.
//
//	what should be   sim/scenario.Desired, at every change
//	where it runs    core/place, pool by pool in the module's order
//	what it does     sim/physics and sim/world, minute by minute
//	what it costs    core/bill, hour by hour
//
// [Run] is the whole package. Equal scenarios give equal results, byte by byte.
// Everything in a [Result] is simulated and says so.
package replay
