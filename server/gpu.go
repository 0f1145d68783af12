package server

import (
	"net/http"
	"time"

	"github.com/neap-dev/neap/core/gpu"
	"github.com/neap-dev/neap/core/money"
)

// GPUs are what runs on a cluster's GPUs, and the plans to repack it.
type GPUs struct {
	gpu.Survey
	Currency string    `json:"currency"`
	Plans    []GPUPlan `json:"plans"` // newest first
}

// A GPUPlan is one RepackPlan as it stands.
type GPUPlan struct {
	Name         string       `json:"name"`
	Goal         string       `json:"goal"`
	Mode         string       `json:"mode"`
	Phase        string       `json:"phase"`
	Reason       string       `json:"reason,omitempty"`
	Moves        []GPUMove    `json:"moves"` // in their order
	PeakGPUs     string       `json:"peakGPUs"`
	PeakMachines int          `json:"peakMachines"`
	Freed        []string     `json:"freed"`     // machines that can be given back
	FreedNano    money.Amount `json:"freedNano"` // their price for an hour
	LostSeconds  float64      `json:"lostSeconds"`
}

// A GPUMove is one pod that goes from one spot to another.
type GPUMove struct {
	Pod         string   `json:"pod"` // namespace/name
	From        string   `json:"from"`
	FromDevices []string `json:"fromDevices"` // UUIDs
	To          string   `json:"to"`
	ToDevices   []string `json:"toDevices"`
	Milli       int64    `json:"milli"`     // of each GPU
	MemoryMiB   int64    `json:"memoryMiB"` // of each GPU
	Seconds     float64  `json:"seconds"`   // to load
	State       string   `json:"state"`
	Message     string   `json:"message,omitempty"`
}

type gpusAnswer struct {
	At time.Time `json:"at"`
	GPUs
	Notes []string `json:"notes"` // codes: no-live
}

// gpus answers /api/v1/gpus: every machine's GPUs with the pods in them, what is
// fragments, the bounds and the plans, as they are now.
func (s *Server) gpus(r *http.Request) (any, error) {
	a := gpusAnswer{At: s.now(), Notes: []string{}}
	if s.opts.Live == nil {
		a.Notes = append(a.Notes, "no-live")
	} else {
		var err error
		if a.GPUs, err = s.opts.Live.GPUs(r.Context()); err != nil {
			return nil, err
		}
	}
	if a.Hosts == nil {
		a.Hosts, a.Models, a.Waiting = []gpu.SurveyedHost{}, []gpu.SurveyedModel{}, []gpu.SurveyedPod{}
	}
	if a.Plans == nil {
		a.Plans = []GPUPlan{}
	}
	return a, nil
}
