// Command configdoc writes the configuration reference, docs/config.md, to its
// standard output: the keys, types, defaults, bounds and texts of the schema
// structs, around a hand-written guide. It reads source files only.
//
//	go run ./internal/configdoc > docs/config.md
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

func main() {
	root, err := moduleRoot()
	if err == nil {
		err = generate(os.Stdout, root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "configdoc:", err)
		os.Exit(1)
	}
}

// generate writes the reference of the module at root.
func generate(w io.Writer, root string) error {
	s, err := readSchema(root)
	if err != nil {
		return err
	}
	example, err := os.ReadFile(filepath.Join(root, "docs", "examples", "production.yaml"))
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, render(s, string(example)))
	return err
}

// moduleRoot returns the directory with go.mod, from the working directory up.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("no go.mod above the working directory")
		}
		dir = up
	}
}
