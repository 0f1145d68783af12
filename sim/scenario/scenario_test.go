package scenario

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/internal/shareddata"
	"github.com/neap-dev/neap/scenarios"
)

func TestEveryBuiltinScenarioLoads(t *testing.T) {
	for _, name := range Builtin() {
		s, err := Load(name, Options{})
		if err != nil {
			t.Errorf("%s:\n%v", name, err)
			continue
		}
		for i := range s.Modules {
			if m := &s.Modules[i]; len(m.Features) == 0 || len(m.Pools) == 0 {
				t.Errorf("%s: %s has no feature or no pool", name, m.Key())
			}
		}
		t.Logf("%s: %d modules, %d pools, from %s", name, len(s.Modules), len(s.Pools), s.Start.Format(time.RFC3339))
	}
}

// Every field that a scenario may have is in the reference, and the reference
// names no other.
func TestTheReferenceNamesEveryField(t *testing.T) {
	text, err := os.ReadFile("../../docs/format/scenario.md")
	if err != nil {
		t.Fatal(err)
	}
	field := regexp.MustCompile(`(?m)^\s+"([a-zA-Z]+)":\s+(?:into|keep|note|one|r\.|d\.|func)`)
	n := 0
	for _, file := range []string{"read.go", "module.go", "elastic.go", "gpu.go", "colocation.go"} {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range field.FindAllStringSubmatch(string(src), -1) {
			n++
			if !regexp.MustCompile("`[^`\n]*\\b" + m[1] + "\\b[^`\n]*`").Match(text) {
				t.Errorf("docs/format/scenario.md does not mention %s (%s)", m[1], file)
			}
		}
	}
	if n < 60 {
		t.Errorf("only %d fields were found in the source; does the pattern still fit?", n)
	}
}

func TestTheCatalogueIsWhatItSays(t *testing.T) {
	b, err := scenarios.Files.ReadFile("catalogue/machine-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	types, err := Catalogue(bytes.NewReader(b), "machine-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	if len(types) < 24 {
		t.Errorf("there are %d types, want a few dozen", len(types))
	}
	for name, m := range types {
		if m.List <= 0 || m.RatingMillis < m.RatingLow || m.RatingMillis > m.RatingHigh || m.RatingSource == "" || m.Currency != "USD" {
			t.Errorf("%s: %+v", name, m)
		}
	}
	if base := types["m5.2xlarge"]; base.RatingMillis != 1000 {
		t.Errorf("the base type is rated %d", base.RatingMillis)
	}
}

func TestACatalogueSaysWhatIsWrongWithIt(t *testing.T) {
	head := "name,vcpu,memory_mib,gpu,price_per_hour,currency,rating_millis\n"
	cases := map[string]struct{ text, want string }{
		"a column is missing":     {"name,vcpu\n", "c.csv: the column memory_mib is missing"},
		"nothing at all":          {"", "c.csv: there are no column names"},
		"a negative price":        {head + "a,1,1024,0,-1,USD,1000\n", "c.csv:2: price_per_hour: the price -1 is negative"},
		"a core that is no core":  {head + "a,one,1024,0,1,USD,1000\n", `c.csv:2: vcpu: "one" is not a whole number`},
		"a type twice":            {head + "a,1,1024,0,1,USD,1000\na,1,1024,0,1,USD,1000\n", "c.csv:3: a is there twice"},
		"a line with too little":  {head + "a,1\n", "c.csv:2: wrong number of fields"},
		"a machine without cores": {head + "a,0,1024,0,1,USD,1000\n", "c.csv:2: a machine type needs a name and at least one vcpu"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Catalogue(strings.NewReader(tc.text), "c.csv")
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestTheCatalogueCarriesTheRealFigures(t *testing.T) {
	f, err := os.Open(filepath.Join(shareddata.Dir(t), "machines", "aws-us-east-1.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	real := map[string][]string{}
	for _, r := range rows[1:] {
		real[r[0]] = r
	}
	b, err := scenarios.Files.ReadFile("catalogue/machine-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	types, err := Catalogue(bytes.NewReader(b), "machine-types.csv")
	if err != nil {
		t.Fatal(err)
	}
	perCore := func(name string) float64 {
		mark, _ := strconv.ParseFloat(real[name][6], 64)
		cpus, _ := strconv.ParseFloat(real[name][1], 64)
		return mark / cpus
	}
	for name, m := range types {
		r := real[name]
		if r == nil {
			t.Errorf("%s is not in the source", name)
			continue
		}
		price, err := money.Parse(r[5])
		if err != nil || money.Amount(m.List) != price || fmt.Sprint(m.Capacity[resource.CPU]/1000) != r[1] || fmt.Sprint(m.Capacity[resource.Memory]/resource.MiB) != r[2] {
			t.Errorf("%s is %+v, the source says %v", name, m, r)
		}
		if want := 1000 * perCore(name) / perCore("m5.2xlarge"); math.Abs(float64(m.RatingMillis)-want) > 0.51 {
			t.Errorf("%s is rated %d, the source gives %.1f", name, m.RatingMillis, want)
		}
	}
}
