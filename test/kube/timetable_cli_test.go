package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/cli"
	"github.com/neap-dev/neap/core/timetable"
	"github.com/neap-dev/neap/kube/convert"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// TestATermIsImportedChangedAndTakenBack imports a timetable as the person does
// who has to before Monday, against a real API server.
func TestATermIsImportedChangedAndTakenBack(t *testing.T) {
	c, cfg := cluster(t)
	k := newClient(t, cfg)
	ns := clustertest.Namespace(t, c)
	t.Setenv("KUBECONFIG", c.Kubeconfig)
	neap := func(want int, args ...string) string {
		t.Helper()
		var out, problems bytes.Buffer
		if got := cli.Main(t.Context(), append([]string{"timetable"}, args...), &out, &problems); got != want {
			t.Fatalf("neap timetable %s: exit %d, want %d: %s%s", strings.Join(args, " "), got, want, out.String(), problems.String())
		}
		return out.String() + problems.String()
	}
	says := func(text string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(text, part) {
				t.Errorf("%q is not in: %s", part, text)
			}
		}
	}
	monday := time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, 7)
	file := func(lines ...string) string {
		path := filepath.Join(t.TempDir(), "autumn.csv")
		text := "course,room,start,end,enrolled,modules\n" + strings.Join(lines, "\n") + "\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	line := func(course string, hours int, enrolled int) string {
		at := monday.Add(time.Duration(hours) * time.Hour)
		return fmt.Sprintf("%s,R1,%s,%s,%d,chat", course, at.Format("2006-01-02 15:04"), at.Add(time.Hour).Format("15:04"), enrolled)
	}
	floor := func(hours int) float64 {
		t.Helper()
		var list v1alpha1.TimetableList
		if err := k.List(t.Context(), &list, client.InNamespace(ns)); err != nil {
			t.Fatal(err)
		}
		var all []*v1alpha1.Timetable
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
		table, opts, err := convert.Classes(&v1alpha1.TimetableLayer{Names: []string{"autumn"}}, ns, "chat", all)
		if err != nil {
			t.Fatal(err)
		}
		at := monday.Add(time.Duration(hours) * time.Hour)
		return timetable.Attendance{}.Floor(table, at, at, opts).Demand
	}
	first := file(line("ALG", 9, 100), line("BIO", 11, 60), line("GEO", 33, 30))

	// 1. Only a look.
	says(neap(2, "import", first, "-n", ns), "--zone is missing")
	says(neap(0, "import", first, "-n", ns, "--zone", "UTC", "--dry-run"), "added ALG", "3 added, 0 cancelled", "this is a dry run")
	says(neap(1, "show", "autumn", "-n", ns), "there is no Timetable")

	// 2. The term, and the same again.
	says(neap(0, "import", first, "-n", ns, "--zone", "UTC"), "Imported into Timetable "+ns+"/autumn")
	var before v1alpha1.Timetable
	key := client.ObjectKey{Namespace: ns, Name: "autumn"}
	if err := k.Get(t.Context(), key, &before); err != nil {
		t.Fatal(err)
	}
	says(neap(0, "import", first, "-n", ns), "No change")
	var again v1alpha1.Timetable
	if err := k.Get(t.Context(), key, &again); err != nil || again.ResourceVersion != before.ResourceVersion {
		t.Errorf("the same file again wrote the object: %v", err)
	}
	if floor(9) == 0 || floor(35) != 0 {
		t.Errorf("floors %v on Monday at nine and %v on Tuesday at eleven", floor(9), floor(35))
	}

	// 3. A class is cancelled, one moves, one grows.
	second := file(line("ALG", 9, 120), line("GEO", 35, 30))
	says(neap(0, "import", second, "-n", ns), "1 cancelled, 1 moved, 1 changed", "cancelled BIO", "moved GEO", "enrolled 120, was 100", "timetable undo autumn")
	if floor(11) != 0 || floor(33) != 0 || floor(35) == 0 {
		t.Errorf("the cancelled class asks for %v, the moved one for %v where it was and %v where it is", floor(11), floor(33), floor(35))
	}
	says(neap(0, "show", "autumn", "-n", ns, "--day", monday.AddDate(0, 0, 1).Format(time.DateOnly)), "GEO", "11:00")

	// 4. What cannot be read, and what takes too much away, changes nothing.
	says(neap(1, "import", file(line("ALG", 9, 120), "GEO,R1,yesterday,10:00,30,chat"), "-n", ns), `line 3 "yesterday"`, "nothing was imported", "--partial")
	says(neap(1, "import", file(line("NEW", 99, 5)), "-n", ns), "takes away 2 of 2 classes to come", "--replace")
	if floor(35) == 0 {
		t.Error("a refused import changed the timetable")
	}

	// 5. Back, and forth again.
	says(neap(0, "undo", "autumn", "-n", ns), "added BIO", "moved GEO", "3 classes")
	if floor(11) == 0 || floor(33) == 0 || floor(35) != 0 {
		t.Errorf("after undo: %v at eleven, %v where GEO was and %v where it had moved", floor(11), floor(33), floor(35))
	}
	says(neap(0, "undo", "autumn", "-n", ns), "cancelled BIO")
	says(neap(1, "undo", "nothing", "-n", ns), "nothing to undo")

	// 6. A term too large for one object.
	var lines []string
	for i := range 4100 {
		lines = append(lines, line(fmt.Sprintf("C%d", i), i%300, 10))
	}
	big := file(lines...)
	says(neap(0, "import", big, "-n", ns, "--name", "big", "--zone", "UTC"), "4100 added")
	var list v1alpha1.TimetableList
	if err := k.List(t.Context(), &list, client.InNamespace(ns), client.MatchingLabels{v1alpha1.LabelTimetable: "big"}); err != nil || len(list.Items) != 2 {
		t.Errorf("%d parts, want 2: %v", len(list.Items), err)
	}
	says(neap(0, "import", big, "-n", ns, "--name", "big"), "No change")
	says(neap(0, "import", first, "-n", ns, "--name", "big", "--replace"), "cancelled C0")
	if err := k.List(t.Context(), &list, client.InNamespace(ns), client.MatchingLabels{v1alpha1.LabelTimetable: "big"}); err != nil || len(list.Items) != 1 {
		t.Errorf("%d parts, want 1: %v", len(list.Items), err)
	}

	// 7. Holidays.
	year := filepath.Join(t.TempDir(), "2026.json")
	if err := os.WriteFile(year, []byte(`{"days": [{"name": "国庆节", "date": "2026-10-01", "isOffDay": true}, {"name": "国庆节", "date": "2026-10-10", "isOffDay": false}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(ns)
	says(neap(0, "calendar", "import", year, "--name", name, "--zone", "Asia/Shanghai", "--dry-run"), "added 2026-10-10 MakeUp", "dry run")
	says(neap(0, "calendar", "import", year, "--name", name, "--zone", "Asia/Shanghai"), "2 days imported")
	says(neap(0, "calendar", "import", year, "--name", name, "--zone", "Asia/Shanghai"), "No change")
	says(neap(2, "calendar", "import", year, "--name", name), "--zone")

	// 8. As JSON, for a script.
	var report struct {
		Changes []struct{ Kind string }
		Applied bool
	}
	if err := json.Unmarshal([]byte(neap(0, "import", second, "-n", ns, "--format", "json")), &report); err != nil || report.Applied || len(report.Changes) != 0 {
		t.Errorf("JSON %+v: %v", report, err)
	}
}
