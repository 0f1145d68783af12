// Command testsum reads the stream of `go test -json` and says what a person
// wants to know of it: a line per package, the output of what failed, the
// reasons of what was skipped. It appends "passed failed skipped" to the file
// given with -tally, and with -total prints the sum of that file alone.
//
// A package that does not build counts as one failure.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	tally := flag.String("tally", "", "file to append the counts to")
	total := flag.Bool("total", false, "print the sum of the tally file and exit with 1 if anything failed")
	flag.Parse()

	var c counts
	var err error
	if *total {
		c, err = sum(*tally)
		if err == nil {
			fmt.Printf("%d passed, %d failed, %d skipped\n", c.passed, c.failed, c.skipped)
		}
	} else {
		c = read(os.Stdin, os.Stdout)
		err = record(*tally, c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		os.Exit(2)
	}
	if c.failed > 0 {
		os.Exit(1)
	}
}

// counts are numbers of tests, subtests included.
type counts struct{ passed, failed, skipped int }

// An event is one line of `go test -json`, whose build lines have ImportPath.
type event struct {
	Action, Package, ImportPath, Test, Output, FailedBuild string
	Elapsed                                                float64
}

// read copies what matters of a stream to w and counts the tests in it.
func read(r io.Reader, w io.Writer) counts {
	var c counts
	type key struct{ pkg, test string }
	output := map[key][]string{}
	build := map[string][]string{}
	failedIn := map[string]bool{}
	skips := []string{}

	in := bufio.NewScanner(r)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var e event
		if json.Unmarshal(in.Bytes(), &e) != nil {
			fmt.Fprintln(w, in.Text()) // what the go command itself had to say
			continue
		}
		k := key{e.Package, e.Test}
		switch e.Action {
		case "build-output":
			build[e.ImportPath] = append(build[e.ImportPath], e.Output)
		case "output":
			output[k] = append(output[k], e.Output)
		case "pass", "fail", "skip":
			if e.Test != "" {
				switch e.Action {
				case "pass":
					c.passed++
				case "fail":
					c.failed++
					failedIn[e.Package] = true
					fmt.Fprintf(w, "--- FAIL %s %s\n%s", short(e.Package), e.Test, strings.Join(output[k], ""))
				case "skip":
					c.skipped++
					skips = append(skips, fmt.Sprintf("skipped %s %s: %s", short(e.Package), e.Test, reason(output[k])))
				}
				delete(output, k)
				continue
			}
			took := time.Duration(e.Elapsed * float64(time.Second)).Round(10 * time.Millisecond)
			switch {
			case e.Action == "fail":
				fmt.Fprintf(w, "FAIL %s (%v)\n", short(e.Package), took)
				if !failedIn[e.Package] { // did not build, panicked, or ran out of time
					c.failed++
					fmt.Fprint(w, strings.Join(build[e.FailedBuild], ""))
					fmt.Fprint(w, strings.Join(output[k], ""))
				}
			case e.Action == "pass":
				fmt.Fprintf(w, "ok   %s (%v)\n", short(e.Package), took)
			}
			for o := range output {
				if o.pkg == e.Package {
					if e.Action == "fail" && o.test != "" { // cut off in the middle
						fmt.Fprintf(w, "--- unfinished %s\n%s", o.test, strings.Join(output[o], ""))
					}
					delete(output, o)
				}
			}
		}
	}
	if err := in.Err(); err != nil {
		fmt.Fprintln(w, "testsum: the test run's output ended badly:", err)
		c.failed++
	}
	slices.Sort(skips)
	for _, s := range skips {
		fmt.Fprintln(w, s)
	}
	return c
}

// reason returns the message of a skipped test.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			if _, after, ok := strings.Cut(line, ".go:"); ok {
				if _, text, ok := strings.Cut(after, ": "); ok {
					return text
				}
			}
			return line
		}
	}
	return "no reason given"
}

// short drops the module's name.
func short(pkg string) string {
	return strings.TrimPrefix(strings.TrimPrefix(pkg, "github.com/neap-dev/neap"), "/")
}

func record(path string, c counts) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, c.passed, c.failed, c.skipped)
	return errors.Join(err, f.Close())
}

func sum(path string) (counts, error) {
	f, err := os.Open(path)
	if err != nil {
		return counts{}, err
	}
	defer f.Close()
	var all counts
	for {
		var c counts
		if _, err := fmt.Fscan(f, &c.passed, &c.failed, &c.skipped); err == io.EOF {
			return all, nil
		} else if err != nil {
			return all, fmt.Errorf("read %s: %w", path, err)
		}
		all.passed, all.failed, all.skipped = all.passed+c.passed, all.failed+c.failed, all.skipped+c.skipped
	}
}
