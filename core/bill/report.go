package bill

import (
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// A Report is the bill of a window, as every command, page and file shows it.
// AllocatedNano + Σ IdleNano == BillNano, and UnexplainedNano == 0.
type Report struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Currency string    `json:"currency"`

	BillNano        money.Amount         `json:"billNano"`
	AllocatedNano   money.Amount         `json:"allocatedNano"` // Σ used
	IdleNano        map[Box]money.Amount `json:"idleNano"`      // every box but unexplained; slack among them
	UnexplainedNano money.Amount         `json:"unexplainedNano"`

	// EstimatedNano is how much of the bill rests on use that was not measured.
	EstimatedNano money.Amount `json:"estimatedNano"`
	// Notes say, one sentence each, what the reader must know to trust the figures.
	Notes []string `json:"notes,omitempty"`

	By    string `json:"by"` // what Lines are grouped by: module, namespace, pool, machineType, feature, label:KEY
	Lines []Line `json:"lines"`
}

// A Line is one row of a report. Σ lines of a column == the report's figure.
type Line struct {
	Key       string       `json:"key"`
	UsedNano  money.Amount `json:"usedNano"`
	SlackNano money.Amount `json:"slackNano"`
	// SharedNano is this line's share of the other boxes; the lines' Used, Slack
	// and Shared add up to the bill. A line "(nobody)" carries what none could.
	SharedNano   money.Amount `json:"sharedNano"`
	CostNano     money.Amount `json:"costNano"` // Used + Slack + Shared
	OpenCostNano money.Amount `json:"openCostNano"`

	// Factors of the identity for the line, per resource name.
	Factors map[string]Factors `json:"factors,omitempty"`
	// Requests is the load; −1 if unknown.
	Requests int64   `json:"requests"`
	Pods     float64 `json:"pods"` // mean number of pods over the window
	// Quality is "met", "broken" or "unknown" for the window, and the share of hours met.
	Quality string `json:"quality,omitempty"`
}

// Factors are Q·k·r·f·π of one line and one resource, for showing; the exact
// numbers are the integers they are made of.
type Factors struct {
	Load  float64 `json:"load"`  // Q, requests
	Need  float64 `json:"need"`  // k, NCU-hours used a request
	Slack float64 `json:"slack"` // r, held ÷ used
	Match float64 `json:"match"` // f, bought ÷ held
	Price float64 `json:"price"` // π, currency units per NCU-hour

	CostNano money.Amount `json:"costNano"`
}

var _ = resource.CPU
