package timetablefile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/neap-dev/neap/core/timetable"
)

// A grid is a stretch of a table with times of day at its left and days, or
// rooms, above.
type grid struct {
	column, right int     // of the times, and the last one of the grid
	labels        []label // from top to bottom
	above         int     // index of the first row that may hold its headings
}

// maxGrids is how many grids one sheet may have.
const maxGrids = 500

// A label is a time of day at the left of a row.
type label struct {
	row        int // index
	start, end int // minutes; end is -1 if the label names only the start
}

// grid reads a table of days and hours, or several such tables on one sheet. It
// reports false if there is none.
func (r *reader) grid(t *table) bool {
	grids := r.grids(t)
	used := map[[2]int]bool{} // cells that were read, by row's and column's index
	for i := range grids {
		r.block(t, &grids[i], used)
	}
	if len(grids) == 0 {
		return false
	}
	for i, w := range t.rows {
		for c := range w.cells {
			if text := w.cell(c); text != "" && !used[[2]int{i, c}] {
				r.note(t.at(w.number, c, text), "it stands outside of the grid of days and hours; no class")
			}
		}
	}
	return true
}

// grids finds the columns of times, and cuts them where the day begins anew.
func (r *reader) grids(t *table) []grid {
	var out []grid
	width := 0
	for _, w := range t.rows {
		width = max(width, len(w.cells))
	}
	for c := range width {
		var runs [][]label
		for i, w := range t.rows {
			text := w.cell(c)
			if text == "" || text == "0" || len(text) > 60 || len(out) == maxGrids {
				continue
			}
			start, end, ok := parseClocks(text, r.opts)
			if !ok {
				var err error
				if start, end, err = parsePeriods(text, r.opts); err != nil {
					continue
				}
			}
			l := label{i, start, end}
			if n := len(runs); n == 0 || start <= runs[n-1][len(runs[n-1])-1].start {
				runs = append(runs, nil)
			}
			runs[len(runs)-1] = append(runs[len(runs)-1], l)
		}
		above := 0
		for _, labels := range runs {
			if len(labels) >= 2 && len(out) < maxGrids {
				out = append(out, grid{column: c, right: width - 1, labels: labels, above: above})
			}
			above = labels[len(labels)-1].row + 1
		}
	}
	// A grid goes on to the right until the times of another.
	for i := range out {
		for j := range out {
			a, b := &out[i], &out[j]
			overlap := b.labels[0].row <= a.labels[len(a.labels)-1].row && a.labels[0].row <= b.labels[len(b.labels)-1].row
			if overlap && b.column > a.column {
				a.right = min(a.right, b.column-1)
			}
		}
	}
	return slices.DeleteFunc(out, func(g grid) bool { return g.right == g.column })
}

// A heading is what stands above a stretch of a grid's columns.
type heading struct {
	left  int // first column
	dates []timetable.Date
	room  string
}

