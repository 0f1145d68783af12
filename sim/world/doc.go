// Package world is the state of a simulated fleet under load: given the pods,
// where they are and since when they are ready, and how many requests a second
// each module is asked, [World.Step] says what every pod used, and what the
// users of every module felt.
//
//	load of a pod = load of the module ÷ its ready pods
//	use           = weighted max-min share of the machine (sim/physics)
//	response      = queue at the pod's narrowest place (sim/physics)
//
// The live fleet (local/) and the replay (sim/replay) step the same World. It is
// deterministic: the same calls give the same numbers, bit by bit.
//
// Not here: which pods there are, when they start (sim/physics.Start), time.
package world
