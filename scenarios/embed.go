// Package scenarios holds the scenarios and the catalogue that come with neap,
// so that the binary needs no file beside it.
package scenarios

import "embed"

// Files has every built-in scenario as NAME.yaml, and the catalogue of machine
// types as catalogue/machine-types.csv.
//
//go:embed *.yaml catalogue/*.csv
var Files embed.FS
