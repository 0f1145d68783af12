package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
)

const stream = `{"Action":"run","Package":"github.com/neap-dev/neap/core/a","Test":"TestGood"}
{"Action":"pass","Package":"github.com/neap-dev/neap/core/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"github.com/neap-dev/neap/core/a","Test":"TestBad","Output":"    a_test.go:3: two is not three\n"}
{"Action":"fail","Package":"github.com/neap-dev/neap/core/a","Test":"TestBad","Elapsed":0.1}
{"Action":"output","Package":"github.com/neap-dev/neap/core/a","Test":"TestAway","Output":"    a_test.go:9: no browser found\n"}
{"Action":"skip","Package":"github.com/neap-dev/neap/core/a","Test":"TestAway","Elapsed":0}
{"Action":"fail","Package":"github.com/neap-dev/neap/core/a","Elapsed":0.3}
{"ImportPath":"github.com/neap-dev/neap/core/b","Action":"build-output","Output":"b.go:1: undefined: x\n"}
{"ImportPath":"github.com/neap-dev/neap/core/b","Action":"build-fail"}
{"Action":"fail","Package":"github.com/neap-dev/neap/core/b","Elapsed":0,"FailedBuild":"github.com/neap-dev/neap/core/b"}
`

func TestRead(t *testing.T) {
	var out bytes.Buffer
	got := read(strings.NewReader(stream), &out)
	if want := (counts{passed: 1, failed: 2, skipped: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	for _, want := range []string{"two is not three", "FAIL core/a", "undefined: x", "skipped core/a TestAway: no browser found"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
}

func TestSum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tally")
	for _, c := range []counts{{1, 2, 3}, {10, 0, 1}} {
		if err := record(path, c); err != nil {
			t.Fatal(err)
		}
	}
	got, err := sum(path)
	if want := (counts{11, 2, 4}); err != nil || got != want {
		t.Errorf("sum is %+v, %v, want %+v", got, err, want)
	}
}
