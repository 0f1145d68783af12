package focus

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Violation says which row of a file breaks which rule.
type Violation struct {
	Row      int    // of the data, from 1; 0 if it is of the whole file
	Column   string // "" if it is of several
	Identity string // the rule
	Detail   string
}

// Error returns one sentence.
func (v *Violation) Error() string {
	where := "the file"
	if v.Row > 0 {
		where = fmt.Sprintf("row %d", v.Row)
	}
	if v.Column != "" {
		where += ", column " + v.Column
	}
	return fmt.Sprintf("FOCUS: %s breaks %q: %s", where, v.Identity, v.Detail)
}

// Checks tune [Validate]. The zero value checks what can be checked from the
// file alone.
type Checks struct {
	// Invoices are what invoices come to, as decimals, by InvoiceId.
	Invoices map[string]string
	// Total is what BilledCost of all rows must come to, as a decimal; "" if it
	// is not known.
	Total string
	// Tolerance is how far a cost may be from its product of unit price and
	// quantity, as a decimal; "" means 0.000000001.
	Tolerance string
}

// Validate checks a FOCUS file in CSV and returns the first [Violation], or nil.
func Validate(r io.Reader, c Checks) error {
	in := csv.NewReader(r)
	in.ReuseRecord = true
	header, err := in.Read()
	if errors.Is(err, io.EOF) {
		return &Violation{Identity: "has a header", Detail: "it is empty"}
	}
	if err != nil {
		return &Violation{Identity: "is CSV", Detail: err.Error()}
	}
	v, err := newChecker(slices.Clone(header), c)
	if err != nil {
		return err
	}
	for {
		row, err := in.Read()
		if errors.Is(err, io.EOF) {
			return v.finish()
		}
		if err != nil {
			return &Violation{Row: v.rows + 1, Identity: "is CSV", Detail: err.Error()}
		}
		if err := v.row(row); err != nil {
			return err
		}
	}
}

// A number is a decimal times 10^18.
type number = *big.Int

