// Package biller watches a cluster and closes its bill hour by hour.
//
//	observe   nodes, pods, owners, declared types, pools and modules  →  events
//	record    events into the store, before anything is done with them
//	decide    bill.Close of every hour that has ended (pure, in core)
//	record    the hour's facts into the store
//
// Lifetimes and requests come from watch events, never from samples; use comes
// from the metrics. What cannot be known is not guessed: use that was not
// measured counts as the request and is marked as estimated, a machine of a type
// that nobody declared is left out of the bill and named in a note, and both are
// tried again for a day.
//
// [Biller.Provisional] gives the facts of the hour that has not ended. Whoever
// shows the cluster now asks it; [Biller.Last] has the last closed hour.
//
// Not here: what a price is (core/machine), how an hour is closed (core/bill),
// how objects become events' values (kube/convert), statuses (modulestatus,
// poolstatus, typestatus).
package biller
