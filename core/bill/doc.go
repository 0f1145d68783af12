// Package bill says where every unit of the money went, and why a bill changed.
//
// # Closing an hour
//
// [Close] takes what was observed of one hour ([Hour]: machines, pods, their
// request steps, their use) and a price book, and returns [Facts]. On every
// machine and slice of time between two changes, a pod's share of resource r is
//
//	c_i = m_i · min(1, Cap/Σm)   with m_i = max(request_i, use_i)
//
// It equals OpenCost's rule wherever that one is right (Σm ≤ Cap), never makes
// negative idle, and conserves: the shares and the rest add up to the machine.
// A share has two parts, what was used and what was reserved on top of it
// (request slack). The rest of the machine falls into exactly one [Box] each.
// So, in nano-units and with ==,
//
//	bill = Σ used + Σ idle boxes        idle boxes include request slack
//
// "Allocated" in every report is Σ used; what a module is charged for directly
// is used + slack; what it costs fully loaded adds its share of the other boxes.
//
// Every share of a slice is split by integers (money.Split), so that all of it
// holds to the last unit however the amounts change within the hour.
//
// # Adding up
//
// [Rollup] turns facts into a [Window] of integers by module, namespace, pool
// and type; [Merge] adds windows up. [Summarise] reports facts and
// [SummariseWindow] roll-ups; a grouping by label needs the facts.
//
// # Explaining a change
//
// The fully loaded cost of a module and resource is Q·k·r·f·π: load, need,
// slack, match, price. [Explain] splits the change between two windows over the
// factors by Shapley's value: order-free, residual 0.
//
// # Observing
//
// A [Journal] turns events, such as a watch gives, into the exact lifetimes and
// request steps of an hour. [FromCounter], [FromGauge], [AddReadings] and
// [MergeSamples] turn readings of metrics into what pods used, gaps staying gaps,
// and [AttachUsage] joins the two.
//
// Not here: where observations come from (kube/, sim/), where facts are kept
// (store/), currencies (core/machine).
package bill