var (
	one18   = new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil)
	decimal = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?(E-?[0-9]{1,3})?$`)
)

// parse reads a number as FOCUS wants it: no sign for positive ones, not in the
// exponent either, no separators. More than 18 decimals are cut off.
func parse(s string) (number, bool) {
	if !decimal.MatchString(s) {
		return nil, false
	}
	mantissa, exponent, scientific := strings.Cut(s, "E")
	if !scientific {
		whole, frac, _ := strings.Cut(mantissa, ".")
		if len(frac) > 18 {
			frac = frac[:18]
		}
		return new(big.Int).SetString(whole+frac+"000000000000000000"[len(frac):], 10)
	}
	r, ok := new(big.Rat).SetString(mantissa + "e" + exponent)
	if !ok {
		return nil, false
	}
	r.Mul(r, new(big.Rat).SetInt(one18))
	return new(big.Int).Quo(r.Num(), r.Denom()), true
}

// money18 turns nano-units into a decimal.
func money18(nano *big.Int) string {
	return trim(new(big.Rat).SetFrac(nano, big.NewInt(1_000_000_000)).FloatString(9))
}

func show(n number) string { return trim(new(big.Rat).SetFrac(n, one18).FloatString(18)) }

type checker struct {
	columns   []column
	at        map[string]int
	checks    Checks
	tolerance number
	total     number
	rows      int

	billed      *big.Int
	invoices    map[string]*big.Int
	commitments map[string]*commitment
	groups      map[string]*group
	values      []number // of the row, by column; nil where it is null or no number
	cells       []string
}

type commitment struct{ used, bought *big.Int }

// A group is the split charges of one origin.
type group struct {
	first  int
	sums   [len(summed)]*big.Int
	want   [len(originOf)]string
	fixed  []string
	ratios *big.Int
}

// summed are the columns whose sum over split charges is the origin's, and
// originOf where the origin's is told, by the same index; "" means BilledCost's.
var (
	summed   = [...]string{"BilledCost", "EffectiveCost", "ContractedCost", "ListCost", "PricingQuantity"}
	originOf = [...]string{"x_OriginBilledCost", "x_OriginBilledCost", "x_OriginBilledCost", "x_OriginListCost", "x_OriginPricingQuantity"}
	// fixed are the columns that a split leaves as they were.
	fixed = []string{"BillingAccountId", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd",
		"ChargeCategory", "ChargeClass", "ContractedUnitPrice", "ListUnitPrice", "PricingUnit", "PricingCategory", "ProviderName", "PublisherName",
		"InvoiceIssuerName", "InvoiceId", "ResourceId", "ResourceType", "ServiceCategory", "ServiceName", "SkuId", "SkuPriceId", "Tags", "AllocatedMethodId"}
	// parts of a cost that add up to it.
	parts = [][]string{
		{"x_UsedCost", "x_SlackCost", "x_IdleSpareCost", "x_IdleStrandedConstraintCost", "x_IdleStrandedShapeCost", "x_IdleSystemCost", "x_IdleUnexplainedCost", "x_IdleWaitingScaleDownCost"},
		{"x_CpuCost", "x_MemoryCost", "x_GpuCost"},
	}
)

func newChecker(header []string, c Checks) (*checker, error) {
	v := &checker{at: map[string]int{}, checks: c, billed: new(big.Int), invoices: map[string]*big.Int{}, commitments: map[string]*commitment{},
		groups: map[string]*group{}, values: make([]number, len(header))}
	known := map[string]column{}
	for _, col := range slices.Concat(standard, own) {
		known[col.name] = col
	}
	for i, name := range header {
		if i == 0 {
			name = strings.TrimPrefix(name, "\ufeff")
		}
		col, ok := known[name]
		if !ok {
			if !strings.HasPrefix(name, "x_") {
				return nil, &Violation{Column: name, Identity: "columns of FOCUS 1.2, or named x_…", Detail: "there is no such column"}
			}
			col = column{name: name, kind: text}
		}
		if _, twice := v.at[name]; twice {
			return nil, &Violation{Column: name, Identity: "every column once", Detail: "it is there twice"}
		}
		v.at[name] = i
		v.columns = append(v.columns, col)
	}
	for _, col := range standard {
		if _, ok := v.at[col.name]; col.mandatory && !ok {
			return nil, &Violation{Column: col.name, Identity: "all 21 mandatory columns", Detail: "it is missing"}
		}
	}
	if c.Tolerance == "" {
		c.Tolerance = "0.000000001"
	}
	var ok bool
	if v.tolerance, ok = parse(c.Tolerance); !ok {
		return nil, fmt.Errorf("the tolerance %q is not a decimal such as 0.01", c.Tolerance)
	}
	if c.Total != "" {
		if v.total, ok = parse(c.Total); !ok {
			return nil, fmt.Errorf("the total %q is not a decimal such as 0.01", c.Total)
		}
	}
	return v, nil
}

// cell returns a column's value, "" if it is null or not there.
func (v *checker) cell(name string) string {
	if i, ok := v.at[name]; ok {
		return v.cells[i]
	}
	return ""
}

func (v *checker) number(name string) number {
	if i, ok := v.at[name]; ok {
		return v.values[i]
	}
	return nil
}

func (v *checker) bad(columnName, identity, format string, args ...any) error {
	return &Violation{v.rows, columnName, identity, fmt.Sprintf(format, args...)}
}

// row checks one row. It does not keep cells.
func (v *checker) row(cells []string) error {
	v.rows++
	v.cells = cells
	if len(cells) != len(v.columns) {
		return v.bad("", "a value for every column", "it has %d values for %d columns", len(cells), len(v.columns))
	}
	for i := range v.columns {
		if err := v.value(i); err != nil {
			return err
		}
	}
	for _, check := range []func() error{v.nulls, v.periods, v.products, v.split} {
		if err := check(); err != nil {
			return err
		}
	}
	v.add()
	return nil
}

// value checks one value by itself.
func (v *checker) value(i int) error {
	c, s := &v.columns[i], v.cells[i]
	v.values[i] = nil
	if s == "" {
		if c.filled {
			return v.bad(c.name, "not null", "it is null")
		}
		return nil
	}
	switch c.kind {
	case cost, ratio:
		n, ok := parse(s)
		if !ok {
			return v.bad(c.name, "numeric format", "%q is not a number such as 1234.5 or -1.2E7", s)
		}
		v.values[i] = n
	case date:
		if _, err := time.Parse(stamp, s); err != nil {
			return v.bad(c.name, "date/time format", "%q is not an instant of UTC such as 2026-03-04T18:00:00Z", s)
		}
	case flat, deep:
		var m map[string]json.RawMessage
		if err := json.Unmarshal([]byte(s), &m); err != nil {
			return v.bad(c.name, "key-value format", "it is not a JSON object")
		}
		for k, raw := range m {
			if c.kind == flat && len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') {
				return v.bad(c.name, "key-value format", "the value of %q is not plain", k)
			}
		}
	case text:
		if strings.TrimSpace(s) == "" {
			return v.bad(c.name, "null handling", "it is blank and should be null")
		}
	}
	if values := allowed[c.name]; values != nil && !slices.Contains(values, s) {
		return v.bad(c.name, "allowed values", "%q is not one of %q", s, values)
	}
	return nil
}

var currency = regexp.MustCompile(`^[A-Z]{3}$`)

// nulls checks what must be there because of something else.
func (v *checker) nulls() error {
	if c := v.cell("BillingCurrency"); !currency.MatchString(c) {
		return v.bad("BillingCurrency", "currency format", "%q is not a code of ISO 4217", c)
	}
	category, correction := v.cell("ChargeCategory"), v.cell("ChargeClass") == "Correction"
	if (v.cell("PricingQuantity") == "") != (v.cell("PricingUnit") == "") {
		return v.bad("PricingUnit", "null if and only if PricingQuantity is", "only one of them is null")
	}
	if (category == "Usage" || category == "Purchase") && !correction {
		for _, name := range []string{"PricingQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "SkuId", "SkuPriceId"} {
			if _, ok := v.at[name]; ok && v.cell(name) == "" {
				return v.bad(name, "not null for usage and purchases", "it is null")
			}
		}
	}
	if category == "Tax" {
		for _, name := range []string{"PricingQuantity", "ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "SkuId", "SkuPriceId"} {
			if v.cell(name) != "" {
				return v.bad(name, "null for taxes", "it is %q", v.cell(name))
			}
		}
	}
	return nil
}

// periods relies on instants that sort as text.
func (v *checker) periods() error {
	if v.cell("ChargePeriodStart") >= v.cell("ChargePeriodEnd") {
		return v.bad("ChargePeriodEnd", "a period has a length", "it does not end after its start")
	}
	if v.cell("BillingPeriodStart") >= v.cell("BillingPeriodEnd") {
		return v.bad("BillingPeriodEnd", "a period has a length", "it does not end after its start")
	}
	return nil
}

func (v *checker) products() error {
	if v.cell("ChargeClass") == "Correction" {
		return nil
	}
	quantity := v.number("PricingQuantity")
	for _, p := range [][2]string{{"ListUnitPrice", "ListCost"}, {"ContractedUnitPrice", "ContractedCost"}} {
		unit, c := v.number(p[0]), v.number(p[1])
		if unit == nil || quantity == nil {
			continue
		}
		if unit.Sign() < 0 {
			return v.bad(p[0], "a unit price is not negative", "it is %s", show(unit))
		}
		product := new(big.Int).Mul(unit, quantity)
		product.Quo(product, one18)
		off := new(big.Int).Sub(product, c)
		if off.CmpAbs(v.tolerance) > 0 {
			return v.bad(p[1], p[1]+" = "+p[0]+" · PricingQuantity", "%s is not %s · %s = %s", show(c), show(unit), show(quantity), show(product))
		}
	}
	return nil
}

// split checks what our own columns say.
func (v *checker) split() error {
	effective := v.number("EffectiveCost")
	for _, names := range parts {
		if _, ok := v.at[names[0]]; !ok {
			continue
		}
		sum := new(big.Int)
		for _, name := range names {
			if n := v.number(name); n != nil {
				sum.Add(sum, n)
			}
		}
		if sum.Cmp(effective) != 0 {
			return v.bad("EffectiveCost", "EffectiveCost = "+strings.Join(names, " + "), "%s is not %s", show(effective), show(sum))
		}
	}
	id := v.cell("x_OriginChargeId")
	if id == "" {
		return nil
	}
	g := v.groups[id]
	if g == nil {
		g = &group{first: v.rows, ratios: new(big.Int)}
		for i := range g.sums {
			g.sums[i] = new(big.Int)
			g.want[i] = v.cell(originOf[i])
		}
		for _, name := range fixed {
			g.fixed = append(g.fixed, v.cell(name))
		}
		v.groups[id] = g
	}
	for i, name := range summed {
		if n := v.number(name); n != nil {
			g.sums[i].Add(g.sums[i], n)
		}
		if got := v.cell(originOf[i]); got != g.want[i] {
			return v.bad(originOf[i], "split charges tell the same origin", "it is %s, and %s in row %d", got, g.want[i], g.first)
		}
	}
	for i, name := range fixed {
		if got := v.cell(name); got != g.fixed[i] {
			return v.bad(name, "dimensions and unit prices of split charges are unchanged", "it is %q, and %q in row %d of the same origin", got, g.fixed[i], g.first)
		}
	}
	if s := v.cell("AllocatedMethodDetails"); s != "" {
		var details struct{ Elements []element }
		if err := json.Unmarshal([]byte(s), &details); err != nil {
			return v.bad("AllocatedMethodDetails", "allocation details", "they are not as FOCUS 1.3 has them: %v", err)
		}
		for _, e := range details.Elements {
			n, ok := parse(e.AllocatedRatio.String())
			if !ok || n.Sign() < 0 || n.Cmp(one18) > 0 {
				return v.bad("AllocatedMethodDetails", "a ratio is from 0 to 1", "it is %q", e.AllocatedRatio)
			}
			g.ratios.Add(g.ratios, n)
		}
	}
	return nil
}

// add counts the row towards the sums of the whole file.
func (v *checker) add() {
	billed, effective := v.number("BilledCost"), v.number("EffectiveCost")
	v.billed.Add(v.billed, billed)
	if id := v.cell("InvoiceId"); id != "" {
		if v.invoices[id] == nil {
			v.invoices[id] = new(big.Int)
		}
		v.invoices[id].Add(v.invoices[id], billed)
	}
	if id := v.cell("CommitmentDiscountId"); id != "" {
		c := v.commitments[id]
		if c == nil {
			c = &commitment{new(big.Int), new(big.Int)}
			v.commitments[id] = c
		}
		switch v.cell("ChargeCategory") {
		case "Usage":
			c.used.Add(c.used, effective)
		case "Purchase":
			c.bought.Add(c.bought, billed)
		}
	}
}

// finish checks the sums of the whole file.
func (v *checker) finish() error {
	for _, id := range sorted(v.groups) {
		g := v.groups[id]
		for i, name := range summed {
			if g.want[i] == "" {
				continue
			}
			want, ok := parse(g.want[i])
			if !ok || g.sums[i].Cmp(want) != 0 {
				return &Violation{Row: g.first, Column: name, Identity: "Σ split charges = origin charge",
					Detail: fmt.Sprintf("%s of origin %s adds up to %s and not to %s", name, id, show(g.sums[i]), g.want[i])}
			}
		}
		if g.ratios.Sign() != 0 && g.ratios.Cmp(one18) != 0 {
			return &Violation{Row: g.first, Column: "AllocatedMethodDetails", Identity: "Σ AllocatedRatio = 1",
				Detail: fmt.Sprintf("the ratios of origin %s add up to %s", id, show(g.ratios))}
		}
	}
	for _, id := range sorted(v.commitments) {
		c := v.commitments[id]
		if c.bought.Sign() != 0 && c.used.Cmp(c.bought) != 0 {
			return &Violation{Identity: "Σ EffectiveCost of a commitment's usage = Σ BilledCost of its purchase",
				Detail: fmt.Sprintf("commitment %s was bought for %s and its usage, used and unused, comes to %s", id, show(c.bought), show(c.used))}
		}
	}
	for _, id := range sorted(v.checks.Invoices) {
		want, ok := parse(v.checks.Invoices[id])
		if !ok {
			return fmt.Errorf("the total %q of invoice %s is not a decimal such as 0.01", v.checks.Invoices[id], id)
		}
		got := v.invoices[id]
		if got == nil {
			got = new(big.Int)
		}
		if got.Cmp(want) != 0 {
			return &Violation{Column: "BilledCost", Identity: "Σ BilledCost of an invoice = the invoice",
				Detail: fmt.Sprintf("the rows of invoice %s add up to %s and not to %s", id, show(got), show(want))}
		}
	}
	if v.total != nil && v.total.Cmp(v.billed) != 0 {
		return &Violation{Column: "BilledCost", Identity: "Σ BilledCost = the bill",
			Detail: fmt.Sprintf("the rows add up to %s and the bill is %s", show(v.billed), show(v.total))}
	}
	return nil
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
