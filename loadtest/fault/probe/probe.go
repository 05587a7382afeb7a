// Package probe keeps requests and tunnels going through a gateway and tells of each how it
// went and when, one by one: what a time to notice and a time to recover are made of. It is for some
// hundred requests a second; httpload is for more, and sums up.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("probe: bad options")

// Kind is how a request, or a message of a tunnel, ended.
type Kind uint8

// The kinds.
const (
	OK             Kind = iota
	WrongStatus         // a whole response of 400 or more, or an upgrade refused
	ConnectRefused      // nobody listens
	ConnectTimeout      // no connection within the timeout
	ConnectFailed       // no connection for another reason
	TLSFailed           // no TLS session
	Reset               // RST before the end of the response
	ClosedEarly         // FIN before the end of the response
	Timeout             // no response within the timeout
	Malformed           // no HTTP, or no WebSocket
	Corrupt             // not the bytes that the backend sent
	Backlog             // came due and found every connection busy for longer than the timeout
	kinds
)

var kindNames = [kinds]string{
	"ok", "wrong_status", "connect_refused", "connect_timeout", "connect_failed", "tls_failed", "reset", "closed_early", "timeout",
	"malformed", "corrupt", "backlog",
}

// String returns the word in results.
func (k Kind) String() string { return kindNames[k] }

// Kinds lists the words of what is not OK.
func Kinds() []string { return kindNames[1:] }

// Sample is one request, or one message of a tunnel.
type Sample struct {
	// Due is when it should have been sent, and End when it was over.
	Due, End time.Time
	// Kind it ended with, and the status of a whole response, 0 without one.
	Kind   Kind
	Status int
	// Err tells more of what is not OK.
	Err error
}

// Took is the time from when it was due.
func (s *Sample) Took() time.Duration { return s.End.Sub(s.Due) }

// Options configures requests or tunnels.
type Options struct {
	// URL is http:// or https:// for requests, ws:// or wss:// for tunnels.
	URL    string
	Target target.Options
	// Rate of requests, or of messages over all tunnels together, a second.
	Rate float64
	// Conns bounds the connections of requests, with one request at a time each; of tunnels, it
	// is their number.
	Conns int
	// Fresh closes the connection behind each response, so that every request opens its own.
	Fresh bool
	// Timeout of one request or message from when it is sent; 0 is ten seconds.
	Timeout time.Duration
	// Observe is called with every sample, by one goroutine at a time and in the order of their
	// ends.
	Observe func(Sample)
}

func (o *Options) check() error {
	if o.Rate <= 0 || o.Rate > 100_000 || o.Conns < 1 || o.Conns > 10_000 {
		return fmt.Errorf("%w: %v a second on %d connections (want up to 100000, and 1 to 10000)", ErrOptions, o.Rate, o.Conns)
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	return nil
}

// run is what requests and tunnels have in common.
type run struct {
	Options
	target *target.Target

	mu sync.Mutex // held while Observe is called
}

func newRun(o Options, schemes ...string) (*run, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Target.Timeout = o.Timeout
	t, err := target.New(o.URL, o.Target, schemes...)
	if err != nil {
		return nil, err
	}
	return &run{Options: o, target: t}, nil
}

// observe tells of a sample that ends now.
func (r *run) observe(due time.Time, status int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Observe(Sample{Due: due, End: time.Now(), Kind: kindOf(err), Status: status, Err: err})
}

// room is how many may wait for a connection: as many as come due within the timeout.
func (r *run) room() int { return int(r.Rate * r.Timeout.Seconds()) }

// tooLate says that what was due is not worth sending any more, and tells of it.
func (r *run) tooLate(due time.Time) bool {
	if time.Since(due) <= r.Timeout {
		return false
	}
	r.observe(due, 0, errBacklog)
	return true
}

// spread gives what comes due to the workers' channels: to whoever is free if there is one,
// to each in turn if there are several. What finds no room is a Backlog.
func (r *run) spread(ctx context.Context, to []chan time.Time) {
	pace.New(time.Now(), r.Rate).Each(ctx, -1, func(k int, due time.Time) {
		select {
		case to[k%len(to)] <- due:
		default:
			r.observe(due, 0, errBacklog)
		}
	})
	for _, ch := range to {
		close(ch)
	}
}

var (
	errBacklog = errors.New("probe: no free connection")
	errStatus  = errors.New("probe: status")
	errCorrupt = errors.New("probe: the body is not what the backend sent")
	errConnect = errors.New("connect")
	errTLS     = errors.New("TLS handshake")
)

// kindOf names an error.
func kindOf(err error) Kind {
	timedOut := target.IsTimeout(err) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	switch {
	case err == nil:
		return OK
	case errors.Is(err, errStatus):
		return WrongStatus
	case errors.Is(err, errBacklog):
		return Backlog
	case errors.Is(err, errCorrupt):
		return Corrupt
	case errors.Is(err, errTLS):
		return TLSFailed
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectRefused
	case errors.Is(err, errConnect) && timedOut:
		return ConnectTimeout
	case errors.Is(err, errConnect):
		return ConnectFailed
	case timedOut:
		return Timeout
	case target.IsReset(err):
		return Reset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ClosedEarly
	}
	return Malformed
}

// dial opens connection number i, and says what failed.
func (r *run) dial(ctx context.Context, i int) (net.Conn, error) {
	tcp, err := r.target.DialTCP(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errConnect, err)
	}
	conn, err := r.target.Handshake(ctx, tcp)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errTLS, err)
	}
	return conn, nil
}
