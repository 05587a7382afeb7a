package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
)

// runHTTP sends requests in the open or the closed loop.
func runHTTP(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o httpload.Options
	fs := flags("http", "-url URL [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "http:// or https:// URL to GET (required)")
	targetFlags(fs, &o.Target)
	rate := fs.Float64("rate", 0, "requests a second, whatever the server does; 0 is the closed loop")
	fs.IntVar(&o.Conns, "conns", 64, "most connections, each with one request at a time")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the run; 0 is until a signal")
	fs.IntVar(&o.Loops, "loops", 1, "event loops")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" {
		fmt.Fprintln(errOut, "-url is required")
		fs.Usage()
		return errUsage
	}
	if *rate > 0 {
		o.Plan = pace.Constant(*rate, o.Duration)
	}
	result, err := httpload.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		return writeJSON(out, result)
	}
	_, err = result.WriteTo(out)
	return err
}
