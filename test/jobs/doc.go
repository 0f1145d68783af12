// Package jobs tries the job class and the other admission policies of the chart
// on a real control plane. It is tests only, with a cluster of its own: pools are
// cluster-wide, and the policies see those of every other test.
package jobs
