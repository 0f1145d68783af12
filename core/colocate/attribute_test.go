package colocate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// A stage is a machine with an online workload and batch pods that may bother it.
type stage struct {
	a        Attribution
	at       time.Duration
	suspects []Suspect
	still    string // who stands still
	pauses   int
	// feels is what the workload feels in second n while somebody stands still.
	feels func(n int, still string) float64
	n     int
}

func newStage(pods int, feels func(n int, still string) float64) *stage {
	s := &stage{feels: feels}
	for i := range pods {
		s.suspects = append(s.suspects, Suspect{UID: fmt.Sprint(i), Name: fmt.Sprint("default/job-", i)})
	}
	return s
}

// search goes on until the search ends, and returns the verdicts.
func (s *stage) search(t testing.TB) map[string]Finding {
	t.Helper()
	out := map[string]Finding{}
	web := Signal{Workload: "web", Kind: "runqueue", Value: 2000, Target: 1000}
	for looks := 0; ; looks++ {
		if looks > 2000 {
			t.Fatal("the search does not end")
		}
		if looks%5 == 0 && !s.a.Seek(s.at, web, []Signal{web}, s.suspects) {
			return out
		}
		s.at += time.Second
		s.n++
		trial := s.a.Next(s.at, []Signal{{Workload: "web", Kind: "runqueue", Value: int64(s.feels(s.n, s.still)), Target: 1000}}, s.suspects)
		if trial.Pause != "" {
			s.pauses++
			if s.still != "" {
				t.Fatalf("%s stands still for two looks", s.still)
			}
			if trial.Pause != trial.Suspect.UID {
				t.Fatalf("%+v", trial)
			}
		}
		s.still = trial.Pause
		if trial.Why == "" {
			t.Fatal("it does not say why")
		}
		if trial.Finding != FindingNone {
			out[trial.Suspect.UID] = trial.Finding
		}
		if trial.Finding == FindingCulprit || !trial.Busy {
			return out
		}
	}
}

func TestWhoBothersOnlineIsFound(t *testing.T) {
	found := 0
	for seed := range uint64(200) {
		dice := rand.New(rand.NewPCG(seed, 1))
		culprit := fmt.Sprint(dice.IntN(3))
		s := newStage(3, func(n int, still string) float64 {
			felt := 2000 * math.Exp(0.12*dice.NormFloat64())
			if still == culprit {
				felt /= 2
			}
			return felt
		})
		verdicts := s.search(t)
		if verdicts[culprit] == FindingCulprit && s.a.Guilty(s.at, culprit) {
			found++
		}
		for uid, v := range verdicts {
			if v == FindingCulprit && uid != culprit {
				t.Errorf("seed %d: %s is named, and %s it was", seed, uid, culprit)
			}
		}
		if s.pauses > pausesAnHour {
			t.Errorf("seed %d: %d pauses", seed, s.pauses)
		}
	}
	if found < 190 {
		t.Errorf("%d of 200 culprits are found", found)
	}
}

// TestNoiseNamesNobody: whatever a signal does that has nothing to do with the pauses,
// at most one search in a hundred names somebody.
func TestNoiseNamesNobody(t *testing.T) {
	noises := map[string]func(*rand.Rand) func(n int) float64{
		"of its own each second": func(dice *rand.Rand) func(int) float64 {
			return func(int) float64 { return 2000 * math.Exp(0.5*dice.NormFloat64()) }
		},
		"about the target": func(dice *rand.Rand) func(int) float64 {
			return func(int) float64 { return 1000 * math.Exp(0.4*dice.NormFloat64()) }
		},
		"a random walk": func(dice *rand.Rand) func(int) float64 {
			level := 2000.0
			return func(int) float64 { level *= math.Exp(0.3 * dice.NormFloat64()); return level }
		},
		"up and down by the second": func(dice *rand.Rand) func(int) float64 {
			return func(n int) float64 { return 2000 + 1500*float64(n%2) }
		},
		"a wave": func(dice *rand.Rand) func(int) float64 {
			period, phase := 2+dice.IntN(9), dice.IntN(10)
			low := 1 + dice.IntN(period)
			return func(n int) float64 {
				if (n+phase)%period < low {
					return 1000
				}
				return 3000
			}
		},
		"it falls": func(*rand.Rand) func(int) float64 {
			return func(n int) float64 { return 1e9 * math.Exp(-float64(n)/5) }
		},
		"nothing at all": func(*rand.Rand) func(int) float64 { return func(int) float64 { return 2000 } },
	}
	for name, noise := range noises {
		wrong, searches := 0, 600
		for seed := range uint64(searches) {
			dice := rand.New(rand.NewPCG(seed, 2))
			feels := noise(dice)
			s := newStage(1+dice.IntN(6), func(n int, _ string) float64 { return feels(n) })
			s.at, s.n = time.Duration(dice.IntN(1e6))*time.Second, dice.IntN(100)
			for i := range s.suspects {
				s.suspects[i].UID += fmt.Sprint("-", dice.Uint64())
			}
			for _, v := range s.search(t) {
				if v == FindingCulprit {
					wrong++
				}
			}
			if s.pauses > pausesAnHour {
				t.Errorf("%s: %d pauses", name, s.pauses)
			}
		}
		t.Logf("%s: %d of %d", name, wrong, searches)
		if wrong > searches*2/100 { // one in a hundred, and chance
			t.Errorf("%s: somebody is named in %d of %d searches", name, wrong, searches)
		}
	}
}

