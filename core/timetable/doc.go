// Package timetable decides how much demand the classes of a timetable will
// bring, minute by minute, before any metric can know it.
//
//	floor(t) = q-quantile of Σ over classes: enrolled · ratio(course) · arrivals(t − start) · factor(module)
//
// Where replicas are planned to be used to a part only ([Options.Fill]), that part
// is for the mean, and all of them for the quantile.
//
// The ratio of those who come to those enrolled, and the curve by which they
// arrive, are learnt per course by [Learn] from demand that was seen; a course
// that was not seen yet takes what the other courses have, and a timetable
// without any history takes the priors ([PriorRatio], [PriorCurve]). Classes at
// the same time add up; their doubts do too, as variances.
//
// A class without an enrolled count is expected to bring as many as the meetings
// of its course before; until one was seen it asks for nothing.
//
// A class asks for capacity from 45 minutes before its start, along the curve,
// and is released 15 minutes after it ([Options.Release]): by then those who are
// there can be counted, and the reactive and forecast layers carry them.
//
// Where to enter: [New] makes a [Timetable] of [Session]s, [Learn] an
// [Attendance]; [Attendance.Class] gives what the arbiter must know of a minute,
// [Attendance.Floor] the floor alone. [Compare] says what a new
// import changes and lets a class that moved keep its identity. [Days] tells
// working days, weekends, holidays and make-up days apart.
//
// Not here: files (internal/timetablefile), replicas, and whether the floor or
// another layer wins (core/elastic).
package timetable
