package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/mattn/go-isatty"

	"tickgate/loadtest/compare"
	"tickgate/loadtest/peer"
	"tickgate/loadtest/report"
)

const compareExamples = `
Runs the same work on tickgate, nginx, HAProxy and the net/http baseline, each alone in turn, and
writes report.json, report.md and report.html to the folder of -out. Those that are not installed are
left out. With -from nothing is measured: a report that was made before is written again.

examples:
  tickload compare -out bin/compare                                   all of it, about eight minutes
  tickload compare -scenarios http,https -peers tickgate,nginx -rounds 7
  tickload compare -peers nethttp,nethttp -scenarios http              how much is noise
  tickload compare -check-cpu -scenarios http -rounds 3                compare both readings of CPU time
  tickload compare -from bin/compare/report.json -doc docs/benchmarks.md
`

// compareFlags are the flags of the command as they were given.
type compareFlags struct {
	options           compare.Options
	peers, scenarios  string
	idle, backend     string
	out, from, doc    string
	bars              []compare.Bar
	checkCPU          bool
	json, quiet, keep bool
}

func newCompareFlags(fs *flag.FlagSet) *compareFlags {
	c := new(compareFlags)
	o := &c.options
	fs.StringVar(&c.peers, "peers", "", "gateways, of tickgate, nginx, haproxy and nethttp; the first is what the others are held against (default all)")
	fs.StringVar(&c.scenarios, "scenarios", "", "scenarios, of "+strings.Join(compare.ScenarioNames(), ", ")+" (default all)")
	fs.IntVar(&o.Rounds, "rounds", 3, "rounds of each scenario")
	fs.IntVar(&o.MainRounds, "main-rounds", 0, "rounds of scenario http; 0 is two more than the others have")
	fs.DurationVar(&o.Duration, "duration", 2*time.Second, "length of each measured window")
	fs.DurationVar(&o.Warmup, "warmup", 0, "warm-up before each; 0 is a quarter of -duration")
	fs.IntVar(&o.Conns, "conns", 64, "connections of http, https and open")
	fs.Float64Var(&o.Rate, "rate", 5000, "requests a second of open")
	fs.IntVar(&o.Tunnels, "tunnels", 1000, "tunnels of ws and wss")
	fs.Float64Var(&o.Messages, "messages", 5000, "messages a second of ws and wss, each way")
	fs.IntVar(&o.Size, "size", 200, "bytes in a message")
	fs.StringVar(&c.idle, "idle", "", "numbers of idle connections at which memory is read (default 100,1000,4000)")
	fs.DurationVar(&o.Settle, "settle", 4*time.Second, "time that connections idle before memory is read, at the least")
	fs.IntVar(&o.Workers, "workers", 0, "processes, threads or Go processors of a gateway; 0 is one for each processor")
	fs.IntVar(&o.Port, "port", 22600, "where free ports of 127.0.0.1 are looked for")
	fs.StringVar(&c.backend, "backend", "", "what is behind the gateways: nginx or tickload (default nginx if it is installed)")
	fs.StringVar(&o.Programs.Tickgate, "tickgate", "", "file of tickgate (default: beside this program, or in the PATH)")
	fs.StringVar(&c.out, "out", "", "folder for report.json, report.md and report.html")
	fs.StringVar(&c.from, "from", "", "report.json of an earlier run to write again")
	fs.StringVar(&c.doc, "doc", "", "Markdown document whose generated part becomes the report")
	fs.BoolVar(&c.checkCPU, "check-cpu", false, "show both readings of CPU time, and fail if they are more than 5 % apart")
	fs.Func("bar", "bound of a figure that fails the run, as in \"tls/CPU per full handshake<=1.0*nginx\" or \"tls/full handshake p99 at half speed<=3\"; may be given several times", c.addBar)
	fs.BoolVar(&c.json, "json", false, "write the report to standard output as JSON")
	fs.BoolVar(&c.quiet, "quiet", false, "write no progress")
	fs.BoolVar(&c.keep, "keep", false, "keep the folder with configurations and logs")
	return c
}

// addBar takes one -bar.
func (c *compareFlags) addBar(text string) error {
	b, err := compare.ParseBar(text)
	c.bars = append(c.bars, b)
	return err
}

// runCompare measures, or reads, a report and writes it.
func runCompare(ctx context.Context, args []string, out, errOut io.Writer) error {
	fs := flags("compare", "[flags]", errOut)
	c := newCompareFlags(fs)
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		fmt.Fprint(errOut, compareExamples)
	}
	if err := parse(fs, args); err != nil {
		return err
	}
	if err := c.resolve(args); err != nil {
		fmt.Fprintln(errOut, err)
		return errUsage
	}
	r, broken := c.report(ctx, errOut)
	if r == nil {
		return broken
	}
	return errors.Join(broken, c.write(r, out, errOut))
}

// resolve makes options out of the flags.
func (c *compareFlags) resolve(args []string) error {
	o := &c.options
	var err error
	if o.Peers, err = compare.ParsePeers(c.peers); err != nil {
		return err
	}
	if c.scenarios != "" {
		o.Scenarios = strings.Split(c.scenarios, ",")
	}
	if c.idle != "" {
		for text := range strings.SplitSeq(c.idle, ",") {
			n, err := strconv.Atoi(text)
			if err != nil {
				return fmt.Errorf("-idle is %q (want numbers with commas between)", c.idle)
			}
			o.IdleCounts = append(o.IdleCounts, n)
		}
	}
	o.Backend = compare.Backend(c.backend)
	o.Command = strings.Join(append([]string{"tickload", "compare"}, args...), " ")
	if o.Programs.Tickload, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if o.Programs.Tickgate == "" {
		beside := filepath.Join(filepath.Dir(o.Programs.Tickload), peer.Tickgate.String())
		if _, err := os.Stat(beside); err == nil {
			o.Programs.Tickgate = beside
		}
	}
	return nil
}

