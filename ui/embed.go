// Package ui holds the built page. Its sources are beside it; `make ui` builds
// them into dist, and a binary built without them says so on its page.
//
// Not here: what the page shows; see server.
package ui

import (
	"embed"
	"io/fs"
)

//go:embed all:dist
var dist embed.FS

// Assets returns the built page, with index.html at its top. It is empty but for
// a hidden file where `make ui` has not run.
func Assets() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}
