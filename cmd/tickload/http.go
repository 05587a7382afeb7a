package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-isatty"

	"tickgate/internal/unit"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/scenario"
)

// errBottleneck makes the exit code of a run that says more of the tool than of the target.
var errBottleneck = errors.New("the tool was the bottleneck")

// mostBody bounds the filler of a request.
const mostBody = unit.Size(64 << 20)

const httpExamples = `
examples:
  tickload http -url http://127.0.0.1:8080/ -conns 64              closed loop: as fast as it goes
  tickload http -url http://127.0.0.1:8080/ -rate 5000             open loop: 5,000 requests a second
  tickload http -url http://127.0.0.1:8080/ -ramp 100-10000 -duration 60s
  tickload http -url http://127.0.0.1:8080/ -scenario docs/examples/load/trading.yaml
`

// httpFlags are the flags of the command as they were given.
type httpFlags struct {
	options  httpload.Options
	request  httpload.Request
	rate     float64
	ramp     string
	poisson  bool
	scenario string
	bodySize string
	seed     uint64
	json     bool
	quiet    bool
	strict   bool
	hdr      string
}

// runHTTP sends requests in the open or the closed loop. Refusals and errors do not fail
// it: overload may be what is wanted.
func runHTTP(ctx context.Context, args []string, out, errOut io.Writer) error {
	fs := flags("http", "-url URL [flags]", errOut)
	h := newHTTPFlags(fs)
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		fmt.Fprint(errOut, httpExamples)
	}
	if err := parse(fs, args); err != nil {
		return err
	}
	o, err := h.resolve(fs)
	if err != nil {
		fmt.Fprintln(errOut, err)
		return errUsage
	}
	if o.URL == "" {
		fmt.Fprintln(errOut, "-url is required, unless the scenario has one")
		fs.Usage()
		return errUsage
	}
	o.Progress = progressLine(errOut, h.quiet)
	result, err := httpload.Run(ctx, o)
	if o.Progress != nil {
		fmt.Fprint(errOut, "\r\x1b[K")
	}
	if err != nil {
		return err
	}
	return h.report(result, out)
}

func newHTTPFlags(fs *flag.FlagSet) *httpFlags {
	h := new(httpFlags)
	o, r := &h.options, &h.request
	fs.StringVar(&o.URL, "url", "", "http:// or https:// URL (required, unless the scenario has one)")
	targetFlags(fs, &o.Target)
	fs.StringVar(&h.scenario, "scenario", "", "YAML file with a mix, a plan and all else; flags that are given take the place of what it says")
	fs.Float64Var(&h.rate, "rate", 0, "open loop: requests a second, whatever the server does")
	fs.StringVar(&h.ramp, "ramp", "", "open loop: FROM-TO requests a second, changing evenly over -duration")
	fs.BoolVar(&h.poisson, "poisson", false, "open loop: requests come independently of each other instead of evenly")
	fs.IntVar(&o.Conns, "conns", 64, "connections with one request at a time: kept busy without -rate or -ramp, else at most open")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the run; 0 is until a signal, in the closed loop")
	fs.DurationVar(&o.Warmup, "warmup", 0, "first part of the run, which does not count")
	fs.DurationVar(&o.Timeout, "request-timeout", 10*time.Second, "longest wait for a response")
	fs.DurationVar(&r.Think, "think", 0, "closed loop: pause behind each response, on average")
	fs.StringVar(&r.Method, "method", "GET", "request method")
	fs.StringVar(&r.Path, "path", "", "path and query to send instead of the URL's")
	fs.StringVar(&h.bodySize, "body-size", "0B", "size of a request body of filler, such as 16KiB")
	fs.Func("header", "header field, as \"Name: value\"; may be given often", func(line string) error {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return errors.New(`want "Name: value"`)
		}
		r.Header = append(r.Header, httpload.Field{Name: name, Value: strings.TrimSpace(value)})
		return nil
	})
	fs.IntVar(&r.Expect, "expect", 0, "status wanted; 0 is any below 400")
	fs.IntVar(&o.ResumePercent, "resume", 0, "share of new TLS connections that try to resume a session, in per cent")
	fs.IntVar(&o.PerConn, "per-conn", 0, "requests of a connection before it is closed and opened anew; 0 is no limit")
	fs.DurationVar(&o.Slack, "slack", 100*time.Microsecond, "how late requests may be sent so that several go out at once, which costs less CPU; -1ns is not at all")
	fs.IntVar(&o.Loops, "loops", 1, "event loops of the tool, each of which keeps one processor busy at most")
	fs.Uint64Var(&h.seed, "seed", 0, "seed of the order of the mix, of -poisson and -think")
	fs.BoolVar(&h.json, "json", false, "write the result as JSON")
	fs.BoolVar(&h.quiet, "quiet", false, "write no progress")
	fs.BoolVar(&h.strict, "strict", true, "fail if the tool itself was the bottleneck")
	fs.StringVar(&h.hdr, "hdr", "", "file for the latencies, in the compressed encoding that HdrHistogram tools read")
	return h
}

