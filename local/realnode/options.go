package realnode

import (
	"errors"

	"github.com/neap-dev/neap/local/controlplane"
	"github.com/neap-dev/neap/local/process"
)

const (
	// DefaultName is the node's name unless told otherwise.
	DefaultName = "this-machine"
	// LabelReal is the label, of value "true", and the taint of the node: pods that
	// are played elsewhere do not come to it by themselves.
	LabelReal = "neap.dev/real"
)

// Errors that a caller may branch on; the message says what to do.
var (
	ErrInUse   = errors.New("this machine is a node already")
	ErrMissing = process.ErrMissing
)

// Options say what to start.
type Options struct {
	Cluster *controlplane.Cluster // that the node joins; required
	Name    string                // of the Node; [DefaultName] if empty
	BinDir  string                // where neap-kubelet and neap-pause are; required

	// Log is told each step as it is done. Nil: nobody is.
	Log func(format string, args ...any)
}
