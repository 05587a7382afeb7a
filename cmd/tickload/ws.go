package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
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
	mode := fs.String("mode", "echo", "idle: send nothing; echo: send, and want each message back; ticks: the backend pushes; fan-out: one tunnel more publishes to all")
	fs.Float64Var(&o.Messages, "messages", 1000, "messages sent a second, over all tunnels together; echoes, or all deliveries of a fan-out, come on top")
	fs.IntVar(&o.Size, "size", 200, fmt.Sprintf("bytes in a message, at least %d", wsload.MinSize))
	fs.BoolVar(&o.Text, "text", false, "send text messages instead of binary ones")
	fs.DurationVar(&o.Settle, "settle", 0, "pause between the last opening and the first message")
	fs.DurationVar(&o.Linger, "linger", 0, "pause between the last echo and the closing")
	fs.DurationVar(&o.Duration, "duration", 30*time.Second, "length of the traffic; 0 is until a signal or until the server has ended every tunnel")
	fs.IntVar(&o.ResumePercent, "resume", 0, "share of new TLS connections that try to resume a session, in per cent")
	fs.BoolVar(&o.Reconnect, "reconnect", false, "open tunnels again that the server has ended, after pauses of full jitter")
	fs.DurationVar(&o.BackoffMin, "backoff-min", 100*time.Millisecond, "bound of the first pause; it doubles with each attempt. What a Retry-After asks for comes on top")
	fs.DurationVar(&o.BackoffMax, "backoff-max", 10*time.Second, "largest bound of a pause")
	protocols := fs.String("subprotocols", "", "subprotocols to offer, comma-separated")
	o.Header = make(http.Header)
	fs.Func("header", "header field of the upgrade requests, as \"Name: value\"; may be given often", func(line string) error {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New(`want "Name: value"`)
		}
		o.Header[name] = append(o.Header[name], strings.TrimSpace(value))
		return nil
	})
	hdr := fs.String("hdr", "", "file for the latencies of messages, in the compressed encoding that HdrHistogram tools read")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	strict := fs.Bool("strict", true, "fail unless every tunnel stayed open and every message came back once and in order")
	quiet := fs.Bool("quiet", false, "write no progress")
	examples(fs,
		"tickload ws -url ws://127.0.0.1:8080/ws/echo -tunnels 1000 -messages 2000",
		"tickload ws -url wss://127.0.0.1:8443/ws/echo -insecure -tunnels 500 -mode idle -duration 10s -resume 50",
		"tickload ws -url ws://127.0.0.1:8080/ws/echo -tunnels 200 -duration 10m -reconnect",
		"tickload ws -url ws://127.0.0.1:9001 -mode fan-out -tunnels 100 -messages 50",
	)
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.URL == "" {
		fmt.Fprintln(errOut, "-url is required")
		fs.Usage()
		return errUsage
	}
	o.Mode = wsload.Mode(*mode)
	if *protocols != "" {
		o.Protocols = strings.Split(*protocols, ",")
	}
	o.Progress = progress(errOut, *quiet)
	result, err := wsload.Run(ctx, o)
	if err != nil {
		return err
	}
	if err := writeResult(out, result, *asJSON, *hdr, result.HDR); err != nil {
		return err
	}
	if result.Bottleneck != "" && *asJSON { // people have read it already
		fmt.Fprintf(errOut, "WARNING: %v: %s\n", errBottleneck, result.Bottleneck)
	}
	if *strict && !result.Flawless() {
		return errFlaws
	}
	return nil
}
