package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/replay"
)

// errNoRequest makes the exit code of a replay of nothing, as with the wrong format.
var errNoRequest = errors.New("the log holds no request to send: see -format and -methods")

const replayExamples = `
The times of a log of whole seconds do not say when within one a request came: those of one
second are spread evenly over it. A burst sends each request of its time several times, the copies
evenly up to the next request. Only GET, HEAD and OPTIONS are replayed unless -methods says otherwise.
FILE may be compressed with gzip; - is the standard input. Rotated files may come in any order.

examples:
  tickload replay access.log -dry-run
  tickload replay access.log -url http://127.0.0.1:8080
  tickload replay access.log access.log.1 access.log.2.gz -url http://127.0.0.1:8080 -speed 10
  tickload replay access.log -url http://127.0.0.1:8080 -burst 3x8s@60s -compare
  tickload replay tickgate.log -url http://127.0.0.1:8080 -methods any -bodies zero
  tickload replay access.log -url http://127.0.0.1:8080 -format '$msec $host "$request" $status'
  tickload replay app.json -url http://127.0.0.1:8080 -format json -fields time=ts,uri=path
`

// replayFlags are what runReplay reads from the command line.
type replayFlags struct {
	log  replay.Options
	load httpload.Options

	host, methods, bodies         string
	dryRun, really, compare, json bool
	quiet, mayLag                 bool
}

// runReplay sends what an access log holds.
func runReplay(ctx context.Context, args []string, out, errOut io.Writer) error {
	var f replayFlags
	fs := f.set(errOut)
	if err := parseOperands(fs, args, &f.log.Files); err != nil {
		return err
	}
	if err := f.settle(errOut); err != nil {
		fs.Usage()
		return err
	}
	source, err := replay.Open(f.log)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = source.Close() })()
	defer func() { _ = source.Close() }()
	source.Ready()
	if f.dryRun {
		return f.survey(source, out)
	}
	f.load.Replay = source
	f.load.Progress = progressLine(errOut, f.quiet)
	result, err := httpload.Run(ctx, f.load)
	if f.load.Progress != nil {
		fmt.Fprint(errOut, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	return f.show(source, result, out)
}

// set defines the flags.
func (f *replayFlags) set(errOut io.Writer) *flag.FlagSet {
	fs := flags("replay", "FILE... -url URL [flags]", errOut)
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		fmt.Fprint(errOut, replayExamples)
	}
	fs.StringVar(&f.load.URL, "url", "", "http:// or https:// URL whose server gets the requests (required)")
	targetFlags(fs, &f.load.Target)
	fs.IntVar(&f.load.Conns, "conns", 256, "most connections, each with one request at a time")
	fs.DurationVar(&f.load.Duration, "duration", 0, "end after this time; 0 is at the end of the log")
	fs.DurationVar(&f.load.Timeout, "request-timeout", 10*time.Second, "longest wait for a response")
	fs.IntVar(&f.load.Loops, "loops", 1, "event loops")
	fs.StringVar(&f.log.Format, "format", "auto", "auto (JSON or combined, line by line), combined, common, json, or a template or log_format statement of nginx")
	fs.StringVar(&f.log.Fields, "fields", "", "what holds what, where names are not the usual ones: time=ts,uri=path")
	fs.Float64Var(&f.log.Speed, "speed", 1, "how many times as fast as in the log")
	fs.Func("burst", "FACTORxTIME@START, as in 3x8s@60s: three times the rate for 8 s, from second 60 of the replay on; may be given again", func(s string) error {
		b, err := replay.ParseBurst(s)
		f.log.Bursts = append(f.log.Bursts, b)
		return err
	})
	fs.DurationVar(&f.log.Window, "window", 5*time.Second, "how far lines may be out of order, in time of the log")
	fs.BoolVar(&f.log.FromStart, "from-start", false, "take the logged duration off the logged time, which is that of the end")
	fs.StringVar(&f.methods, "methods", "GET,HEAD,OPTIONS", "methods to replay; any is all but CONNECT, TRACE and PRI")
	fs.StringVar(&f.bodies, "bodies", string(replay.BodiesNone), "what to send where a body was: none, or zero for zeros as long as the logged body")
	fs.StringVar(&f.host, "host", "keep", "keep sends the logged host, target that of the URL")
	fs.BoolVar(&f.log.Strict, "strict", false, "end at the first line that is at fault, and fail")
	fs.BoolVar(&f.dryRun, "dry-run", false, "send nothing; say what would be sent")
	fs.BoolVar(&f.compare, "compare", false, "compare the statuses with those of the log")
	fs.BoolVar(&f.really, "really", false, "send to a server that is not on this machine")
	fs.BoolVar(&f.mayLag, "may-lag", false, "do not fail if the tool itself was the bottleneck")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	fs.BoolVar(&f.quiet, "quiet", false, "write no progress")
	return fs
}

