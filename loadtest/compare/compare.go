package compare

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/loadtest/peer"
	"tickgate/loadtest/report"
)

// Run measures all scenarios and returns the report. If ctx ends before, it stops what it started and returns
// both the report of what there is, unless that is nothing, and the cause.
func Run(ctx context.Context, o Options) (*report.Report, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	c := &comparison{Options: o, configs: make(map[string]string)}
	defer c.stopBackends()
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	c.began = time.Now()
	for _, name := range c.Scenarios {
		if ctx.Err() == nil {
			c.play(ctx, scenarioOf(name))
		}
	}
	c.stopBackends()
	if ctx.Err() != nil {
		c.note("The comparison was broken off; what was not measured is missing.")
		return c.report(), context.Cause(ctx)
	}
	return c.report(), nil
}

// comparison is the work of one Run, owned by its goroutine.
type comparison struct {
	Options

	// Set by prepare.
	peers             []report.Peer // those that are there
	contenders        []Contender   // likewise
	addrs             []string      // that gateways and their admin endpoints listen on, in turn
	httpAddr, wsAddr  string
	certFile, keyFile string
	backend           Backend // that was chosen
	backends          []*peer.Process

	// What was found.
	configs map[string]string // by contender
	played  []*played
	notes   []string

	// How far it is.
	began       time.Time
	total, done float64 // seconds of turns, by estimate
}

func (c *comparison) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

// prepare finds the gateways, and sets up what they share.
func (c *comparison) prepare(ctx context.Context) error {
	for _, one := range c.Options.Peers {
		if err := c.Programs.Installed(one.Kind); err != nil {
			c.note("%s was left out: %v", one.ID, err)
			continue
		}
		name, err := c.Programs.Version(ctx, one.Kind)
		if err != nil {
			c.note("%s was left out: %v", one.ID, err)
			continue
		}
		if one.ID != one.Kind.String() {
			name += " (" + one.ID + ")"
		}
		c.contenders = append(c.contenders, one)
		c.peers = append(c.peers, report.Peer{ID: one.ID, Name: name})
	}
	if len(c.contenders) == 0 {
		return fmt.Errorf("%w: %s", ErrNoPeer, strings.Join(c.notes, "; "))
	}
	for _, name := range c.Scenarios {
		s := scenarioOf(name)
		c.total += s.seconds(&c.Options) * float64(c.roundsOf(s)*len(c.contenders))
	}
	if err := c.makeCertificate(); err != nil {
		return err
	}
	ports, err := peer.FreePorts(ctx, c.Port, 2+2*len(idleKinds))
	if err != nil {
		return err
	}
	for _, port := range ports {
		c.addrs = append(c.addrs, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	c.httpAddr, c.wsAddr, c.addrs = c.addrs[0], c.addrs[1], c.addrs[2:]
	return c.startBackends(ctx)
}

// makeCertificate writes an ECDSA certificate for localhost.
func (c *comparison) makeCertificate() error {
	cert, key, err := selfsigned.Generate([]string{"localhost", "127.0.0.1"}, 48*time.Hour, selfsigned.ECDSA)
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	c.certFile, c.keyFile = filepath.Join(c.Dir, "cert.pem"), filepath.Join(c.Dir, "key.pem")
	if err := errors.Join(os.WriteFile(c.certFile, cert, 0o644), os.WriteFile(c.keyFile, key, 0o600)); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

func (c *comparison) roundsOf(s *scenario) int {
	if s.main {
		return c.MainRounds
	}
	return c.Rounds
}

// play runs the rounds of one scenario.
func (c *comparison) play(ctx context.Context, s *scenario) {
	p := newPlayed(s)
	c.played = append(c.played, p)
	rounds := c.roundsOf(s)
	for round := range rounds {
		for _, one := range c.contenders {
			c.Progress(Progress{fmt.Sprintf("%s, round %d of %d, %s", s.id, round+1, rounds, one.ID), c.left()})
			t := &turn{comparison: c, scenario: s, contender: one}
			found, err := t.play(ctx)
			if ctx.Err() != nil {
				return
			}
			c.done += s.seconds(&c.Options)
			if err != nil {
				c.note("%s, round %d, %s: not measured: %v", s.id, round+1, one.ID, err)
				p.skip(one.ID, round)
				continue
			}
			for _, flaw := range found.flaws {
				c.note("%s, round %d, %s: %s", s.id, round+1, one.ID, flaw)
			}
			p.add(one.ID, round, found)
		}
	}
}

// left is about how long the rest takes, by the pace so far.
func (c *comparison) left() time.Duration {
	pace := 1.0
	if c.done > 0 {
		pace = time.Since(c.began).Seconds() / c.done
	}
	return time.Duration((c.total - c.done) * pace * float64(time.Second)).Round(time.Second)
}

// turn is one gateway in one round of a scenario.
type turn struct {
	*comparison
	scenario  *scenario
	contender Contender
	instances []*instance
}

// instance is one process of a gateway.
type instance struct {
	*peer.Process
	addr   string
	secure bool
}

// url returns a URL of the instance; scheme is that without TLS.
func (in *instance) url(scheme, path string) string {
	if in.secure {
		scheme += "s"
	}
	return scheme + "://" + in.addr + path
}

// play measures and stops what was started.
func (t *turn) play(ctx context.Context) (*sample, error) {
	found, err := t.scenario.measure(ctx, t)
	for _, in := range t.instances {
		err = errors.Join(err, in.Stop())
	}
	if err != nil {
		return nil, err
	}
	return found, nil
}

// start starts the contender once more.
func (t *turn) start(ctx context.Context, secure bool) (*instance, error) {
	n := len(t.instances)
	s := peer.Setup{
		Listen: t.addrs[2*n], Admin: t.addrs[2*n+1], HTTPBackend: t.httpAddr, WSBackend: t.wsAddr,
		Workers: t.Workers, IdleConns: 2 * t.Conns, MaxFDs: t.MaxFDs,
		Dir: filepath.Join(t.Dir, fmt.Sprintf("%s-%d", t.contender.ID, n)),
	}
	if secure {
		s.CertFile, s.KeyFile = t.certFile, t.keyFile
	}
	p, err := peer.Start(ctx, t.Programs, t.contender.Kind, s)
	if err != nil {
		return nil, err
	}
	if t.configs[t.contender.ID] == "" {
		t.configs[t.contender.ID] = s.Config(t.contender.Kind)
	}
	in := &instance{p, s.Listen, secure}
	t.instances = append(t.instances, in)
	return in, nil
}
