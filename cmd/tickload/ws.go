package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"tickgate/loadtest/wsload"
)

// runWS opens tunnels, sends messages and checks what comes back.
func runWS(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o wsload.Options
	fs := flags("ws", "-url URL [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "ws:// or wss:// URL (required)")
	targetFlags(fs, &o.Target)
	fs.IntVar(&o.Tunnels, "tunnels", 100, "tunnels to open")
	fs.Float64Var(&o.Rate, "rate", 1000, "tunnels opened a second; 0 is as fast as it goes")
	mode := fs.String("mode", "echo", "idle: send nothing; echo: send, and want each message back; ticks: the backend pushes")
	fs.Float64Var(&o.Messages, "messages", 1000, "messages sent a second, over all tunnels together; echoes come on top")
	fs.IntVar(&o.Size, "size", 200, fmt.Sprintf("bytes in a message, at least %d", wsload.MinSize))
	fs.BoolVar(&o.Text, "text", false, "send text messages instead of binary ones")
	fs.DurationVar(&o.Settle, "settle", 0, "pause between the last opening and the first message")
	fs.DurationVar(&o.Linger, "linger", 0, "pause between the last echo and the closing")
	fs.DurationVar(&o.Duration, "duration", 30*time.Second, "length of the traffic; 0 is until a signal or until the server has ended every tunnel")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	strict := fs.Bool("strict", true, "fail unless every tunnel stayed open and every message came back once and in order")
	quiet := fs.Bool("quiet", false, "write no progress")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" {
		fmt.Fprintln(errOut, "-url is required")
		fs.Usage()
		return errUsage
	}
	o.Mode = wsload.Mode(*mode)
	o.Progress = progress(errOut, *quiet)
	result, err := wsload.Run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		err = writeJSON(out, result)
	} else {
		_, err = result.WriteTo(out)
	}
	if err != nil {
		return err
	}
	if *strict && !result.Flawless() {
		return errFlaws
	}
	return nil
}
