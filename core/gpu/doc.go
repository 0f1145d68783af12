// Package gpu decides on which machine, and on which of its GPUs, a pod that
// wants pieces of GPUs runs, so that what stays idle stays useful.
//
// What is idle on a machine is judged by the [Mix] of demands the fleet serves:
//
//	fragment(machine) = Σ over the mix: count · idle milli that this demand cannot use there
//
// A demand can use nothing where it does not fit (processor, devices of one model)
// or asks for no GPU; elsewhere it can use every healthy device of a model it accepts
// with enough milli and enough memory left for it. A machine's devices may be of
// different models and sizes, a demand may ask for pieces of several, and a [Share]
// may name other demands that do as well, such as less of a faster model.
// [Fragmentation] (the published FGD) takes the spot where that sum grows least;
// [Neap] adds what that cannot see.
//
// [Fleet] holds the machines: [Fleet.Pick] asks its [Scorer] about every machine
// the demand fits and takes the highest score, the first machine among equals;
// [Fleet.Best] does so for alternatives and for the next best, and weighs what they
// cost. [Fleet.Place] and [Fleet.Remove] keep the books, [Fleet.Record] books what
// runs already, fit or not, and [Fleet.Set] and [Fleet.Add] follow machines that
// change. Sick devices keep what runs on them and are given nothing. Equal calls in
// equal order give equal answers. Books, scores and bounds are integers; only the
// search for prices is not, and those are rounded before use.
//
// [Bound] says what no placement could exceed, [Fewest] what none could do with less
// than. [Repack] plans moves that admit, empty or evacuate, each into a place that is
// free while the old one is still held; [Plan.Verify] proves a plan.
//
// Not here: making the moves, and where demands come from.
package gpu
