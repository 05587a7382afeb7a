package main

import (
	"context"
	"fmt"
	"io"
	"net"

	"tickgate/loadtest/wsload"
)

// runWSBackend answers upgrades until a signal, and then says what it has seen.
func runWSBackend(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o wsload.BackendOptions
	fs := flags("ws-backend", "-listen ADDR [flags]", errOut)
	listen := fs.String("listen", "127.0.0.1:9001", "host:port to accept on")
	mode := fs.String("mode", "echo", "echo: send back what comes; ticks: push messages")
	ticks := fs.Float64("messages", 1000, "messages pushed a second, over all connections together (-mode ticks)")
	fs.IntVar(&o.Size, "size", 200, "bytes in a pushed message")
	fs.BoolVar(&o.Text, "text", false, "push text messages instead of binary ones")
	fs.BoolVar(&o.FanOut, "fan-out", false, "send each message to all other connections instead of echoing it (tickload ws -mode fan-out)")
	if err := parse(fs, args); err != nil {
		return err
	}
	switch {
	case o.FanOut && *mode != "echo":
		fmt.Fprintf(errOut, "-fan-out and -mode %s exclude each other\n", *mode)
		return errUsage
	case *mode == "ticks" && *ticks > 0:
		o.Ticks = *ticks
	case *mode != "echo":
		fmt.Fprintf(errOut, "-mode is %q with -messages %v (want echo, or ticks with more than 0)\n", *mode, *ticks)
		return errUsage
	}
	b, err := wsload.NewBackend(o)
	if err != nil {
		return err
	}
	if err := serving(out, "WebSocket backend", *listen, func(ln net.Listener) error { return b.Serve(ctx, ln) }); err != nil {
		return err
	}
	return writeJSON(out, b.Counts())
}
