package colocate

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"time"
)

// How sure an Attribution is, and what it may cost.
const (
	innocent     = 0.01 // the most likely that somebody of all suspects is wrongly named
	losses       = 2    // clear a suspect
	waits        = 6    // a pause comes at one of so many looks; even
	believed     = time.Hour
	briefest     = time.Second / 2 // a look that counts
	longest      = 2 * time.Second
	pausesAnHour = 40
	wellFor      = 30              // looks in a row without trouble end a search
	restFor      = 5 * time.Minute // after that nobody is tried
)

// A Finding is what an Attribution finds of one batch pod.
type Finding uint8

// The findings.
const (
	FindingNone      Finding = iota // not yet
	FindingCulprit                  // online pods feel less whenever it stands still
	FindingCleared                  // they do not
	FindingUndecided                // it left, or there were enough pauses for an hour

	Findings = 4 // how many there are
)

// String returns the name that the metrics have for it.
func (f Finding) String() string {
	return [...]string{"none", "culprit", "cleared", "undecided"}[min(f, FindingUndecided)]
}

// A Suspect is a batch pod that may stand still for a moment.
type Suspect struct {
	UID  string
	Name string // for people
}

// A Trial is what an Attribution answers to one look.
type Trial struct {
	Pause   string  // the UID of who stands still until the next look; empty: nobody
	Suspect Suspect // who is tried, or was by this look
	Finding Finding // of the suspect, if there is one by this look
	Busy    bool    // the search goes on
	Why     string  // one sentence for people
}

// An Attribution finds out which batch pod an online workload suffers from: it has
// one suspect at a time stand still from one look to the next, a second, and compares
// what the workload felt before, meanwhile and after.
//
//	helped  = meanwhile < 90 % of before, and of after
//	culprit = it helped w times before it twice did not
//	cleared = it twice did not
//	w       = the least with (1 + w/2) / 2^w ≤ 1 % / suspects
//
// This is a sign test that whatever else goes on cannot deceive more often than one
// time in a hundred. Each pause comes at one of six looks in a row, which a hash
// chooses; and whatever a signal does that has nothing to do with the pauses, no more
// than three of six looks in a row are below both their neighbours. So it helps by
// accident at most every other time, and the formula is how likely w such accidents
// are before the second look that is none.
//
// There are at most 40 pauses in an hour, and a finding is believed for an hour. A
// pause is drawn only while the target is missed, or it would clear a culprit who does
// nothing just now. Whoever feels something only by the minute ([Signal.Slow]) is
// stood in for by the signal with the least slack that does not. The zero Attribution
// knows nothing; it is not safe for use from several goroutines.
type Attribution struct {
	of             Signal // why a culprit is looked for; Workload and Kind count
	watch          Signal // what is watched; the same, or what stands in for it
	suspect        Suspect
	phase          phase
	wait           int           // looks until the one before the pause
	well           int           // looks in a row without trouble
	rest           time.Duration // nobody is tried until then
	before, during int64
	last           time.Duration
	pauses         []time.Duration // of the last hour
	known          map[charge]evidence
}

// A phase is what the look to come is.
type phase uint8

const (
	resting phase = iota // for want of trouble, or of a look that tells something
	waiting              // for the pause that is drawn; the last such look is the one before
	paused
	after
)

// A charge is who may be to blame for what.
type charge struct{ uid, workload, kind string }

// evidence is what speaks for a charge and against it.
type evidence struct {
	began        time.Duration
	helped, vain int
	finding      Finding
}

// Seek says that worst, one of the signals, misses its target for no reason that is
// known, and returns whether pauses may tell the reason: then Next is called once a
// second with what is felt since the call before, until it is not Busy.
func (a *Attribution) Seek(at time.Duration, worst Signal, signals []Signal, suspects []Suspect) bool {
	a.forget(at)
	missed, known := find(signals, a.of)
	over := !known || missed.Slack() >= slackMeets
	same := a.of.Workload == worst.Workload && a.of.Kind == worst.Kind
	if _, heard := find(signals, a.watch); !heard || over && !same {
		a.of, a.watch = worst, quick(worst, signals)
		a.suspect, a.phase = Suspect{}, resting
	}
	if a.watch.Workload == "" {
		return false
	}
	_, left := a.next(suspects)
	return left && at >= a.rest && (a.phase > waiting || len(a.pauses) < pausesAnHour)
}

