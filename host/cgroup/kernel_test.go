package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRulesOfTheKernel runs the same cases on the fake and on this machine: what
// the fake refuses, the kernel refuses.
func TestRulesOfTheKernel(t *testing.T) {
	for _, v := range []Version{V1, V2} {
		t.Run("the fake of "+v.String(), func(t *testing.T) {
			f := NewFake(v)
			runRules(t, v, f.Tree(), "/", f.name)
		})
	}
	t.Run("this machine", func(t *testing.T) {
		tree, scope := machineTree(t)
		runRules(t, tree.version, tree, scope, func(g Group, file string) string {
			if tree.version == V2 {
				return path.Join(string(g), file)
			}
			return (&Fake{version: V1}).name(g, file)
		})
	})
}

func runRules(t *testing.T, v Version, tree *Tree, scope Group, name func(Group, string) string) {
	text, err := os.ReadFile(filepath.Join("testdata", "kernel-"+v.String()+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	for i, block := range strings.Split(string(text), "\n\n") {
		title, rest, _ := strings.Cut(strings.TrimSpace(block), "\n")
		if i == 0 || rest == "" {
			continue // the file's own header
		}
		t.Run(strings.TrimPrefix(title, "# "), func(t *testing.T) {
			at := scope.Child("case" + strconv.Itoa(i))
			if err := tree.Make(at.Child("a/b")); err != nil {
				t.Fatal(err)
			}
			defer tree.Remove(at)
			for line := range strings.Lines(rest) {
				line = strings.TrimSpace(line)
				words := strings.Fields(line)
				file := name(at.Child(words[0]), words[1])
				if want, reads := strings.CutPrefix(line, words[0]+" "+words[1]+" ? "); reads {
					got, err := tree.files.read(file)
					if err != nil || strings.TrimSpace(got) != want {
						t.Errorf("%s: it reads %q, %v", line, strings.TrimSpace(got), err)
					}
					continue
				}
				value, errno, _ := strings.Cut(strings.TrimPrefix(line, words[0]+" "+words[1]+" "), " ! ")
				want := map[string]error{"": nil, "EINVAL": syscall.EINVAL, "ERANGE": syscall.ERANGE, "ENOENT": syscall.ENOENT}[errno]
				if err := tree.files.write(file, value); !errors.Is(err, want) {
					t.Errorf("%s: it answers %v", line, err)
				}
			}
		})
	}
}

// machineTree opens this machine's cgroups and makes a group for the test, which
// goes with it. Where there are none the test is skipped; in CI it fails.
func machineTree(t *testing.T) (*Tree, Group) {
	t.Helper()
	tree, err := Open("")
	if err != nil {
		cannot(t, err)
	}
	sweep(tree)
	scope := Group(fmt.Sprintf("/neap-cgroup-%d-%s", os.Getpid(), strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' || r == ',' {
			return '_'
		}
		return r
	}, t.Name())))
	if err := tree.Make(scope); err != nil {
		cannot(t, err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(scope); err != nil {
			t.Error(err)
		}
	})
	return tree, scope
}

func cannot(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
}

// sweep removes what tests that were killed left behind.
func sweep(tree *Tree) {
	groups, _ := tree.Children("/")
	for _, g := range groups {
		rest, ok := strings.CutPrefix(g.Name(), "neap-cgroup-")
		pid, _, _ := strings.Cut(rest, "-")
		if n, err := strconv.Atoi(pid); ok && err == nil && syscall.Kill(n, 0) != nil {
			tree.Remove(g)
		}
	}
}

// until waits for a condition, generously.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in a minute it did not come to this: %s", what)
		}
	}
}
