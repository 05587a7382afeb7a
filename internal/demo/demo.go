package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// Addresses that the demonstration's configuration listens on.
const (
	PlainAddr = "127.0.0.1:8080"
	TLSAddr   = "127.0.0.1:8443"
	AdminAddr = "127.0.0.1:9180"
)

// Timings of the demonstration.
const (
	tickEvery    = 250 * time.Millisecond // one step of the random walk
	eventEvery   = 500 * time.Millisecond // one server-sent event
	shutdownWait = 2 * time.Second        // for backends to finish their responses
)

// Backend is one running demonstration backend.
type Backend struct {
	// Name is the value of the X-Backend response field.
	Name string
	// Addr is the loopback host:port it listens on.
	Addr string

	server *fasthttp.Server
	ln     net.Listener
	served chan error // result of Serve, buffered
}

// Demo is a running set of backends. Its fields do not change after Start.
type Demo struct {
	// Quotes are the interchangeable backends of the "quotes" upstream.
	Quotes []Backend
	// Orders is the backend of the "orders" upstream.
	Orders Backend
	// MarketData is the WebSocket backend.
	MarketData Backend

	market *market
	events time.Duration

	stop    context.CancelFunc
	done    <-chan struct{} // closed when the demonstration stops
	loop    sync.WaitGroup  // the market's goroutine
	closing sync.Once
	err     error // guarded by closing
}

// Start starts the backends. They run until ctx ends or Close is called.
func Start(ctx context.Context) (*Demo, error) {
	return start(ctx, tickEvery, eventEvery)
}

// start is Start with the pace of the market and of the event stream.
func start(ctx context.Context, tick, events time.Duration) (*Demo, error) {
	ctx, cancel := context.WithCancel(ctx)
	d := &Demo{market: newMarket(), events: events, stop: cancel, done: ctx.Done()}
	for _, name := range []string{"quotes-1", "quotes-2"} {
		b, err := serve(name, d.httpHandler(name))
		if err != nil {
			return nil, errors.Join(err, d.Close())
		}
		d.Quotes = append(d.Quotes, b)
	}
	var err error
	if d.Orders, err = serve("orders-1", d.httpHandler("orders-1")); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if d.MarketData, err = serve("market-data-1", d.feedHandler("market-data-1")); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	d.loop.Go(func() { d.market.run(ctx, tick) })
	context.AfterFunc(ctx, func() { _ = d.Close() })
	return d, nil
}

// serve starts one backend on a free loopback port.
func serve(name string, handler fasthttp.RequestHandler) (Backend, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return Backend{}, fmt.Errorf("listen for demonstration backend %q: %w", name, err)
	}
	server := &fasthttp.Server{
		Handler:                       whole(handler),
		Name:                          name,
		StreamRequestBody:             true,
		DisableHeaderNamesNormalizing: true,
		NoDefaultContentType:          true,
		CloseOnShutdown:               true,
		ReadTimeout:                   time.Minute,
		IdleTimeout:                   2 * time.Minute,
		Logger:                        silent{},
	}
	b := Backend{Name: name, Addr: ln.Addr().String(), server: server, ln: ln, served: make(chan error, 1)}
	go func() { b.served <- server.Serve(ln) }()
	return b, nil
}

// silent drops the log lines of the backends: a client that goes away is no news.
type silent struct{}

// Printf implements fasthttp.Logger.
func (silent) Printf(string, ...any) {}

// backends lists those that run.
func (d *Demo) backends() []Backend {
	all := append([]Backend(nil), d.Quotes...)
	for _, b := range []Backend{d.Orders, d.MarketData} {
		if b.server != nil {
			all = append(all, b)
		}
	}
	return all
}

// Close stops the backends and waits for their responses, at most two seconds.
// Event streams and WebSocket sessions are told to end first. It may be called
// more than once.
func (d *Demo) Close() error {
	d.closing.Do(func() {
		d.stop()
		d.loop.Wait()
		d.market.close()
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
		defer cancel()
		var (
			mu sync.Mutex
			wg sync.WaitGroup
		)
		for _, b := range d.backends() {
			wg.Go(func() {
				err := b.shutdown(ctx)
				mu.Lock()
				defer mu.Unlock()
				d.err = errors.Join(d.err, err)
			})
		}
		wg.Wait()
	})
	return d.err
}

// shutdown stops one backend.
func (b Backend) shutdown(ctx context.Context) error {
	// The listener is closed here since fasthttp only closes those that Serve has
	// taken: a server that is stopped before its goroutine ran would serve forever.
	_ = b.ln.Close()
	err := b.server.ShutdownWithContext(ctx)
	if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("stop demonstration backend %q: %w", b.Name, err)
	}
	if err := <-b.served; err != nil {
		return fmt.Errorf("demonstration backend %q: %w", b.Name, err)
	}
	return nil
}
