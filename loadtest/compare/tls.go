package compare

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"tickgate/loadtest/target"
	"tickgate/loadtest/tlsload"
)

// Names of the rows of handshakes. Those that name neither group nor version are of X25519 and TLS 1.3.
const (
	fullASecond      = "full handshakes a second"
	cpuPerFull       = "CPU per full handshake"
	full99           = "full handshake p99"
	resumedASecond   = "resumed handshakes a second"
	cpuPerResumed    = "CPU per resumed handshake"
	resumed99        = "resumed handshake p99"
	cpuPerHybrid     = "CPU per full handshake, X25519MLKEM768"
	cpuPerOld        = "CPU per full handshake, TLS 1.2"
	half99           = "full handshake p99 at half speed"
	halfAlone99      = "full handshake p99 at half speed, TLS alone"
	failedHandshakes = "failed handshakes"
)

var handshaking = scenario{
	id: "tls", title: "TLS handshakes", secure: true, measure: measureTLS,
	about: func(o *Options) string {
		return fmt.Sprintf("Closed loop: %d connections at a time are opened, shake hands and are closed, for %v with each kind of handshake. All have the same ECDSA P-256 certificate, and X25519 "+
			"is the only group but where another is named. At half speed handshakes are begun evenly, half as many a second as the closed loop came to with the same gateway, and latency counts from "+
			"the time that one was due. Load and gateway share the processors.", tlsConns, o.handshakesFor())
	},
	seconds: func(o *Options) float64 { return startSeconds + 5*(o.handshakesFor()+o.Warmup/2).Seconds() },
	figures: []figure{
		{name: cpuPerFull, unit: "µs", judged: true, key: true},
		{name: cpuPerResumed, unit: "µs", judged: true},
		{name: cpuPerHybrid, unit: "µs", judged: true},
		{name: cpuPerOld, unit: "µs", judged: true},
		{name: fullASecond, unit: "1/s", higher: true, judged: true, pace: true},
		{name: resumedASecond, unit: "1/s", higher: true, judged: true, pace: true},
		{name: half99, unit: "ms", judged: true, pace: true},
		{name: halfAlone99, unit: "ms"},
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
	// mostTLSConns is how many there are at most at half speed.
	mostTLSConns = 256
	// certificateKey is the key of makeCertificate.
	certificateKey = "ECDSA P-256"
)

// handshakesFor is the length of each of the windows.
func (o *Options) handshakesFor() time.Duration { return o.Duration / 2 }

// window is one kind of handshakes.
type window struct {
	cpu     string      // name of its figure
	group   tls.CurveID // the only one; before TLS 1.3 the certificate's curve is another
	version uint16
	resume  int     // per cent
	rate    float64 // of the open loop; 0 is the closed one
}

// The windows of a turn. The one at half speed has no CPU time of its own, which would be that of a processor that
// sleeps in between.
var (
	fullWindow    = window{cpu: cpuPerFull, group: tls.X25519, version: tls.VersionTLS13}
	resumedWindow = window{cpu: cpuPerResumed, group: tls.X25519, version: tls.VersionTLS13, resume: 100}
	oldWindow     = window{cpu: cpuPerOld, group: tls.X25519, version: tls.VersionTLS12}
	hybridWindow  = window{cpu: cpuPerHybrid, group: tls.X25519MLKEM768, version: tls.VersionTLS13}
)

// measureTLS is a turn of handshakes of each kind, all on the same process.
func measureTLS(ctx context.Context, t *turn) (*sample, error) {
	in, err := t.start(ctx, true)
	if err != nil {
		return nil, err
	}
	m := &shaker{turn: t, in: in, sample: newSample()}
	full, err := m.measure(ctx, fullWindow)
	if err != nil {
		return nil, err
	}
	resumed, err := m.measure(ctx, resumedWindow)
	if err != nil {
		return nil, err
	}
	slow := fullWindow
	slow.cpu, slow.rate = "", full.HandshakesPerSecond/2
	half, err := m.measure(ctx, slow)
	if err != nil {
		return nil, err
	}
	if err := m.others(ctx); err != nil {
		return nil, err
	}
	s := m.sample
	s.values[fullASecond], s.values[full99] = full.HandshakesPerSecond, full.FullTime.P99/1e3
	s.values[resumedASecond], s.values[resumed99] = resumed.HandshakesPerSecond, resumed.ResumedTime.P99/1e3
	s.values[half99], s.values[halfAlone99] = half.Latency.P99/1e3, half.Handshake.P99/1e3
	s.values[failedHandshakes] = float64(m.failed)
	s.values[cpuOfTool] = full.CPUMicros
	s.curve = half.Curve
	// The first ones of each connection have nothing to resume.
	if n := resumed.Full; n > tlsConns+resumed.Resumed/10 {
		s.flaws = append(s.flaws, fmt.Sprintf("%d of %d handshakes that should have resumed a session were full ones", n, n+resumed.Resumed))
	}
	return s, nil
}

// shaker is a turn of handshakes.
type shaker struct {
	*turn
	in     *instance
	sample *sample
	failed int64
}

// others measures what not every gateway has.
func (m *shaker) others(ctx context.Context) error {
	for _, w := range []window{oldWindow, hybridWindow} {
		probe := m.options(w)
		probe.Conns, probe.Duration = 1, time.Millisecond
		r, err := tlsload.Run(ctx, probe)
		switch {
		case err != nil:
			return fmt.Errorf("try %s: %w", w.cpu, err)
		case r.OK == 0 && ctx.Err() == nil:
			continue
		}
		if _, err := m.measure(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

// options are those of the load of a window.
func (m *shaker) options(w window) tlsload.Options {
	o := tlsload.Options{
		URL: m.in.url("http", filePath), Target: target.Options{Insecure: true, Sources: tlsSources}, Conns: tlsConns, Rate: w.rate,
		ResumePercent: w.resume, Groups: []tls.CurveID{w.group}, MinVersion: w.version, MaxVersion: w.version,
	}
	if w.rate > 0 {
		o.Conns = mostTLSConns
	}
	if w.version < tls.VersionTLS13 { // RFC 8422 section 5.1
		o.Groups = append(o.Groups, tls.CurveP256)
	}
	return o
}

// measure is one window, with its warm-up.
func (m *shaker) measure(ctx context.Context, w window) (*tlsload.Result, error) {
	o := m.options(w)
	o.Duration = m.Warmup / 2
	if _, err := tlsload.Run(ctx, o); err != nil {
		return nil, fmt.Errorf("warm up: %w", err)
	}
	o.Duration = m.handshakesFor()
	began, err := readCPU(m.in.PID)
	if err != nil {
		return nil, err
	}
	r, err := tlsload.Run(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	ended, err := readCPU(m.in.PID)
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.OK == 0:
		return nil, fmt.Errorf("no handshake in %d connections: %s", r.Due, r.FirstError)
	}
	if w.cpu != "" {
		m.sample.cpu(w.cpu, began, ended, r.Full+r.Resumed)
	}
	m.judge(w, r)
	return r, nil
}

// judge notes what was not as it should be: failures, and handshakes of another kind than the window's.
func (m *shaker) judge(w window, r *tlsload.Result) {
	s := m.sample
	if failed := r.Failed(); failed > 0 {
		m.failed += failed
		s.flaws = append(s.flaws, fmt.Sprintf("%d of %d handshakes failed %v: %s", failed, r.Due, r.Errors, r.FirstError))
	}
	for _, k := range r.Kinds {
		if k.Group != w.group.String() || k.Version != tls.VersionName(w.version) || k.Key != certificateKey {
			s.flaws = append(s.flaws, fmt.Sprintf("%d handshakes were of %s, %s and a key of %s", k.Count, k.Version, k.Group, k.Key))
		}
	}
	s.bottleneck = cmp.Or(s.bottleneck, r.Bottleneck)
}
