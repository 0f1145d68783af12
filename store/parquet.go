package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// The columns of the Parquet files. docs/format/store.md describes them; a
// change of one is a new formatVersion.

// formatVersion is written into every file under the key "neap.format".
const formatVersion = "1"

type parquetKinds struct {
	CPU    int64 `parquet:"cpu"`
	Memory int64 `parquet:"memory"`
	GPU    int64 `parquet:"gpu"`
}

type podRow struct {
	UID             string       `parquet:"uid"`
	Namespace       string       `parquet:"namespace,dict"`
	Name            string       `parquet:"name,delta"`
	ModuleNamespace string       `parquet:"module_namespace,dict"`
	ModuleKind      string       `parquet:"module_kind,dict"`
	ModuleName      string       `parquet:"module_name,dict"`
	Machine         string       `parquet:"machine,dict"`
	Pool            string       `parquet:"pool,dict"`
	Type            string       `parquet:"type,dict"`
	Labels          string       `parquet:"labels,dict"` // a JSON object with sorted keys, "" if nil
	From            int64        `parquet:"from,timestamp(nanosecond)"`
	To              int64        `parquet:"to,timestamp(nanosecond)"`
	RequestSeconds  parquetKinds `parquet:"request_seconds"`
	UseSeconds      parquetKinds `parquet:"use_seconds"`
	HeldSeconds     parquetKinds `parquet:"held_seconds"`
	Used            parquetKinds `parquet:"used_nano"`
	Slack           parquetKinds `parquet:"slack_nano"`
	Headroom        parquetKinds `parquet:"headroom_nano"`
	IsHeadroom      bool         `parquet:"is_headroom"`
	Shared          parquetKinds `parquet:"shared_nano"`
	OpenCost        parquetKinds `parquet:"opencost_nano"`
	EstimatedMillis int64        `parquet:"estimated_millis"`
	Estimated       int64        `parquet:"estimated_nano"`
}

type machineRow struct {
	Name            string       `parquet:"name"`
	Pool            string       `parquet:"pool,dict"`
	Type            string       `parquet:"type,dict"`
	Serverless      bool         `parquet:"serverless"`
	From            int64        `parquet:"from,timestamp(nanosecond)"`
	To              int64        `parquet:"to,timestamp(nanosecond)"`
	CapacitySeconds parquetKinds `parquet:"capacity_seconds"`
	RatingMillis    int64        `parquet:"rating_millis"`
	ListPrice       int64        `parquet:"list_price_nano_per_hour"`
	EffectivePrice  int64        `parquet:"effective_price_nano_per_hour"`
	List            int64        `parquet:"list_nano"`
	Bill            parquetKinds `parquet:"bill_nano"`
	System          parquetKinds `parquet:"idle_system_nano"`
	Spare           parquetKinds `parquet:"idle_spare_nano"`
	Slack           parquetKinds `parquet:"idle_slack_nano"`
	Shape           parquetKinds `parquet:"idle_stranded_shape_nano"`
	Constraint      parquetKinds `parquet:"idle_stranded_constraint_nano"`
	Waiting         parquetKinds `parquet:"idle_waiting_scale_down_nano"`
	Unexplained     parquetKinds `parquet:"idle_unexplained_nano"`
	Unshared        parquetKinds `parquet:"unshared_nano"`
	Binding         string       `parquet:"binding,dict"`
}

type loadRow struct {
	ModuleNamespace string `parquet:"module_namespace,dict"`
	ModuleKind      string `parquet:"module_kind,dict"`
	ModuleName      string `parquet:"module_name,dict"`
	Requests        int64  `parquet:"requests"` // −1 if unknown
	Known           bool   `parquet:"quality_known"`
	SuccessMicros   int64  `parquet:"success_micros"`
	P99             int64  `parquet:"p99_nanoseconds"`
	Met             bool   `parquet:"targets_met"`
}

// boxes lists a machine row's boxes in the order of bill.Boxes.
func (r *machineRow) boxes() [7]*parquetKinds {
	return [7]*parquetKinds{&r.System, &r.Spare, &r.Slack, &r.Shape, &r.Constraint, &r.Waiting, &r.Unexplained}
}

func fromAmounts(a bill.Amounts) parquetKinds {
	return parquetKinds{int64(a[0]), int64(a[1]), int64(a[2])}
}

func (k parquetKinds) amounts() bill.Amounts {
	return bill.Amounts{money.Amount(k.CPU), money.Amount(k.Memory), money.Amount(k.GPU)}
}

func fromInts(v [resource.Kinds]int64) parquetKinds { return parquetKinds{v[0], v[1], v[2]} }

func (k parquetKinds) ints() [resource.Kinds]int64 {
	return [resource.Kinds]int64{k.CPU, k.Memory, k.GPU}
}

func instant(ns int64) time.Time { return time.Unix(0, ns).UTC() }

