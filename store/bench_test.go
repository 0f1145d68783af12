package store

import (
	"math/rand"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/internal/madefleet"
)

func large(b *testing.B) bill.Facts {
	b.Helper()
	book, err := madefleet.Book(nil, hour0)
	if err != nil {
		b.Fatal(err)
	}
	f, err := bill.Close(madefleet.Large(rand.New(rand.NewSource(1)), hour0, 1000, 25_000, 2000), book, bill.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return f
}

func BenchmarkWriteHour(b *testing.B) {
	s, f := open2(b, b.TempDir(), Options{}), large(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.WriteHour(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFacts(b *testing.B) {
	s := open2(b, b.TempDir(), Options{})
	if err := s.WriteHour(b.Context(), large(b)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		read(b, s)
	}
}

// BenchmarkReport asks for 30 days that are as large as 24 hours make them: the
// rows of a day are those of an hour.
func BenchmarkReport(b *testing.B) {
	s, f := open2(b, b.TempDir(), Options{}), large(b)
	for day := range 31 {
		by := hour0.AddDate(0, 0, day).Sub(f.From)
		f.From, f.To = f.From.Add(by), f.To.Add(by)
		if err := s.WriteHour(b.Context(), f); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Report(b.Context(), hour0, hour0.Add(30*24*time.Hour), bill.ByModule); err != nil {
			b.Fatal(err)
		}
	}
}
