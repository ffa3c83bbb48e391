// Package labs holds the bundled labs, so that `ctlab run NAME` works anywhere.
package labs

import (
	"embed"
	"io/fs"
	"path"
	"strings"
)

//go:embed *.yaml
var files embed.FS

// Names of the bundled labs, in order.
func Names() []string {
	matches, err := fs.Glob(files, "*.yaml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for i, m := range matches {
		matches[i] = strings.TrimSuffix(m, ".yaml")
	}
	return matches
}

// Read gives the text of a bundled lab. ok is false if there is none of that name.
func Read(name string) (src []byte, ok bool) {
	src, err := files.ReadFile(path.Base(name) + ".yaml")
	return src, err == nil && name == path.Base(name)
}
