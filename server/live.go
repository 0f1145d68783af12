package server

import (
	"context"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// A Store is what the server reads of closed hours. It is safe for concurrent
// use; store.Store is one.
type Store interface {
	// Hours lists the starts of the closed hours in [from, to), oldest first;
	// a zero time leaves that side open.
	Hours(ctx context.Context, from, to time.Time) ([]time.Time, error)
	// Facts returns the closed hours that start in [from, to), oldest first.
	Facts(ctx context.Context, from, to time.Time) ([]bill.Facts, error)
	// Window returns the roll-up of the hours that start in [from, to).
	Window(ctx context.Context, from, to time.Time) (bill.Window, error)
	// Report sums the same hours up by module, namespace, pool, machineType,
	// feature or label:KEY.
	Report(ctx context.Context, from, to time.Time, by string) (bill.Report, error)
	// Decisions returns the ledger's rows made in [from, to), oldest first; a
	// zero time leaves that side open.
	Decisions(ctx context.Context, from, to time.Time) ([]bill.Decision, error)
	// Features returns the features that each module serves.
	Features(ctx context.Context) (map[workload.Key][]workload.Feature, error)
}

// A Live is a cluster that runs now. It is safe for concurrent use, and its
// answers may be kept by the server for about a second.
type Live interface {
	// Status says where the day stands.
	Status() Status
	// Fleet returns what runs now.
	Fleet(ctx context.Context) (Fleet, error)
	// Provisional returns the facts of the hour that is not closed yet, as if it
	// ended now. It may be empty just after a full hour.
	Provisional(ctx context.Context) (bill.Facts, error)
	// GPUs returns what runs on the cluster's GPUs; without any it is empty.
	GPUs(ctx context.Context) (GPUs, error)
}

// A Status says where a live cluster's day stands.
type Status struct {
	Now       time.Time `json:"now"`       // of the cluster's clock
	Speed     float64   `json:"speed"`     // cluster seconds in a second of the wall
	Simulated bool      `json:"simulated"` // no real machine is behind the figures
	Scenario  string    `json:"scenario,omitempty"`
	From      time.Time `json:"from,omitzero"`  // where the scenario starts
	Until     time.Time `json:"until,omitzero"` // where it ends; zero if it goes on
	State     string    `json:"state"`          // "starting", "running", "paused", "ended" or "failed"
	Message   string    `json:"message,omitempty"`

	Machines int `json:"machines"`
	Pods     int `json:"pods"`
	Pending  int `json:"pending"` // pods without a machine
}

// A Fleet is what runs at one moment.
type Fleet struct {
	At       time.Time
	Machines []FleetMachine
}

// A FleetMachine is one machine and the pods on it.
type FleetMachine struct {
	Name, Pool, Type, Domain string
	Serverless, Closed       bool
	Capacity, Allocatable    resource.Vector
	Pods                     []FleetPod
}

// A FleetPod is one pod.
type FleetPod struct {
	Namespace, Name string
	Module          workload.Key
	Request, Use    resource.Vector
	Ready           bool
	Headroom        bool // it only holds room
}
