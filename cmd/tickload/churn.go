package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tickgate/loadtest/churn"
)

// runChurn lets clients of every kind come and go.
func runChurn(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o churn.Options
	fs := flags("churn", "-url URL -ws-url URL [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "http:// or https:// URL to GET")
	fs.StringVar(&o.TunnelURL, "ws-url", "", "ws:// or wss:// URL that echoes")
	targetFlags(fs, &o.Target)
	fs.IntVar(&o.Clients, "clients", 200, "clients at once")
	fs.DurationVar(&o.Duration, "duration", time.Minute, "length of the run")
	fs.DurationVar(&o.Longest, "longest", 5*time.Second, "longest that a client idles")
	fs.Uint64Var(&o.Seed, "seed", 1, "makes the choices repeatable")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	quiet := fs.Bool("quiet", false, "write no progress")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" && o.TunnelURL == "" {
		fmt.Fprintln(errOut, "-url or -ws-url is required")
		fs.Usage()
		return errUsage
	}
	o.Progress = progress(errOut, *quiet)
	result, err := churn.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		err = writeJSON(out, result)
	} else {
		_, err = io.WriteString(out, result.String())
	}
	if err == nil && result.Failed() > 0 {
		err = fmt.Errorf("%w: %d failed", errFlaws, result.Failed())
	}
	return err
}