// onlyWithout lists flags that a scenario has no place for.
var onlyWithout = map[string]bool{"think": true, "method": true, "path": true, "body-size": true, "header": true, "expect": true}

// resolve makes the options of a run out of the flags and the scenario.
func (h *httpFlags) resolve(fs *flag.FlagSet) (o httpload.Options, err error) {
	o = h.options
	if h.rate < 0 || h.rate > 0 && h.ramp != "" {
		return o, errors.New("-rate is 0 or more, and excludes -ramp")
	}
	body, err := unit.ParseSize(h.bodySize)
	if err != nil || body > mostBody {
		return o, fmt.Errorf("-body-size is %q (want up to %v, such as 16KiB)", h.bodySize, mostBody)
	}
	if body > 0 {
		h.request.Body = bytes.Repeat([]byte("x"), int(body))
	}
	o.Mix = []httpload.Request{h.request}
	o.Seed = h.seed
	if h.scenario != "" {
		if o, err = h.override(fs); err != nil {
			return o, err
		}
	}
	return o, h.plan(&o)
}

// plan sets the plan that the flags ask for, if any.
func (h *httpFlags) plan(o *httpload.Options) error {
	phase := pace.Phase{From: h.rate, To: h.rate, For: o.Duration}
	switch {
	case h.ramp != "":
		from, to, ok := strings.Cut(h.ramp, "-")
		var err error
		if phase.From, err = strconv.ParseFloat(from, 64); err == nil {
			phase.To, err = strconv.ParseFloat(to, 64)
		}
		if !ok || err != nil {
			return fmt.Errorf("-ramp is %q (want FROM-TO, such as 100-5000)", h.ramp)
		}
	case h.rate == 0:
		return nil
	}
	if phase.For == 0 {
		return errors.New("-rate and -ramp need a -duration")
	}
	o.Plan = &pace.Plan{Phases: []pace.Phase{phase}, Poisson: h.poisson, Seed: o.Seed}
	return o.Plan.Check()
}

// override reads the scenario and lets the flags that were given take its place.
func (h *httpFlags) override(fs *flag.FlagSet) (o httpload.Options, err error) {
	s, report := scenario.Load(h.scenario)
	if err := report.Err(); err != nil {
		return o, err
	}
	o = s.Options()
	f := &h.options
	set := map[string]func(){
		"url":             func() { o.URL = f.URL },
		"sources":         func() { o.Target.Sources = f.Target.Sources },
		"insecure":        func() { o.Target.Insecure = f.Target.Insecure },
		"timeout":         func() { o.Target.Timeout = f.Target.Timeout },
		"conns":           func() { o.Conns = f.Conns },
		"duration":        func() { o.Duration = f.Duration },
		"warmup":          func() { o.Warmup = f.Warmup },
		"request-timeout": func() { o.Timeout = f.Timeout },
		"resume":          func() { o.ResumePercent = f.ResumePercent },
		"per-conn":        func() { o.PerConn = f.PerConn },
		"loops":           func() { o.Loops = f.Loops },
		"slack":           func() { o.Slack = f.Slack },
		"seed":            func() { o.Seed = h.seed },
	}
	fs.Visit(func(given *flag.Flag) {
		if apply := set[given.Name]; apply != nil {
			apply()
		}
		if onlyWithout[given.Name] {
			err = fmt.Errorf("-%s does not go with -scenario: the mix says what is sent", given.Name)
		}
	})
	if o.Plan != nil {
		o.Plan.Poisson = o.Plan.Poisson || h.poisson
		o.Plan.Seed = o.Seed
	}
	return o, err
}

// report writes the result, and fails if it is of no use.
func (h *httpFlags) report(result *httpload.Result, out io.Writer) error {
	if h.hdr != "" {
		if err := os.WriteFile(h.hdr, []byte(result.HDR+"\n"), 0o644); err != nil { //nolint:gosec // no secret
			return err
		}
	}
	var err error
	if h.json {
		err = writeJSON(out, result)
	} else {
		_, err = result.WriteTo(out)
	}
	if err == nil && h.strict && result.Bottleneck != "" {
		return fmt.Errorf("%w: %s", errBottleneck, result.Bottleneck)
	}
	return err
}

// progressLine returns what keeps a line of progress on a terminal up to date; nil
// elsewhere.
func progressLine(w io.Writer, quiet bool) func(httpload.Progress) {
	file, ok := w.(*os.File)
	if quiet || !ok || !isatty.IsTerminal(file.Fd()) {
		return nil
	}
	return func(p httpload.Progress) {
		fmt.Fprintf(file, "\r%4.0fs  %8d ok/s  p99 %.2f ms  %d sent  %d failed  %d open  %d waiting\x1b[K",
			p.Elapsed.Seconds(), p.Second.OK, p.Second.P99/1e3, p.Sent, p.Errors, p.Open, p.Waiting)
	}
}