// Next takes one look, and says who stands still until the next one. suspects are in
// the order in which they are tried.
func (a *Attribution) Next(at time.Duration, signals []Signal, suspects []Suspect) Trial {
	steady := at-a.last >= briefest && at-a.last <= longest
	a.last = at
	a.forget(at)
	if a.suspect.UID != "" && !slices.Contains(suspects, a.suspect) {
		was := a.suspect
		a.suspect, a.phase = Suspect{}, resting
		_, left := a.next(suspects)
		return Trial{Suspect: was, Finding: FindingUndecided, Busy: left, Why: was.Name + " left while it was tried"}
	}
	now, known := find(signals, a.watch)
	switch {
	case a.suspect.UID == "":
		s, left := a.next(suspects)
		if !left {
			return Trial{Why: "nobody who may be tried is left"}
		}
		a.suspect = s
		a.draw(now, known)
	case !steady || !known || a.phase == resting: // a look like this one tells nothing of a pause
		if a.draw(now, steady && known); a.well >= wellFor {
			a.suspect, a.well, a.rest = Suspect{}, 0, at+restFor
			return Trial{Why: a.watch.Workload + " does well again, or feels too little in a second"}
		}
	case a.phase == paused:
		a.during, a.phase = now.Value, after
	case a.phase == after:
		if t := a.judge(at, now.Value, len(suspects)); t.Finding != FindingNone {
			_, t.Busy = a.next(suspects)
			return t
		}
		a.draw(now, known)
	case a.wait > 0:
		a.wait--
	case len(a.pauses) >= pausesAnHour:
		was := a.suspect
		a.suspect = Suspect{}
		return Trial{Suspect: was, Finding: FindingUndecided, Why: fmt.Sprintf("%d pauses in an hour are enough", pausesAnHour)}
	default:
		a.before, a.phase = now.Value, paused
		a.pauses = append(a.pauses, at)
	}
	t := Trial{Suspect: a.suspect, Busy: true, Why: fmt.Sprintf("batch pod %s stands still for a second now and then, to see whether %s feels it by its %s",
		a.suspect.Name, a.watch.Workload, a.watch.Kind)}
	if a.phase == paused {
		t.Pause = a.suspect.UID
	}
	return t
}

// Guilty tells whether a batch pod was found to be a culprit within the last hour.
func (a *Attribution) Guilty(at time.Duration, uid string) bool {
	for c, e := range a.known {
		if c.uid == uid && e.finding == FindingCulprit && at-e.began < believed {
			return true
		}
	}
	return false
}

// judge closes one pause.
func (a *Attribution) judge(at time.Duration, now int64, suspects int) Trial {
	c := a.charge(a.suspect)
	e, known := a.known[c]
	if !known {
		e.began = at
	}
	if float64(a.during) < float64(min(a.before, now))*(1000-clearlyLess)/1000 {
		e.helped++
	} else {
		e.vain++
	}
	t := Trial{Suspect: a.suspect}
	count := fmt.Sprintf("%d of %d times", e.helped, e.helped+e.vain)
	switch {
	case e.vain >= losses:
		e.finding = FindingCleared
		t.Why = fmt.Sprintf("batch pod %s is not what %s suffers from: its %s fell in %s when it stood still", a.suspect.Name, a.watch.Workload, a.watch.Kind, count)
	case e.helped >= enough(suspects):
		e.finding = FindingCulprit
		t.Why = fmt.Sprintf("batch pod %s is what %s suffers from: its %s fell in %s when it stood still", a.suspect.Name, a.watch.Workload, a.watch.Kind, count)
	}
	if t.Finding = e.finding; t.Finding != FindingNone {
		e.began = at
		a.suspect, a.phase = Suspect{}, resting
	}
	if a.known == nil {
		a.known = map[charge]evidence{}
	}
	a.known[c] = e
	return t
}

// enough is how many pauses must help for one of so many suspects to be the culprit.
func enough(suspects int) int {
	w := 1
	for p := 0.75; p > innocent/float64(max(suspects, 1)); {
		w++
		p = (1 + float64(w)/2) / float64(uint64(1)<<w)
	}
	return w
}

// draw chooses how long it is until the next pause, if there is trouble now.
func (a *Attribution) draw(now Signal, known bool) {
	if !known || now.Slack() >= slackMeets && !a.of.Slow {
		a.phase, a.well = resting, a.well+1
		return
	}
	a.well = 0
	h := fnv.New64a()
	fmt.Fprint(h, a.suspect.UID, a.watch.Workload, a.last, len(a.pauses))
	x := h.Sum64() // whose low bits are poor
	x = (x ^ x>>33) * 0xff51afd7ed558ccd
	a.phase, a.wait = waiting, int((x>>33)%waits)
}

// next is who is tried: who is already, else the first who is not decided on.
func (a *Attribution) next(suspects []Suspect) (Suspect, bool) {
	if a.suspect.UID != "" && slices.Contains(suspects, a.suspect) {
		return a.suspect, true
	}
	for _, s := range suspects {
		if a.known[a.charge(s)].finding == FindingNone {
			return s, true
		}
	}
	return Suspect{}, false
}

func (a *Attribution) charge(s Suspect) charge { return charge{s.UID, a.watch.Workload, a.watch.Kind} }

// find returns the signal of a workload and kind.
func find(signals []Signal, of Signal) (Signal, bool) {
	i := slices.IndexFunc(signals, func(s Signal) bool { return s.Workload == of.Workload && s.Kind == of.Kind })
	if i < 0 {
		return Signal{}, false
	}
	return signals[i], true
}

// quick is worst, or of the signals that a second tells something the one with the
// least slack; zero if there is none.
func quick(worst Signal, signals []Signal) Signal {
	if !worst.Slow {
		return worst
	}
	var out Signal
	for _, s := range signals {
		if c := cmp.Compare(s.Slack(), out.Slack()); s.Target > 0 && !s.Slow && (out.Workload == "" || c < 0 || c == 0 && s.Workload < out.Workload) {
			out = s
		}
	}
	return out
}

// forget drops what is too old to be believed, and pauses of more than an hour ago.
func (a *Attribution) forget(at time.Duration) {
	a.pauses = slices.DeleteFunc(a.pauses, func(t time.Duration) bool { return at-t >= time.Hour })
	for c, e := range a.known {
		if at-e.began >= believed {
			delete(a.known, c)
		}
	}
}
