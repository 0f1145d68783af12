package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/workload"
)

// Roll-ups are kept as blobs in SQLite: zstd around a version byte, a JSON head
// and rows of varints with a table of strings. They are derived: everything in
// them follows from the facts.

const rollupVersion = 1

// rollupHead is what a roll-up has few of.
type rollupHead struct {
	From     int64         `json:"from"`
	To       int64         `json:"to"`
	Currency string        `json:"currency"`
	Boxes    []bill.BoxRow `json:"boxes,omitempty"`
	Offers   []bill.Offer  `json:"offers,omitempty"`
	Notes    []string      `json:"notes,omitempty"`
}

var (
	zstdWriter, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	zstdReader, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(1<<30))
)

type rollupEncoder struct {
	buf   []byte
	ids   map[string]uint64
	names []string
}

func (e *rollupEncoder) int(v int64) { e.buf = binary.AppendVarint(e.buf, v) }
func (e *rollupEncoder) str(s string) {
	id, ok := e.ids[s]
	if !ok {
		id = uint64(len(e.names))
		e.ids[s] = id
		e.names = append(e.names, s)
	}
	e.buf = binary.AppendUvarint(e.buf, id)
}

func (e *rollupEncoder) key(k workload.Key) {
	e.str(k.Namespace)
	e.str(k.Kind)
	e.str(k.Name)
}

func encodeRollup(w *bill.Window) ([]byte, error) {
	e := rollupEncoder{ids: map[string]uint64{}}
	e.int(int64(len(w.Rows)))
	for i := range w.Rows {
		r := &w.Rows[i]
		e.key(r.Module)
		e.str(r.Namespace)
		e.str(r.Pool)
		e.str(r.Type)
		e.int(r.PodMillis)
		e.int(int64(r.Headroom))
		e.int(int64(r.Estimated))
		for _, c := range r.Cells {
			for _, v := range [8]int64{c.Use, c.Held, c.Bought, int64(c.Used), int64(c.Slack), int64(c.Shared), int64(c.List), int64(c.OpenCost)} {
				e.int(v)
			}
		}
	}
	e.int(int64(len(w.Loads)))
	for _, l := range w.Loads {
		e.key(l.Module)
		for _, v := range [5]int64{l.Requests, int64(l.Hours), int64(l.HoursUnknown), int64(l.HoursGuarded), int64(l.HoursMet)} {
			e.int(v)
		}
	}
	head, err := json.Marshal(rollupHead{nano(w.From), nano(w.To), w.Currency, w.Boxes, w.Offers, w.Notes})
	if err != nil {
		return nil, err
	}
	raw := []byte{rollupVersion}
	raw = binary.AppendUvarint(raw, uint64(len(head)))
	raw = append(raw, head...)
	raw = binary.AppendUvarint(raw, uint64(len(e.names)))
	for _, s := range e.names {
		raw = binary.AppendUvarint(raw, uint64(len(s)))
		raw = append(raw, s...)
	}
	raw = append(raw, e.buf...)
	return zstdWriter.EncodeAll(raw, nil), nil
}

var errRollup = errors.New("the roll-up is damaged")

type rollupDecoder struct {
	b     []byte
	names []string
	bad   bool
}

func (d *rollupDecoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *rollupDecoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *rollupDecoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// count reads how many items follow, each of at least one byte.
func (d *rollupDecoder) count(n int64) int {
	if n < 0 || n > int64(len(d.b)) {
		d.bad = true
		return 0
	}
	return int(n)
}

func (d *rollupDecoder) str() string {
	id := d.uint()
	if id >= uint64(len(d.names)) {
		d.bad = true
		return ""
	}
	return d.names[id]
}

func (d *rollupDecoder) key() workload.Key {
	return workload.Key{Namespace: d.str(), Kind: d.str(), Name: d.str()}
}

// decodeRollup reads what encodeRollup wrote; equal strings of several roll-ups
// become one through same.
func decodeRollup(blob []byte, same interner) (bill.Window, error) {
	var w bill.Window
	raw, err := zstdReader.DecodeAll(blob, nil)
	if err != nil {
		return w, fmt.Errorf("%w: %w", errRollup, err)
	}
	if len(raw) == 0 || raw[0] != rollupVersion {
		return w, errRollup
	}
	d := rollupDecoder{b: raw[1:]}
	var head rollupHead
	if err := json.Unmarshal(d.bytes(), &head); err != nil {
		return w, fmt.Errorf("%w: %w", errRollup, err)
	}
	w = bill.Window{From: fromNano(head.From), To: fromNano(head.To), Currency: head.Currency, Boxes: head.Boxes, Offers: head.Offers, Notes: head.Notes}
	d.names = make([]string, d.count(int64(d.uint())))
	for i := range d.names {
		d.names[i] = same.ofBytes(d.bytes())
	}
	if n := d.count(d.int()); n > 0 {
		w.Rows = make([]bill.Row, n)
	}
	for i := range w.Rows {
		r := &w.Rows[i]
		r.Module = d.key()
		r.Namespace, r.Pool, r.Type = d.str(), d.str(), d.str()
		r.PodMillis = d.int()
		r.Headroom, r.Estimated = money.Amount(d.int()), money.Amount(d.int())
		for k := range r.Cells {
			r.Cells[k] = bill.Cell{
				Use: d.int(), Held: d.int(), Bought: d.int(), Used: money.Amount(d.int()), Slack: money.Amount(d.int()),
				Shared: money.Amount(d.int()), List: money.Amount(d.int()), OpenCost: money.Amount(d.int()),
			}
		}
	}
	if n := d.count(d.int()); n > 0 {
		w.Loads = make([]bill.LoadRow, n)
	}
	for i := range w.Loads {
		w.Loads[i] = bill.LoadRow{
			Module: d.key(), Requests: d.int(), Hours: int(d.int()), HoursUnknown: int(d.int()),
			HoursGuarded: int(d.int()), HoursMet: int(d.int()),
		}
	}
	if d.bad || len(d.b) != 0 {
		return bill.Window{}, errRollup
	}
	return w, nil
}

func (n interner) ofBytes(b []byte) string {
	if have, ok := n[string(b)]; ok {
		return have
	}
	s := string(b)
	n[s] = s
	return s
}

// nano and fromNano keep the zero time apart from 1970.
func nano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return instant(ns)
}
