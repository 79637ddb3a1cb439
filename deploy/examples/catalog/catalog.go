// Package catalog is the catalog of a made-up company that sells APIs, for trying
// Tollway out: in the folder as files to apply, and in the binary for the demo.
// Nothing comes in; out go the files.
package catalog

import "embed"

// Files are the resources, in YAML, at the top; what is in folders is not
// applied with them.
//
//go:embed *.yaml
var Files embed.FS
