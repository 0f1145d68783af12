package focus

import (
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"
	"github.com/parquet-go/parquet-go/format"

	"github.com/neap-dev/neap/core/bill"
)

// Decimals of the Parquet columns: costs have nine, other numbers eighteen, both
// in 16 bytes, so that nothing is rounded.
const (
	costScale  = 9
	ratioScale = 18
	precision  = 38
)

func schema() *parquet.Schema {
	g := parquet.Group{}
	for _, c := range written {
		var n parquet.Node
		switch c.kind {
		case cost:
			n = parquet.Decimal(costScale, precision, parquet.FixedLenByteArrayType(16))
		case ratio:
			n = parquet.Decimal(ratioScale, precision, parquet.FixedLenByteArrayType(16))
		case date:
			n = parquet.Timestamp(parquet.Millisecond)
		case flat, deep:
			n = parquet.JSON()
		default:
			n = parquet.Encoded(parquet.String(), &parquet.RLEDictionary)
		}
		if !c.filled {
			n = parquet.Optional(n)
		}
		g[c.name] = n
	}
	return parquet.NewSchema("focus", g)
}

// WriteParquet exports windows as [WriteCSV] does, as Parquet.
func WriteParquet(w io.Writer, windows []bill.Window, o Options) error {
	if err := check(windows, o); err != nil {
		return err
	}
	s := schema()
	order := make([]int, 0, len(written)) // of the schema's columns in a written row
	for _, path := range s.Columns() {
		order = append(order, at[path[0]])
	}
	out := parquet.NewGenericWriter[any](w, s, parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}),
		parquet.CreatedBy("neap", "1", ""), parquet.KeyValueMetadata("FocusVersion", "1.2"), parquet.MaxRowsPerRowGroup(100_000))
	row := make(parquet.Row, len(order))
	err := each(windows, o, func(cells []string) error {
		for i, n := range order {
			v, err := parquetValue(&written[n], cells[n])
			if err != nil {
				return err
			}
			row[i] = v.Level(0, v.DefinitionLevel(), i)
		}
		_, err := out.WriteRows([]parquet.Row{row})
		return err
	})
	return errors.Join(err, out.Close())
}

// parquetValue is one cell; its definition level says whether it is null.
func parquetValue(c *column, s string) (parquet.Value, error) {
	defined := 0
	if !c.filled {
		defined = 1
	}
	if s == "" {
		return parquet.NullValue().Level(0, 0, 0), nil
	}
	var v parquet.Value
	switch c.kind {
	case cost, ratio:
		n, ok := parse(s)
		if !ok {
			return v, fmt.Errorf("column %s: %q is not a number", c.name, s)
		}
		if c.kind == cost {
			n = new(big.Int).Quo(n, new(big.Int).Exp(big.NewInt(10), big.NewInt(ratioScale-costScale), nil))
		}
		v = parquet.FixedLenByteArrayValue(twosComplement(n))
	case date:
		t, err := time.Parse(stamp, s)
		if err != nil {
			return v, fmt.Errorf("column %s: %w", c.name, err)
		}
		v = parquet.Int64Value(t.UnixMilli())
	default:
		v = parquet.ByteArrayValue([]byte(s))
	}
	return v.Level(0, defined, 0), nil
}

func twosComplement(n *big.Int) []byte {
	b := make([]byte, 16)
	if n.Sign() >= 0 {
		return n.FillBytes(b)
	}
	return new(big.Int).Add(n, new(big.Int).Lsh(big.NewInt(1), 128)).FillBytes(b)
}

// ValidateParquet checks a FOCUS file in Parquet as [Validate] checks CSV.
func ValidateParquet(r io.ReaderAt, size int64, c Checks) (err error) {
	defer func() { // a damaged file may make the library panic
		if p := recover(); p != nil {
			err = &Violation{Identity: "is Parquet", Detail: fmt.Sprint(p)}
		}
	}()
	f, err := parquet.OpenFile(r, size)
	if err != nil {
		return &Violation{Identity: "is Parquet", Detail: err.Error()}
	}
	var header []string
	var nodes []parquet.Node
	for _, field := range f.Schema().Fields() {
		if !field.Leaf() {
			return &Violation{Column: field.Name(), Identity: "plain columns", Detail: "it has columns inside"}
		}
		header, nodes = append(header, field.Name()), append(nodes, field)
	}
	v, err := newChecker(header, c)
	if err != nil {
		return err
	}
	in := parquet.NewGenericReader[any](f)
	defer in.Close()
	rows := make([]parquet.Row, 256)
	cells := make([]string, len(header))
	for {
		n, err := in.ReadRows(rows)
		for _, row := range rows[:n] {
			clear(cells)
			for _, value := range row {
				if value.IsNull() {
					continue
				}
				i := value.Column()
				if cells[i], err = cellText(nodes[i], value); err != nil {
					return &Violation{Row: v.rows + 1, Column: header[i], Identity: "data type", Detail: err.Error()}
				}
				if cells[i] == "" {
					return &Violation{Row: v.rows + 1, Column: header[i], Identity: "null handling", Detail: "it is empty and should be null"}
				}
			}
			if err := v.row(slices.Clone(cells)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return v.finish()
		}
		if err != nil {
			return &Violation{Row: v.rows + 1, Identity: "is Parquet", Detail: err.Error()}
		}
	}
}

// cellText is a value as it would stand in CSV.
func cellText(n parquet.Node, v parquet.Value) (string, error) {
	var logical format.LogicalTypeValue
	if t := n.Type().LogicalType(); t != nil {
		logical = t.Value
	}
	if dec, ok := logical.(*format.DecimalType); ok {
		var i *big.Int
		switch v.Kind() {
		case parquet.Int32:
			i = big.NewInt(int64(v.Int32()))
		case parquet.Int64:
			i = big.NewInt(v.Int64())
		case parquet.FixedLenByteArray, parquet.ByteArray:
			b := v.ByteArray()
			i = new(big.Int).SetBytes(b)
			if len(b) > 0 && b[0]&0x80 != 0 {
				i.Sub(i, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
			}
		default:
			return "", fmt.Errorf("a decimal of kind %v", v.Kind())
		}
		scale := int(dec.Scale)
		return trim(new(big.Rat).SetFrac(i, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).FloatString(scale)), nil
	}
	switch v.Kind() {
	case parquet.Int64:
		if stampType, ok := logical.(*format.TimestampType); ok {
			var t time.Time
			switch stampType.Unit.Value.(type) {
			case *format.MilliSeconds:
				t = time.UnixMilli(v.Int64())
			case *format.MicroSeconds:
				t = time.UnixMicro(v.Int64())
			default:
				t = time.Unix(0, v.Int64())
			}
			return t.UTC().Format(stamp), nil
		}
		return strconv.FormatInt(v.Int64(), 10), nil
	case parquet.Int32:
		return strconv.FormatInt(int64(v.Int32()), 10), nil
	case parquet.Int96:
		return "", errors.New("an instant of the old kind Int96")
	case parquet.Double:
		return plain(v.Double(), 64), nil
	case parquet.Float:
		return plain(float64(v.Float()), 32), nil
	case parquet.ByteArray, parquet.FixedLenByteArray:
		return string(v.ByteArray()), nil
	}
	return "", fmt.Errorf("a value of kind %v", v.Kind())
}

func plain(f float64, bits int) string { return strconv.FormatFloat(f, 'f', -1, bits) }
