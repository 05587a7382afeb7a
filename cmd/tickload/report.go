package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"tickgate/loadtest/report"
)

// runReport writes a saved report in other forms.
func runReport(_ context.Context, args []string, out, errOut io.Writer) error {
	fs := flags("report", "FILE.json [flags]", errOut)
	html := fs.String("html", "", "write the page with plots to this file; - is standard output")
	markdown := fs.String("markdown", "", "write Markdown to this file; - is standard output")
	text := fs.Bool("text", false, "write tables to standard output; so without any other form")
	flagUsage := fs.Usage
	fs.Usage = func() {
		flagUsage()
		fmt.Fprint(errOut, reportExamples)
	}
	name, rest := operand(args)
	if err := parse(fs, rest); err != nil {
		return err
	}
	if name == "" {
		fmt.Fprintln(errOut, "FILE.json is required, before the flags")
		fs.Usage()
		return errUsage
	}
	r, err := readReport(name)
	if err != nil {
		return err
	}
	if err := writeForm(*html, out, r.WriteHTML); err != nil {
		return err
	}
	if err := writeForm(*markdown, out, r.WriteMarkdown); err != nil {
		return err
	}
	if *text || *html == "" && *markdown == "" {
		return r.WriteTerminal(out)
	}
	return nil
}

const reportExamples = `
FILE.json is what "tickload compare" saved; - is standard input.

  tickload report compare.json
  tickload report compare.json -html compare.html -markdown compare.md
  tickload report - -html - <compare.json >compare.html
`

// operand parts the operand from the flags behind it; "" if the first argument is a flag.
func operand(args []string) (name string, flags []string) {
	if len(args) == 0 || args[0] != "-" && args[0] != "" && args[0][0] == '-' {
		return "", args
	}
	return args[0], args[1:]
}

// readReport reads a report from a file or from standard input.
func readReport(name string) (*report.Report, error) {
	if name == "-" {
		return report.ReadJSON(os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open report: %w", err)
	}
	defer f.Close()
	r, err := report.ReadJSON(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// writeForm writes one form to a file, or to out if the name is -; nothing if there is no name.
// The file is only touched once the whole form is made.
func writeForm(name string, out io.Writer, write func(io.Writer) error) error {
	if name == "" {
		return nil
	}
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return err
	}
	if name == "-" {
		_, err := out.Write(b.Bytes())
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o644)
}
