// Package server answers the dashboard: a read-only HTTP API over the closed
// hours, the metrics and what runs now, and the page itself.
//
// [New] is the whole of it. Every answer under /api/v1/ is JSON; an error is
// {"error": "one sentence"}; a figure of money is an integer of nano-units, and
// comes with the state of the guards of the same window, for cost is never
// shown without quality. /api/v1/events is a stream of server-sent events.
//
// The server changes nothing, asks nothing of the network, and answers only to
// the host names it was told, which keeps other sites' scripts out.
//
// Not here: how a bill is closed or explained (core/bill), where hours are kept
// (store), how the page looks (ui).
package server