// settle checks what flag cannot, and says what is wrong.
func (f *replayFlags) settle(errOut io.Writer) error {
	wrong := ""
	switch {
	case len(f.log.Files) == 0:
		wrong = "at least one log FILE is required"
	case f.load.URL == "" && !f.dryRun:
		wrong = "-url is required"
	case f.host != "keep" && f.host != "target":
		wrong = fmt.Sprintf("-host is %q (want keep or target)", f.host)
	case slices.Contains(f.log.Files, replay.Stdin) && len(f.log.Files) > 1:
		wrong = "the standard input cannot be merged with files"
	case !f.dryRun && !f.really && !replay.Loopback(f.load.URL):
		wrong = fmt.Sprintf("%s is not on this machine, and would get real traffic: -really sends it all the same", f.load.URL)
	}
	if wrong != "" {
		fmt.Fprintln(errOut, wrong)
		return errUsage
	}
	f.log.Stdin = os.Stdin
	f.log.KeepHost = f.host == "keep"
	f.log.Methods = strings.Split(f.methods, ",")
	f.log.Bodies = replay.Bodies(f.bodies)
	return nil
}

// survey says what would be sent.
func (f *replayFlags) survey(source *replay.Source, out io.Writer) error {
	host := "(the target's)"
	if u, err := url.Parse(f.load.URL); err == nil && u.Host != "" {
		host = u.Host
	}
	survey := replay.Take(source, host)
	counts, failed := ended(source)
	if f.json {
		return errors.Join(writeJSON(out, map[string]any{"survey": survey, "log": counts}), failed)
	}
	_, err1 := survey.WriteTo(out)
	_, err2 := counts.WriteTo(out)
	return errors.Join(err1, err2, failed)
}

// show writes what came of it. A log that could not be read to its end is a failure, and so is a
// run that says more of the tool than of the target.
func (f *replayFlags) show(source *replay.Source, result *httpload.Result, out io.Writer) error {
	counts, failed := ended(source)
	if failed == nil && result.Bottleneck != "" && !f.mayLag {
		failed = fmt.Errorf("%w: %s", errBottleneck, result.Bottleneck)
	}
	var changes []replay.Change
	if f.compare {
		changes = replay.Compare(result)
	}
	if f.json {
		return errors.Join(writeJSON(out, map[string]any{"log": counts, "result": result, "compare": changes}), failed)
	}
	_, err1 := counts.WriteTo(out)
	_, err2 := result.WriteTo(out)
	var err3 error
	if f.compare {
		err3 = replay.WriteChanges(out, changes)
	}
	return errors.Join(err1, err2, err3, failed)
}

// ended closes the source. The error says that the log was not read to its end, or held
// nothing.
func ended(source *replay.Source) (counts replay.Counts, err error) {
	err = source.Close()
	if counts = source.Counts(); err == nil && counts.Requests == 0 {
		err = errNoRequest
	}
	return counts, err
}

// parseOperands reads args, in which operands and flags may be mixed.
func parseOperands(fs *flag.FlagSet, args []string, operands *[]string) error {
	for {
		switch err := fs.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			return err
		case err != nil:
			return errUsage
		case fs.NArg() == 0:
			return nil
		}
		*operands = append(*operands, fs.Arg(0))
		args = fs.Args()[1:]
	}
}
