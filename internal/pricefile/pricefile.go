// Package pricefile reads machine types and their prices from a CSV file such
// as scenarios/catalogue/machine-types.csv.
//
// The first line that is neither empty nor a comment (#) names the columns.
// Columns that are not known are left alone, so that a file may carry sources
// and dates:
//
//	name                  the value of the node label node.kubernetes.io/instance-type
//	price_per_hour        of a whole machine; a decimal with at most nine decimals
//	cpu_price, memory_price, gpu_price
//	                      instead, for capacity bought by the pod: of a core, a GiB, a GPU an hour
//	currency              ISO 4217; USD if absent
//	discount_percent      off the list price, 0 to 100, at most one decimal
//	vcpu, memory_mib, gpu the shape; optional for nodes, which say it themselves
//	rating_millis, rating_low, rating_high, rating_source
//	                      work per core in thousandths of the reference core
//
// A line that makes no sense is an error that names the file, the line and the
// column; all of them are reported at once.
package pricefile

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
)

// columns that mean something; the others are the file's own.
var columns = []string{"name", "price_per_hour", "cpu_price", "memory_price", "gpu_price", "currency", "discount_percent",
	"vcpu", "memory_mib", "gpu", "rating_millis", "rating_low", "rating_high", "rating_source"}

// maxErrors bounds how many bad lines are reported.
const maxErrors = 20

// Read returns the types in r, in the order of the file. name is the file's, for
// messages.
func Read(r io.Reader, name string) ([]machine.Type, error) {
	in := csv.NewReader(r)
	in.Comment = '#'
	in.FieldsPerRecord = -1
	in.TrimLeadingSpace = true

	head, err := in.Read()
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s is empty; its first line names the columns, such as name,price_per_hour", name)
	}
	if err != nil {
		return nil, located(name, err)
	}
	first, _ := in.FieldPos(0)
	at := map[string]int{}
	for i, h := range head {
		h = strings.ToLower(strings.TrimSpace(strings.TrimPrefix(h, "\ufeff")))
		if _, twice := at[h]; twice && slices.Contains(columns, h) {
			return nil, fmt.Errorf("%s:%d: the column %s is there twice", name, first, h)
		}
		at[h] = i
	}
	if _, ok := at["name"]; !ok {
		return nil, fmt.Errorf("%s:%d: there is no column \"name\"; this line names the columns, such as name,price_per_hour", name, first)
	}

	var types []machine.Type
	var bad []error
	lines := map[string]int{}
	for len(bad) < maxErrors {
		record, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			bad = append(bad, located(name, err))
			break // after a quote gone wrong every line would be
		}
		line, _ := in.FieldPos(0)
		if len(record) != len(head) {
			bad = append(bad, fmt.Errorf("%s:%d: %d values where line %d names %d columns", name, line, len(record), first, len(head)))
			continue
		}
		t, err := parse(record, at)
		if err == nil {
			err = t.Validate()
		}
		if err == nil && lines[t.Name] != 0 {
			err = fmt.Errorf("name: %q is on line %d already", t.Name, lines[t.Name])
		}
		if err != nil {
			bad = append(bad, fmt.Errorf("%s:%d: %w", name, line, err))
			continue
		}
		lines[t.Name] = line
		types = append(types, t)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	if len(types) == 0 {
		return nil, fmt.Errorf("%s names columns but no machine type", name)
	}
	return types, nil
}

func parse(record []string, at map[string]int) (machine.Type, error) {
	var err error
	text := func(column string) string {
		if i, ok := at[column]; ok {
			return strings.TrimSpace(record[i])
		}
		return ""
	}
	price := func(column string) money.PerHour {
		s := text(column)
		if s == "" || err != nil {
			return 0
		}
		a, e := money.Parse(s)
		switch {
		case e != nil:
			err = fmt.Errorf("%s: %w", column, e)
		case a < 0:
			err = fmt.Errorf("%s: %s is negative; a price is zero or more", column, s)
		}
		return money.PerHour(a)
	}
	whole := func(column string, most int64) int64 {
		s := text(column)
		if s == "" || err != nil {
			return 0
		}
		n, e := strconv.ParseInt(s, 10, 64)
		if e != nil || n < 0 || n > most {
			err = fmt.Errorf("%s: %q is not a whole number from 0 to %d", column, s, most)
		}
		return n
	}

	t := machine.Type{
		Name:         text("name"),
		Currency:     text("currency"),
		List:         price("price_per_hour"),
		UnitList:     [resource.Kinds]money.PerHour{price("cpu_price"), price("memory_price"), price("gpu_price")},
		RatingMillis: whole("rating_millis", 1_000_000), RatingLow: whole("rating_low", 1_000_000), RatingHigh: whole("rating_high", 1_000_000),
		RatingSource: text("rating_source"),
	}
	t.Capacity = resource.Vector{whole("vcpu", 1<<20) * 1000, whole("memory_mib", 1<<30) * resource.MiB, whole("gpu", 1<<16) * 1000}
	if t.Currency == "" {
		t.Currency = "USD"
	}
	if err == nil && !isCurrency(t.Currency) {
		err = fmt.Errorf("currency: %q is not three capital letters such as USD", t.Currency)
	}
	if s := text("discount_percent"); s != "" && err == nil {
		a, e := money.Parse(s)
		if e != nil || a < 0 || a > 100*money.Unit || a%(money.Unit/10) != 0 {
			err = fmt.Errorf("discount_percent: %q is not from 0 to 100 with at most one decimal", s)
		}
		t.DiscountMillis = int64(a / (money.Unit / 10))
	}
	if err == nil && text("price_per_hour") == "" && text("cpu_price")+text("memory_price")+text("gpu_price") == "" {
		err = errors.New("price_per_hour: a type needs a price (or cpu_price, memory_price, gpu_price)")
	}
	return t, err
}

// located names the line of an error of the CSV reader.
func located(name string, err error) error {
	var parse *csv.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: %w", name, parse.Line, parse.Err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

func isCurrency(s string) bool {
	return len(s) == 3 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == ""
}
