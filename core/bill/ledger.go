package bill

import (
	"time"

	"github.com/neap-dev/neap/core/money"
)

// A Decision is one row of the append-only ledger: what was done or advised,
// why, what else was considered, the money predicted, later the money realised.
type Decision struct {
	ID      string    `json:"id"` // unique; a second append of the same ID is ignored
	At      time.Time `json:"at"`
	Actor   string    `json:"actor"`   // the doer, such as "scenario" or "scaler"
	Lever   string    `json:"lever"`   // "elastic", "gpu", "colocate", "replace", "price", ""
	Mode    string    `json:"mode"`    // "Observe", "Preview", "Auto"
	Action  string    `json:"action"`  // one word, such as "scale", "buy", "give-back"
	Subject string    `json:"subject"` // what it was done to, such as "homework/Deployment/api"
	Reason  string    `json:"reason"`  // one sentence with the inputs that decided it

	Inputs     map[string]string `json:"inputs,omitempty"`
	Considered []string          `json:"considered,omitempty"` // each with why it was not taken

	PredictedNano money.Amount  `json:"predictedNano"` // saving per hour; negative is a cost
	RealisedNano  *money.Amount `json:"realisedNano,omitempty"`
	Outcome       string        `json:"outcome"` // "done", "undone: …", "failed: …", "advised"
}
