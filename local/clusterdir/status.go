package clusterdir

// A Status is one line, as JSON, that neap-cluster prints on its standard
// output: a step that is done, that everything is ready, or the one sentence
// that says why nothing is.
type Status struct {
	Step    string  `json:"step,omitempty"`    // "etcd", "kube-apiserver", "kube-controller-manager"
	Seconds float64 `json:"seconds,omitempty"` // since the process began
	Ready   bool    `json:"ready,omitempty"`
	URL     string  `json:"url,omitempty"`   // of the API server
	Error   string  `json:"error,omitempty"` // a sentence for the user
	Cause   Cause   `json:"cause,omitempty"` // what a program may branch on
}

// A Cause sorts the errors of a start.
type Cause string

// The causes that a program may want to treat apart.
const (
	CauseInUse   Cause = "in-use"   // another process runs this directory
	CausePort    Cause = "port"     // the port asked for is taken
	CauseDisk    Cause = "disk"     // the disk is full
	CauseCorrupt Cause = "corrupt"  // the state on disk cannot be read
	CauseOther   Cause = "internal" // everything else
)
