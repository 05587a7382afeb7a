package accept

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"tickgate/loadtest/httpload"
	"tickgate/loadtest/pace"
	"tickgate/loadtest/peer"
	"tickgate/loadtest/target"
)

const (
	// bodySize is the size of a response of the backends.
	bodySize = 1000
	// openConns is how many connections an open loop may have.
	openConns = 256
	// closedConns is how many the closed loop keeps busy.
	closedConns = 64
	// patience is how long a request may take before it is lost.
	patience = 30 * time.Second
	// ratedShare is the share of what the closed loop came to that a node is rated for, on
	// a machine that it shares with its load: a burst of three times that fits below the
	// whole.
	ratedShare = 0.2
	// calibration is how long the closed loop runs at scale 1.
	calibration = time.Minute
)

// bounds are how long something is awaited at most. They belong to the demands, so no scale
// changes them.
type bounds struct {
	recoverWithin time.Duration // to recover from a partition
	servedWithin  time.Duration // to have a new set of backends in use
}

// bench is where items are carried out.
type bench struct {
	Options
	parts
	bounds
	rated, closedLoop float64 // 0 until somebody asks
}

// span scales a duration.
func (b *bench) span(full time.Duration) time.Duration {
	return max(time.Duration(float64(full)*b.Scale), b.Shortest)
}

// loops is the number of event loops of the load tool, which leaves the gateway most of
// the machine.
func loops() int { return max(runtime.NumCPU()/4, 1) }

// rate returns the rated load.
func (b *bench) rate(ctx context.Context) (float64, error) {
	if b.rated > 0 {
		return b.rated, nil
	}
	if b.Rate > 0 {
		b.rated = b.Rate
		return b.rated, nil
	}
	b.Progress("  calibration: a closed loop as fast as it goes")
	s, err := b.plain(ctx)
	if err != nil {
		return 0, fmt.Errorf("calibrate: %w", err)
	}
	defer s.close()
	warm := b.Shortest / 4
	r, err := s.load(ctx, httpload.Options{Conns: closedConns, Duration: warm + b.span(calibration), Warmup: warm})
	switch {
	case err != nil:
		return 0, fmt.Errorf("calibrate: %w", err)
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case r.Failed() > 0 || r.OK == 0:
		return 0, fmt.Errorf("calibrate: %d of %d requests failed: %s", r.Failed(), r.Due, r.FirstError)
	}
	b.closedLoop = r.OKPerSecond
	b.rated = b.closedLoop * ratedShare
	b.Progress(fmt.Sprintf("  closed loop %.0f/s, so the rated load is %.0f/s", b.closedLoop, b.rated))
	return b.rated, nil
}

// layout is the configuration of a gateway.
type layout struct {
	listen, admin string
	cert, key     string // of both hops; "" is plain
	share         bool
	servers       []string
	upstream      string // further keys of the upstream, a line each
	routes        string // "" sends everything to the upstream
}

// yaml returns the configuration. Requests that wait for a worker wait as long as the default
// lets them.
func (l layout) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "admin: {listen: %q}\nlisteners:\n  - listen: %q\n", l.admin, l.listen)
	if l.share {
		b.WriteString("    share: true\n")
	}
	if l.cert != "" {
		fmt.Fprintf(&b, "    tls: {certificates: [{cert_file: %q, key_file: %q}]}\n", l.cert, l.key)
	}
	b.WriteString("upstreams:\n  be:\n    servers:\n")
	for _, addr := range l.servers {
		fmt.Fprintf(&b, "      - {address: %q}\n", addr)
	}
	if l.cert != "" {
		fmt.Fprintf(&b, "    tls: {ca_file: %q, server_name: localhost}\n", l.cert)
	}
	for line := range strings.Lines(l.upstream) {
		b.WriteString("    " + line)
	}
	if l.routes == "" {
		l.routes = "  - {path: /, upstream: be}\n"
	}
	b.WriteString("routes:\n" + l.routes)
	return b.String()
}

// stage is what one item runs on: a gateway, or two, with backends. close ends it all.
type stage struct {
	*bench
	layout
	gateways, backends []process
	ports              []int // that are left
}

// stagePorts is how many ports a stage may take.
const stagePorts = 12

// stage returns an empty one, with addresses for a gateway.
func (b *bench) stage(ctx context.Context) (*stage, error) {
	ports, err := peer.FreePorts(ctx, b.FirstPort, stagePorts)
	if err != nil {
		return nil, err
	}
	s := &stage{bench: b, ports: ports}
	s.listen, s.admin = s.addr(), s.addr()
	return s, nil
}

// plain returns one with a gateway and a backend, without TLS.
func (b *bench) plain(ctx context.Context) (*stage, error) { return b.staged(ctx, layout{}) }

