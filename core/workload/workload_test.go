package workload

import "testing"

func FuzzKey(f *testing.F) {
	f.Add("edu", "Deployment", "homework")
	f.Fuzz(func(t *testing.T, ns, kind, name string) {
		k := Key{ns, kind, name}
		if k.Compare(k) != 0 {
			t.Fatalf("%v is not equal to itself", k)
		}
		for _, s := range []string{ns, kind} {
			for _, c := range s {
				if c == '/' {
					return // Kubernetes allows none in these
				}
			}
		}
		if got, ok := ParseKey(k.String()); !ok || got != k {
			t.Fatalf("%q reads back as %+v, %v", k, got, ok)
		}
	})
}

func TestParseKeyRefusesWhatIsNoKey(t *testing.T) {
	for _, s := range []string{"", "a", "a/b"} {
		if k, ok := ParseKey(s); ok {
			t.Errorf("%q reads as %+v", s, k)
		}
	}
}
