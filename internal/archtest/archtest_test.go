// Package archtest keeps the shape of the tree: imports point inward, the
// domain is pure, every package says what it is for.
//
// The tables below are policy. They change together with a record in docs/adr,
// never to make the build pass.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/neap-dev/neap"

// rings says which packages of this module each part of the tree may import,
// by path below the module; the longest prefix that matches a package is its
// rule. A part may always import itself and internal/, except where pure says no.
var rings = map[string][]string{
	"core":      {},
	"api":       {},
	"metrics":   {"core"},
	"store":     {"core"},
	"scenarios": {},
	"deploy":    {},
	"ui":        {},
	"internal":  {"core"},
	"hack":      {"core", "sim"},

	// sim is a ring of its own below local, server and cli: the live fleet and
	// the replay share the physics (docs/adr/0001).
	"sim": {"core", "scenarios"},

	// host is how Neap meets a machine: instruments that know nothing of Kubernetes.
	"host": {"core"},
	// The agent is what carries their word to the API server and the kubelet, and
	// brings back what pods may have (docs/adr/0013).
	"host/agent": {"core", "api", "kube/convert", "host"},
	"kube":       {"core", "metrics", "store", "api"},
	// convert is the only place where API objects become core values.
	"kube/convert":   {"core", "api"},
	"kube/scheduler": {"core", "api", "kube/convert", "kube/gpubook"},

	"server": {"core", "metrics", "store", "ui"},
	// local wires the cluster on one machine: control plane, fleet, controllers, page.
	"local": {"core", "api", "metrics", "store", "sim", "kube", "host", "server", "deploy", "scenarios"},

	"test": {"core", "api", "metrics", "store", "sim", "kube", "host", "server", "local", "cli", "ui", "deploy", "scenarios"},
	"cli":  {"core", "api", "metrics", "store", "sim", "kube", "host", "server", "local", "ui", "deploy", "scenarios"},
	"cmd":  {"core", "api", "metrics", "store", "sim", "kube", "host", "server", "local", "cli", "ui", "deploy", "scenarios"},
}

// outside says which modules beyond the standard library parts of the tree may
// import in code that is not a test: an import must have one of the prefixes.
// Parts that are not named may import any module but those of forbidden.
var outside = map[string][]string{
	"core": {"gonum.org/v1/gonum"},
	"api":  {"k8s.io/apimachinery", "sigs.k8s.io/controller-runtime/pkg/scheme"},
}

// forbidden says which import prefixes may be had only by some parts of the tree.
var forbidden = []struct {
	prefix string
	only   []string
}{
	{"k8s.io/kubernetes", []string{"kube/scheduler", "local", "cmd"}},
	{"github.com/ebitengine/purego", []string{"host/device/nvml", "test/hardware"}},
	{"k8s.io", []string{"api", "kube", "host/agent", "local", "cli", "cmd", "deploy", "test", "server", "internal/deps"}},
	{"sigs.k8s.io", []string{"api", "kube", "host/agent", "local", "cli", "cmd", "deploy", "test", "server", "internal/deps"}},
}

// impure lists the standard packages that core may not import: clocks, logs,
// files, contexts and networks come in as arguments.
var impure = []string{"context", "io/ioutil", "log", "net", "os", "plugin", "runtime/debug", "syscall", "testing"}

// global lists functions of packages core may import that reach for the wall
// clock or the global dice.
var global = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"},
	"math/rand": {"Int", "Intn", "Int31", "Int31n", "Int63", "Int63n", "Uint32", "Uint64", "Float32", "Float64",
		"NormFloat64", "ExpFloat64", "Perm", "Shuffle", "Seed", "Read"},
	"math/rand/v2": {"Int", "IntN", "Int32", "Int32N", "Int64", "Int64N", "Uint", "UintN", "Uint32", "Uint32N", "Uint64",
		"Uint64N", "Float32", "Float64", "NormFloat64", "ExpFloat64", "Perm", "Shuffle", "N"},
}

// vague lists the names that say nothing about what a package knows.
var vague = []string{"util", "utils", "common", "helper", "helpers", "types", "manager", "impl", "misc", "base", "lib"}

// A goPackage is what `go list` says about a package.
type goPackage struct {
	ImportPath, Name, Dir, Doc         string
	GoFiles, TestGoFiles               []string
	Imports, TestImports, XTestImports []string
}

// dir returns the package's path below the module.
func (p goPackage) dir() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func TestImportsPointInward(t *testing.T) {
	for _, p := range list(t, "./...") {
		ring, allowed := ringOf(p.dir())
		if ring == "" {
			t.Errorf("%s is in no ring; put it where DESIGN's house has a room for it, or give it one in rings with a record in docs/adr", p.ImportPath)
			continue
		}
		for _, imp := range p.Imports {
			to, ours := strings.CutPrefix(imp, module+"/")
			if !ours || below(to, ring) || slices.ContainsFunc(allowed, func(a string) bool { return below(to, a) }) {
				continue
			}
			if below(to, "internal") && ring != "core" && ring != "api" {
				continue
			}
			t.Errorf("%s imports %s: %s may import only itself and %v", p.dir(), to, ring, allowed)
		}
	}
}

func TestOutsideModulesStayWhereTheyBelong(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, imp := range p.Imports {
			if ours(imp) || standard(imp) {
				continue
			}
			for part, prefixes := range outside {
				if below(p.dir(), part) && !slices.ContainsFunc(prefixes, func(a string) bool { return below(imp, a) }) {
					t.Errorf("%s imports %s: %s may import only the standard library and %v", p.dir(), imp, part, prefixes)
				}
			}
		}
		for _, imp := range slices.Concat(p.Imports, p.TestImports, p.XTestImports) {
			for _, f := range forbidden {
				if below(imp, f.prefix) && !slices.ContainsFunc(f.only, func(a string) bool { return below(p.dir(), a) }) {
					t.Errorf("%s imports %s: only %v may import %s", p.dir(), imp, f.only, f.prefix)
				}
			}
		}
	}
}