// TestAnHourHasItsPauses: however long the trouble lasts.
func TestAnHourHasItsPauses(t *testing.T) {
	s := newStage(100, func(n int, _ string) float64 { return 2000 })
	verdicts := s.search(t)
	undecided := 0
	for _, v := range verdicts {
		if v == FindingUndecided {
			undecided++
		}
	}
	if s.pauses != pausesAnHour || undecided > 1 {
		t.Errorf("%d pauses, %v", s.pauses, verdicts)
	}
	s.search(t)
	if s.pauses != pausesAnHour {
		t.Errorf("another search makes them %d", s.pauses)
	}
	s.at += time.Hour
	s.search(t)
	if s.pauses != 2*pausesAnHour {
		t.Errorf("after an hour they are %d", s.pauses)
	}
}

func TestAVerdictIsBelievedForAnHour(t *testing.T) {
	s := newStage(1, func(_ int, still string) float64 {
		if still != "" {
			return 1000
		}
		return 2000
	})
	if v := s.search(t); v["0"] != FindingCulprit || s.pauses != enough(1) {
		t.Fatalf("%v after %d pauses", v, s.pauses)
	}
	if !s.a.Guilty(s.at+time.Hour-1, "0") || s.a.Guilty(s.at+time.Hour, "0") || s.a.Guilty(s.at, "1") {
		t.Error("it is believed for too long, too short, or of the wrong one")
	}
}

func TestLooksThatTellNothingAreNotCounted(t *testing.T) {
	web := Signal{Workload: "web", Kind: "runqueue", Value: 2000, Target: 1000}
	suspects := []Suspect{{"0", "default/job"}}
	var a Attribution
	at, still, stood := time.Duration(0), "", 0
	a.Seek(at, web, []Signal{web}, suspects)
	for range 300 { // whenever somebody stands still, a look comes late or tells nothing
		at += time.Second
		signals := []Signal{web}
		if still != "" {
			if stood++; stood%2 == 0 {
				at += 5 * time.Second
			} else {
				signals = nil
			}
		}
		trial := a.Next(at, signals, suspects)
		still = trial.Pause
		if trial.Finding != FindingNone && trial.Finding != FindingUndecided {
			t.Fatalf("%+v", trial)
		}
	}
	if stood != pausesAnHour {
		t.Errorf("%d pauses", stood)
	}
}

func TestASearchEndsWithTheTrouble(t *testing.T) {
	web := Signal{Workload: "web", Kind: "runqueue", Value: 2000, Target: 1000}
	well := web
	well.Value = 900
	suspects := []Suspect{{"0", "default/job"}}
	for name, signals := range map[string][]Signal{"it does well": {well}, "nothing is heard": nil} {
		var a Attribution
		at := time.Hour
		if !a.Seek(at, web, []Signal{web}, suspects) {
			t.Fatal("it does not seek")
		}
		for looks := 0; a.Next(at, signals, suspects).Busy; looks++ {
			if at += time.Second; looks > wellFor {
				t.Fatalf("%s, and it seeks on", name)
			}
			if looks%5 == 0 && !a.Seek(at, web, signals, suspects) {
				t.Errorf("%s, and it gives up after %d looks", name, looks)
			}
		}
		if len(a.pauses) > 0 || len(a.known) > 0 {
			t.Errorf("%s: %d pauses, %v", name, len(a.pauses), a.known)
		}
		if a.Seek(at+restFor-1, web, []Signal{web}, suspects) || !a.Seek(at+restFor, web, []Signal{web}, suspects) {
			t.Errorf("%s, and it rests for too long or too short", name)
		}
	}
}

func TestWhoLeavesWhileItIsTried(t *testing.T) {
	web := Signal{Workload: "web", Kind: "runqueue", Value: 2000, Target: 1000}
	var a Attribution
	if !a.Seek(0, web, []Signal{web}, []Suspect{{"0", "x"}}) {
		t.Fatal("it does not seek")
	}
	a.Next(time.Second, []Signal{web}, []Suspect{{"0", "x"}})
	if got := a.Next(2*time.Second, []Signal{web}, nil); got.Finding != FindingUndecided || got.Busy || got.Pause != "" || got.Suspect.UID != "0" {
		t.Errorf("%+v", got)
	}
	if a.Seek(3*time.Second, web, []Signal{web}, nil) {
		t.Error("it seeks among nobody")
	}
}

func TestWhatIsFeltByTheMinuteIsStoodInFor(t *testing.T) {
	slow := Signal{Workload: "the query", Kind: "p99", Value: 2000, Target: 1000, Slow: true}
	fine := Signal{Workload: "a", Kind: "runqueue", Value: 10, Target: 1000}
	worse := Signal{Workload: "b", Kind: "pressure", Value: 90, Target: 100}
	suspects := []Suspect{{"0", "x"}}
	var a Attribution
	if a.Seek(0, slow, []Signal{slow}, suspects) {
		t.Error("it seeks by what a second does not tell")
	}
	var at time.Duration
	still := ""
	for i := 0; ; i++ {
		now := worse
		if still != "" {
			now.Value = 40
		}
		if i%5 == 0 && !a.Seek(at, slow, []Signal{slow, fine, worse}, suspects) || i > 500 {
			t.Fatal("it does not seek")
		}
		at += time.Second
		trial := a.Next(at, []Signal{slow, fine, now}, suspects)
		if still = trial.Pause; trial.Finding == FindingCulprit {
			return
		}
	}
}
