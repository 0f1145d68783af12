package focus

import (
	"bufio"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

// Options say who bills whom. The zero value is for showing costs within one
// organisation.
type Options struct {
	// Provider, Publisher and Issuer are who offers, publishes and bills the
	// machines; "" means "Neap".
	Provider, Publisher, Issuer string
	// BillingAccountID is the account that is billed; "" means "neap".
	BillingAccountID   string
	BillingAccountName string // "" means BillingAccountID
	SubAccountID       string // such as the cluster; "" leaves it out
	SubAccountName     string
	InvoiceID          string // "" leaves it out
	// Origins exports the origin charges in place of their split charges.
	Origins bool
}

// Days adds hourly windows up to one for each day of UTC, the finest that a
// month's export needs. Their order is kept.
func Days(hours []bill.Window) ([]bill.Window, error) {
	var days []bill.Window
	for i := 0; i < len(hours); {
		day := hours[i].From.UTC().Truncate(24 * time.Hour)
		n := i
		for n < len(hours) && hours[n].From.UTC().Truncate(24*time.Hour).Equal(day) {
			n++
		}
		sum, err := bill.Merge(hours[i:n]...)
		if err != nil {
			return nil, err
		}
		days = append(days, sum)
		i = n
	}
	return days, nil
}

// WriteCSV exports windows, each one charge period, as CSV. It checks the whole
// export first and writes nothing if an identity fails.
func WriteCSV(w io.Writer, windows []bill.Window, o Options) error {
	if err := check(windows, o); err != nil {
		return err
	}
	buf := bufio.NewWriterSize(w, 1<<16)
	out := csv.NewWriter(buf)
	header := make([]string, len(written))
	for i, c := range written {
		header[i] = c.name
	}
	if err := out.Write(header); err != nil {
		return err
	}
	if err := each(windows, o, out.Write); err != nil {
		return err
	}
	out.Flush()
	return errors.Join(out.Error(), buf.Flush())
}

// check runs the export through the validator.
func check(windows []bill.Window, o Options) error {
	header := make([]string, len(written))
	for i, c := range written {
		header[i] = c.name
	}
	total := new(big.Int)
	for i := range windows {
		for b := range windows[i].Boxes {
			total.Add(total, big.NewInt(int64(windows[i].Boxes[b].Bill.Sum())))
		}
	}
	v, err := newChecker(header, Checks{Total: money18(total)})
	if err != nil {
		return err
	}
	if err := each(windows, o, v.row); err != nil {
		return err
	}
	return v.finish()
}

// An origin is one origin charge.
type origin struct {
	id         string
	from, to   time.Time
	currency   string
	box        *bill.BoxRow
	kinds      []int // the resources in it
	unit       string
	meter      string
	quantity   int64 // millionths of a millionth of the unit
	cost, list money.Amount
	unitPrice  string
	listPrice  string
}

// scale is how many units of origin.quantity are one pricing unit.
const scale = 1_000_000_000_000

// each calls write with every row of the export, in a fixed order. The row is
// reused.
func each(windows []bill.Window, o Options, write func([]string) error) error {
	orElse := func(s, other string) string { return cmp.Or(s, other) }
	o.Provider, o.Publisher, o.Issuer = orElse(o.Provider, "Neap"), orElse(o.Publisher, "Neap"), orElse(o.Issuer, "Neap")
	o.BillingAccountID = orElse(o.BillingAccountID, "neap")
	o.BillingAccountName = orElse(o.BillingAccountName, o.BillingAccountID)
	for i := range windows {
		w := &windows[i]
		if len(w.Boxes) == 0 {
			continue
		}
		if !w.From.Before(w.To) {
			return fmt.Errorf("export a window from %s to %s: it has no length", w.From, w.To)
		}
		byPlace := map[[2]string][]*bill.Row{}
		for r := range w.Rows {
			row := &w.Rows[r]
			place := [2]string{row.Pool, row.Type}
			byPlace[place] = append(byPlace[place], row)
		}
		for b := range w.Boxes {
			box := &w.Boxes[b]
			for _, org := range originsOf(w, box) {
				if err := writeOrigin(&org, byPlace[[2]string{box.Pool, box.Type}], o, write); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// originsOf returns the origin charges of machines of one type in one pool: one,
// or of serverless capacity one for each resource.
func originsOf(w *bill.Window, b *bill.BoxRow) []origin {
	base := origin{from: w.From.UTC(), to: w.To.UTC(), currency: w.Currency, box: b}
	base.id = base.from.Format(time.RFC3339Nano) + "/" + b.Pool + "/" + b.Type
	var out []origin
	add := func(o origin) {
		for _, k := range o.kinds {
			o.cost += b.Bill[k]
			o.list += b.List[k]
		}
		if o.cost == 0 && o.list == 0 {
			return
		}
		// So little time or so high a price that quantities cannot tell the parts
		// apart: money itself is the quantity.
		if o.quantity < 2*int64(max(o.cost, o.list)) {
			o.unit, o.meter = "Units", "Cost of short-lived capacity"
			o.quantity = int64(max(o.cost, o.list)) * (scale / int64(money.Unit))
		}
		o.unitPrice, o.listPrice = price(o.cost, o.quantity), price(o.list, o.quantity)
		out = append(out, o)
	}
	if !b.Serverless {
		o := base
		o.kinds, o.unit, o.meter = []int{0, 1, 2}, "Hours", "Machine time"
		o.quantity = int64(money.Amount(b.MachineMillis).Scale(2_500_000, 9))
		add(o)
		return out
	}
	units := [resource.Kinds]string{"Core-Hours", "GiB-Hours", "GPU-Hours"}
	meters := [resource.Kinds]string{"CPU time", "Memory time", "GPU time"}
	for k := range resource.Kinds {
		o := base
		o.kinds, o.unit, o.meter = []int{k}, units[k], meters[k]
		o.id += "/" + resource.Kind(k).String()
		if k == int(resource.Memory) {
			o.quantity = int64(money.Amount(b.Capacity[k]).Scale(scale, 1024*3600))
		} else {
			o.quantity = int64(money.Amount(b.Capacity[k]).Scale(2_500_000, 9))
		}
		add(o)
	}
	return out
}

// price is cost per unit with as many decimals as make cost of quantity again.
func price(c money.Amount, quantity int64) string {
	r := new(big.Rat).SetFrac(
		new(big.Int).Mul(big.NewInt(int64(c)), big.NewInt(scale/int64(money.Unit))),
		big.NewInt(quantity))
	return trim(r.FloatString(18))
}

// trim drops zeros that say nothing.
func trim(s string) string {
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	if s == "-0" {
		return "0"
	}
	return s
}

func moneyText(a money.Amount) string { return trim(a.String()) }

// quantityText writes millionths of a millionth of a unit.
func quantityText(q int64) string {
	return trim(fmt.Sprintf("%d.%012d", q/scale, q%scale))
}

// A share is one row's part of an origin charge.
type share struct {
	row      *bill.Row
	cost     money.Amount
	list     money.Amount
	quantity int64
	ratio    int64 // of scale
	used     money.Amount
	slack    money.Amount
	shared   money.Amount
	openCost money.Amount
	estimate money.Amount
	byKind   [resource.Kinds]money.Amount
	boxes    [6]money.Amount
}

// sharedBoxes are the boxes that rows carry a share of, in the order of share.boxes.
var sharedBoxes = [6]bill.Box{bill.System, bill.Spare, bill.Shape, bill.Constraint, bill.Waiting, bill.Unexplain}

func writeOrigin(o *origin, rows []*bill.Row, opts Options, write func([]string) error) error {
	shares, err := split(o, rows)
	if err != nil {
		return err
	}
	if opts.Origins {
		shares = []share{sum(o, shares)}
	}
	row := make([]string, len(written))
	for i := range shares {
		clear(row)
		if err := fill(row, o, &shares[i], opts); err != nil {
			return err
		}
		if err := write(row); err != nil {
			return err
		}
	}
	return nil
}

// split divides an origin charge over the rows that carry it.
func split(o *origin, rows []*bill.Row) ([]share, error) {
	shares := make([]share, 0, len(rows))
	total := money.Amount(0)
	held := make([]int64, 0, len(rows))
	for _, r := range rows {
		s := share{row: r}
		h := int64(0)
		var direct [resource.Kinds]int64
		for k, c := range r.Cells {
			direct[k] = int64(c.Used + c.Slack)
		}
		estimates := money.Split(r.Estimated, direct[:])
		for _, k := range o.kinds {
			c := &r.Cells[k]
			s.used += c.Used
			s.slack += c.Slack
			s.shared += c.Shared
			s.openCost += c.OpenCost
			s.byKind[k] = c.Cost()
			s.estimate += estimates[k]
			h += c.Held
		}
		s.cost = s.used + s.slack + s.shared
		total += s.cost
		shares, held = append(shares, s), append(held, h)
	}
	if total != o.cost {
		return nil, &Violation{Identity: "Σ split charges = origin charge",
			Detail: fmt.Sprintf("the rows of %s carry %s of %s; this is a fault of neap, please report it", o.id, total, o.cost)}
	}
	weights := make([]int64, len(shares))
	for i := range shares {
		weights[i] = int64(shares[i].cost)
	}
	if total == 0 { // machines that cost nothing but have a list price
		weights = held
		if !slices.ContainsFunc(weights, func(w int64) bool { return w > 0 }) {
			shares, weights = []share{{row: &bill.Row{Pool: o.box.Pool, Type: o.box.Type}}}, []int64{1}
		}
	}
	lists := money.Split(o.list, weights)
	quantities := money.Split(money.Amount(o.quantity), weights)
	ratios := money.Split(scale, weights)
	var carried [len(sharedBoxes)]money.Amount
	for _, k := range o.kinds {
		for i, b := range sharedBoxes {
			carried[i] += o.box.Idle[slices.Index(bill.Boxes, b)][k]
		}
	}
	divide(shares, carried)
	kept := shares[:0]
	for i, s := range shares {
		s.list, s.quantity, s.ratio = lists[i], int64(quantities[i]), int64(ratios[i])
		if s.cost != 0 || s.list != 0 || s.quantity != 0 {
			kept = append(kept, s)
		}
	}
	return kept, nil
}

// divide tells each share of the idle boxes which boxes it is of: nearly in
// proportion, with every row's boxes adding up to its share and every box's rows
// to the box, exactly.
func divide(shares []share, boxes [6]money.Amount) {
	total := money.Amount(0)
	for _, b := range boxes {
		total += b
	}
	if total <= 0 {
		return
	}
	left := boxes
	rest := make([]money.Amount, len(shares))
	for i := range shares {
		rest[i] = shares[i].shared
		for b := range boxes {
			part := shares[i].shared.Scale(int64(boxes[b]), int64(total))
			shares[i].boxes[b] = part
			rest[i] -= part
			left[b] -= part
		}
	}
	b := 0
	for i := range shares {
		for rest[i] > 0 && b < len(left) {
			part := min(rest[i], left[b])
			shares[i].boxes[b] += part
			rest[i] -= part
			left[b] -= part
			if left[b] == 0 {
				b++
			}
		}
	}
}

// sum is the origin charge itself as one share without a module.
func sum(o *origin, shares []share) share {
	s := share{row: &bill.Row{Pool: o.box.Pool, Type: o.box.Type}, cost: o.cost, list: o.list, quantity: o.quantity}
	for i := range shares {
		p := &shares[i]
		s.used += p.used
		s.slack += p.slack
		s.shared += p.shared
		s.openCost += p.openCost
		s.estimate += p.estimate
		for k := range s.byKind {
			s.byKind[k] += p.byKind[k]
		}
		for b := range s.boxes {
			s.boxes[b] += p.boxes[b]
		}
	}
	return s
}

const stamp = "2006-01-02T15:04:05Z"

// method names how charges are split; docs/bill.md explains it.
const method = "neap.dev/conserving-share/v1"

func fill(row []string, o *origin, s *share, opts Options) error {
	set := func(name, value string) { row[at[name]] = value }
	month := time.Date(o.from.Year(), o.from.Month(), 1, 0, 0, 0, 0, time.UTC)
	set("BillingPeriodStart", month.Format(stamp))
	set("BillingPeriodEnd", month.AddDate(0, 1, 0).Format(stamp))
	set("ChargePeriodStart", whole(o.from, false).Format(stamp))
	set("ChargePeriodEnd", whole(o.to, true).Format(stamp))

	set("BillingAccountId", opts.BillingAccountID)
	set("BillingAccountName", opts.BillingAccountName)
	set("BillingCurrency", o.currency)
	set("SubAccountId", opts.SubAccountID)
	set("SubAccountName", opts.SubAccountName)
	set("InvoiceId", opts.InvoiceID)
	set("InvoiceIssuerName", opts.Issuer)
	set("ProviderName", opts.Provider)
	set("PublisherName", opts.Publisher)

	set("ChargeCategory", "Usage")
	set("ChargeFrequency", "Usage-Based")
	set("PricingCategory", "Standard")
	set("ServiceCategory", "Compute")
	set("ServiceName", "Kubernetes")
	resourceType, subcategory := "Machines", "Virtual Machines"
	if o.box.Serverless {
		resourceType, subcategory = "Serverless capacity", "Serverless Compute"
	}
	set("ServiceSubcategory", subcategory)
	set("ResourceType", resourceType)
	pool := o.box.Pool
	if pool != "" {
		set("x_Pool", pool)
		set("ResourceId", "pool/"+pool+"/type/"+o.box.Type)
		set("ResourceName", o.box.Type+" in "+pool)
	} else {
		set("ResourceId", "type/"+o.box.Type)
		set("ResourceName", o.box.Type)
	}
	tags := map[string]string{"neap.dev/machine-type": o.box.Type}
	if pool != "" {
		tags["neap.dev/pool"] = pool
	}
	if err := setJSON(row, "Tags", tags); err != nil {
		return err
	}
	set("SkuId", o.box.Type+"/"+o.meter)
	set("SkuPriceId", o.box.Type+"/"+o.meter)
	set("SkuMeter", o.meter)
	set("x_MachineType", o.box.Type)

	set("PricingUnit", o.unit)
	set("ConsumedUnit", o.unit)
	set("PricingQuantity", quantityText(s.quantity))
	set("ConsumedQuantity", quantityText(s.quantity))
	set("ContractedUnitPrice", o.unitPrice)
	set("ListUnitPrice", o.listPrice)
	set("BilledCost", moneyText(s.cost))
	set("EffectiveCost", moneyText(s.cost))
	set("ContractedCost", moneyText(s.cost))
	set("ListCost", moneyText(s.list))

	set("x_OriginChargeId", o.id)
	set("x_OriginBilledCost", moneyText(o.cost))
	set("x_OriginListCost", moneyText(o.list))
	set("x_OriginPricingQuantity", quantityText(o.quantity))
	set("x_UsedCost", moneyText(s.used))
	set("x_SlackCost", moneyText(s.slack))
	for i, name := range [...]string{"System", "Spare", "StrandedShape", "StrandedConstraint", "WaitingScaleDown", "Unexplained"} {
		set("x_Idle"+name+"Cost", moneyText(s.boxes[i]))
	}
	for k, name := range [...]string{"Cpu", "Memory", "Gpu"} {
		set("x_"+name+"Cost", moneyText(s.byKind[k]))
	}
	set("x_OpenCostCost", moneyText(s.openCost))
	set("x_EstimatedCost", moneyText(s.estimate))

	where := o.meter + " of " + o.box.Type
	if pool != "" {
		where += " in pool " + pool
	}
	if opts.Origins {
		set("ChargeDescription", where)
		return nil
	}
	set("AllocatedMethodId", method)
	details := struct{ Elements []element }{[]element{{json.Number(quantityText(s.ratio)), o.unit, json.Number(quantityText(s.quantity))}}}
	if err := setJSON(row, "AllocatedMethodDetails", details); err != nil {
		return err
	}
	m := s.row.Module
	if m == (workload.Key{}) {
		set("ChargeDescription", where+", which nobody used")
		return nil
	}
	set("ChargeDescription", where+", for "+m.String())
	set("AllocatedResourceId", m.String())
	set("AllocatedResourceName", m.Name)
	return setJSON(row, "AllocatedTags", map[string]string{"neap.dev/namespace": m.Namespace, "neap.dev/kind": m.Kind, "neap.dev/module": m.Name})
}

type element struct {
	AllocatedRatio json.Number
	UsageUnit      string
	UsageQuantity  json.Number
}

func setJSON(row []string, name string, v any) error {
	b, err := json.Marshal(v)
	row[at[name]] = string(b)
	return err
}

// whole rounds an instant to a second, for FOCUS has no finer ones: starts down,
// ends up.
func whole(t time.Time, up bool) time.Time {
	r := t.Truncate(time.Second)
	if up && r.Before(t) {
		r = r.Add(time.Second)
	}
	return r
}
