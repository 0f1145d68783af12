package scenario

import (
	"fmt"
	"maps"
	"math"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/sim/physics"
)

// A decoder walks YAML nodes and collects what is wrong.
type decoder struct {
	file string
	errs Errors
}

func (d *decoder) fail(n *yaml.Node, field, format string, args ...any) {
	line := 0
	if n != nil {
		line = n.Line
	}
	d.errs = append(d.errs, Error{d.file, line, field, fmt.Sprintf(format, args...)})
}

// A table says what to do with each field of a mapping.
type table map[string]func(n *yaml.Node, field string)

func at(field, name string) string {
	if field == "" {
		return name
	}
	return field + "." + name
}

func target(n *yaml.Node) *yaml.Node {
	for range 8 {
		if n.Kind != yaml.AliasNode {
			break
		}
		n = n.Alias
	}
	return n
}

// mapping hands every field of n to its function, and refuses the others.
func (d *decoder) mapping(n *yaml.Node, field string, t table) map[string]*yaml.Node {
	n = target(n)
	seen := map[string]*yaml.Node{}
	if n.Kind != yaml.MappingNode {
		d.fail(n, field, "here must be fields with values, not %s", kindName(n))
		return seen
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		f, ok := t[k.Value]
		if !ok {
			d.fail(k, at(field, k.Value), "no such field; %s", hint(k.Value, slices.Sorted(maps.Keys(t))))
			continue
		}
		if first, twice := seen[k.Value]; twice {
			d.fail(k, at(field, k.Value), "given twice, first in line %d; remove one", first.Line)
			continue
		}
		seen[k.Value] = v
		f(v, at(field, k.Value))
	}
	return seen
}

// list hands every entry of n to f.
func (d *decoder) list(n *yaml.Node, field string, f func(n *yaml.Node, field string)) {
	n = target(n)
	if n.Kind != yaml.SequenceNode {
		d.fail(n, field, "here must be a list, not %s", kindName(n))
		return
	}
	for i, e := range n.Content {
		f(e, fmt.Sprintf("%s[%d]", field, i))
	}
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "fields"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Value == "" {
		return "nothing"
	}
	return fmt.Sprintf("%q", n.Value)
}

// text returns a scalar's text.
func (d *decoder) text(n *yaml.Node, field string) (string, bool) {
	n = target(n)
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		d.fail(n, field, "here must be a single value, not %s", kindName(n))
		return "", false
	}
	return strings.TrimSpace(n.Value), true
}

// into makes a field's function of a parser.
func into[T any](d *decoder, to *T, parse func(string) (T, error)) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		s, ok := d.text(n, field)
		if !ok {
			return
		}
		v, err := parse(s)
		if err != nil {
			d.fail(n, field, "%s", err)
			return
		}
		*to = v
	}
}

func parseText(s string) (string, error) { return s, nil }

func parseBool(s string) (bool, error) {
	switch s {
	case "true", "yes":
		return true, nil
	case "false", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither true nor false", s)
}

var label = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)

// parseLabel reads a name that Kubernetes takes for every object.
func parseLabel(s string) (string, error) {
	if len(s) > 52 || !label.MatchString(s) {
		return "", fmt.Errorf("%q is not a name; use at most 52 lower-case letters, digits and hyphens, no hyphen at an end", s)
	}
	return s, nil
}

// parseDotted is parseLabel for names that may have dots, as machine types have.
func parseDotted(s string) (string, error) {
	if len(s) > 253 || s == "" {
		return "", fmt.Errorf("%q is not a name", s)
	}
	for part := range strings.SplitSeq(s, ".") {
		if !label.MatchString(part) {
			return "", fmt.Errorf("%q is not a name; use lower-case letters, digits, hyphens and dots", s)
		}
	}
	return s, nil
}

// whole reads a whole number from low to high.
func whole(low, high int) func(string) (int, error) {
	return func(s string) (int, error) {
		v, err := strconv.Atoi(s)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
		if v < low || v > high {
			return 0, fmt.Errorf("%d is not between %d and %d", v, low, high)
		}
		return v, nil
	}
}

// number reads a number from low to high.
func number(low, high float64) func(string) (float64, error) {
	return func(s string) (float64, error) {
		v, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(v) {
			return 0, fmt.Errorf("%q is not a number", s)
		}
		if v < low || v > high {
			return 0, fmt.Errorf("%v is not between %v and %v", v, low, high)
		}
		return v, nil
	}
}

// share reads "30%" or "0.3" as a number of the given parts of one.
func share(parts int64) func(string) (int64, error) {
	return func(s string) (int64, error) {
		t, percent := strings.CutSuffix(s, "%")
		r, ok := decimal(t)
		if !ok {
			return 0, fmt.Errorf("%q is not a share such as 30%% or 0.3", s)
		}
		if percent {
			r.Quo(r, big.NewRat(100, 1))
		}
		if r.Sign() < 0 || r.Cmp(big.NewRat(1, 1)) > 0 {
			return 0, fmt.Errorf("%q is not between 0 and 100%%", s)
		}
		r.Mul(r, big.NewRat(parts, 1))
		if !r.IsInt() {
			return 0, fmt.Errorf("%q is finer than 1/%d", s, parts)
		}
		return r.Num().Int64(), nil
	}
}

// ratio is share as a float, for what is not accounted for.
func ratio(s string) (float64, error) {
	v, err := share(1_000_000)(s)
	return float64(v) / 1e6, err
}