// report returns the report, and an error beside it if there could be more of it.
func (c *compareFlags) report(ctx context.Context, errOut io.Writer) (*report.Report, error) {
	if c.from != "" {
		return readReport(c.from)
	}
	dir, err := os.MkdirTemp("", "tickload-compare-")
	if err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	// nginx's workers may be of another user.
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // keys in it are their owner's
		return nil, fmt.Errorf("open folder: %w", err)
	}
	if c.keep {
		fmt.Fprintf(errOut, "configurations and logs: %s\n", dir)
	} else {
		defer func() { _ = os.RemoveAll(dir) }()
	}
	c.options.Dir = dir
	show := newTurnLine(errOut, c.quiet)
	c.options.Progress = show.begin
	r, err := compare.Run(ctx, c.options)
	show.end()
	return r, err
}

// write writes the report wherever it was asked for.
func (c *compareFlags) write(r *report.Report, out, errOut io.Writer) error {
	if c.out != "" {
		if err := os.MkdirAll(c.out, 0o755); err != nil { //nolint:gosec // no secret
			return fmt.Errorf("make folder of the report: %w", err)
		}
		for name, write := range map[string]func(io.Writer) error{"report.json": r.WriteJSON, "report.md": r.WriteMarkdown, "report.html": r.WriteHTML} {
			if err := writeForm(filepath.Join(c.out, name), out, write); err != nil {
				return fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	if c.doc != "" {
		if err := writeDocument(c.doc, r); err != nil {
			return err
		}
	}
	write := r.WriteTerminal
	if c.json {
		write = r.WriteJSON
	}
	if err := write(out); err != nil {
		return err
	}
	if c.out != "" {
		fmt.Fprintf(errOut, "the page: %s\n", filepath.Join(c.out, "report.html"))
	}
	if len(r.Sections) == 0 {
		return fmt.Errorf("%w: nothing was measured: %s", errFlaws, strings.Join(r.Notes, "; "))
	}
	var err error
	if c.checkCPU {
		err = checkCPU(r, errOut)
	}
	return errors.Join(err, checkBars(c.bars, r, errOut))
}

// checkBars shows which bars were kept.
func checkBars(bars []compare.Bar, r *report.Report, out io.Writer) error {
	var missed []string
	for _, b := range bars {
		found, ok := b.Judge(r)
		word := "ok  "
		if !ok {
			word = "FAIL"
			missed = append(missed, b.Text)
		}
		fmt.Fprintf(out, "%s  %s: %s\n", word, b.Text, found)
	}
	if len(missed) > 0 {
		return fmt.Errorf("%w: %d of %d bars were missed: %s", errFlaws, len(missed), len(bars), strings.Join(missed, "; "))
	}
	return nil
}

// writeDocument puts the report into a document.
func writeDocument(name string, r *report.Report) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	changed, err := compare.Document(string(text), r)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(changed), 0o644) //nolint:gosec // no secret
}

// mostApart is the share by which the readings of CPU time may differ.
const mostApart = 0.05

// checkCPU shows both readings of CPU time.
func checkCPU(r *report.Report, out io.Writer) error {
	fmt.Fprintf(out, "\nCPU time, medians, in µs:\n%-8s %-26s %-10s %16s %18s %8s\n", "", "", "", "/proc/PID/stat", "task/*/schedstat", "apart")
	var worst float64
	for _, check := range compare.Checks(r) {
		worst = max(worst, math.Abs(check.Apart()))
		fmt.Fprintf(out, "%-8s %-26s %-10s %16.2f %18.2f %+7.1f%%\n", check.Scenario, check.Figure, check.Peer, check.Stat, check.Threads, check.Apart()*100)
	}
	if worst > mostApart {
		return fmt.Errorf("%w: the readings of CPU time are up to %.1f %% apart (want at most %.0f %%)", errFlaws, worst*100, mostApart*100)
	}
	return nil
}

// turnLine shows where a comparison is: one line that is kept up to date on a terminal, one line for
// each turn elsewhere.
type turnLine struct {
	out      io.Writer
	quiet    bool
	terminal bool

	stop chan struct{} // closed by end
	done sync.WaitGroup

	mu    sync.Mutex
	now   compare.Progress // guarded by mu
	since time.Time        // guarded by mu
}

func newTurnLine(out io.Writer, quiet bool) *turnLine {
	f, ok := out.(*os.File)
	l := &turnLine{out: out, quiet: quiet, terminal: ok && isatty.IsTerminal(f.Fd()), stop: make(chan struct{})}
	if l.terminal && !quiet {
		l.done.Go(l.run)
	}
	return l
}

// begin shows the turn that begins.
func (l *turnLine) begin(p compare.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now, l.since = p, time.Now()
	switch {
	case l.quiet:
	case l.terminal:
		l.drawLocked()
	default:
		fmt.Fprintf(l.out, "%s (%v left)\n", p.Text, p.Left)
	}
}

// run draws the line once a second.
func (l *turnLine) run() {
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case <-l.stop:
			fmt.Fprint(l.out, "\r\x1b[K")
			return
		case <-second.C:
			l.mu.Lock()
			l.drawLocked()
			l.mu.Unlock()
		}
	}
}

func (l *turnLine) drawLocked() {
	left := max(l.now.Left-time.Since(l.since), 0).Round(time.Second)
	fmt.Fprintf(l.out, "\r%s, about %v left\x1b[K", l.now.Text, left)
}

// end takes the line away.
func (l *turnLine) end() {
	close(l.stop)
	l.done.Wait()
}
