// Package resource holds what machines have and pods ask for, as integers with
// their unit in the name.
package resource

// A Kind is one resource that is bought, asked for and used.
type Kind uint8

// The resources Neap accounts for. Their units are those of [Vector].
const (
	CPU    Kind = iota // milli-cores
	Memory             // bytes
	GPU                // thousandths of a GPU

	Kinds = 3 // how many there are
)

// String returns the lower-case name used in files, queries and pages.
func (k Kind) String() string { return [Kinds]string{"cpu", "memory", "gpu"}[k] }

// All lists the kinds in their fixed order.
var All = [Kinds]Kind{CPU, Memory, GPU}

// A Vector is an amount of every [Kind]: milli-cores, bytes, GPU thousandths.
// The zero Vector is nothing.
type Vector [Kinds]int64

// Binary sizes in bytes.
const (
	KiB int64 = 1 << 10
	MiB int64 = 1 << 20
	GiB int64 = 1 << 30
)

// Add returns v+w.
func (v Vector) Add(w Vector) Vector {
	for k := range v {
		v[k] += w[k]
	}
	return v
}

// Sub returns v−w, which may be negative.
func (v Vector) Sub(w Vector) Vector {
	for k := range v {
		v[k] -= w[k]
	}
	return v
}

// Max returns the larger of v and w, kind by kind.
func (v Vector) Max(w Vector) Vector {
	for k := range v {
		v[k] = max(v[k], w[k])
	}
	return v
}

// Min returns the smaller of v and w, kind by kind.
func (v Vector) Min(w Vector) Vector {
	for k := range v {
		v[k] = min(v[k], w[k])
	}
	return v
}

// Fits reports whether v fits into w in every kind.
func (v Vector) Fits(w Vector) bool {
	for k := range v {
		if v[k] > w[k] {
			return false
		}
	}
	return true
}

// IsZero reports whether v is nothing.
func (v Vector) IsZero() bool { return v == Vector{} }
