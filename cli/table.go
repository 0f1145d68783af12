package cli

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/neap-dev/neap/core/money"
)

// A table is rows of text for a person to read, in columns as wide as needed.
type table struct {
	right []bool // columns that hold numbers
	rows  [][]string
}

// newTable starts a table with its column names; a name that begins with ">"
// heads a column of numbers.
func newTable(columns ...string) *table {
	t := &table{right: make([]bool, len(columns))}
	head := make([]string, len(columns))
	for i, c := range columns {
		head[i], t.right[i] = strings.CutPrefix(c, ">")
	}
	t.rows = append(t.rows, head)
	return t
}

// add appends a row; missing cells are empty.
func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// write writes the table with every line indented.
func (t *table) write(w io.Writer, indent string) {
	widths := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, cell := range row {
			widths[i] = max(widths[i], displayWidth(cell))
		}
	}
	for _, row := range t.rows {
		var line strings.Builder
		line.WriteString(indent)
		for i := range widths {
			cell := ""
			if i < len(row) {
				cell = row[i]
			}
			pad := strings.Repeat(" ", widths[i]-displayWidth(cell))
			if i > 0 {
				line.WriteString("  ")
			}
			if t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// displayWidth is how many columns of a terminal s takes: Chinese, Japanese and
// Korean characters take two.
func displayWidth(s string) int {
	n := utf8.RuneCountInString(s)
	for _, r := range s {
		if r >= 0x1100 && (r <= 0x115f || r >= 0x2e80 && r <= 0xa4cf || r >= 0xac00 && r <= 0xd7a3 ||
			r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f || r >= 0xff00 && r <= 0xff60 || r >= 0xffe0 && r <= 0xffe6 ||
			r >= 0x20000 && r <= 0x3fffd) {
			n++
		}
	}
	return n
}

// printable drops control characters, which names from a cluster or a file
// could use to rewrite a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 {
			return '�'
		}
		return r
	}, s)
}

// moneyScale says how many decimals amounts are shown with, so that the largest
// keeps some four digits and a column lines up.
func moneyScale(largest money.Amount) int {
	switch v := math.Abs(largest.Float()); {
	case v >= 1000:
		return 2
	case v >= 1:
		return 4
	case v >= 0.01:
		return 6
	}
	return 9
}

// showMoney writes an amount with thousands apart and so many decimals, rounded
// half away from zero.
func showMoney(a money.Amount, decimals int) string {
	unit := int64(math.Pow10(9 - decimals))
	sign := ""
	u := uint64(a)
	if a < 0 {
		sign, u = "−", -u
	}
	u = (u + uint64(unit)/2) / uint64(unit)
	whole, rest := u/uint64(math.Pow10(decimals)), u%uint64(math.Pow10(decimals))
	if u == 0 {
		sign = ""
	}
	s := sign + groupDigits(strconv.FormatUint(whole, 10))
	if decimals > 0 {
		s += fmt.Sprintf(".%0*d", decimals, rest)
	}
	return s
}

func groupDigits(s string) string {
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// showCount writes a whole number with thousands apart, or "–" if it is unknown.
func showCount(n int64) string {
	if n < 0 {
		return "–"
	}
	return groupDigits(strconv.FormatInt(n, 10))
}

// showFactor writes a factor with some four digits, or "–" where it has no value.
func showFactor(v float64) string {
	switch a := math.Abs(v); {
	case v == 0 || math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 1000:
		return groupDigits(strconv.FormatFloat(v, 'f', 0, 64))
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 0.1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// showPercent writes part ÷ whole with one decimal.
func showPercent(part, whole money.Amount) string {
	if whole == 0 {
		return "–"
	}
	s := strconv.FormatFloat(part.Float()/whole.Float()*100, 'f', 1, 64) + " %"
	if s == "-0.0 %" {
		return "0.0 %"
	}
	return strings.Replace(s, "-", "−", 1)
}
