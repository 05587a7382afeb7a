package main

import (
	"io"
	"os"

	"github.com/mattn/go-isatty"

	"tickgate/config"
)

// check examines a configuration: exit code 0 if it is valid, 1 if it has errors, 2
// if it cannot be read.
func check(args []string, stdout, stderr io.Writer) error {
	fs := newFlags("check", "Usage: tickgate check -c FILE [--format text|json]\n\nExamines a configuration: exit code 0 if it is valid (warnings allowed), 1 if it has errors, 2 if it cannot be read.",
		"  tickgate check -c tickgate.yaml\n  tickgate check -c tickgate.yaml --format json | jq '.problems[].message'\n", stderr)
	path := fs.String("c", "", "configuration `FILE`")
	format := fs.String("format", "text", "output: text or json")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *path == "" || *format != "text" && *format != "json" {
		fs.Usage()
		return exitCode(2)
	}
	_, report := config.Load(*path)
	write := func() error { return report.WriteText(stdout, isTerminal(stdout)) }
	if *format == "json" {
		write = func() error { return report.WriteJSON(stdout) }
	}
	if err := write(); err != nil {
		return err
	}
	switch {
	case report.ReadError != nil:
		return exitCode(2)
	case report.Err() != nil:
		return exitCode(1)
	}
	return nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == ""
}
