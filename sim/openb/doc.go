// Package openb runs the openb GPU-sharing benchmark (Weng et al., "Beware of
// Fragmentation", USENIX ATC'23): the published traces, the published order of
// arrivals for a seed, the published policies and metrics.
//
// Pods arrive and never leave; one that does not fit is dropped. Levels are what
// has arrived in percent of all GPUs, rounded; a figure at a level is the mean over
// the arrivals in it. [Run] plays one trace, seed and policy; equal arguments give
// equal results but for the measured times. The data is not part of the repository.
package openb
