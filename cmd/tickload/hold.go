package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync"
	"time"

	"tickgate/loadtest/hold"
	"tickgate/loadtest/target"
)

// errFlaws makes the exit code of a run whose result is not what was wanted.
var errFlaws = errors.New("not as it should be")

// targetFlags adds the flags that say how to get to a gateway.
func targetFlags(fs *flag.FlagSet, o *target.Options) {
	fs.IntVar(&o.Sources, "sources", 0, "loopback addresses to connect from, from 127.0.0.2 on; 0 leaves it to the system")
	fs.BoolVar(&o.Insecure, "insecure", false, "do not verify the server's certificate")
	fs.DurationVar(&o.Timeout, "timeout", 10*time.Second, "longest wait for a connection and its TLS handshake")
}

// progress returns what writes lines of progress, unless it should be quiet.
func progress(w io.Writer, quiet bool) func(string) {
	if quiet {
		return nil
	}
	var mu sync.Mutex
	return func(text string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(w, text)
	}
}

// writeJSON writes a result, indented.
func writeJSON(out io.Writer, result any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}

// runHold opens connections and keeps them idle.
func runHold(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o hold.Options
	fs := flags("hold", "-url URL [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "http:// or https:// URL to GET (required)")
	targetFlags(fs, &o.Target)
	fs.IntVar(&o.Conns, "conns", 1000, "connections to open")
	fs.Float64Var(&o.Rate, "rate", 1000, "connections opened a second; 0 is as fast as it goes")
	request := fs.Bool("request", true, "send one request on each connection first")
	fs.DurationVar(&o.Hold, "hold", 0, "time to hold them; 0 is until a signal")
	fs.BoolVar(&o.Again, "again", false, "send a second request on each connection at the end")
	quiet := fs.Bool("quiet", false, "write no progress")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" {
		fmt.Fprintln(errOut, "-url is required")
		fs.Usage()
		return errUsage
	}
	o.Silent = !*request
	o.Progress = progress(errOut, *quiet)
	result, err := hold.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := writeJSON(out, result); err != nil {
		return err
	}
	if result.Failed > 0 || result.ClosedByPeer > 0 || o.Again && result.AnsweredAgain < result.Opened {
		return fmt.Errorf("%w: %d failed, %d closed by the peer, %d of %d answered again: %s",
			errFlaws, result.Failed, result.ClosedByPeer, result.AnsweredAgain, result.Opened, result.FirstError)
	}
	return nil
}
