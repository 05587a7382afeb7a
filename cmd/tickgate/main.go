// Command tickgate is the gateway: run it, check a configuration, reload a running
// one.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
)

// version is set by the Makefile.
var version = "dev"

const usage = `tickgate: an edge gateway for HTTP and long-lived connections

Usage:
  tickgate run -c FILE          run with a configuration file
  tickgate run --demo           run a demonstration with backends of its own
  tickgate check -c FILE        examine a configuration without running it
  tickgate reload               make a running gateway read its configuration again
  tickgate version              print the version

"tickgate COMMAND --help" tells more about a command.

Signals of a running gateway:
  SIGHUP             read the configuration again; a bad one changes nothing
  SIGTERM, SIGQUIT   drain: finish what is in flight, then exit with 0
  SIGINT             stop at once
  SIGUSR1            open log files again, after a rotation

Documentation: docs/config.md, docs/operations.md
`

// exitCode is an error that only carries an exit code: what there was to say is said.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	err := command(os.Args[1:], os.Stdout, os.Stderr)
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "tickgate:", err)
		os.Exit(1)
	}
}

// command runs one sub-command.
func command(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitCode(2)
	}
	switch args[0] {
	case "run":
		return run(args[1:], stdout, stderr)
	case "check":
		return check(args[1:], stdout, stderr)
	case "reload":
		return reload(args[1:], stdout, stderr)
	case "version", "--version", "-v":
		fmt.Fprintf(stdout, "tickgate %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return nil
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
		return nil
	}
	fmt.Fprintf(stderr, "tickgate: unknown command %q\n\n%s", args[0], usage)
	return exitCode(2)
}

// newFlags returns a flag set that prints help with examples.
func newFlags(name, synopsis, examples string, out io.Writer) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(out)
	fs.Usage = func() {
		fmt.Fprintf(out, "%s\n\nFlags:\n", synopsis)
		fs.PrintDefaults()
		fmt.Fprintf(out, "\nExamples:\n%s", examples)
	}
	return fs
}

// parse parses args; wrong ones end with exit code 2, after the message that package
// flag has printed.
func parse(fs *flag.FlagSet, args []string) error {
	err := fs.Parse(args)
	if err == nil && fs.NArg() > 0 {
		fmt.Fprintf(fs.Output(), "unexpected argument %q\n", fs.Arg(0))
		err = exitCode(2)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return exitCode(2)
	}
	return err
}
