package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"tickgate/loadtest/accept"
)

// Exit codes of tickload accept, besides the common ones.
const (
	exitMissing   = 3 // nothing failed, but something is not supported yet
	exitUncertain = 4 // nothing failed, but something was inconclusive
)

// runAccept carries out the acceptance list.
func runAccept(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o accept.Options
	fs := flags("accept", "[flags]", errOut)
	fs.Float64Var(&o.Scale, "scale", 1, "multiply the durations by this, more than 0 and at most 1; none becomes shorter than two seconds")
	list := fs.String("items", "", "only these, comma-separated, of "+strings.Join(accept.IDs(), ", "))
	fs.StringVar(&o.Tickgate, "tickgate", "", "program to examine; the default is the one beside tickload, then that of PATH")
	fs.Float64Var(&o.Rate, "rate", 0, "rated load in requests a second; 0 is a fifth of what a closed loop comes to on this machine")
	speed := fs.Bool("speed", true, "judge time and speed; if false, what is too slow is inconclusive, and only what was lost fails")
	fs.IntVar(&o.FirstPort, "port", 24500, "first of the ports of 127.0.0.1 to use")
	file := fs.String("out", "", "write the report to this file: JSON if its name ends in .json, else Markdown")
	keep := fs.Bool("keep", false, "keep the folder with configurations and logs")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	quiet := fs.Bool("quiet", false, "write no progress")
	examples(fs,
		"tickload accept -scale 0.01",
		"tickload accept -scale 0.01 -items burst,takeover -json",
		"tickload accept -tickgate bin/tickgate -out accept.md")
	explainExit(fs)
	if err := parse(fs, args); err != nil {
		return err
	}
	if *list != "" {
		o.Items = strings.Split(*list, ",")
	}
	o.IgnoreSpeed = !*speed
	o.Progress = progress(errOut, *quiet)
	result, err := acceptIn(ctx, o, *keep, errOut)
	if errors.Is(err, accept.ErrOptions) {
		return misused(fs, err.Error())
	}
	if err != nil {
		return err
	}
	if err := writeAcceptance(result, out, *file, *asJSON); err != nil {
		return err
	}
	return acceptance(result)
}

// explainExit adds the exit codes to the help.
func explainExit(fs *flag.FlagSet) {
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		fmt.Fprint(fs.Output(), `
exit codes:
  0  everything passed
  1  something failed, or was interrupted
  2  bad usage
  3  nothing failed, but something is not supported yet
  4  nothing failed, but a bound of time or speed was missed while something else than
     the gateway had the machine: run it again where less goes on
`)
	}
}

// acceptIn carries the list out in a folder of its own, which is removed unless it is kept.
func acceptIn(ctx context.Context, o accept.Options, keep bool, errOut io.Writer) (_ *accept.Result, err error) {
	if o.Tickload, err = os.Executable(); err != nil {
		return nil, fmt.Errorf("find tickload's own program: %w", err)
	}
	if o.Tickgate == "" {
		o.Tickgate = "tickgate"
		if beside := filepath.Join(filepath.Dir(o.Tickload), "tickgate"); exists(beside) {
			o.Tickgate = beside
		}
	}
	if o.Dir, err = accept.WorkDir(); err != nil {
		return nil, err
	}
	if keep {
		defer fmt.Fprintf(errOut, "kept %s\n", o.Dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	return accept.Run(ctx, o)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// writeAcceptance writes the table, and the report to a file if one is named.
func writeAcceptance(r *accept.Result, out io.Writer, file string, asJSON bool) error {
	write := r.WriteMarkdown
	if strings.HasSuffix(file, ".json") {
		write = func(w io.Writer) error { return writeJSON(w, r) }
	}
	if err := writeForm(file, out, write); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if asJSON {
		return writeJSON(out, r)
	}
	_, err := r.WriteTo(out)
	return err
}

// acceptance makes the exit code of a result.
func acceptance(r *accept.Result) error {
	switch r.Outcome {
	case accept.AllPassed:
		return nil
	case accept.SomeMissing:
		return withCode{fmt.Errorf("%w: %s", errFlaws, r.Counts()), exitMissing}
	case accept.SomeUncertain:
		return withCode{fmt.Errorf("%w: %s", errFlaws, r.Counts()), exitUncertain}
	default:
		return fmt.Errorf("%w: %s", errFlaws, r.Counts())
	}
}

// withCode is an error with an exit code of its own.
type withCode struct {
	error
	code int
}

// Unwrap returns the error without the code.
func (e withCode) Unwrap() error { return e.error }
