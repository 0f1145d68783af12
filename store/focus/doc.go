// Package focus writes the bill as FOCUS 1.2 (the FinOps Open Cost and Usage
// Specification), as CSV and as Parquet, and checks such files.
//
// # What is in it
//
// An origin charge is what machines of one type in one pool cost in one charge
// period (an hour or a day); of serverless capacity, one for each resource. The
// export holds its split charges: one row for each module that carries a part of
// it, fully loaded, and one without an AllocatedResourceId for money that no
// module could carry. The split rows stand in place of their origin, so adding up
// any cost column of the file gives the bill and nothing is counted twice. With
// [Options.Origins] the file holds the origin charges instead.
//
// The columns Allocated… are those of FOCUS 1.3; columns of our own start with
// x_. Every row names its origin charge (x_OriginChargeId) and what that came to,
// so the split can be checked from the file alone; docs/format/focus.md lists the
// columns.
//
// # What is checked
//
// Nothing is written before the whole export has passed [Validate]'s checks: the
// 21 mandatory columns, formats and nulls; cost = unit price · quantity;
// Σ effective = Σ billed of each commitment; Σ billed of each invoice; Σ split
// charges = origin charge, with dimensions and unit prices unchanged; the x_
// parts of a cost add up to it. A [Violation] names the row and the identity.
package focus
