package scenario

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// An Error is one thing wrong with a scenario.
type Error struct {
	File  string
	Line  int // 1 for the first; 0 if the whole file is meant
	Field string
	Text  string // what is wrong; what to do
}

// Error returns "file:line: field: text".
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(e.Text)
	return b.String()
}

// Errors are all things wrong with a scenario, by file and line.
type Errors []Error

// Error returns one line for each.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

func (e Errors) sorted() Errors {
	slices.SortStableFunc(e, func(a, b Error) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return slices.Compact(e)
}

// nearest returns the name that is most like the one written, or "".
func nearest(written string, names []string) string {
	best, at := "", 3
	for _, n := range names {
		if d := distance(strings.ToLower(written), strings.ToLower(n)); d < at && d < len(n) {
			best, at = n, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete, replace or swap.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	x, y := []rune(a), []rune(b)
	d := make([][]int, len(x)+1)
	for i := range d {
		d[i] = make([]int, len(y)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			change := 1
			if x[i-1] == y[j-1] {
				change = 0
			}
			d[i][j] = min(d[i-1][j]+1, d[i][j-1]+1, d[i-1][j-1]+change)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(x)][len(y)]
}

// hint is " (did you mean X?)", or the list of what there is, or nothing.
func hint(written string, names []string) string {
	if n := nearest(written, names); n != "" {
		return fmt.Sprintf("did you mean %s?", n)
	}
	if len(names) == 0 {
		return "none is defined"
	}
	if len(names) <= 24 {
		return "there is " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("there are %d, such as %s", len(names), strings.Join(names[:8], ", "))
}
