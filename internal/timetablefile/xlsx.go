package timetablefile

import (
	"archive/zip"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// workbook reads the sheets of an Excel workbook, each a list or a grid.
func (r *reader) workbook(data []byte) error {
	tables, err := r.sheets(data)
	if err != nil {
		return err
	}
	read := 0
	for _, t := range tables {
		if !slices.ContainsFunc(t.rows, func(w row) bool { return !w.empty() }) {
			continue
		}
		if r.list(t) || r.grid(t) {
			read++
			continue
		}
		r.problem(Problem{Sheet: t.name}, "neither a list (a row that names course and start) nor a grid (days above, times at the left)")
	}
	if read == 0 && len(r.out.Problems) == 0 {
		return errors.New("all sheets are empty")
	}
	return nil
}

// sheets unpacks the workbook: only the parts that hold text, within bounds.
// Formulas give the value that the program which saved the file computed.
func (r *reader) sheets(data []byte) ([]*table, error) {
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, errors.New("it is no Excel workbook: it cannot be unpacked; open it and save it anew as .xlsx")
	}
	files := map[string]*zip.File{}
	var unpacked uint64
	for _, f := range archive.File {
		files[strings.TrimPrefix(f.Name, "/")] = f
		if unpacked += f.UncompressedSize64; unpacked > maxUnpacked || f.UncompressedSize64 > maxUnpacked || len(files) > 5000 {
			return nil, fmt.Errorf("it unpacks to more than %d MiB; that is no timetable", maxUnpacked>>20)
		}
	}
	// unpack hands the elements of a part to visit.
	unpack := func(name string, visit func(d *xml.Decoder, e xml.StartElement) error) error {
		f := files[name]
		if f == nil {
			return fmt.Errorf("it has no part %s", name)
		}
		in, err := f.Open()
		if err != nil {
			return fmt.Errorf("its part %s cannot be unpacked", name)
		}
		defer in.Close()
		d := xml.NewDecoder(io.LimitReader(in, maxUnpacked))
		for {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("its part %s is damaged: %w", name, err)
			}
			if e, ok := token.(xml.StartElement); ok {
				if err := visit(d, e); err != nil {
					return fmt.Errorf("its part %s: %w", name, err)
				}
			}
		}
	}

	// 1. Which sheets there are, and where.
	targets := map[string]string{}
	err = unpack("xl/_rels/workbook.xml.rels", func(_ *xml.Decoder, e xml.StartElement) error {
		if e.Name.Local == "Relationship" && strings.HasSuffix(attr(e, "Type"), "/worksheet") {
			target := attr(e, "Target")
			if !strings.HasPrefix(target, "/") {
				target = "xl/" + target
			}
			targets[attr(e, "Id")] = strings.TrimPrefix(path.Clean(target), "/")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	type found struct{ name, part string }
	var sheets []found
	shift := 0.0 // of dates counted from 1904
	err = unpack("xl/workbook.xml", func(_ *xml.Decoder, e xml.StartElement) error {
		switch e.Name.Local {
		case "workbookPr":
			if v := attr(e, "date1904"); v == "1" || v == "true" {
				shift = 1462
			}
		case "sheet":
			if part := targets[attr(e, "id")]; part != "" && len(sheets) < 256 {
				sheets = append(sheets, found{attr(e, "name"), part})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}

	// 2. The texts that sheets share.
	var shared []string
	if files["xl/sharedStrings.xml"] != nil {
		err = unpack("xl/sharedStrings.xml", func(d *xml.Decoder, e xml.StartElement) error {
			if e.Name.Local != "si" {
				return nil
			}
			if len(shared) >= maxCells {
				return errors.New("too many texts")
			}
			text, err := richText(d)
			shared = append(shared, text)
			return err
		})
		if err != nil {
			return nil, err
		}
	}

	// 3. The sheets.
	var out []*table
	cells := 0
	for _, s := range sheets {
		t := &table{name: s.name}
		number, column := 0, 0
		err := unpack(s.part, func(d *xml.Decoder, e xml.StartElement) error {
			switch e.Name.Local {
			case "row":
				number, column = number+1, 0
				if n, err := strconv.Atoi(attr(e, "r")); err == nil && n >= number {
					number = n
				}
				if len(t.rows) >= maxRows {
					return fmt.Errorf("more than %d rows; import it in parts", maxRows)
				}
				t.rows = append(t.rows, row{number: number})
			case "c":
				if len(t.rows) == 0 {
					return errors.New("a cell outside of all rows")
				}
				if _, c, ok := reference(attr(e, "r")); ok && c >= column {
					column = c
				}
				text, err := cellText(d, e, shared, shift)
				if err != nil || text == "" || column >= maxColumns {
					if text != "" && column >= maxColumns {
						r.problem(Problem{Sheet: t.name, Row: number, Text: text}, "it stands to the right of column %s; at most %d columns are read", columnName(maxColumns-1), maxColumns)
					}
					column++
					return err
				}
				w := &t.rows[len(t.rows)-1]
				if cells += column + 1 - len(w.cells); cells > maxCells {
					return fmt.Errorf("more than %d cells; import it in parts", maxCells)
				}
				for len(w.cells) <= column {
					w.cells = append(w.cells, "")
				}
				w.cells[column] = text
				column++
			case "mergeCell":
				from, to, _ := strings.Cut(attr(e, "ref"), ":")
				top, left, ok := reference(from)
				bottom, right, ok2 := reference(to)
				if ok && ok2 && bottom >= top && right >= left && len(t.merges) < maxRows {
					t.merges = append(t.merges, rect{top, left, bottom, right})
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// reference reads a cell's name such as B3: its row's number, its column's index.
func reference(name string) (number, column int, ok bool) {
	i := 0
	for i < len(name) && name[i] >= 'A' && name[i] <= 'Z' && i < 4 {
		column = column*26 + int(name[i]-'A') + 1
		i++
	}
	number, err := strconv.Atoi(name[i:])
	return number, column - 1, err == nil && i > 0 && number > 0 && number <= 1<<20 && column <= 1<<14
}

// cellText returns what stands in a cell. Numbers are as they are kept, not as
// they are shown, so that no format can hide a date.
func cellText(d *xml.Decoder, e xml.StartElement, shared []string, shift float64) (string, error) {
	kind := attr(e, "t")
	if kind == "inlineStr" {
		return richText(d)
	}
	value := ""
	for {
		token, err := d.Token()
		if err != nil {
			return "", err
		}
		switch x := token.(type) {
		case xml.StartElement:
			if x.Name.Local != "v" {
				if err := d.Skip(); err != nil {
					return "", err
				}
				continue
			}
			if value, err = richText(d); err != nil {
				return "", err
			}
		case xml.EndElement:
			switch kind {
			case "s":
				i, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil || i < 0 || i >= len(shared) {
					return "", nil
				}
				return shared[i], nil
			case "", "n":
				if v, err := strconv.ParseFloat(value, 64); err == nil && shift > 0 && v >= 20000 && v < 80000 {
					value = strconv.FormatFloat(v+shift, 'f', -1, 64)
				}
			case "e", "b":
				return "", nil
			}
			return value, nil
		}
	}
}

// richText returns the text up to the end of the element that was begun, without
// what says how Chinese and Japanese is pronounced.
func richText(d *xml.Decoder) (string, error) {
	var out strings.Builder
	for depth := 1; depth > 0; {
		token, err := d.Token()
		if err != nil {
			return "", err
		}
		switch x := token.(type) {
		case xml.StartElement:
			if x.Name.Local == "rPh" {
				if err := d.Skip(); err != nil {
					return "", err
				}
				continue
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			out.Write(x[:min(len(x), max(0, 4<<10-out.Len()))]) // no name is longer
		}
	}
	return strings.ToValidUTF8(out.String(), ""), nil
}
