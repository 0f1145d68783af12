// Package scenario reads what a simulated day consists of: machines and their
// types, modules and their load, and what happens when.
//
// [Load] reads one YAML file and returns a [Scenario] whose every reference is
// resolved and whose every quantity is checked, or all errors at once, each as
// "file:line: field: what is wrong; what to do". The live fleet (local/) and
// the replay (sim/replay) play the same Scenario.
//
// Load curves come from the generator of sim/series, so that a scenario needs
// nothing beside it; with Options.SeriesDir they are read from real series.
//
// Not here: how machines behave (sim/physics), what is placed where (core/place).
package scenario
