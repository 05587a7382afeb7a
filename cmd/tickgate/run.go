package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tickgate/config"
	"tickgate/health"
	"tickgate/internal/admin"
	"tickgate/internal/errlog"
	"tickgate/proxy"
)

// process is a running gateway with its admin endpoint.
type process struct {
	path    string // of the configuration; "" in the demonstration
	log     *errlog.Logger
	gateway *proxy.Gateway
	admin   *admin.Server
	cfg     *config.Config
	signals chan os.Signal // since before start, so that none meets an end that was not in order

	warnings []config.Problem // about cfg, to be logged
}

func run(args []string, stdout, stderr io.Writer) error {
	fs := newFlags("run", "Usage: tickgate run -c FILE | --demo\n\nRuns the gateway in the foreground.",
		"  tickgate run -c /etc/tickgate/tickgate.yaml\n  tickgate run --demo\n", stderr)
	path := fs.String("c", "", "configuration `FILE`")
	demonstration := fs.Bool("demo", false, "run a demonstration: backends, certificate and configuration of its own")
	if err := parse(fs, args); err != nil {
		return err
	}
	switch {
	case *demonstration && *path != "":
		return errors.New("-c and --demo exclude each other")
	case *demonstration:
		return runDemo(stdout, stderr)
	case *path == "":
		fs.Usage()
		return exitCode(2)
	}
	cfg, warnings, err := load(*path, stderr)
	if err != nil {
		return err
	}
	p := &process{path: *path, cfg: cfg, warnings: warnings}
	if err := p.start(); err != nil {
		return err
	}
	return p.wait()
}

// load reads a configuration. What keeps it from being used goes to out; warnings are
// for the log, once there is one.
func load(path string, out io.Writer) (*config.Config, []config.Problem, error) {
	cfg, report := config.Load(path)
	if report.ReadError != nil {
		return nil, nil, report.ReadError
	}
	if report.Err() != nil {
		_ = report.WriteText(out, isTerminal(out))
		return nil, nil, fmt.Errorf("the configuration %s is not valid", path)
	}
	return cfg, report.Warnings(), nil
}

// start opens logs, admin endpoint and listeners, in this order, so that whatever
// fails is logged.
func (p *process) start() (err error) {
	p.catchSignals()
	if p.log, err = errlog.Open(p.cfg.Log.Error); err != nil {
		return err
	}
	p.warn(p.warnings)
	raiseFileLimit(p.log)
	p.gateway, err = proxy.New(p.cfg, proxy.Options{Process: true, Log: p.log, Version: version, Checker: proxy.Prober{Checker: health.NewChecker()}})
	if err != nil {
		return err
	}
	if err := p.serveAdmin(); err != nil {
		p.gateway.Stop()
		return err
	}
	p.log.Info().Str("version", version).Str("config", p.path).Str("admin", p.cfg.Admin.Listen).Int("pid", os.Getpid()).Msg("tickgate runs")
	return nil
}

func (p *process) warn(problems []config.Problem) {
	for _, w := range problems {
		p.log.Warn().Str("problem", w.String()).Msg("configuration warning")
	}
}

func (p *process) serveAdmin() error {
	a := p.cfg.Admin
	if a.Listen == "off" {
		return nil
	}
	ln, err := net.Listen("tcp", a.Listen)
	if err != nil {
		return fmt.Errorf("admin endpoint: %w", err)
	}
	p.admin = admin.Serve(ln, proxy.Admin{Gateway: p.gateway, ReloadFile: p.reload}, admin.Options{
		Token: a.Token, WriteMetrics: p.gateway.Meter().WritePrometheus, Set: p.gateway.Meter().Set(), Log: p.log,
	})
	return nil
}

// reload reads the configuration file again and goes over to it.
func (p *process) reload() error {
	if p.path == "" {
		return p.gateway.Reload(p.cfg)
	}
	cfg, report := config.Load(p.path)
	p.warn(report.Warnings())
	if err := errors.Join(report.ReadError, report.Err()); err != nil {
		p.gateway.RefuseReload(err)
		for _, e := range report.Errors() {
			p.log.Error().Str("problem", e.String()).Msg("configuration error")
		}
		p.log.Error().Str("config", p.path).Msg("reload refused, the old configuration stays")
		return err
	}
	if cfg.Admin != p.cfg.Admin {
		p.log.Warn().Msg("changes of admin take effect at the next start only")
	}
	if err := p.gateway.Reload(cfg); err != nil {
		return err
	}
	if err := p.log.Reconfigure(cfg.Log.Error); err != nil {
		p.log.Error().Err(err).Msg("cannot go over to the new error log, the old one stays")
		return err
	}
	return nil
}

func (p *process) catchSignals() {
	signal.Ignore(syscall.SIGPIPE) // a log reader that went away must not end the process
	p.signals = make(chan os.Signal, 8)
	signal.Notify(p.signals, syscall.SIGHUP, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGINT, syscall.SIGUSR1)
}

// wait serves signals until one ends the process.
func (p *process) wait() error {
	for s := range p.signals {
		switch s {
		case syscall.SIGHUP:
			_ = p.reload() // logged, counted, and visible in the admin API
		case syscall.SIGUSR1:
			p.reopenLogs()
		case syscall.SIGINT:
			p.log.Info().Msg("stopped at once by SIGINT")
			p.gateway.Stop()
			p.stopAdmin()
			return exitCode(130)
		default:
			p.drain()
			return nil
		}
	}
	return nil
}

// drain ends the process in order; a SIGINT meanwhile ends it at once.
func (p *process) drain() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		for {
			select {
			case s := <-p.signals:
				p.whileDraining(s, cancel)
			case <-ctx.Done():
				return
			}
		}
	}()
	p.gateway.Drain(ctx)
	p.stopAdmin()
}

// whileDraining serves one signal of those that come during a drain.
func (p *process) whileDraining(s os.Signal, cut func()) {
	switch s {
	case syscall.SIGINT:
		p.log.Info().Msg("drain ended by SIGINT: what is open is cut")
		cut()
	case syscall.SIGUSR1:
		p.reopenLogs()
	default:
		p.log.Info().Str("signal", s.String()).Msg("draining already; SIGINT would end it at once")
	}
}

func (p *process) reopenLogs() {
	if err := p.gateway.ReopenLogs(); err != nil {
		p.log.Error().Err(err).Msg("cannot reopen log files")
	}
}

func (p *process) stopAdmin() {
	if p.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = p.admin.Shutdown(ctx)
	}
	_ = p.log.Close()
}