// decimal reads a plain decimal number.
func decimal(s string) (*big.Rat, bool) {
	if s == "" || len(s) > 40 || strings.Trim(s, "+-.0123456789") != "" {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

func parseDuration(s string) (time.Duration, error) {
	v, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 90s, 15m or 1h30m", s)
	}
	return v, nil
}

func positive(s string) (time.Duration, error) {
	v, err := parseDuration(s)
	if err == nil && v < 0 {
		return 0, fmt.Errorf("%q is negative; a duration must be 0 or more", s)
	}
	return v, err
}

// parseTimeOfDay reads "18:30" or "18:30:15".
func parseTimeOfDay(s string) (time.Duration, error) {
	for _, l := range []string{"15:04", "15:04:05"} {
		if t, err := time.Parse(l, s); err == nil {
			return timeOfDay(t), nil
		}
	}
	return 0, fmt.Errorf("%q is not a time of day such as 18:30", s)
}

func parsePrice(s string) (money.PerHour, error) {
	v, err := money.Parse(s)
	if err != nil {
		return 0, err
	}
	if v < 0 {
		return 0, fmt.Errorf("the price %s is negative; a price must be 0 or more", s)
	}
	return money.PerHour(v), nil
}

var suffixes = map[string]*big.Rat{
	"": big.NewRat(1, 1), "m": big.NewRat(1, 1000),
	"k": big.NewRat(1e3, 1), "M": big.NewRat(1e6, 1), "G": big.NewRat(1e9, 1), "T": big.NewRat(1e12, 1),
	"Ki": big.NewRat(1<<10, 1), "Mi": big.NewRat(1<<20, 1), "Gi": big.NewRat(1<<30, 1), "Ti": big.NewRat(1<<40, 1),
}

// quantity reads a Kubernetes quantity as a whole number of 1/parts.
func quantity(parts int64, like string) func(string) (int64, error) {
	return func(s string) (int64, error) {
		i := strings.LastIndexAny(s, "0123456789.") + 1
		r, ok := decimal(s[:i])
		f, known := suffixes[s[i:]]
		if !ok || !known {
			return 0, fmt.Errorf("%q is not a quantity such as %s", s, like)
		}
		r.Mul(r, f)
		r.Mul(r, big.NewRat(parts, 1))
		switch {
		case r.Sign() < 0:
			return 0, fmt.Errorf("%q is negative; a quantity must be 0 or more", s)
		case !r.IsInt():
			return 0, fmt.Errorf("%q is finer than 1/%d", s, parts)
		case !r.Num().IsInt64() || r.Num().Int64() > 1<<56:
			return 0, fmt.Errorf("%q is too large", s)
		}
		return r.Num().Int64(), nil
	}
}

var (
	parseCPU    = quantity(1000, "500m or 2")
	parseMemory = quantity(1, "512Mi or 4Gi")
	parseGPU    = quantity(1000, "1 or 500m")
)

// vector reads {cpu: 500m, memory: 1Gi, gpu: 1}; what is not named keeps its value.
func (d *decoder) vector(to *resource.Vector) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		d.mapping(n, field, table{
			"cpu":    into(d, &to[resource.CPU], parseCPU),
			"memory": into(d, &to[resource.Memory], parseMemory),
			"gpu":    into(d, &to[resource.GPU], parseGPU),
		})
	}
}

// quantiles reads a duration, or a table such as {p50: 20s, p95: 45s, max: 80s}.
func (d *decoder) quantiles(to *physics.Quantiles) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		n = target(n)
		if n.Kind == yaml.ScalarNode {
			var v time.Duration
			before := len(d.errs)
			into(d, &v, positive)(n, field)
			if len(d.errs) == before {
				*to = physics.Quantiles{{Share: 1, Value: v}}
			}
			return
		}
		if n.Kind != yaml.MappingNode {
			d.fail(n, field, "here must be a duration, or a table such as {p50: 20s, p95: 45s, max: 80s}")
			return
		}
		var q physics.Quantiles
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i].Value, time.Duration(0)
			var at float64
			switch {
			case k == "min":
				at = 0
			case k == "max":
				at = 1
			default:
				p, err := strconv.ParseFloat(strings.TrimPrefix(k, "p"), 64)
				if !strings.HasPrefix(k, "p") || err != nil || !(p >= 0 && p <= 100) {
					d.fail(n.Content[i], field+"."+k, "no such quantile; write min, p50, p95, p99.9 or max")
					continue
				}
				at = p / 100
			}
			before := len(d.errs)
			into(d, &v, positive)(n.Content[i+1], field+"."+k)
			if len(d.errs) == before {
				q = append(q, physics.Quantile{Share: at, Value: v})
			}
		}
		slices.SortStableFunc(q, func(a, b physics.Quantile) int {
			switch {
			case a.Share < b.Share:
				return -1
			case a.Share > b.Share:
				return 1
			}
			return 0
		})
		if err := q.Validate(); err != nil {
			d.fail(n, field, "%s", err)
			return
		}
		*to = q
	}
}

// steps reads [{at: "18:30", count: 5}, …]; name is what the number is called.
func (d *decoder) steps(to *[]CountStep, name string, most int) func(*yaml.Node, string) {
	return func(n *yaml.Node, field string) {
		*to = nil
		d.list(n, field, func(n *yaml.Node, field string) {
			var s CountStep
			seen := d.mapping(n, field, table{
				"at": into(d, &s.At, parseTimeOfDay),
				name: into(d, &s.Count, whole(0, most)),
			})
			for _, need := range []string{"at", name} {
				if seen[need] == nil {
					d.fail(target(n), at(field, need), "missing; write {at: \"18:30\", %s: 5}", name)
				}
			}
			if k := len(*to); k > 0 && s.At <= (*to)[k-1].At && seen["at"] != nil {
				d.fail(target(n), at(field, "at"), "the times of day must rise")
			}
			*to = append(*to, s)
		})
	}
}
