package machine

import (
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// A Price is what capacity costs at one moment.
type Price struct {
	Type      string
	Currency  string
	List      money.PerHour // before the discount
	Effective money.PerHour // after it; what the bill charges

	// Weights say how Effective divides over the resources, as money.Split
	// weights: the standard unit prices (OpenCost's defaults: 0.031611 a
	// core-hour, 0.004237 a GiB-hour, 0.95 a GPU-hour) times the capacity.
	Weights [resource.Kinds]int64
}

// A PriceBook holds the types and their prices over time, in one currency.
// The zero PriceBook is not usable; see [NewPriceBook].
type PriceBook struct {
	currency string
	entries  map[string][]entry // by type, oldest first
}

type entry struct {
	from time.Time
	typ  Type
}
