package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/core/machine"
	"github.com/neap-dev/neap/core/workload"
	"github.com/neap-dev/neap/internal/madefleet"
)

var hour0 = time.Date(2026, 3, 4, 18, 0, 0, 0, time.UTC)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func open2(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	if opts.Log == nil {
		opts.Log = quiet
	}
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func made(t testing.TB, seed int64, hour time.Time) bill.Facts {
	t.Helper()
	dice := rand.New(rand.NewSource(seed))
	book, err := madefleet.Book(dice, hour)
	if err != nil {
		t.Fatal(err)
	}
	for {
		h := madefleet.Small(dice, hour)
		if len(h.Machines) < 2 || len(h.Pods) < 3 {
			continue
		}
		f, err := bill.Close(h, book, bill.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
}

// write records n hours from hour0 on and returns their facts.
func write(t testing.TB, s *Store, n int) []bill.Facts {
	t.Helper()
	facts := make([]bill.Facts, n)
	for i := range facts {
		facts[i] = made(t, int64(i), hour0.Add(time.Duration(i)*time.Hour))
		if err := s.WriteHour(t.Context(), facts[i]); err != nil {
			t.Fatal(err)
		}
	}
	return facts
}

func read(t testing.TB, s *Store) []bill.Facts {
	t.Helper()
	facts, err := s.Facts(t.Context(), time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("error is not one line: %q", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// alike ignores the difference of nil and empty, and boxes that hold nothing.
var alike = cmp.Options{cmpopts.EquateEmpty(), cmpopts.IgnoreMapEntries(func(_ bill.Box, a bill.Amounts) bool { return a == bill.Amounts{} })}

func TestWriteHour(t *testing.T) {
	t.Run("facts come back as they were", func(t *testing.T) {
		dir := t.TempDir()
		s := open2(t, dir, Options{})
		want := write(t, s, 30)
		if d := cmp.Diff(want, read(t, s), alike); d != "" {
			t.Error(d)
		}
		hours, err := s.Hours(t.Context(), hour0.Add(time.Hour), hour0.Add(3*time.Hour))
		if err != nil || !slices.Equal(hours, []time.Time{hour0.Add(time.Hour), hour0.Add(2 * time.Hour)}) {
			t.Errorf("hours are %v, %v", hours, err)
		}
		reader, err := OpenRead(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if d := cmp.Diff(want, read(t, reader), alike); d != "" {
			t.Errorf("a reader beside the writer: %s", d)
		}
	})
	t.Run("an hour closed again takes the place of the first", func(t *testing.T) {
		s := open2(t, t.TempDir(), Options{})
		write(t, s, 2)
		again := made(t, 99, hour0)
		for range 2 {
			if err := s.WriteHour(t.Context(), again); err != nil {
				t.Fatal(err)
			}
		}
		got := read(t, s)
		if d := cmp.Diff(again, got[0], alike); d != "" || len(got) != 2 {
			t.Errorf("%d hours; %s", len(got), d)
		}
	})
	t.Run("a part of an hour is kept as that", func(t *testing.T) {
		s := open2(t, t.TempDir(), Options{})
		f := bill.Facts{From: hour0.Add(17*time.Minute + 1), To: hour0.Add(time.Hour), Currency: "USD"}
		if err := s.WriteHour(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]bill.Facts{f}, read(t, s), alike); d != "" {
			t.Error(d)
		}
	})
	faults := map[string]struct {
		facts bill.Facts
		want  string
	}{
		"facts of two hours are refused":     {bill.Facts{From: hour0.Add(time.Minute), To: hour0.Add(61 * time.Minute)}, "not of one hour"},
		"facts of no time are refused":       {bill.Facts{From: hour0, To: hour0}, "not of one hour"},
		"facts with a wrong sum are refused": {func() bill.Facts { f := made(t, 1, hour0); f.Machines[0].Bill[0]++; return f }(), "1 nano-units of its bill are unexplained"},
	}
	for name, tc := range faults {
		t.Run(name, func(t *testing.T) {
			s := open2(t, t.TempDir(), Options{})
			wantError(t, s.WriteHour(t.Context(), tc.facts), tc.want)
			if n := len(read(t, s)); n != 0 {
				t.Errorf("%d hours were recorded", n)
			}
		})
	}
	t.Run("more than fits into memory is refused, and can be read hour by hour", func(t *testing.T) {
		s := open2(t, t.TempDir(), Options{MostFacts: 50_000})
		write(t, s, 6)
		_, err := s.Facts(t.Context(), time.Time{}, time.Time{})
		wantError(t, err, "6 hours", "do not fit into memory", "shorter time")
		n := 0
		if err := s.EachHour(t.Context(), time.Time{}, time.Time{}, func(bill.Facts) error { n++; return nil }); err != nil || n != 6 {
			t.Errorf("%d hours, %v", n, err)
		}
	})
	t.Run("a store on a disk that nobody may write can be read", func(t *testing.T) {
		if os.Geteuid() != 0 {
			if os.Getenv("CI") == "true" {
				t.Fatal("mounting a disk needs root")
			}
			t.Skip("mounting a disk needs root")
		}
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
			t.Skipf("this machine lets nobody mount a disk: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		s := open2(t, dir, Options{})
		facts := write(t, s, 2)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		r, err := OpenRead(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if d := cmp.Diff(facts, read(t, r), alike); d != "" {
			t.Error(d)
		}
		_, err = Open(dir, Options{})
		wantError(t, err, dir, "read-only", "can be written")
	})
	t.Run("a reader may not write", func(t *testing.T) {
		dir := t.TempDir()
		open2(t, dir, Options{})
		r, err := OpenRead(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		wantError(t, r.WriteHour(t.Context(), made(t, 1, hour0)), "reading only")
		wantError(t, r.SetState(t.Context(), "a", "b"), "reading only")
	})
}

var features = map[workload.Key][]workload.Feature{
	{Namespace: "ns0", Kind: "Deployment", Name: "app0"}: {{Name: "homework", ShareMillis: 700}, {Name: "live", ShareMillis: 300}},
	{Namespace: "ns1", Kind: "Deployment", Name: "app1"}: {{Name: "live", ShareMillis: 1000}},
	{Namespace: "ns2", Kind: "Deployment", Name: "app2"}: {{Name: "homework", ShareMillis: 333}},
}

func TestReport(t *testing.T) {
	s := open2(t, t.TempDir(), Options{})
	facts := write(t, s, 56)
	if err := s.PutFeatures(t.Context(), features); err != nil {
		t.Fatal(err)
	}
	windows := map[string][2]int{"all hours": {0, 56}, "one hour": {7, 8}, "whole days": {6, 54}, "ends within days": {3, 50}, "nothing": {56, 60}}
	for name, w := range windows {
		from, to := hour0.Add(time.Duration(w[0])*time.Hour), hour0.Add(time.Duration(w[1])*time.Hour)
		var part []bill.Facts
		if w[0] < len(facts) {
			part = facts[w[0]:w[1]]
		}
		for _, by := range []string{bill.ByModule, bill.ByNamespace, bill.ByPool, bill.ByMachineType, bill.ByFeature} {
			t.Run(name+" by "+by+" are equal from roll-ups and from facts", func(t *testing.T) {
				got, err := s.Report(t.Context(), from, to, by)
				if err != nil {
					t.Fatal(err)
				}
				want, err := bill.Summarise(part, by, features)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, got, alike); d != "" {
					t.Error(d)
				}
			})
		}
		t.Run(name+" by label add up", func(t *testing.T) {
			got, err := s.Report(t.Context(), from, to, "label:team")
			if err != nil {
				t.Fatal(err)
			}
			want, err := bill.Summarise(part, "label:team", features)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, alike, cmpopts.EquateApprox(1e-4, 1e-9)); d != "" {
				t.Error(d)
			}
			sum := got.BillNano
			for _, l := range got.Lines {
				sum -= l.CostNano
			}
			if sum != 0 {
				t.Errorf("%d nano-units of the bill are on no line", sum)
			}
		})
	}
	t.Run("an unknown grouping is refused", func(t *testing.T) {
		_, err := s.Report(t.Context(), hour0, hour0.Add(time.Hour), "colour")
		wantError(t, err, "colour", "label:KEY")
	})
	t.Run("an hour closed again changes its day", func(t *testing.T) {
		again := made(t, 1234, hour0.Add(10*time.Hour))
		if err := s.WriteHour(t.Context(), again); err != nil {
			t.Fatal(err)
		}
		facts[10] = again
		got, err := s.Report(t.Context(), hour0, hour0.Add(56*time.Hour), bill.ByModule)
		if err != nil {
			t.Fatal(err)
		}
		want, err := bill.Summarise(facts, bill.ByModule, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, alike); d != "" {
			t.Error(d)
		}
	})
	t.Run("whole days are rolled up", func(t *testing.T) {
		var n int
		if err := s.r.QueryRow(`SELECT count(*) FROM day_rollups`).Scan(&n); err != nil || n != 3 {
			t.Errorf("%d days are rolled up (%v), want 3", n, err)
		}
	})
}

// TestRollupKeepsEverything fails when bill.Window gets a field that the
// roll-ups do not keep.
func TestRollupKeepsEverything(t *testing.T) {
	for seed := range int64(50) {
		w, err := bill.Rollup(made(t, seed, hour0))
		if err != nil {
			t.Fatal(err)
		}
		w.Notes = []string{"a note"}
		w.Offers = []bill.Offer{{Type: "x", Paid: bill.Amounts{1, 2, 3}}}
		for i := range w.Rows {
			w.Rows[i].Headroom, w.Rows[i].Estimated = 5, -6
		}
		b, err := encodeRollup(&w)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRollup(b, interner{})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(w, got); d != "" {
			t.Fatal(d)
		}
		for range 20 { // a torn one is an error, not a panic
			n := rand.Intn(len(b))
			if _, err := decodeRollup(b[:n], interner{}); err == nil {
				t.Fatalf("the first %d of %d bytes were taken", n, len(b))
			}
		}
	}
}

func FuzzDecodeRollup(f *testing.F) {
	w, err := bill.Rollup(made(f, 1, hour0))
	if err != nil {
		f.Fatal(err)
	}
	b, err := encodeRollup(&w)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	raw, err := zstdReader.DecodeAll(b, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = decodeRollup(b, interner{})                            // must not panic
		_, _ = decodeRollup(zstdWriter.EncodeAll(b, nil), interner{}) // nor on what is compressed well
	})
}

func FuzzDecodeHour(f *testing.F) {
	facts := made(f, 1, hour0)
	files, err := encodeHour(&facts)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(files[0], files[1], files[2])
	f.Fuzz(func(_ *testing.T, pods, machines, loads []byte) {
		if len(pods)+len(machines)+len(loads) > 1<<20 {
			return
		}
		_, _ = decodeHour([3][]byte{pods, machines, loads}) // must not panic
	})
}

func TestTornFile(t *testing.T) {
	tear := map[string]func(t *testing.T, path string){
		"cut short": func(t *testing.T, path string) {
			st, err := os.Stat(path)
			if err == nil {
				err = os.Truncate(path, st.Size()/2)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"gone": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"changed in one bit": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			b[len(b)/3] ^= 4
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, tear := range tear {
		for _, part := range partNames {
			t.Run(part+" "+name+" is rebuilt", func(t *testing.T) {
				dir := t.TempDir()
				var facts []bill.Facts
				s := open2(t, dir, Options{Rebuild: func(_ context.Context, from, _ time.Time) (bill.Facts, error) {
					return facts[int(from.Sub(hour0)/time.Hour)], nil
				}})
				facts = write(t, s, 3)
				tear(t, s.path(partName(hour0.Add(time.Hour), part)))
				if d := cmp.Diff(facts, read(t, s), alike); d != "" {
					t.Error(d)
				}
				if bad, err := s.Check(t.Context(), time.Time{}, time.Time{}); err != nil || len(bad) != 0 {
					t.Errorf("afterwards damaged: %v, %v", bad, err)
				}
			})
			t.Run(part+" "+name+" without a way to rebuild is a gap, and the totals stand", func(t *testing.T) {
				dir := t.TempDir()
				s := open2(t, dir, Options{})
				facts := write(t, s, 3)
				tear(t, s.path(partName(hour0.Add(time.Hour), part)))

				reader, err := OpenRead(dir)
				if err != nil {
					t.Fatal(err)
				}
				defer reader.Close()
				for _, s := range []*Store{reader, s} {
					got := read(t, s)
					if d := cmp.Diff([]bill.Facts{facts[0], facts[2]}, []bill.Facts{got[0], got[2]}, alike); d != "" {
						t.Error(d)
					}
					if len(got[1].Machines)+len(got[1].Pods) != 0 || len(got[1].Notes) != 1 || !strings.Contains(got[1].Notes[0], "damaged") {
						t.Errorf("the torn hour was read: %+v", got[1])
					}
					byModule, err := s.Report(t.Context(), time.Time{}, time.Time{}, bill.ByModule)
					if err != nil {
						t.Fatal(err)
					}
					want, err := bill.Summarise(facts, bill.ByModule, nil)
					if err != nil {
						t.Fatal(err)
					}
					byModule.Notes = nil
					want.Notes = nil
					if d := cmp.Diff(want, byModule, alike); d != "" {
						t.Error(d)
					}
					byLabel, err := s.Report(t.Context(), time.Time{}, time.Time{}, "label:team")
					if err != nil {
						t.Fatal(err)
					}
					sum := byLabel.BillNano
					lost := false
					for _, l := range byLabel.Lines {
						sum -= l.CostNano
						lost = lost || l.Key == FactsLost
					}
					if sum != 0 || !lost {
						t.Errorf("%d nano-units are on no line; the line of damaged hours is there: %v", sum, lost)
					}
				}
				w, err := s.Window(t.Context(), time.Time{}, time.Time{})
				if err != nil || !slices.ContainsFunc(w.Notes, func(n string) bool { return strings.Contains(n, "damaged") }) {
					t.Errorf("the notes %v do not say so (%v)", w.Notes, err)
				}
				if bad, err := s.Check(t.Context(), time.Time{}, time.Time{}); err != nil || len(bad) != 1 {
					t.Errorf("damaged: %v, %v; want one", bad, err)
				}
				if err := s.WriteHour(t.Context(), facts[1]); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(facts, read(t, s), alike); d != "" {
					t.Errorf("closed again: %s", d)
				}
			})
		}
	}
}

func TestGap(t *testing.T) {
	s := open2(t, t.TempDir(), Options{})
	for _, n := range []int{0, 1, 5, 6} {
		f := made(t, 3, hour0.Add(time.Duration(n)*time.Hour))
		if err := s.WriteHour(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Report(t.Context(), hour0, hour0.Add(4*time.Hour), bill.ByModule)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Notes, func(n string) bool { return strings.Contains(n, "Nothing was recorded") })
	if i < 0 {
		t.Fatalf("notes %q do not name the gap", r.Notes)
	}
	for _, want := range []string{"from 2026-03-04 20:00Z to 2026-03-04 22:00Z", "gap", "not in these figures", "USD (estimated)"} {
		if !strings.Contains(r.Notes[i], want) {
			t.Errorf("note %q does not say %q", r.Notes[i], want)
		}
	}
}

func TestFullDisk(t *testing.T) {
	for _, step := range []string{"mkdir", "write", "commit", "rename"} {
		t.Run("at "+step+" nothing recorded is lost, and it goes on when there is room", func(t *testing.T) {
			dir := t.TempDir()
			s := open2(t, dir, Options{})
			facts := write(t, s, 2)
			again := made(t, 77, hour0)
			s.fault = func(at, _ string) error {
				if at == step {
					return &os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
				}
				return nil
			}
			err := s.WriteHour(t.Context(), again)
			if step == "rename" {
				facts[0] = again // it was recorded; only the names are missing
				if err != nil {
					t.Fatal(err)
				}
			} else {
				wantError(t, err, "record the hour 2026-03-04T18Z", dir, "no space left on device", "free some space")
				if !errors.Is(err, ErrFull) {
					t.Errorf("error is not ErrFull: %v", err)
				}
			}
			if d := cmp.Diff(facts, read(t, s), alike); d != "" {
				t.Error(d)
			}
			if step == "rename" { // the only copy has its temporary name
				wantError(t, s.WriteHour(t.Context(), made(t, 78, hour0)), "no space left on device")
				if d := cmp.Diff(facts, read(t, s), alike); d != "" {
					t.Error(d)
				}
			}
			s.fault = nil
			if err := s.WriteHour(t.Context(), again); err != nil {
				t.Fatal(err)
			}
			facts[0] = again
			if d := cmp.Diff(facts, read(t, s), alike); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("a real one", func(t *testing.T) {
		if os.Geteuid() != 0 {
			if os.Getenv("CI") == "true" {
				t.Fatal("mounting a small disk needs root")
			}
			t.Skip("mounting a small disk needs root")
		}
		dir := t.TempDir()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
			t.Skipf("this machine lets nobody mount a small disk: %v", err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		s := open2(t, dir, Options{})
		var facts []bill.Facts
		var full error
		for i := 0; full == nil && i < 2000; i++ {
			f := made(t, int64(i), hour0.Add(time.Duration(i)*time.Hour))
			if full = s.WriteHour(t.Context(), f); full == nil {
				facts = append(facts, f)
			}
		}
		wantError(t, full, "record the hour", dir, "no space left on device", "free some space")
		err := error(nil)
		for i := 0; err == nil && i < 100_000; i++ {
			err = s.AppendDecision(t.Context(), bill.Decision{ID: fmt.Sprint(i), Reason: strings.Repeat("x", 1000)})
		}
		wantError(t, err, "record a decision", dir, "no space left on device", "free some space")
		if len(facts) < 2 {
			t.Fatalf("only %d hours were recorded", len(facts))
		}
		if d := cmp.Diff(facts, read(t, s), alike); d != "" {
			t.Error(d)
		}
		if err := os.RemoveAll(filepath.Join(dir, "facts", "2026", "03", "04")); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteHour(t.Context(), made(t, 1, hour0)); err != nil {
			t.Errorf("with room again: %v", err)
		}
	})
}

func TestOpen(t *testing.T) {
	t.Run("a second writer is told about the first", func(t *testing.T) {
		dir := t.TempDir()
		open2(t, dir, Options{})
		_, err := Open(dir, Options{})
		wantError(t, err, dir, "another process has it open")
		if !errors.Is(err, ErrLocked) {
			t.Errorf("error is not ErrLocked: %v", err)
		}
	})
	t.Run("no store says how to make one", func(t *testing.T) {
		_, err := OpenRead(filepath.Join(t.TempDir(), "none"))
		wantError(t, err, "no store", "neap up")
	})
	for name, tear := range map[string]func([]byte) []byte{
		"cut short":       func(b []byte) []byte { return b[:len(b)/2] },
		"not a database":  func(b []byte) []byte { return []byte("<html>this is not it</html>") },
		"zeros inside":    func(b []byte) []byte { clear(b[4096 : 2*4096]); return b },
		"a broken header": func(b []byte) []byte { copy(b[16:], "\xff\xff\xff\xff"); return b },
	} {
		t.Run("a database "+name+" is named, and what to do", func(t *testing.T) {
			dir := t.TempDir()
			s := open2(t, dir, Options{})
			facts := write(t, s, 3)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, dbName)
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, tear(b), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, try := range []func() (*Store, error){
				func() (*Store, error) { return Open(dir, Options{Log: quiet}) },
				func() (*Store, error) { return OpenRead(dir) },
			} {
				s, err := try()
				if err == nil {
					_, err = s.Facts(t.Context(), time.Time{}, time.Time{})
					if cErr := s.Close(); cErr != nil {
						t.Error(cErr)
					}
				}
				wantError(t, err, dbName, "damaged", "move it away")
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("error is not ErrDamaged: %v", err)
				}
			}
			// Doing what it says brings the closed hours back.
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
			s = open2(t, dir, Options{})
			if d := cmp.Diff(facts, read(t, s), alike); d != "" {
				t.Error(d)
			}
		})
	}
	t.Run("a newer format is refused", func(t *testing.T) {
		dir := t.TempDir()
		s := open2(t, dir, Options{})
		if _, err := s.w.Exec(`PRAGMA user_version = 99`); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := Open(dir, Options{})
		wantError(t, err, "newer neap", "99")
		_, err = OpenRead(dir)
		wantError(t, err, "newer neap", "99")
	})
	t.Run("files that SQLite does not know are indexed, or set aside if torn", func(t *testing.T) {
		dir := t.TempDir()
		s := open2(t, dir, Options{})
		facts := write(t, s, 3)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, dbName)); err != nil {
			t.Fatal(err)
		}
		torn := s.path(partName(hour0.Add(time.Hour), "pods"))
		if err := os.Truncate(torn, 100); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(torn+temporary, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = open2(t, dir, Options{})
		if d := cmp.Diff([]bill.Facts{facts[0], facts[2]}, read(t, s), alike); d != "" {
			t.Error(d)
		}
		if _, err := os.Stat(filepath.Join(dir, "damaged/2026/03/04/19.pods.parquet")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(torn + temporary); err == nil {
			t.Error("a half-written file is still there")
		}
	})
	t.Run("nobody else may read it", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "store")
		s := open2(t, dir, Options{})
		write(t, s, 1)
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", path, info.Mode())
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestLedger(t *testing.T) {
	s := open2(t, t.TempDir(), Options{})
	ctx := t.Context()
	a := bill.Decision{ID: "a", At: hour0, Actor: "scaler", Lever: "elastic", Action: "scale", Subject: "x", PredictedNano: -5, Inputs: map[string]string{"load": "3"}, Considered: []string{"nothing"}}
	b := bill.Decision{ID: "b", At: hour0.Add(-time.Hour), Actor: "scenario"}
	for _, d := range []bill.Decision{a, b, {ID: "a", Actor: "somebody else"}} {
		if err := s.AppendDecision(ctx, d); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Decisions(ctx, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]bill.Decision{b, a}, got); d != "" {
		t.Error(d)
	}
	if err := s.Realise(ctx, "a", hour0, 7); err != nil {
		t.Fatal(err)
	}
	if err := s.Realise(ctx, "a", hour0, 9); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Decisions(ctx, hour0, hour0.Add(1)); err != nil || len(got) != 1 || *got[0].RealisedNano != 7 {
		t.Errorf("got %v, %v", got, err)
	}
	wantError(t, s.Realise(ctx, "c", hour0, 1), `no decision has the ID "c"`)
	wantError(t, s.AppendDecision(ctx, bill.Decision{}), "no ID")
	for _, change := range []string{`DELETE FROM decisions`, `UPDATE decisions SET actor = 'x'`, `DELETE FROM realised`, `UPDATE realised SET nano = 1`} {
		if _, err := s.w.Exec(change); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", change, err)
		}
	}
}

func TestSmallThings(t *testing.T) {
	dir := t.TempDir()
	s := open2(t, dir, Options{})
	ctx := t.Context()
	if v, err := s.State(ctx, "player"); err != nil || v != "" {
		t.Errorf("got %q, %v", v, err)
	}
	for _, v := range []string{"one", "two"} {
		if err := s.SetState(ctx, "player", v); err != nil {
			t.Fatal(err)
		}
	}
	events := []bill.Event{
		{At: hour0, Kind: bill.MachineGone, Name: "m"},
		{At: hour0.Add(1), Kind: bill.PodSeen, Pod: &bill.Pod{UID: "u", Machine: "m", Requests: []bill.Step{{}}}},
	}
	if err := s.AppendEvents(ctx, bill.Event{Kind: bill.PodGone, Name: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := s.ReplaceEvents(ctx, events[:1]); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendEvents(ctx, events[1]); err != nil {
		t.Fatal(err)
	}
	types := []machine.Entry{{Type: machine.Type{Name: "b"}}, {From: hour0, Type: machine.Type{Name: "a", List: 3}}}
	if err := s.PutTypes(ctx, types); err != nil {
		t.Fatal(err)
	}
	if err := s.PutFeatures(ctx, features); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open2(t, dir, Options{})
	if v, err := s.State(ctx, "player"); err != nil || v != "two" {
		t.Errorf("state is %q, %v", v, err)
	}
	if got, err := s.Events(ctx); err != nil || cmp.Diff(events, got) != "" {
		t.Errorf("%v %s", err, cmp.Diff(events, got))
	}
	if got, err := s.Types(ctx); err != nil || cmp.Diff(types, got) != "" {
		t.Errorf("%v %s", err, cmp.Diff(types, got))
	}
	if got, err := s.Features(ctx); err != nil || cmp.Diff(features, got) != "" {
		t.Errorf("%v %s", err, cmp.Diff(features, got))
	}
}