// header is what every file says of its hour, under the key "neap.hour".
type header struct {
	From     int64        `json:"from"` // nanoseconds since 1970
	To       int64        `json:"to"`
	Currency string       `json:"currency"`
	Notes    []string     `json:"notes,omitempty"`
	Offers   []bill.Offer `json:"offers,omitempty"`
	Rows     int          `json:"rows"`
}

// partNames are the files of one hour: Parquet with pods, machines and loads.
var partNames = [3]string{"pods", "machines", "loads"}

// encodeHour returns the three files of an hour.
func encodeHour(f *bill.Facts) ([3][]byte, error) {
	var out [3][]byte
	h := header{From: f.From.UnixNano(), To: f.To.UnixNano(), Currency: f.Currency, Notes: f.Notes, Offers: f.Offers}

	pods := make([]podRow, len(f.Pods))
	labels := labelTexts{}
	for i := range f.Pods {
		p := &f.Pods[i]
		text, err := labels.text(p.Labels)
		if err != nil {
			return out, err
		}
		pods[i] = podRow{
			UID: p.UID, Namespace: p.Namespace, Name: p.Name,
			ModuleNamespace: p.Module.Namespace, ModuleKind: p.Module.Kind, ModuleName: p.Module.Name,
			Machine: p.Machine, Pool: p.Pool, Type: p.Type, Labels: text,
			From: p.From.UnixNano(), To: p.To.UnixNano(),
			RequestSeconds: fromInts(p.RequestSeconds), UseSeconds: fromInts(p.UseSeconds), HeldSeconds: fromInts(p.HeldSeconds),
			Used: fromAmounts(p.Used), Slack: fromAmounts(p.Slack), Headroom: fromAmounts(p.Headroom), IsHeadroom: p.IsHeadroom,
			Shared: fromAmounts(p.Shared), OpenCost: fromAmounts(p.OpenCost),
			EstimatedMillis: p.EstimatedMillis, Estimated: int64(p.Estimated),
		}
	}
	var err error
	if out[0], err = encodeRows(pods, h); err != nil {
		return out, err
	}

	machines := make([]machineRow, len(f.Machines))
	for i := range f.Machines {
		m := &f.Machines[i]
		r := machineRow{
			Name: m.Name, Pool: m.Pool, Type: m.Type, Serverless: m.Serverless,
			From: m.From.UnixNano(), To: m.To.UnixNano(), CapacitySeconds: fromInts(m.CapacitySeconds),
			RatingMillis: m.RatingMillis, ListPrice: int64(m.ListPrice), EffectivePrice: int64(m.EffectivePrice),
			List: int64(m.List), Bill: fromAmounts(m.Bill), Unshared: fromAmounts(m.Unshared), Binding: m.Binding.String(),
		}
		for n, box := range r.boxes() {
			*box = fromAmounts(m.Idle[bill.Boxes[n]])
		}
		machines[i] = r
	}
	if out[1], err = encodeRows(machines, h); err != nil {
		return out, err
	}

	loads := make([]loadRow, len(f.Loads))
	for i, l := range f.Loads {
		loads[i] = loadRow{l.Module.Namespace, l.Module.Kind, l.Module.Name, l.Requests, l.Known, l.SuccessMicros, int64(l.P99), l.Met}
	}
	out[2], err = encodeRows(loads, h)
	return out, err
}

func encodeRows[T any](rows []T, h header) ([]byte, error) {
	h.Rows = len(rows)
	meta, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := parquet.NewGenericWriter[T](&buf,
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedFastest}),
		parquet.CreatedBy("neap", formatVersion, ""),
		parquet.KeyValueMetadata("neap.format", formatVersion),
		parquet.KeyValueMetadata("neap.hour", string(meta)))
	if _, err := w.Write(rows); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// decodeHour is the inverse of encodeHour. Pods with the same labels share one
