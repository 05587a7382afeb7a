package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"tickgate/loadtest/steady"
)

// errFailedRequests makes the exit code of a run with failures.
var errFailedRequests = errors.New("requests failed")

// runSteady keeps requests going and prints the result as JSON.
func runSteady(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o steady.Options
	fs := flags("steady", "-url URL [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "URL to GET (required)")
	fs.IntVar(&o.Conns, "conns", 64, "connections, each with one request at a time")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the run; 0 runs until a signal or the end of a drain")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Second, "longest wait for one response")
	fs.BoolVar(&o.UntilRefused, "until-refused", false, "refused connections, once some were accepted, are the end of a drain and no failure")
	fs.BoolVar(&o.Insecure, "insecure", false, "do not verify the server's certificate")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" || o.Conns < 1 {
		fmt.Fprintln(errOut, "-url is required, and -conns is at least 1")
		fs.Usage()
		return errUsage
	}
	result, err := steady.Run(ctx, o)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(result); err != nil {
		return err
	}
	if n := result.Failed(); n > 0 {
		return fmt.Errorf("%d of %d %w: %s", n, result.Requests, errFailedRequests, result.FirstError)
	}
	return nil
}
