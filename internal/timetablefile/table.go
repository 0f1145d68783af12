package timetablefile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// A table is a sheet of a workbook, or a CSV file, which has no name.
type table struct {
	name   string
	rows   []row // in the order of their numbers
	merges []rect
}

// A row is a line of a table. Numbers begin at 1.
type row struct {
	number int
	cells  []string
}

// A rect is a stretch of merged cells, by row numbers and column indices.
type rect struct{ top, left, bottom, right int }

// at returns the place of a cell.
func (t *table) at(number, column int, text string) Problem {
	p := Problem{Sheet: t.name, Row: number, Text: text}
	if t.name != "" && column >= 0 {
		p.Cell = columnName(column) + fmt.Sprint(number)
	}
	return p
}

// columnName returns A for 0, Z for 25, AA for 26.
func columnName(column int) string {
	var out []byte
	for column++; column > 0; column = (column - 1) / 26 {
		out = append(out, byte('A'+(column-1)%26))
	}
	slices.Reverse(out)
	return string(out)
}

// csv reads a list from comma, semicolon or tab separated lines.
func (r *reader) csv(data []byte) error {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if !utf8.Valid(data) {
		return errors.New("it is not UTF-8; save it as CSV UTF-8")
	}
	t := &table{}
	in := csv.NewReader(bytes.NewReader(data))
	in.FieldsPerRecord = -1
	in.LazyQuotes = true
	in.TrimLeadingSpace = true
	first, _, _ := bytes.Cut(data, []byte("\n"))
	in.Comma = ','
	for _, c := range []rune{';', '\t'} {
		if bytes.Count(first, []byte(string(c))) > bytes.Count(first, []byte(string(in.Comma))) {
			in.Comma = c
		}
	}
	for cells := 0; ; {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		var bad *csv.ParseError
		if errors.As(err, &bad) {
			r.problem(Problem{Row: bad.Line}, "it is no line of CSV: %v", bad.Err)
			continue
		}
		if err != nil {
			return err
		}
		line, _ := in.FieldPos(0)
		if len(record) > maxColumns {
			r.problem(Problem{Row: line}, "%d fields; at most %d are read", len(record), maxColumns)
			continue
		}
		if cells += len(record); cells > maxCells || len(t.rows) >= maxRows {
			return fmt.Errorf("more than %d lines or %d fields; import it in parts", maxRows, maxCells)
		}
		t.rows = append(t.rows, row{line, record})
	}
	if len(t.rows) == 0 {
		return errors.New("the file is empty")
	}
	if r.list(t) || r.grid(t) {
		return nil
	}
	return fmt.Errorf("no line names the columns; the first must name at least a course and a start, such as %s", strings.Join(exampleHeader, ","))
}

// cell returns the text of a cell without spaces around it.
func (w row) cell(column int) string {
	if column < 0 || column >= len(w.cells) {
		return ""
	}
	return strings.TrimSpace(w.cells[column])
}

// empty reports whether nothing stands in the row.
func (w row) empty() bool {
	return !slices.ContainsFunc(w.cells, func(c string) bool { return strings.TrimSpace(c) != "" })
}
