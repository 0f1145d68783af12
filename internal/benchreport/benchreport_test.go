package benchreport

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	r := Report{
		Machine: ThisMachine(),
		Bars:    []Bar{Below("ready", 3.6, "s", 15), Equal("unexplained", 1, "nano", 0), AtLeast("fleets", 10000, "fleets", 10000), AtMost("resident", 2048, "MiB", 1024)},
	}
	if r.Met() {
		t.Error("a report with a missed bar says that all were met")
	}
	if got, want := strings.Join(r.Missed(), ","), "unexplained,resident"; got != want {
		t.Errorf("missed %s, want %s", got, want)
	}

	t.Run("the JSON has exactly the promised keys", func(t *testing.T) {
		var buf bytes.Buffer
		if err := r.Write(&buf, "json"); err != nil {
			t.Fatal(err)
		}
		var got struct {
			Machine map[string]any
			Bars    []map[string]any
			Rows    []any
		}
		if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Rows == nil || len(got.Bars) != 4 || got.Machine == nil {
			t.Fatalf("rows %v, %d bars, machine %v", got.Rows, len(got.Bars), got.Machine)
		}
		for _, key := range []string{"name", "value", "unit", "bar", "met"} {
			if _, ok := got.Bars[0][key]; !ok {
				t.Errorf("bar has no %q: %v", key, got.Bars[0])
			}
		}
	})
	t.Run("the table marks a missed bar", func(t *testing.T) {
		var buf bytes.Buffer
		if err := r.Write(&buf, "table"); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(buf.String(), "= 0") || !strings.Contains(buf.String(), "NO") {
			t.Errorf("got\n%s", buf.String())
		}
	})
	t.Run("an unknown format is refused", func(t *testing.T) {
		if err := r.Write(&bytes.Buffer{}, "xml"); err == nil {
			t.Error("no error")
		}
	})
}
