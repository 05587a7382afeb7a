package main

import (
	"encoding/json"
	"io"
	"os"

	"github.com/mattn/go-isatty"

	"tickgate/config"
)

// check examines a configuration: exit code 0 if it is valid, 1 if it has errors, 2
// if it cannot be read.
func check(args []string, stdout, stderr io.Writer) error {
	fs := newFlags("check", "Usage: tickgate check -c FILE [--format text|json]\n\nExamines a configuration: exit code 0 if it is valid (warnings allowed), 1 if it has errors, 2 if it cannot be read.\n"+
		"If it is valid, it also says what clients of four kinds would negotiate with each listener that has TLS: the handshakes\n"+
		"are made in memory, with the files of the configuration and without the network.",
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
	cfg, report := config.Load(*path)
	listeners := simulateTLS(cfg)
	warnUnreachable(report, listeners)
	write := writeChecked
	if *format == "json" {
		write = writeCheckedJSON
	}
	if err := write(stdout, report, listeners); err != nil {
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

// writeChecked writes what was found for people, the verdict last.
func writeChecked(w io.Writer, report *config.Report, listeners []checkedTLS) error {
	if err := writeTLS(w, listeners); err != nil {
		return err
	}
	return report.WriteText(w, isTerminal(w))
}

// writeCheckedJSON writes one object. Its key tls is missing if the configuration is not valid.
func writeCheckedJSON(w io.Writer, report *config.Report, listeners []checkedTLS) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		config.Summary
		TLS []checkedTLS `json:"tls,omitzero"`
	}{report.Summary(), listeners})
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd()) && os.Getenv("NO_COLOR") == ""
}
