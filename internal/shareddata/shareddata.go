// Package shareddata finds the real input data that tests evaluate with. It is
// not part of the repository: some of it has no licence that allows shipping.
package shareddata

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Variable names the environment variable that says where the data is.
const Variable = "NEAP_SHARED_DATA"

// Dir returns the folder with the real data: NEAP_SHARED_DATA, or
// ../shared/data beside the repository. Without it the test is skipped, except
// under CI=true, where the data must be there and the test fails.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv(Variable)
	if dir == "" {
		_, file, _, _ := runtime.Caller(0)
		if !filepath.IsAbs(file) { // built with -trimpath: start from the package under test
			file, _ = os.Getwd()
			for !exists(filepath.Join(file, "go.mod")) && file != filepath.Dir(file) {
				file = filepath.Dir(file)
			}
			dir = filepath.Join(file, "..", "shared", "data")
		} else {
			dir = filepath.Join(filepath.Dir(file), "..", "..", "..", "shared", "data")
		}
	}
	if exists(filepath.Join(dir, "load")) {
		return dir
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("the real data is not in %s; set %s to its folder", dir, Variable)
	}
	t.Skipf("the real data is not in %s; set %s to its folder to run this test", dir, Variable)
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