func TestTheDomainIsFreeOfKubernetes(t *testing.T) {
	for _, root := range []string{"./core/...", "./sim/..."} {
		for _, p := range list(t, "-deps", root) {
			if below(p.ImportPath, "k8s.io") || below(p.ImportPath, "sigs.k8s.io") {
				t.Errorf("%s links %s, if only through another package", root, p.ImportPath)
			}
		}
	}
}

func TestTheCommandLinksNoControlPlane(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/neap") {
		if below(p.ImportPath, "k8s.io/kubernetes") || below(p.ImportPath, "go.etcd.io/etcd/server/v3") {
			t.Errorf("./cmd/neap links %s, which makes every build of it slow; only cmd/neap-cluster and cmd/neap-scheduler may", p.ImportPath)
		}
		if below(p.ImportPath, "github.com/ebitengine/purego") {
			t.Errorf("./cmd/neap links %s, which makes it dynamically linked; only cmd/neap-agent may (docs/adr/0013)", p.ImportPath)
		}
	}
}

func TestCoreIsPure(t *testing.T) {
	for _, p := range list(t, "./core/...") {
		for _, imp := range p.Imports {
			if slices.ContainsFunc(impure, func(a string) bool { return below(imp, a) }) {
				t.Errorf("%s imports %s: core takes clocks, logs, files and networks as arguments", p.dir(), imp)
			}
		}
		for _, file := range p.GoFiles {
			for _, use := range globals(t, filepath.Join(p.Dir, file)) {
				t.Errorf("%s/%s: time and chance are arguments in core", p.dir(), use)
			}
		}
	}
}

func TestPackagesSayWhatTheyAreFor(t *testing.T) {
	for _, p := range list(t, "./...") {
		if p.Doc == "" && !documentedByTests(t, p) {
			t.Errorf("%s has no package comment", p.dir())
		}
		for part := range strings.SplitSeq(p.dir(), "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: %q says nothing about what the package knows", p.dir(), part)
			}
		}
		if p.Name != "main" && slices.Contains(vague, p.Name) {
			t.Errorf("%s: package name %q says nothing about what it knows", p.dir(), p.Name)
		}
	}
}

// TestRules checks that the rules bite: each finds what it is there to find.
func TestRules(t *testing.T) {
	if ring, _ := ringOf("kube/convert/deeper"); ring != "kube/convert" {
		t.Errorf("the rule of kube/convert/deeper is %q, want the longest prefix", ring)
	}
	if ring, _ := ringOf("corex/bill"); ring != "" {
		t.Errorf("corex is held to the rule of %q", ring)
	}
	if below("k8s.iox/api", "k8s.io") || !below("k8s.io/api", "k8s.io") || !below("k8s.io", "k8s.io") {
		t.Error("below does not respect path elements")
	}
	got := globals(t, filepath.Join("testdata", "impure.go"))
	want := []string{"impure.go:10: time.Now", "impure.go:11: rand.IntN"}
	if !slices.Equal(got, want) {
		t.Errorf("globals found %q, want %q", got, want)
	}
}

// ringOf returns the longest entry of rings that holds dir, and what it may import.
func ringOf(dir string) (ring string, allowed []string) {
	for _, r := range slices.Sorted(maps.Keys(rings)) {
		if below(dir, r) && len(r) > len(ring) {
			ring, allowed = r, rings[r]
		}
	}
	return ring, allowed
}

// below reports whether p is prefix or in a folder of it.
func below(p, prefix string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }

func ours(imp string) bool { return below(imp, module) }

func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}

// globals returns "file:line: package.Name" for every use of the wall clock or
// of the global dice in a Go file.
func globals(t *testing.T, file string) []string {
	t.Helper()
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]string{} // local name → import path
	for _, imp := range f.Imports {
		p := strings.Trim(imp.Path.Value, `"`)
		name := path.Base(p)
		if name == "v2" {
			name = path.Base(path.Dir(p))
		}
		if imp.Name != nil {
			name = imp.Name.Name
		}
		named[name] = p
	}
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(global[named[x.Name]], sel.Sel.Name) {
			pos := fset.Position(sel.Pos())
			found = append(found, filepath.Base(pos.Filename)+":"+strconv.Itoa(pos.Line)+": "+x.Name+"."+sel.Sel.Name)
		}
		return true
	})
	return found
}

// documentedByTests reports whether a package of tests alone has its comment there.
func documentedByTests(t *testing.T, p goPackage) bool {
	if len(p.GoFiles) > 0 {
		return false
	}
	for _, name := range p.TestGoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if f.Doc != nil {
			return true
		}
	}
	return false
}

// list runs `go list` in the module's root. It reads sources and compiles nothing.
func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	fields := "-json=ImportPath,Name,Dir,Doc,GoFiles,TestGoFiles,Imports,TestImports,XTestImports"
	cmd := exec.Command("go", append([]string{"list", "-e", fields}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	look(t, cmd.Dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("read go list's answer: %v", err)
		}
		all = append(all, p)
	}
}

// look opens every folder of the tree, so that go test knows what the result
// depends on and does not answer from its cache when a source has changed.
func look(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && slices.Contains([]string{".git", "bin", "node_modules", "dist"}, d.Name()) {
			return filepath.SkipDir
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file, gone again
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
