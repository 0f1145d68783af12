// Package series reads recorded load series and makes generated ones.
//
// [Read] reads the CSV formats of public load series; a line it cannot read is
// an error that names file and line, and a gap in the data stays a gap.
// [Generator] is a small documented model of a day,
//
//	value(t) = level · shape[quarter of the day] · weekday · noise(t) · burst(t)
//
// whose [Parameters] [Fit] estimates from a series. Both are a [Curve].
package series
