package focus

import (
	"bytes"
	"encoding/csv"
	"errors"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/internal/madefleet"
)

var hour0 = time.Date(2026, 3, 4, 18, 0, 0, 0, time.UTC)

// hours makes windows of random fleets, one an hour.
func hours(t testing.TB, seed int64, n int) []bill.Window {
	t.Helper()
	var out []bill.Window
	for i := range n {
		from := hour0.Add(time.Duration(i) * time.Hour)
		dice := rand.New(rand.NewSource(seed + int64(i)))
		book, err := madefleet.Book(dice, from)
		if err != nil {
			t.Fatal(err)
		}
		f, err := bill.Close(madefleet.Small(dice, from), book, bill.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := bill.Rollup(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, w)
	}
	return out
}

func billOf(windows []bill.Window) (sum money.Amount) {
	for _, w := range windows {
		for _, b := range w.Boxes {
			sum += b.Bill.Sum()
		}
	}
	return sum
}

func export(t testing.TB, windows []bill.Window, o Options) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := WriteCSV(&buf, windows, o); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func table(t testing.TB, file []byte) (header []string, rows [][]string) {
	t.Helper()
	all, err := csv.NewReader(bytes.NewReader(file)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return all[0], all[1:]
}

func TestExport(t *testing.T) {
	for seed := int64(0); seed < 300; seed += 30 {
		windows := hours(t, seed, 30)
		days, err := Days(windows)
		if err != nil {
			t.Fatal(err)
		}
		if len(days) != 2 {
			t.Fatalf("%d days, want 2", len(days))
		}
		total := money18b(billOf(windows))
		for name, w := range map[string][]bill.Window{"hours": windows, "days": days} {
			for _, origins := range []bool{false, true} {
				o := Options{Origins: origins, SubAccountID: "cluster-1", InvoiceID: "2026-03"}
				file := export(t, w, o)
				checks := Checks{Total: total, Invoices: map[string]string{"2026-03": total}}
				if err := Validate(bytes.NewReader(file), checks); err != nil {
					t.Fatalf("seed %d, %s, origins %v: %v", seed, name, origins, err)
				}
				var parquet bytes.Buffer
				if err := WriteParquet(&parquet, w, o); err != nil {
					t.Fatal(err)
				}
				if err := ValidateParquet(bytes.NewReader(parquet.Bytes()), int64(parquet.Len()), checks); err != nil {
					t.Fatalf("seed %d, %s, origins %v, Parquet: %v", seed, name, origins, err)
				}
				checks.Total = "1"
				if err := ValidateParquet(bytes.NewReader(parquet.Bytes()), int64(parquet.Len()), checks); err == nil {
					t.Fatal("a wrong total was taken")
				}
			}
		}
	}
}

func money18b(a money.Amount) string { return trim(a.String()) }

func TestTheColumns(t *testing.T) {
	mandatory := 0
	for _, c := range standard {
		if c.mandatory {
			mandatory++
			if _, ok := at[c.name]; !ok {
				t.Errorf("mandatory column %s is not written", c.name)
			}
		}
	}
	if mandatory != 21 || len(standard) != 57+5 {
		t.Errorf("%d mandatory columns of %d, want 21 of 62", mandatory, len(standard))
	}
	header, rows := table(t, export(t, hours(t, 1, 10), Options{}))
	if !slices.IsSorted(header) {
		t.Error("the columns are not in alphabetical order")
	}
	col := func(row []string, name string) string { return row[slices.Index(header, name)] }
	nobody := 0
	for _, row := range rows {
		if col(row, "BillingPeriodStart") != "2026-03-01T00:00:00Z" || col(row, "BillingPeriodEnd") != "2026-04-01T00:00:00Z" {
			t.Errorf("billing period %s to %s", col(row, "BillingPeriodStart"), col(row, "BillingPeriodEnd"))
		}
		if col(row, "ChargeClass") != "" || col(row, "SubAccountId") != "" {
			t.Error("what is not known is not null")
		}
		if col(row, "AllocatedResourceId") == "" {
			nobody++
		}
	}
	t.Logf("%d rows, %d of them nobody's", len(rows), nobody)
}

// TestViolations changes one thing in a good file at a time.
func TestViolations(t *testing.T) {
	windows := hours(t, 1, 10)
	good := export(t, windows, Options{InvoiceID: "2026-03"})
	header, rows := table(t, good)
	index := func(name string) int {
		i := slices.Index(header, name)
		if i < 0 {
			t.Fatalf("no column %s", name)
		}
		return i
	}
	// A row of an origin with several.
	origin, row := index("x_OriginChargeId"), -1
	for i := 1; i < len(rows) && row < 0; i++ {
		if rows[i][origin] == rows[i-1][origin] && rows[i][index("BilledCost")] != "0" {
			row = i
		}
	}
	set := func(name, value string) func(*[]string, [][]string) {
		return func(_ *[]string, rows [][]string) { rows[row][index(name)] = value }
	}
	cases := map[string]struct {
		change func(header *[]string, rows [][]string)
		want   []string
	}{
		"a missing mandatory column":       {func(h *[]string, _ [][]string) { (*h)[index("BilledCost")] = "x_BilledCost" }, []string{"BilledCost", "21 mandatory"}},
		"an unknown column":                {func(h *[]string, _ [][]string) { (*h)[index("SubAccountId")] = "SubAccount" }, []string{"SubAccount", "no such column"}},
		"a column twice":                   {func(h *[]string, _ [][]string) { (*h)[index("SubAccountId")] = "BilledCost" }, []string{"BilledCost", "twice"}},
		"a null that may not be":           {set("BilledCost", ""), []string{"row", "BilledCost", "not null"}},
		"a thousands separator":            {set("BilledCost", "1,234.5"), []string{"BilledCost", "numeric format", "1,234.5"}},
		"a plus sign":                      {set("BilledCost", "+3"), []string{"BilledCost", "numeric format"}},
		"a plus in the exponent":           {set("ListCost", "3E+7"), []string{"ListCost", "numeric format"}},
		"a currency sign":                  {set("ListCost", "$3"), []string{"ListCost", "numeric format"}},
		"an instant of another zone":       {set("ChargePeriodStart", "2026-03-04T18:00:00+08:00"), []string{"ChargePeriodStart", "date/time format"}},
		"a period without length":          {set("ChargePeriodEnd", "2026-03-04T00:00:00Z"), []string{"ChargePeriodEnd", "does not end after"}},
		"a strange category":               {set("ChargeCategory", "Sale"), []string{"ChargeCategory", "allowed values"}},
		"a strange class":                  {set("ChargeClass", "Refund"), []string{"ChargeClass", "allowed values"}},
		"a currency in words":              {set("BillingCurrency", "dollars"), []string{"BillingCurrency", "ISO 4217"}},
		"tags that are no object":          {set("Tags", `["a"]`), []string{"Tags", "JSON object"}},
		"tags inside tags":                 {set("Tags", `{"a":{"b":"c"}}`), []string{"Tags", "not plain"}},
		"a blank":                          {set("BillingAccountName", " "), []string{"BillingAccountName", "blank"}},
		"a unit without a quantity":        {set("PricingQuantity", ""), []string{"PricingUnit", "only one of them"}},
		"usage without a unit price":       {set("ContractedUnitPrice", ""), []string{"ContractedUnitPrice", "it is null"}},
		"a wrong product of list":          {set("ListUnitPrice", "1000"), []string{"ListCost = ListUnitPrice · PricingQuantity"}},
		"a wrong product of price":         {set("ContractedUnitPrice", "1000"), []string{"ContractedCost = ContractedUnitPrice · PricingQuantity"}},
		"a part that does not add up":      {set("x_UsedCost", "123456"), []string{"EffectiveCost = x_UsedCost + "}},
		"a split that lost something":      {func(_ *[]string, rows [][]string) { rows[row][index("BilledCost")] = "0" }, []string{"Σ split charges = origin charge", "BilledCost"}},
		"a dimension that a split changed": {set("ProviderName", "Somebody"), []string{"ProviderName", "dimensions and unit prices", "Somebody"}},
		"a ratio that is none":             {set("AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":2,"UsageUnit":"Hours","UsageQuantity":1}]}`), []string{"AllocatedMethodDetails", "from 0 to 1"}},
		"ratios that do not make one":      {set("AllocatedMethodDetails", `{"Elements":[{"AllocatedRatio":0.00001,"UsageUnit":"Hours","UsageQuantity":1}]}`), []string{"Σ AllocatedRatio = 1"}},
		"a row cut short":                  {func(_ *[]string, rows [][]string) { rows[row] = rows[row][:5] }, []string{"row"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := slices.Clone(header)
			rs := make([][]string, len(rows))
			for i := range rows {
				rs[i] = slices.Clone(rows[i])
			}
			tc.change(&h, rs)
			var buf bytes.Buffer
			w := csv.NewWriter(&buf)
			if err := errors.Join(w.Write(h), w.WriteAll(rs)); err != nil {
				t.Fatal(err)
			}
			err := Validate(&buf, Checks{})
			if err == nil {
				t.Fatal("it was taken")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
	t.Run("an invoice that says otherwise", func(t *testing.T) {
		err := Validate(bytes.NewReader(good), Checks{Invoices: map[string]string{"2026-03": "1"}})
		if err == nil || !strings.Contains(err.Error(), "an invoice = the invoice") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("an empty file", func(t *testing.T) {
		if err := Validate(strings.NewReader(""), Checks{}); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("a file that is not Parquet", func(t *testing.T) {
		if err := ValidateParquet(bytes.NewReader(good), int64(len(good)), Checks{}); err == nil || !strings.Contains(err.Error(), "is Parquet") {
			t.Errorf("error is %v", err)
		}
	})
}

// A commitment is bought for what its usage comes to.
func TestCommitments(t *testing.T) {
	columns := []string{"CommitmentDiscountId", "CommitmentDiscountStatus"}
	for _, c := range standard {
		if c.mandatory {
			columns = append(columns, c.name)
		}
	}
	row := func(category, status, billed, effective string) []string {
		values := map[string]string{"CommitmentDiscountId": "c1", "CommitmentDiscountStatus": status, "ChargeCategory": category,
			"BilledCost": billed, "EffectiveCost": effective, "ListCost": billed, "ContractedCost": billed,
			"BillingAccountId": "a", "BillingCurrency": "USD", "BillingPeriodStart": "2026-03-01T00:00:00Z", "BillingPeriodEnd": "2026-04-01T00:00:00Z",
			"ChargePeriodStart": "2026-03-01T00:00:00Z", "ChargePeriodEnd": "2026-03-02T00:00:00Z", "InvoiceIssuerName": "i", "ProviderName": "p",
			"PublisherName": "p", "ServiceCategory": "Compute", "ServiceName": "s", "PricingQuantity": "1", "PricingUnit": "Hours"}
		cells := make([]string, len(columns))
		for i, c := range columns {
			cells[i] = values[c]
		}
		return cells
	}
	for name, tc := range map[string]struct {
		unused string
		want   string
	}{
		"used and unused make the purchase": {"3", ""},
		"a part is missing":                 {"2", "bought for 10"},
	} {
		t.Run(name, func(t *testing.T) {
			var buf bytes.Buffer
			w := csv.NewWriter(&buf)
			if err := w.WriteAll([][]string{columns, row("Purchase", "", "10", "0"), row("Usage", "Used", "0", "7"), row("Usage", "Unused", "0", tc.unused)}); err != nil {
				t.Fatal(err)
			}
			err := Validate(&buf, Checks{})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error is %v, want %q", err, tc.want)
			}
		})
	}
}

func TestAWrongBillIsNotExported(t *testing.T) {
	windows := hours(t, 1, 3)
	windows[1].Rows[0].Cells[0].Used++
	for _, write := range []func(*bytes.Buffer) error{
		func(b *bytes.Buffer) error { return WriteCSV(b, windows, Options{}) },
		func(b *bytes.Buffer) error { return WriteParquet(b, windows, Options{}) },
	} {
		var buf bytes.Buffer
		err := write(&buf)
		var v *Violation
		if !errors.As(err, &v) || v.Identity != "Σ split charges = origin charge" {
			t.Errorf("error is %v", err)
		}
		if buf.Len() > 0 {
			t.Error("something was written all the same")
		}
	}
}

func FuzzValidate(f *testing.F) {
	lines := bytes.SplitAfter(export(f, hours(f, 1, 2), Options{}), []byte("\n"))
	f.Add(bytes.Join(lines[:3], nil))                                                   // a large one would be mutated slowly
	f.Fuzz(func(_ *testing.T, b []byte) { _ = Validate(bytes.NewReader(b), Checks{}) }) // must not panic
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "-1.5", "12E-3", "3E7", "1.0000000000000000001", "+1", "1e5", "", ".5", "9E999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, ok := parse(s)
		if ok != (n != nil) {
			t.Errorf("parse %q: %v, %v", s, n, ok)
		}
		if ok && strings.ContainsAny(s, "+,") {
			t.Errorf("%q was taken", s)
		}
	})
}

func BenchmarkExport(b *testing.B) {
	windows := hours(b, 1, 24)
	for b.Loop() {
		var buf bytes.Buffer
		if err := WriteCSV(&buf, windows, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
