//go:build !linux

package probe

import "github.com/neap-dev/neap/core/colocate"

// kernel has nothing to ask where there is no Linux.
func kernel(*colocate.Probe) {}
