package elastic

import "time"

// ScaleIn is how replicas are taken away.
type ScaleIn struct {
	Watch              time.Duration // how long cut-off replicas are watched before they go; 0: no stages
	Backoff            time.Duration // how long after a breach nothing is cut off; 0 means 5 minutes
	Step               float64       // the most that goes at once, as a share; 0 means all
	HoldIfNeededWithin time.Duration // replicas known to be wanted again so soon stay
}

// A Stage is how far a scale-in has come.
type Stage string

// The stages: nothing goes; replicas are cut off from traffic; they are watched;
// they are deleted; they were taken back, for the guard was broken.
const (
	StageNone     Stage = ""
	StageCutOff   Stage = "cutoff"
	StageWatch    Stage = "watch"
	StageDelete   Stage = "delete"
	StageRollback Stage = "rollback"
)

// A Gate is why nothing is taken away.
type Gate string

// The gates.
const (
	GateNone    Gate = ""
	GateMetrics Gate = "metrics are gone"
	GateRollout Gate = "a rollout is in progress"
	GateGuard   Gate = "the quality guard is not met"
	GateSoon    Gate = "needed again soon"
	GateRate    Gate = "no more may go yet"
	GateWatch   Gate = "cut-off replicas are being watched"
)

// Progress is where a staged scale-in stands.
type Progress struct {
	Stage Stage
	Since time.Time
	Cut   int // replicas cut off
}
