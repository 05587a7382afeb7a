package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/mattn/go-isatty"

	"tickgate/loadtest/fault"
)

// runFaults plays fault scenarios: proxies with faults, built-in backends and a gateway under
// load.
func runFaults(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o fault.RunOptions
	fs := flags("faults", "[flags] SCENARIO.yaml ...", errOut)
	fs.Float64Var(&o.Scale, "scale", 1, "multiply the times of the steps by this")
	fs.StringVar(&o.Tickgate, "tickgate", "", "gateway to start; the default is $"+fault.BinEnv+", then the one beside tickload, then that of PATH")
	check := fs.Bool("check", false, "only check the scenarios")
	asJSON := fs.Bool("json", false, "write the results as JSON, a list with one for each scenario")
	quiet := fs.Bool("quiet", false, "write no progress")
	examples(fs,
		"tickload faults docs/examples/faults/partition.yaml",
		"tickload faults -scale 0.5 -json docs/examples/faults/reset-storm.yaml docs/examples/faults/clock.yaml",
		"tickload faults -check docs/examples/faults/dns-flip.yaml")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return err
	} else if err != nil {
		return errUsage
	}
	if fs.NArg() == 0 || o.Scale <= 0 {
		return misused(fs, "at least one scenario is required, and -scale is more than 0")
	}
	if watched(errOut) {
		o.Progress = progress(errOut, *quiet)
	}
	scenarios, err := loadScenarios(fs.Args(), errOut)
	if err != nil || *check {
		return err
	}
	return playScenarios(ctx, scenarios, o, out, *asJSON)
}

// loadScenarios reads the files, and reports all that is wrong with them.
func loadScenarios(files []string, errOut io.Writer) (list []*fault.Scenario, err error) {
	for _, file := range files {
		s, report := fault.Load(file)
		if report.Err() != nil {
			err = errUsage
			if err := report.WriteText(errOut, false); err != nil {
				return nil, err
			}
		}
		list = append(list, s)
	}
	return list, err
}

// playScenarios plays one after another, failed ones too, and writes the results.
func playScenarios(ctx context.Context, scenarios []*fault.Scenario, o fault.RunOptions, out io.Writer, asJSON bool) error {
	var results []*fault.Result
	failed := 0
	for _, s := range scenarios {
		result, err := fault.Run(ctx, s, o)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if !result.Passed {
			failed++
		}
		results = append(results, result)
		if asJSON {
			continue
		}
		if _, err := result.WriteTo(out); err != nil {
			return err
		}
	}
	if asJSON {
		if err := writeJSON(out, results); err != nil {
			return err
		}
	}
	if failed > 0 {
		return fmt.Errorf("%w: %d of %d scenarios failed", errFlaws, failed, len(results))
	}
	return nil
}

// watched says whether the output is a terminal.
func watched(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && isatty.IsTerminal(file.Fd())
}
