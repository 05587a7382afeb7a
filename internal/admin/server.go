package admin

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/valyala/fasthttp"

	"tickgate/internal/errlog"
)

// Limits of the admin endpoint. It serves people and scrapers, so they are tight, but for
// the time a response may take: profiles run for as long as they are asked to.
const (
	maxConnections = 256
	maxHead        = 16 << 10
	maxBody        = 64 << 10
	readTimeout    = 10 * time.Second
	writeTimeout   = 10 * time.Minute
	idleTimeout    = time.Minute
)

// Options configures the admin endpoint.
type Options struct {
	// Token that requests must carry, apart from /healthz and /readyz; "" is none.
	Token string
	// WriteMetrics writes the metrics in the Prometheus text format.
	WriteMetrics func(io.Writer) error
	// Set takes the endpoint's own counters; nil keeps them to itself.
	Set *metrics.Set
	// Log takes refusals and panics; nil is silent.
	Log *errlog.Logger
}

// Server is a running admin endpoint.
type Server struct {
	// Static after construction.
	ln       net.Listener
	gateway  Gateway
	opts     Options
	log      *errlog.Logger
	tokenSum [sha256.Size]byte
	// localOnly is set when the endpoint is protected by nothing but its loopback address, so
	// that names which lead a browser here must be refused.
	localOnly bool
	counts    counters
	routes    fasthttp.RequestHandler
	http      *fasthttp.Server

	done chan struct{} // closed when serving ended
	err  error         // valid after done
}

// Serve serves the admin endpoint on ln until Shutdown.
func Serve(ln net.Listener, gateway Gateway, opts Options) *Server {
	s := &Server{
		ln:        ln,
		gateway:   gateway,
		opts:      opts,
		log:       opts.Log,
		tokenSum:  sha256.Sum256([]byte(opts.Token)),
		localOnly: opts.Token == "" && isLoopback(ln.Addr()),
		done:      make(chan struct{}),
	}
	s.counts.register(opts.Set)
	s.routes = s.newRouter().Handler
	s.http = &fasthttp.Server{
		Name:                  "tickgate-admin",
		Handler:               s.handle,
		Logger:                opts.Log.Printer("admin_server"),
		Concurrency:           maxConnections,
		ReadBufferSize:        maxHead,
		MaxRequestBodySize:    maxBody,
		ReadTimeout:           readTimeout,
		WriteTimeout:          writeTimeout,
		IdleTimeout:           idleTimeout,
		NoDefaultServerHeader: true,
		CloseOnShutdown:       true,
	}
	go s.serve()
	return s
}

func (s *Server) serve() {
	defer close(s.done)
	s.err = s.http.Serve(s.ln)
}

// Done is closed when the endpoint no longer serves, after Shutdown or a failed accept.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns why serving ended, nil after Shutdown. It is valid once Done is closed.
func (s *Server) Err() error { return s.err }

// Shutdown stops accepting and waits for the requests in flight until ctx ends. It may be
// called more than once.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.ShutdownWithContext(ctx)
	// fasthttp does nothing if it is told to stop before it has begun to serve.
	if lnErr := s.ln.Close(); lnErr != nil && !errors.Is(lnErr, net.ErrClosed) {
		err = errors.Join(err, lnErr)
	}
	if err != nil {
		return err
	}
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func isLoopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