// staged returns one with a backend and a gateway that is laid out as l; its addresses are
// chosen here.
func (b *bench) staged(ctx context.Context, l layout) (*stage, error) {
	s, err := b.stage(ctx)
	if err != nil {
		return nil, err
	}
	l.listen, l.admin = s.listen, s.admin
	s.layout = l
	addr, err := s.addBackend(ctx, bodySize)
	if err == nil {
		s.servers = []string{addr}
		err = s.addGateway(ctx)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// addr takes one of the ports.
func (s *stage) addr() string {
	port := s.ports[0]
	s.ports = s.ports[1:]
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// addBackend starts a backend and returns its address.
func (s *stage) addBackend(ctx context.Context, size int) (addr string, err error) {
	addr = s.addr()
	p, err := s.backend(ctx, backendSpec{Name: fmt.Sprintf("backend-%d", len(s.backends)), Listen: addr, Size: size, CertFile: s.cert, KeyFile: s.key})
	if err != nil {
		return "", err
	}
	s.backends = append(s.backends, p)
	return addr, nil
}

// addGateway starts the gateway of the layout.
func (s *stage) addGateway(ctx context.Context) error {
	p, err := s.gateway(ctx, gatewaySpec{Name: fmt.Sprintf("gateway-%d", len(s.gateways)), Listen: s.listen, Admin: s.admin, YAML: s.yaml()})
	if err == nil {
		s.gateways = append(s.gateways, p)
	}
	return err
}

// close ends what was started, the gateways first.
func (s *stage) close() {
	for _, p := range slices.Concat(s.gateways, s.backends) {
		_ = p.Stop() // what ended by itself has shown in the figures
	}
}

// url is where clients go.
func (s *stage) url() string {
	if s.cert != "" {
		return "https://" + s.listen + "/"
	}
	return "http://" + s.listen + "/"
}

// loaded is what a load showed, and who had the processors meanwhile.
type loaded struct {
	*httpload.Result
	Split
}

// load runs a load against the stage's gateways.
func (s *stage) load(ctx context.Context, o httpload.Options) (loaded, error) {
	return s.begin(ctx, o)()
}

// begin runs a load, and returns what waits for its end.
func (s *stage) begin(ctx context.Context, o httpload.Options) (wait func() (loaded, error)) {
	o.URL, o.Loops, o.Timeout = s.url(), loops(), patience
	o.Target = target.Options{Insecure: true}
	if o.Conns == 0 {
		o.Conns = openConns
	}
	var l loaded
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		split := s.meterAfter(o.Warmup)
		if l.Result, err = httpload.Run(ctx, o); err != nil {
			err = fmt.Errorf("load: %w", err)
		}
		l.Split = split()
	}()
	return func() (loaded, error) {
		<-done
		return l, err
	}
}

// meterAfter starts a meter behind a warm-up; split ends it.
func (s *stage) meterAfter(warmup time.Duration) (split func() Split) {
	backends := slices.Clone(s.backends)
	started := make(chan *meter, 1)
	timer := time.AfterFunc(warmup, func() { started <- newMeter(backends) })
	return func() Split {
		if timer.Stop() {
			return newMeter(backends).split() // it ended before
		}
		return (<-started).split()
	}
}

// excuse says why a missed bound of time or speed may not be the gateway's fault, or "".
func (b *bench) excuse(s Split, bottleneck string) string {
	because := b.contention(s, bottleneck)
	if because == "" && b.IgnoreSpeed {
		return "speed is not judged in this run"
	}
	return because
}

// background keeps a rate up until stop is called, which returns what came of it.
func (s *stage) background(ctx context.Context, rate float64) (stop func() (loaded, error)) {
	const longest = 2 * time.Hour // longer than any item
	ctx, cancel := context.WithCancel(ctx)
	wait := s.begin(ctx, httpload.Options{Plan: pace.Constant(rate, longest)})
	return func() (loaded, error) {
		cancel()
		return wait()
	}
}

// lossless demands that every request was answered as it should be.
func (r *Row) lossless(l *httpload.Result) {
	switch {
	case l.Failed() > 0:
		r.fail("%d of %d requests failed (%s)", l.Failed(), l.Due, l.FirstError)
	case l.OK == 0 || l.OK != l.Due:
		r.fail("%d of %d requests were answered", l.OK, l.Due)
	}
}

// reaches demands that a load was what it should be, or nearly.
func (r *Row) reaches(l *httpload.Result, rate float64, contention string) {
	const nearly = 0.95
	if l.OKPerSecond < nearly*rate {
		r.miss(contention, "%.0f requests/s were answered of %.0f/s", l.OKPerSecond, rate)
	}
}

// ms turns microseconds into milliseconds.
func ms(us float64) float64 { return us / 1e3 }