// block reads one grid.
func (r *reader) block(t *table, g *grid, used map[[2]int]bool) {
	first := g.labels[0].row
	anchor := Problem{Sheet: t.name, Row: t.rows[first].number}
	for _, l := range g.labels {
		used[[2]int{l.row, g.column}] = true
	}
	// Rows above belong to the heading up to an empty one.
	above := g.above
	for i := first - 1; i >= above; i-- {
		blank := true
		for c := g.column; c <= g.right; c++ {
			blank = blank && t.rows[i].cell(c) == ""
		}
		if blank || first-i > 8 {
			above = i + 1
		}
	}

	// 1. The titles: a room at the left, a week anywhere above.
	room, week := t.name, [2]timetable.Date{}
	var corner moment
	cornerText := ""
	for i := above; i < first; i++ {
		for c := g.column; c <= g.right; c++ {
			text := t.rows[i].cell(c)
			if text == "" {
				continue
			}
			used[[2]int{i, c}] = true
			if from, to, ok := parseDates(text, r.opts); ok {
				week = [2]timetable.Date{from, to}
			} else if c == g.column {
				if m, err := parseMoment(text, r.opts); err == nil && (m.hasDate() || m.hasWeekday) {
					corner, cornerText = m, text
				} else if len(text) <= 60 && !slices.Contains(gridWords, plain(text)) {
					room = text
				}
			}
		}
	}
	if generic.MatchString(room) {
		room = ""
	}

	// 2. The days above: the nearest row that names any, or rooms under a day.
	var headings []heading
	for i := first - 1; i >= above && headings == nil; i-- {
		for c := g.column + 1; c <= g.right; c++ {
			text := t.rows[i].cell(c)
			m, err := parseMoment(text, r.opts)
			if text == "" || err != nil || m.clock >= 0 || !m.hasDate() && !m.hasWeekday {
				continue
			}
			dates, err := r.days(m, week, t.at(t.rows[i].number, c, text))
			if err != nil {
				r.problem(t.at(t.rows[i].number, c, text), "%v; its classes are not read", err)
			}
			headings = append(headings, heading{left: c, dates: dates, room: room})
		}
	}
	if headings == nil && cornerText != "" {
		dates, err := r.days(corner, week, anchor)
		if err != nil {
			r.problem(Problem{Sheet: t.name, Row: anchor.Row, Text: cornerText}, "%v; its classes are not read", err)
		}
		for c := g.column + 1; c <= g.right; c++ {
			if text := t.rows[first-1].cell(c); text != "" && len(text) <= 128 {
				headings = append(headings, heading{left: c, dates: dates, room: text})
			}
		}
	}
	if headings == nil {
		r.problem(anchor, "times stand at the left, but no day stands above them")
		r.consume(t, g, used)
		return
	}

	// 3. A grid of numbers alone says how many, but not who.
	if !r.named(t, g) {
		r.problem(Problem{Sheet: t.name, Row: anchor.Row, Text: cornerText}, "rows %d to %d hold numbers but no courses", anchor.Row, t.rows[g.labels[len(g.labels)-1].row].number)
		r.consume(t, g, used)
		return
	}

	// 4. The cells.
	for n, h := range headings {
		right := g.right
		if n+1 < len(headings) {
			right = headings[n+1].left - 1
		}
		for k, l := range g.labels {
			r.cell(t, g, k, l, h, right, used)
		}
	}
}

var (
	generic   = regexp.MustCompile(`(?i)^\s*(?:sheet|tabelle|feuil|hoja|工作表)?\s*\d*\s*$`)
	gridWords = []string{"", "time", "times", "hour", "period", "room", "day", "时间", "节次", "星期", "上午", "下午", "week"}
)

