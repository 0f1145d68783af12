// Package machine knows machine types: their shape, their price and how much
// they can do.
//
// The rating of a type is in NCU (normalised compute units) per core: a core
// rated 1.2 does 1.2 times the work of a core rated 1. [PriceBook] is the only
// way from a machine to money; everything that shows a price asks it.
package machine

import (
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// A Type is one kind of machine that can be bought, or one kind of capacity
// that is bought by the pod (serverless).
type Type struct {
	Name     string
	Capacity resource.Vector // of one machine; zero for serverless capacity

	List           money.PerHour // list price of the whole machine; 0 if bought by the unit
	DiscountMillis int64         // thousandths off the list price, 0 to 1000
	Currency       string        // ISO 4217, such as "USD"

	// UnitList is the list price of one core, one GiB and one GPU for an hour,
	// for capacity bought by the pod. Zero for machines.
	UnitList [resource.Kinds]money.PerHour

	RatingMillis int64  // milli-NCU per core; 0 means unknown and counts as 1000
	RatingLow    int64  // lower end of the rating's interval
	RatingHigh   int64  // upper end of the rating's interval
	RatingSource string // where the rating comes from, such as "CoreMark, one run, 2025-12"
}

// Serverless reports whether capacity of this type is bought by the pod.
func (t Type) Serverless() bool { return t.List == 0 && t.UnitList != [resource.Kinds]money.PerHour{} }

// Rating returns milli-NCU per core, 1000 where it is unknown.
func (t Type) Rating() int64 {
	if t.RatingMillis == 0 {
		return 1000
	}
	return t.RatingMillis
}