// map, which must not be changed.
func decodeHour(files [3][]byte) (bill.Facts, error) {
	var f bill.Facts
	pods, h, err := decodeRows[podRow](files[0])
	if err != nil {
		return f, fmt.Errorf("%s: %w", partNames[0], err)
	}
	machines, h1, err := decodeRows[machineRow](files[1])
	if err != nil {
		return f, fmt.Errorf("%s: %w", partNames[1], err)
	}
	loads, h2, err := decodeRows[loadRow](files[2])
	if err != nil {
		return f, fmt.Errorf("%s: %w", partNames[2], err)
	}
	if h1.From != h.From || h2.From != h.From || h1.To != h.To || h2.To != h.To {
		return f, fmt.Errorf("its files are of different hours")
	}
	f = bill.Facts{From: instant(h.From), To: instant(h.To), Currency: h.Currency, Notes: h.Notes, Offers: h.Offers}
	if len(pods) > 0 {
		f.Pods = make([]bill.PodFact, len(pods))
	}
	labels := labelTexts{}
	same := interner{}
	for i := range pods {
		r := &pods[i]
		set, err := labels.set(r.Labels)
		if err != nil {
			return f, fmt.Errorf("labels of pod %s/%s: %w", r.Namespace, r.Name, err)
		}
		f.Pods[i] = bill.PodFact{
			UID: r.UID, Namespace: same.of(r.Namespace), Name: r.Name,
			Module:  workload.Key{Namespace: same.of(r.ModuleNamespace), Kind: same.of(r.ModuleKind), Name: same.of(r.ModuleName)},
			Machine: same.of(r.Machine), Pool: same.of(r.Pool), Type: same.of(r.Type), Labels: set,
			From: instant(r.From), To: instant(r.To),
			RequestSeconds: r.RequestSeconds.ints(), UseSeconds: r.UseSeconds.ints(), HeldSeconds: r.HeldSeconds.ints(),
			Used: r.Used.amounts(), Slack: r.Slack.amounts(), Headroom: r.Headroom.amounts(), IsHeadroom: r.IsHeadroom,
			Shared: r.Shared.amounts(), OpenCost: r.OpenCost.amounts(),
			EstimatedMillis: r.EstimatedMillis, Estimated: money.Amount(r.Estimated),
		}
	}
	if len(machines) > 0 {
		f.Machines = make([]bill.MachineFact, len(machines))
	}
	for i := range machines {
		r := &machines[i]
		m := bill.MachineFact{
			Name: same.of(r.Name), Pool: same.of(r.Pool), Type: same.of(r.Type), Serverless: r.Serverless,
			From: instant(r.From), To: instant(r.To), CapacitySeconds: r.CapacitySeconds.ints(),
			RatingMillis: r.RatingMillis, ListPrice: money.PerHour(r.ListPrice), EffectivePrice: money.PerHour(r.EffectivePrice),
			List: money.Amount(r.List), Bill: r.Bill.amounts(), Unshared: r.Unshared.amounts(),
			Idle: make(map[bill.Box]bill.Amounts, len(bill.Boxes)),
		}
		for n, box := range r.boxes() {
			m.Idle[bill.Boxes[n]] = box.amounts()
		}
		for _, k := range resource.All {
			if k.String() == r.Binding {
				m.Binding = k
			}
		}
		f.Machines[i] = m
	}
	if len(loads) > 0 {
		f.Loads = make([]bill.Load, len(loads))
	}
	for i, r := range loads {
		f.Loads[i] = bill.Load{
			Module:   workload.Key{Namespace: same.of(r.ModuleNamespace), Kind: same.of(r.ModuleKind), Name: same.of(r.ModuleName)},
			Requests: r.Requests, Known: r.Known, SuccessMicros: r.SuccessMicros, P99: time.Duration(r.P99), Met: r.Met,
		}
	}
	return f, nil
}

func decodeRows[T any](file []byte) (rows []T, h header, err error) {
	defer func() { // a damaged file may make the library panic
		if p := recover(); p != nil {
			err = fmt.Errorf("not a Parquet file of Neap: %v", p)
		}
	}()
	f, err := parquet.OpenFile(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, h, err
	}
	if v, _ := f.Lookup("neap.format"); v != formatVersion {
		return nil, h, fmt.Errorf("its format is %q and not %q; read it with the version of neap that wrote it", v, formatVersion)
	}
	meta, _ := f.Lookup("neap.hour")
	if err := json.Unmarshal([]byte(meta), &h); err != nil {
		return nil, h, fmt.Errorf("it does not say which hour it is of: %w", err)
	}
	if f.NumRows() != int64(h.Rows) {
		return nil, h, fmt.Errorf("it has %d rows and should have %d", f.NumRows(), h.Rows)
	}
	r := parquet.NewGenericReader[T](f)
	defer r.Close()
	rows = make([]T, h.Rows)
	for n := 0; n < len(rows); {
		got, err := r.Read(rows[n:])
		n += got
		if err != nil && err != io.EOF {
			return nil, h, err
		}
		if got == 0 && n < len(rows) {
			return nil, h, fmt.Errorf("it ends after %d of %d rows", n, len(rows))
		}
	}
	return rows, h, nil
}

// labelTexts turns label sets into JSON and back, each distinct one once.
type labelTexts map[string]map[string]string

func (labelTexts) text(set map[string]string) (string, error) {
	if set == nil {
		return "", nil
	}
	b, err := json.Marshal(set) // sorts the keys
	return string(b), err
}

func (l labelTexts) set(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	set, ok := l[text]
	if !ok {
		if err := json.Unmarshal([]byte(text), &set); err != nil {
			return nil, err
		}
		l[text] = set
	}
	return set, nil
}

// interner keeps one copy of equal strings.
type interner map[string]string

func (n interner) of(s string) string {
	if have, ok := n[s]; ok {
		return have
	}
	n[s] = s
	return s
}
