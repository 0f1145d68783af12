package pricefile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/resource"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader(`# prices as agreed
name,price_per_hour,currency,discount_percent,vcpu,memory_mib,rating_millis,note
big.8,0.384,USD,37.5,8,32768,1200,from the contract
# by the pod
`), "p.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := []machine.Type{{Name: "big.8", List: 384_000_000, Currency: "USD", DiscountMillis: 375,
		Capacity: resource.Vector{8000, 32 * resource.GiB, 0}, RatingMillis: 1200}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}

	bad := map[string]struct{ in, want string }{
		"an empty file":              {"", "p.csv is empty"},
		"no name column":             {"type,price\na,1\n", `p.csv:1: there is no column "name"`},
		"a short line":               {"name,price_per_hour\na\n", "p.csv:2: 1 values where line 1 names 2 columns"},
		"a price that is no number":  {"name,price_per_hour\na,cheap\n", `p.csv:2: price_per_hour: "cheap" is not a decimal`},
		"a negative price":           {"name,price_per_hour\na,1\nb,-0.1\n", "p.csv:3: price_per_hour: -0.1 is negative"},
		"a price with ten decimals":  {"name,price_per_hour\na,0.0000000001\n", "more than nine decimals"},
		"no price":                   {"name,price_per_hour\na,\n", "needs a price"},
		"no name":                    {"name,price_per_hour\n,1\n", "has no name"},
		"a type twice":               {"name,price_per_hour\na,1\na,2\n", `p.csv:3: name: "a" is on line 2 already`},
		"two bad lines, both":        {"name,price_per_hour\na,x\nb,y\n", "p.csv:3"},
		"an unclosed quote":          {"name,price_per_hour\n\"a,1\n", "p.csv:"},
		"a currency in words":        {"name,price_per_hour,currency\na,1,dollars\n", `currency: "dollars"`},
		"a discount beyond all":      {"name,price_per_hour,discount_percent\na,1,101\n", "discount_percent"},
		"columns and nothing else":   {"name,price_per_hour\n", "no machine type"},
		"both ways of being priced":  {"name,price_per_hour,cpu_price\na,1,1\n", "both a list price and unit prices"},
		"a shape that is not whole":  {"name,price_per_hour,vcpu\na,1,2.5\n", "vcpu"},
		"a column that is there two": {"name,price_per_hour,name\na,1,b\n", "twice"},
	}
	for name, tc := range bad {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(tc.in), "p.csv"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestOwnCatalogue(t *testing.T) {
	path := filepath.Join("..", "..", "scenarios", "catalogue", "machine-types.csv")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	types, err := Read(f, "machine-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	if len(types) < 24 {
		t.Errorf("the catalogue holds %d types, want a few dozen", len(types))
	}
}

func FuzzRead(f *testing.F) {
	f.Add("name,price_per_hour\na,1\n")
	f.Add("name,cpu_price,memory_price,gpu_price,discount_percent\nz,0.03,0.004,1,12.5\n")
	f.Add("\ufeffname,price_per_hour\n\"a\"\"b\",0\n#c\n")
	f.Fuzz(func(t *testing.T, s string) {
		types, err := Read(strings.NewReader(s), "f")
		if err != nil {
			return
		}
		for _, typ := range types {
			if err := typ.Validate(); err != nil {
				t.Errorf("a type that was read is not valid: %v", err)
			}
		}
	})
}
