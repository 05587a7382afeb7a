package accept

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
	"tickgate/loadtest/tlsload"
)

const (
	secureFor      = 10 * time.Minute
	mostSecureCPU  = 0.65
	handshakeFor   = 5 * time.Minute
	handshakeBound = 3 * time.Millisecond
	// handshakeConns is how many handshakes are under way to find the most there can be, and
	// mostHandshakes how many at most at half of that rate.
	handshakeConns, mostHandshakes = 4, 256
	certificateFor                 = 48 * time.Hour
)

// secure returns a stage with TLS before and behind the gateway, with a certificate of
// its own.
func (b *bench) secure(ctx context.Context) (*stage, error) {
	cert, key, err := selfsigned.Generate([]string{"localhost", "127.0.0.1"}, certificateFor, selfsigned.ECDSA)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	l := layout{cert: filepath.Join(b.Dir, "cert.pem"), key: filepath.Join(b.Dir, "key.pem")}
	for file, text := range map[string][]byte{l.cert: cert, l.key: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return nil, fmt.Errorf("write certificate: %w", err)
		}
	}
	return b.staged(ctx, l)
}

// secureHops runs the rated load with TLS on both hops.
func secureHops(ctx context.Context, b *bench) ([]Row, error) {
	rated, err := b.rate(ctx)
	if err != nil {
		return nil, err
	}
	s, err := b.secure(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	warm, span := b.Shortest/2, b.span(secureFor)
	l, err := s.load(ctx, httpload.Options{Plan: pace.Constant(rated, warm+span), Warmup: warm})
	if err != nil {
		return nil, err
	}
	r := Row{
		Demand: "CPU of the gateway with TLS on every hop at the rated load", Bound: fmt.Sprintf("at most %.0f %% of the machine, 0 errors", 100*mostSecureCPU),
		Method: fmt.Sprintf("open loop, %.0f requests/s for %v over TLS connections that are kept, TLS to the backend too; the load and the backend are on the same machine", rated, span),
	}
	b.judgeSecure(&r, l, rated)
	return []Row{r}, nil
}

func (b *bench) judgeSecure(r *Row, l loaded, rated float64) {
	r.Figure = fmt.Sprintf("%.0f %% of %d processors at %.0f requests/s; %v", 100*l.Gateway, l.Processors, l.OKPerSecond, l.Split)
	r.Values = map[string]float64{"cpu_gateway": l.Gateway, "per_second": l.OKPerSecond, "errors": float64(l.Failed())}
	r.lossless(l.Result)
	busy := b.excuse(l.Split, l.Bottleneck)
	r.reaches(l.Result, rated, busy)
	if l.Gateway > mostSecureCPU {
		r.miss(busy, "the gateway took %.0f %%", 100*l.Gateway)
	}
}

// handshake measures full handshakes at half of the most there can be.
func handshake(ctx context.Context, b *bench) ([]Row, error) {
	s, err := b.secure(ctx)
	if err != nil {
		return nil, err
	}
	defer s.close()
	o := tlsload.Options{URL: s.url(), Target: target.Options{Insecure: true}, Conns: handshakeConns, Warmup: b.Shortest / 4, ALPN: []string{"http/1.1"}}
	o.Duration = o.Warmup + b.span(calibration)
	most, err := tlsload.Run(ctx, o)
	if err != nil {
		return nil, err
	}
	if most.OK == 0 {
		return nil, fmt.Errorf("no handshake of %d was done: %s", most.Due, most.FirstError)
	}
	o.Rate, o.Conns = most.HandshakesPerSecond/2, mostHandshakes
	o.Duration = o.Warmup + b.span(handshakeFor)
	m := newMeter(s.backends)
	got, err := tlsload.Run(ctx, o)
	if err != nil {
		return nil, err
	}
	r := Row{
		Demand: "p99 of a TLS handshake", Bound: fmt.Sprintf("below %v, 0 errors", handshakeBound),
		Method: fmt.Sprintf("open loop, %.0f full handshakes/s with an ECDSA P-256 certificate (half of what %d at a time came to) for %v; from the due time, TCP included", o.Rate, handshakeConns, b.span(handshakeFor)),
	}
	b.judgeHandshake(&r, got, m.split())
	return []Row{r}, nil
}

func (b *bench) judgeHandshake(r *Row, got *tlsload.Result, split Split) {
	r.Figure = fmt.Sprintf("p50 %.2f ms, p99 %.2f ms of %d; TLS alone p99 %.2f ms; %v", ms(got.Latency.P50), ms(got.Latency.P99), got.OK, ms(got.Handshake.P99), split)
	r.Values = map[string]float64{"p50_ms": ms(got.Latency.P50), "p99_ms": ms(got.Latency.P99), "handshakes": float64(got.OK), "errors": float64(got.Failed())}
	switch {
	case got.OK == 0 || got.Failed() > 0:
		r.fail("%d of %d handshakes failed (%s)", got.Failed(), got.Due, got.FirstError)
	case time.Duration(got.Latency.P99*1e3) >= handshakeBound:
		r.miss(b.excuse(split, got.Bottleneck), "p99 is %.2f ms", ms(got.Latency.P99))
	}
}
