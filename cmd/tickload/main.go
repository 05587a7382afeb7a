// Command tickload generates load for gateways and stands in for their peers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// version is stamped by the Makefile with -ldflags.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // the command ran and failed, or requests did
	exitUsage  = 2
)

// command is one subcommand.
type command struct {
	name, about string
	run         func(ctx context.Context, args []string, out, errOut io.Writer) error
}

// commands lists the subcommands in the order of the help.
func commands() []command {
	return []command{
		{"steady", "keep requests going while a gateway reloads or drains; tell failures from orderly closes", runSteady},
		{"http", "send requests at a rate or as fast as they are answered; latency, errors, throughput", runHTTP},
		{"replay", "send what access logs hold, with the timing of the log", runReplay},
		{"hold", "open many keep-alive connections and keep them idle", runHold},
		{"ws", "open WebSocket tunnels, send messages and check what comes back", runWS},
		{"tls", "perform TLS handshakes, full and resumed, and say what was agreed on and how long it took", runTLS},
		{"tls-attack", "take connections, workers or processor time of a TLS server as hostile clients do", runTLSAttack},
		{"churn", "let clients of every kind come, misbehave and go", runChurn},
		{"faults", "break what lies between a gateway and its backends, by a scenario; tell what clients saw", runFaults},
		{"report", "write a saved report as a table, as Markdown or as a page", runReport},
		{"compare", "measure tickgate, nginx, HAProxy and the net/http baseline on the same work, and write a report", runCompare},
		{"accept", "carry out the acceptance list of a financial gateway: a table of what passed and failed", runAccept},
		{"baseline", "run the net/http ReverseProxy gateway that tickgate is compared with", runBaseline},
		{"backend", "run a cheap HTTP backend for benchmarks", runBackend},
		{"ws-backend", "run a cheap WebSocket backend that echoes, pushes or fans out", runWSBackend},
		{"version", "print the version", runVersion},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// errUsage marks errors of the command line, which flag has already explained.
var errUsage = errors.New("tickload: bad usage")

// run carries out one command line and returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	if len(args) == 0 {
		usage(errOut)
		return exitUsage
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(out)
		return exitOK
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(ctx, args[1:], out, errOut)
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return exitOK
		case errors.Is(err, errUsage):
			return exitUsage
		}
		fmt.Fprintf(errOut, "tickload %s: %v\n", c.name, err)
		var own withCode
		if errors.As(err, &own) {
			return own.code
		}
		return exitFailed
	}
	fmt.Fprintf(errOut, "tickload: no command %q\n\n", args[0])
	usage(errOut)
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "tickload generates load for gateways and stands in for their peers.\n\nusage: tickload COMMAND [flags]\n\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-11s %s\n", c.name, c.about)
	}
	fmt.Fprint(w, "\n\"tickload COMMAND -h\" lists the flags of a command.\n")
}

// flags makes the flag set of a command; parse reads args with it.
func flags(name, synopsis string, errOut io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(errOut)
	fs.Usage = func() {
		fmt.Fprintf(errOut, "usage: tickload %s %s\n\n", name, synopsis)
		fs.PrintDefaults()
	}
	return fs
}

// parse reads args; flag reports mistakes itself. There are no operands.
func parse(fs *flag.FlagSet, args []string) error {
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		fmt.Fprintf(fs.Output(), "unexpected argument %q\n", fs.Arg(0))
		fs.Usage()
		return errUsage
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return errUsage
	}
	return err
}

func runVersion(_ context.Context, _ []string, out, _ io.Writer) error {
	_, err := fmt.Fprintf(out, "tickload %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