// days returns the dates that a heading stands for.
func (r *reader) days(m moment, week [2]timetable.Date, at Problem) ([]timetable.Date, error) {
	if m.hasDate() {
		d, err := m.date(r.opts)
		return []timetable.Date{d}, err
	}
	if week[0].Year == 0 {
		return weekly(m.weekday, "", r.opts)
	}
	var out []timetable.Date
	for d := dayOf(week[0]); !d.After(dayOf(week[1])); d = d.AddDate(0, 0, 1) {
		if d.Weekday() == m.weekday {
			out = append(out, timetable.DateOf(d))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no %s lies between %s and %s, which stand above", m.weekday, week[0], week[1])
	}
	if m.day > 0 && out[0].Day != m.day {
		r.note(at, "the week above it is %s to %s: read as %s", week[0], week[1], out[0])
	}
	return out, nil
}

// consume marks all cells of a grid as dealt with.
func (r *reader) consume(t *table, g *grid, used map[[2]int]bool) {
	for i := g.labels[0].row; i <= g.labels[len(g.labels)-1].row; i++ {
		for c := g.column; c <= g.right; c++ {
			used[[2]int{i, c}] = true
		}
	}
}

// named reports whether any cell of the grid holds more than a number.
func (r *reader) named(t *table, g *grid) bool {
	for _, l := range g.labels {
		for c := g.column + 1; c <= g.right; c++ {
			text := t.rows[l.row].cell(c)
			if _, err := people(text); err != nil && !slices.Contains(noClass, plain(text)) {
				return true
			}
		}
	}
	return false
}

// inCell finds what a cell may say in lines below the course's name.
var (
	cellWeeks  = regexp.MustCompile(`(?i)^[(（]?\s*(?:weeks?|wk)?\s*第?[\d,，、\s\-–~至]+周?\s*[(（]?[单双]?[)）]?周?\s*(?:odd|even)?\s*[)）]?$`)
	cellPeople = regexp.MustCompile(`(?i)^(\d+)\s*(?:人|名|students?|enrolled)$`)
	cellRoom   = regexp.MustCompile(`(?i)^(?:room|venue|教室|地点)?\s*[:：@]?\s*(\S.*)$`)
	roomMark   = regexp.MustCompile(`(?i)^(?:room|venue|教室|地点|@)`)
)

// cell reads what stands in one row under one heading.
func (r *reader) cell(t *table, g *grid, k int, l label, h heading, right int, used map[[2]int]bool) {
	w := t.rows[l.row]
	var course, enrolled string
	courseColumn := -1
	for c := h.left; c <= right; c++ {
		text := w.cell(c)
		if text == "" {
			continue
		}
		used[[2]int{l.row, c}] = true
		_, notNumber := people(text)
		number := notNumber == nil
		switch {
		case number && courseColumn >= 0 && enrolled == "":
			enrolled = text
		case number:
			r.problem(t.at(w.number, c, text), "a number without a course at its left")
		case courseColumn < 0:
			course, courseColumn = text, c
		default:
			r.note(t.at(w.number, c, text), "it stands beside %s and is no number of people; it is not read", clip(course))
		}
	}
	if courseColumn < 0 {
		return
	}
	if slices.Contains(noClass, plain(course)) {
		r.out.Free++
		return
	}
	place := t.at(w.number, courseColumn, course)

	// The cell's own lines: the course, then perhaps weeks, people and a room.
	lines := strings.FieldsFunc(course, func(c rune) bool { return c == '\n' || c == '\r' })
	if len(lines) == 0 {
		return
	}
	class := timetable.Session{Course: strings.TrimSpace(lines[0]), Room: h.room}
	dates := h.dates
	for _, line := range lines[1:] {
		line = strings.TrimSpace(line)
		if m := cellPeople.FindStringSubmatch(line); m != nil {
			enrolled = m[1]
		} else if line != "" && cellWeeks.MatchString(line) && len(h.dates) > 1 {
			d, err := weekly(dayOf(h.dates[0]).Weekday(), line, r.opts)
			if err != nil {
				r.problem(place, "%v", err)
				return
			}
			dates = d
		} else if roomMark.MatchString(line) {
			class.Room = strings.TrimSpace(strings.TrimPrefix(cellRoom.FindStringSubmatch(line)[1], "@"))
		}
	}
	if len(dates) == 0 {
		return // the heading was named
	}
	n, err := people(enrolled)
	if err != nil {
		r.problem(place, "%v", err)
		return
	}
	if n < 0 {
		r.note(place, "how many are enrolled is not known, so it raises no floor")
	}
	class.Enrolled = max(n, 0)

	// Merged cells last until the last of their rows.
	last := k
	for _, m := range t.merges {
		if m.top <= w.number && w.number <= m.bottom && m.left <= courseColumn && courseColumn <= m.right {
			for last+1 < len(g.labels) && t.rows[g.labels[last+1].row].number <= m.bottom {
				last++
			}
		}
	}
	end := g.labels[last].end
	if end < 0 {
		end = g.labels[last].start + r.opts.minutes()
		if last+1 < len(g.labels) {
			end = min(end, g.labels[last+1].start)
		}
	}
	for _, d := range dates {
		class.Start, class.End = on(d, l.start, r.opts), on(d, midnight(end), r.opts)
		r.session(class, place)
	}
}
