// Package hardware tries the sharing of GPUs on a machine that has one: what is
// found, and two programs that compute side by side under the limits, beside one
// alone. It is built with the tag hardware only; `make hardware` runs it, and says
// what it lacks.
package hardware
