package server

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/core/resource"
	"github.com/neap-dev/neap/core/workload"
)

type statusAnswer struct {
	Title     string    `json:"title"`
	Simulated bool      `json:"simulated"`
	Zone      string    `json:"zone"`
	Now       time.Time `json:"now"`
	Closed    *span     `json:"closed"` // the hours that are closed; null if none is
	Live      *Status   `json:"live"`   // null without a running cluster
}

func (s *Server) status(r *http.Request) (any, error) {
	a := statusAnswer{Title: s.opts.Title, Simulated: s.opts.Simulated, Zone: s.opts.Zone.String(), Now: s.now()}
	if s.opts.Live != nil {
		st := s.opts.Live.Status()
		a.Live, a.Simulated = &st, a.Simulated || st.Simulated
	}
	hours, err := s.opts.Store.Hours(r.Context(), time.Time{}, time.Time{})
	if err != nil {
		return nil, err
	}
	if len(hours) > 0 {
		a.Closed = &span{hours[0].UTC(), hours[len(hours)-1].UTC().Add(time.Hour)}
	}
	return a, nil
}

type billAnswer struct {
	Report bill.Report `json:"report"`
	Guard  guard       `json:"guard"`
	Labels []string    `json:"labels,omitempty"` // keys that by=label:KEY may name
}

// bill answers /api/v1/bill?from&to&by.
func (s *Server) bill(r *http.Request) (any, error) {
	w, err := s.window(r)
	if err != nil {
		return nil, err
	}
	by := r.URL.Query().Get("by")
	if by == "" {
		by = "module"
	}
	if err := bill.CheckBy(by); err != nil {
		return nil, refuse(http.StatusBadRequest, "%s.", sentence(err))
	}
	sum, err := s.sum(r.Context(), w)
	if err != nil {
		return nil, err
	}
	a := billAnswer{Guard: guardOf(sum.Loads)}
	if a.Report, err = s.opts.Store.Report(r.Context(), w.From, w.To, by); err != nil {
		return nil, err
	}
	if a.Report.Lines == nil {
		a.Report.Lines = []bill.Line{}
	}
	a.Labels = s.labels(r.Context(), w)
	return a, nil
}

// labels returns the label keys of the window's last hour. They only offer
// choices, so an error leaves them out. The last answer is kept, for an hour of
// a large cluster takes a while to read.
func (s *Server) labels(ctx context.Context, w span) []string {
	s.labelled.mu.Lock()
	defer s.labelled.mu.Unlock()
	if s.labelled.to.Equal(w.To) {
		return s.labelled.keys
	}
	facts, err := s.opts.Store.Facts(ctx, w.To.Add(-time.Hour), w.To)
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, f := range facts {
		for i := range f.Pods {
			for k := range f.Pods[i].Labels {
				seen[k] = true
			}
		}
	}
	s.labelled.to, s.labelled.keys = w.To, slices.Sorted(maps.Keys(seen))
	return s.labelled.keys
}

type diffAnswer struct {
	bill.Change
	Guard guard `json:"guard"` // of the later window
}

// diff answers /api/v1/bill/diff?beforeFrom&beforeTo&afterFrom&afterTo.
func (s *Server) diff(r *http.Request) (any, error) {
	before, after, err := s.windows(r)
	if err != nil {
		return nil, err
	}
	was, err := s.sum(r.Context(), before)
	if err != nil {
		return nil, err
	}
	is, err := s.sum(r.Context(), after)
	if err != nil {
		return nil, err
	}
	c, err := bill.Explain(was, is)
	return diffAnswer{c, guardOf(is.Loads)}, err
}

type flowNode struct {
	ID   string       `json:"id"`
	Kind string       `json:"kind"` // feature, module, resource, money
	Name string       `json:"name"` // of a rest: how many modules it stands for
	Nano money.Amount `json:"nano"`
}

type flowLink struct {
	Source string       `json:"source"`
	Target string       `json:"target"`
	Nano   money.Amount `json:"nano"`
}

type flowAnswer struct {
	span
	Currency string       `json:"currency"`
	BillNano money.Amount `json:"billNano"`
	Nodes    []flowNode   `json:"nodes"`
	Links    []flowLink   `json:"links"`
	Guard    guard        `json:"guard"`
}

// The names of nodes that stand for no single thing; the page translates them.
const (
	noFeature = bill.NoFeature
	nobody    = bill.Nobody
	rest      = "(rest)"
)

