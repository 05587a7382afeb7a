package compare

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"tickgate/loadtest/target"
	"tickgate/loadtest/tlsload"
)

// Names of the rows of handshakes.
const (
	fullASecond      = "full handshakes a second"
	cpuPerFull       = "CPU per full handshake"
	full99           = "full handshake p99"
	resumedASecond   = "resumed handshakes a second"
	cpuPerResumed    = "CPU per resumed handshake"
	resumed99        = "resumed handshake p99"
	failedHandshakes = "failed handshakes"
)

var handshaking = scenario{
	id: "tls", title: "TLS handshakes", secure: true, measure: measureTLS,
	about: func(o *Options) string {
		return fmt.Sprintf("Closed loop: %d connections at a time are opened, shake hands by TLS 1.3 and are closed, for %v with full handshakes, and as long with resumed ones. Load and gateway share the processors.", tlsConns, o.handshakesFor())
	},
	seconds: func(o *Options) float64 { return startSeconds + 2*(o.handshakesFor()+o.Warmup/2).Seconds() },
	figures: []figure{
		{name: cpuPerFull, unit: "µs", judged: true, key: true},
		{name: cpuPerResumed, unit: "µs", judged: true},
		{name: fullASecond, unit: "1/s", higher: true, judged: true, pace: true},
		{name: resumedASecond, unit: "1/s", higher: true, judged: true, pace: true},
		{name: full99, unit: "ms"},
		{name: resumed99, unit: "ms"},
		{name: failedHandshakes},
		{name: cpuOfTool, unit: "µs"},
	},
}

const (
	// tlsConns is how many handshakes are under way at a time.
	tlsConns = 16
	// tlsSources are the addresses that they come from, as one has ports for some seconds only.
	tlsSources = 64
)

// handshakesFor is the length of each of the two windows.
func (o *Options) handshakesFor() time.Duration { return o.Duration / 2 }

// measureTLS is a turn of full handshakes, and of resumed ones on the same process.
func measureTLS(ctx context.Context, t *turn) (*sample, error) {
	in, err := t.start(ctx, true)
	if err != nil {
		return nil, err
	}
	s := newSample()
	full, err := t.handshakes(ctx, s, in, 0, cpuPerFull)
	if err != nil {
		return nil, err
	}
	resumed, err := t.handshakes(ctx, s, in, 100, cpuPerResumed)
	if err != nil {
		return nil, err
	}
	s.values[fullASecond], s.values[full99] = full.HandshakesPerSecond, full.FullTime.P99/1e3
	s.values[resumedASecond], s.values[resumed99] = resumed.HandshakesPerSecond, resumed.ResumedTime.P99/1e3
	s.values[failedHandshakes] = float64(full.Failed() + resumed.Failed())
	s.values[cpuOfTool] = full.CPUMicros
	s.curve = full.Curve
	// The first ones of each connection have nothing to resume.
	if n := resumed.Full; n > tlsConns+resumed.Resumed/10 {
		s.flaws = append(s.flaws, fmt.Sprintf("%d of %d handshakes that should have resumed a session were full ones", n, n+resumed.Resumed))
	}
	return s, nil
}

// handshakes is one window of a turn, with its warm-up.
func (t *turn) handshakes(ctx context.Context, s *sample, in *instance, resume int, cpu string) (*tlsload.Result, error) {
	o := tlsload.Options{
		URL: in.url("http", filePath), Target: target.Options{Insecure: true, Sources: tlsSources},
		Conns: tlsConns, Duration: t.Warmup / 2, ResumePercent: resume,
	}
	if _, err := tlsload.Run(ctx, o); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	o.Duration = t.handshakesFor()
	began, err := readCPU(in.PID)
	if err != nil {
		return nil, err
	}
	r, err := tlsload.Run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	ended, err := readCPU(in.PID)
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.OK == 0:
		return nil, fmt.Errorf("no handshake in %d connections: %s", r.Due, r.FirstError)
	}
	s.cpu(cpu, began, ended, r.Full+r.Resumed)
	if failed := r.Failed(); failed > 0 {
		s.flaws = append(s.flaws, fmt.Sprintf("%d of %d handshakes failed %v: %s", failed, r.Due, r.Errors, r.FirstError))
	}
	s.bottleneck = cmp.Or(s.bottleneck, r.Bottleneck)
	return r, nil
}
