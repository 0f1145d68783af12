package biller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/kube/convert"
)

// prices are the dated machine types. The Observer's mutex guards them.
type prices struct {
	entries    []machine.Entry // by name, oldest first
	typeErrs   map[string]error
	currency   string
	typesDirty bool
}

func (p *prices) init() { p.typeErrs = map[string]error{} }

// MachineType tells of a declared machine type that is new or changed. The first
// price of a type holds for all time before it; a change holds from now on.
func (o *Observer) MachineType(t *v1alpha1.MachineType) {
	now := o.now()
	o.mu.Lock()
	defer o.mu.Unlock()
	typ, err := convert.Type(t)
	if err != nil {
		o.typeErrs[t.Name] = err
		return
	}
	delete(o.typeErrs, t.Name)
	from := time.Time{}
	if old, known := latest(o.entries, typ.Name); known {
		if old == typ {
			return
		}
		from = now
	}
	o.entries = append(o.entries, machine.Entry{From: from, Type: typ})
	slices.SortStableFunc(o.entries, func(a, b machine.Entry) int {
		return cmp.Or(strings.Compare(a.Type.Name, b.Type.Name), a.From.Compare(b.From))
	})
	if o.currency == "" {
		o.currency = o.entries[0].Type.Currency
	}
	o.typesDirty = true
	o.poke()
}

func latest(entries []machine.Entry, name string) (t machine.Type, known bool) {
	for _, e := range entries {
		if e.Type.Name == name {
			t, known = e.Type, true
		}
	}
	return t, known
}

// Book returns the prices as they are known now, in the bill's currency, and
// what is wrong with types that have no usable price.
func (o *Observer) Book() (*machine.PriceBook, map[string]error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	book := machine.NewPriceBook(cmp.Or(o.currency, "USD"))
	errs := make(map[string]error, len(o.typeErrs))
	for name, err := range o.typeErrs {
		errs[name] = err
	}
	for _, e := range o.entries {
		if err := book.Set(e.From, e.Type); err != nil {
			errs[e.Type.Name] = err
		}
	}
	return book, errs
}

func (b *Biller) restoreBook(ctx context.Context) error {
	types, err := b.o.Store.Types(ctx)
	if err != nil {
		return fmt.Errorf("restore the biller: %w", err)
	}
	currency := b.o.Currency
	if currency == "" {
		if currency, err = b.o.Store.State(ctx, stateCurrency); err != nil {
			return fmt.Errorf("restore the biller: %w", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries, b.currency = types, currency
	return nil
}

// modules are the declared modules. The Observer's mutex guards them.
type modules struct {
	objects      map[string]*v1alpha1.Module // by namespace/name
	byKey        map[workload.Key]convert.Module
	moduleErrs   map[string]error
	rivals       map[string]string // namespace/name → the Module that names the same workload
	modulesDirty bool
}

func (m *modules) init() { m.objects, m.modulesDirty = map[string]*v1alpha1.Module{}, false }

// Module tells of a declared module that is new or changed.
func (o *Observer) Module(m *v1alpha1.Module) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.objects[m.Namespace+"/"+m.Name] = m
	o.resolve()
}

// ModuleGone tells that a declared module is gone.
func (o *Observer) ModuleGone(namespace, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.objects, namespace+"/"+name)
	o.resolve()
}

// resolve finds which Module speaks for each workload: of several the oldest,
// then the first by name.
func (o *Observer) resolve() {
	list := make([]*v1alpha1.Module, 0, len(o.objects))
	for _, m := range o.objects {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *v1alpha1.Module) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	o.byKey, o.moduleErrs, o.rivals = map[workload.Key]convert.Module{}, map[string]error{}, map[string]string{}
	for _, m := range list {
		id := m.Namespace + "/" + m.Name
		d, err := convert.DeclaredModule(m)
		if err != nil {
			o.moduleErrs[id] = err
			continue
		}
		if first, taken := o.byKey[d.Key]; taken {
			o.rivals[id] = first.Name
			continue
		}
		o.byKey[d.Key] = d
	}
	o.modulesDirty = true
	o.poke()
}

// ModuleState says what is wrong with a declared module: that it makes no sense,
// or that another Module already speaks for its workload.
func (o *Observer) ModuleState(namespace, name string) (rival string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id := namespace + "/" + name
	return o.rivals[id], o.moduleErrs[id]
}

func (o *Observer) declaredModules() map[workload.Key]convert.Module {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.byKey // replaced as a whole, never changed
}

// saveDeclared records what was declared since it was last called.
func (b *Biller) saveDeclared(ctx context.Context) error {
	b.mu.Lock()
	types, currency, byKey := slices.Clone(b.entries), b.currency, b.byKey
	typesDirty, modulesDirty := b.typesDirty, b.modulesDirty
	b.typesDirty, b.modulesDirty = false, false
	b.mu.Unlock()
	err := func() error {
		if typesDirty {
			if err := b.o.Store.PutTypes(ctx, types); err != nil {
				return err
			}
			if err := b.o.Store.SetState(ctx, stateCurrency, currency); err != nil {
				return err
			}
		}
		if !modulesDirty {
			return nil
		}
		features := map[workload.Key][]workload.Feature{}
		for key, m := range byKey {
			if len(m.Features) > 0 {
				features[key] = m.Features
			}
		}
		return b.o.Store.PutFeatures(ctx, features)
	}()
	if err != nil {
		b.mu.Lock()
		b.typesDirty, b.modulesDirty = b.typesDirty || typesDirty, b.modulesDirty || modulesDirty
		b.mu.Unlock()
	}
	return err
}

func (b *Biller) stateTime(ctx context.Context, key string, to *time.Time) error {
	s, err := b.o.Store.State(ctx, key)
	if err != nil {
		return fmt.Errorf("restore the biller: %w", err)
	}
	if s == "" {
		return nil
	}
	if *to, err = time.Parse(time.RFC3339Nano, s); err != nil {
		return fmt.Errorf("restore the biller: state %s: %w", key, err)
	}
	return nil
}

func (b *Biller) stateJSON(ctx context.Context, key string, to any) error {
	s, err := b.o.Store.State(ctx, key)
	if err != nil {
		return fmt.Errorf("restore the biller: %w", err)
	}
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), to); err != nil {
		return fmt.Errorf("restore the biller: state %s: %w", key, err)
	}
	return nil
}

func (b *Biller) setJSON(ctx context.Context, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return b.o.Store.SetState(ctx, key, string(raw))
}
