//go:build !linux

package cgroup

import "errors"

// Mount is where the cgroup filesystems are on a Linux machine.
const Mount = "/sys/fs/cgroup"

// Open opens the machine's cgroups; only Linux has them.
func Open(string) (*Tree, error) {
	return nil, errors.New("open cgroups: only Linux has them")
}
