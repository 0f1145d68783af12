package scenario

import (
	"testing"
	"time"
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