// flow answers /api/v1/flow?from&to: features → modules → resources → money.
func (s *Server) flow(r *http.Request) (any, error) {
	w, err := s.window(r)
	if err != nil {
		return nil, err
	}
	sum, err := s.sum(r.Context(), w)
	if err != nil {
		return nil, err
	}
	features, err := s.opts.Store.Features(r.Context())
	if err != nil {
		return nil, err
	}
	a := flowOf(sum, features, 24)
	a.span, a.Guard = w, guardOf(sum.Loads)
	return a, nil
}

// flowOf shows the largest modules by name and the others together. In every
// column the nodes add up to the bill.
func flowOf(w bill.Window, features map[workload.Key][]workload.Feature, largest int) flowAnswer {
	a := flowAnswer{Currency: w.Currency}
	cost := map[workload.Key]*bill.Amounts{}
	ends := map[string]*bill.Amounts{"used": {}}
	for i := range w.Rows {
		r := &w.Rows[i]
		c := cost[r.Module]
		if c == nil {
			c = new(bill.Amounts)
			cost[r.Module] = c
		}
		for k := range c {
			c[k] += r.Cells[k].Cost()
		}
	}
	for i := range w.Boxes {
		row := &w.Boxes[i]
		a.BillNano += row.Bill.Sum()
		for k := range row.Used {
			ends["used"][k] += row.Used[k]
		}
		for b, box := range bill.Boxes {
			end := ends[string(box)]
			if end == nil {
				end = new(bill.Amounts)
				ends[string(box)] = end
			}
			for k := range end {
				end[k] += row.Idle[b][k]
			}
		}
	}
	keys := make([]workload.Key, 0, len(cost))
	for k := range cost {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b workload.Key) int {
		if d := cost[b].Sum() - cost[a].Sum(); d != 0 {
			return int(d>>63 | 1)
		}
		return a.Compare(b)
	})

	nodes, links := map[string]*flowNode{}, map[[2]string]money.Amount{}
	var nodeOrder []string
	node := func(kind, name string, nano money.Amount) string {
		id := kind + ":" + name
		n := nodes[id]
		if n == nil {
			n = &flowNode{ID: id, Kind: kind, Name: name}
			nodes[id] = n
			nodeOrder = append(nodeOrder, id)
		}
		n.Nano += nano
		return id
	}
	link := func(from, to string, nano money.Amount) {
		if nano != 0 {
			links[[2]string{from, to}] += nano
		}
	}
	carry := func(name string, c bill.Amounts, serves []workload.Feature) {
		total := c.Sum()
		if total == 0 {
			return
		}
		m := node("module", name, total)
		if len(serves) == 0 {
			serves = []workload.Feature{{Name: noFeature, ShareMillis: 1000}}
		}
		weights := make([]int64, len(serves))
		for i, f := range serves {
			weights[i] = f.ShareMillis
		}
		for i, part := range money.Split(total, weights) {
			link(node("feature", serves[i].Name, part), m, part)
		}
		for k, v := range c {
			if v != 0 {
				link(m, node("resource", resource.Kind(k).String(), v), v)
			}
		}
	}
	for i, k := range keys {
		switch {
		case k == workload.Key{}:
			carry(nobody, *cost[k], []workload.Feature{{Name: nobody, ShareMillis: 1000}})
		case i >= largest && len(keys) > largest+1:
			carry(rest, *cost[k], features[k])
		default:
			carry(k.String(), *cost[k], features[k])
		}
	}
	for _, end := range append([]string{"used"}, boxNames()...) {
		if ends[end] == nil {
			continue
		}
		for k, v := range ends[end] {
			if v != 0 {
				link("resource:"+resource.Kind(k).String(), node("money", end, v), v)
			}
		}
	}
	a.Nodes, a.Links = make([]flowNode, 0, len(nodes)), make([]flowLink, 0, len(links))
	for _, id := range nodeOrder {
		a.Nodes = append(a.Nodes, *nodes[id])
	}
	for ends, v := range links {
		a.Links = append(a.Links, flowLink{ends[0], ends[1], v})
	}
	slices.SortFunc(a.Links, func(a, b flowLink) int {
		if c := strings.Compare(a.Source, b.Source); c != 0 {
			return c
		}
		return strings.Compare(a.Target, b.Target)
	})
	return a
}

func boxNames() []string {
	names := make([]string, len(bill.Boxes))
	for i, b := range bill.Boxes {
		names[i] = string(b)
	}
	return names
}

type idleAnswer struct {
	span
	Currency string         `json:"currency"`
	Hours    []time.Time    `json:"hours"`
	Boxes    []string       `json:"boxes"`
	Totals   []money.Amount `json:"totals"` // by box
	Machines []idleMachine  `json:"machines"`
	Guard    guard          `json:"guard"`
}

// An idleMachine is one row of the heat map. The pods' own machines of a
// serverless node are one row together.
type idleMachine struct {
	Name  string                    `json:"name"`
	Pool  string                    `json:"pool"`
	Type  string                    `json:"type"`
	Bill  []money.Amount            `json:"bill"`  // by hour; −1 where the machine did not exist
	Boxes map[string][]money.Amount `json:"boxes"` // by box and hour, boxes of 0 left out
}

// idle answers /api/v1/idle?from&to: idle money by machine, hour and box.
func (s *Server) idle(r *http.Request) (any, error) {
	w, err := s.window(r)
	if err != nil {
		return nil, err
	}
	a := idleAnswer{span: w, Boxes: boxNames(), Hours: []time.Time{}, Totals: make([]money.Amount, len(bill.Boxes))}
	rows := map[string]*idleMachine{}
	most := w.hours() // a store may close two parts of an hour
	err = s.each(r.Context(), w, func(h int, f bill.Facts) {
		if h >= most {
			return
		}
		a.Currency, a.Hours = f.Currency, append(a.Hours, f.From.UTC())
		for i := range f.Machines {
			m := &f.Machines[i]
			name := m.Name
			if m.Serverless {
				name, _, _ = strings.Cut(name, "/")
			}
			row := rows[name]
			if row == nil {
				row = &idleMachine{Name: name, Pool: m.Pool, Type: m.Type, Bill: make([]money.Amount, most), Boxes: map[string][]money.Amount{}}
				for i := range row.Bill {
					row.Bill[i] = -1
				}
				rows[name] = row
			}
			row.Bill[h] = max(row.Bill[h], 0) + m.Bill.Sum()
			for b, box := range bill.Boxes {
				v := m.Idle[box].Sum()
				if v == 0 {
					continue
				}
				if row.Boxes[string(box)] == nil {
					row.Boxes[string(box)] = make([]money.Amount, most)
				}
				row.Boxes[string(box)][h] += v
				a.Totals[b] += v
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for _, row := range rows { // hours that are not recorded have no column
		row.Bill = row.Bill[:len(a.Hours)]
		for box := range row.Boxes {
			row.Boxes[box] = row.Boxes[box][:len(a.Hours)]
		}
	}
	a.Machines = make([]idleMachine, 0, len(rows))
	for _, row := range rows {
		a.Machines = append(a.Machines, *row)
	}
	slices.SortFunc(a.Machines, func(a, b idleMachine) int {
		if c := strings.Compare(a.Pool, b.Pool); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	a.Guard, err = s.guard(r.Context(), w)
	return a, err
}

type decisionsAnswer struct {
	Decisions []bill.Decision `json:"decisions"` // newest first
	Left      int             `json:"left"`      // older ones that were left out
	Currency  string          `json:"currency"`
	Guard     guard           `json:"guard"`
}

// maxDecisions is how many rows one page of the ledger holds.
const maxDecisions = 1000

// decisions answers /api/v1/decisions: the newest rows of the ledger.
func (s *Server) decisions(r *http.Request) (any, error) {
	rows, err := s.opts.Store.Decisions(r.Context(), time.Time{}, time.Time{})
	if err != nil {
		return nil, err
	}
	a := decisionsAnswer{Decisions: slices.Clone(rows), Guard: guardOf(nil)}
	slices.Reverse(a.Decisions)
	if a.Left = len(a.Decisions) - maxDecisions; a.Left > 0 {
		a.Decisions = a.Decisions[:maxDecisions]
	} else {
		a.Left = 0
	}
	if a.Decisions == nil {
		a.Decisions = []bill.Decision{}
	}
	if w, err := s.window(r); err == nil { // a ledger may be read before an hour is closed
		sum, err := s.opts.Store.Window(r.Context(), w.From, w.To)
		if err != nil {
			return nil, err
		}
		a.Guard, a.Currency = guardOf(sum.Loads), sum.Currency
	}
	return a, nil
}
