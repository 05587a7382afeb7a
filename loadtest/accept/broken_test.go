package accept

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/loadtest/fault"
)

// fails runs an item, and wants a row of it to have failed, for a reason that says so.
func fails(t *testing.T, b *bench, id, why string) {
	t.Helper()
	rows := b.only(t, id)
	for _, r := range rows {
		if r.Verdict == Failed && strings.Contains(r.Why, why) {
			return
		}
	}
	t.Errorf("%s: %+v, want a failure because of %q", id, rows, why)
}

// A gateway that cuts some responses does not sustain anything.
func TestSustainedFailsWithErrors(t *testing.T) {
	b := testBench(t)
	var n atomic.Int64
	b.gateway = standIn(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1)%20 != 0 {
				next.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("cut"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
	})
	fails(t, b, "sustained", "requests failed")
}

func TestBurstFails(t *testing.T) {
	b := testBench(t)
	b.gateway = standIn(after(30*time.Millisecond, every))
	fails(t, b, "burst", "p95 is ")

	b.gateway = standIn(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	})
	fails(t, b, "burst", "failed otherwise than by a refusal")

	b.gateway = standIn(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
	})
	fails(t, b, "burst", "nothing was admitted")
}

// unhealed is a line that stays broken.
type unhealed struct{ breaker }

func (l unhealed) Set(f fault.Fault) error {
	if f == (fault.Fault{}) {
		return nil
	}
	return l.breaker.Set(f)
}

// Backends that never come back are no recovery.
func TestPartitionFailsWithoutRecovery(t *testing.T) {
	b := testBench(t)
	b.breaker = func(o fault.Options) (breaker, error) {
		line, err := newBreaker(o)
		return unhealed{line}, err
	}
	kind := partitionKinds()[3]
	b.recoverWithin = 2 * time.Second
	r, err := b.partitioned(t.Context(), kind)
	if err != nil || r.Verdict != Failed || !strings.Contains(r.Why, "OK responses in a row") {
		t.Errorf("%+v, %v", r, err)
	}
}

// misread hands on a configuration that is refused.
type misread struct{ process }

func (p misread) Reload(yaml string) error { return p.process.Reload("nonsense: 1\n" + yaml) }

// A reload that is refused switches nothing.
func TestSwitchFailsWithoutReload(t *testing.T) {
	b := testBench(t)
	real := b.gateway
	b.gateway = func(ctx context.Context, s gatewaySpec) (process, error) {
		p, err := real(ctx, s)
		return misread{p}, err
	}
	b.servedWithin = 2 * time.Second
	fails(t, b, "switch", "no response of the new set")
}

// Backends that do not speak TLS end every request.
func TestSecureFailsWithErrors(t *testing.T) {
	b := testBench(t)
	b.backend = func(_ context.Context, s backendSpec) (process, error) {
		ln, err := net.Listen("tcp", s.Listen)
		if err != nil {
			return nil, err
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				_ = conn.Close()
			}
		})
		return inProcess{func() { _ = ln.Close(); serving.Wait() }}, nil
	}
	fails(t, b, "tls", "502")
}

// A server that takes its time over each handshake.
func TestHandshakeFailsWhenSlow(t *testing.T) {
	b := testBench(t)
	b.gateway = func(_ context.Context, s gatewaySpec) (process, error) {
		config := testcert.New(t, "localhost").ServerTLS(t)
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			<-time.After(20 * time.Millisecond)
			return nil, nil //nolint:nilnil // the configuration as it is
		}
		ln, err := tls.Listen("tcp", s.Listen, config)
		if err != nil {
			return nil, err
		}
		var serving sync.WaitGroup
		serving.Go(func() { acceptAll(ln, &serving) })
		return inProcess{func() { _ = ln.Close(); serving.Wait() }}, nil
	}
	fails(t, b, "handshake", "p99 is ")
}

// acceptAll performs handshakes, and reads each connection to its end.
func acceptAll(ln net.Listener, serving *sync.WaitGroup) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
			for b := make([]byte, 100); err == nil; {
				_, err = conn.Read(b)
			}
		})
	}
}

// Without a second process nobody takes over.
func TestTakeOverFailsAlone(t *testing.T) {
	b := testBench(t)
	real := b.gateway
	started := 0
	b.gateway = func(ctx context.Context, s gatewaySpec) (process, error) {
		if started++; started > 1 {
			return inProcess{func() {}}, nil
		}
		return real(ctx, s)
	}
	fails(t, b, "takeover", "failed")
}

// A take-over that takes longer than it may, without a lost request: what serves stalls when
// the first process is told to go.
func TestTakeOverFailsWhenSlow(t *testing.T) {
	b := testBench(t)
	var told atomic.Pointer[time.Time]
	serve := standIn(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if at := told.Load(); at != nil {
				<-time.After(time.Until(at.Add(10 * takeOverBound)))
			}
			next.ServeHTTP(w, r)
		})
	})
	started := 0
	b.gateway = func(ctx context.Context, s gatewaySpec) (process, error) {
		if started++; started > 1 {
			return inProcess{func() {}}, nil
		}
		p, err := serve(ctx, s)
		return inProcess{func() {
			if now := time.Now(); !told.CompareAndSwap(nil, &now) {
				_ = p.Stop() // the second time is the end of the item
			}
		}}, err
	}
	fails(t, b, "takeover", "the longest gap is")
}

// Orders that wait longer than quotes.
func TestMixedFailsWithSlowOrders(t *testing.T) {
	b := testBench(t)
	b.gateway = standIn(after(20*time.Millisecond, func(r *http.Request) bool { return r.URL.Path == "/orders" }))
	fails(t, b, "mixed", "p99 of orders is ")
}

// A gateway that says it has the limit and takes on everything.
func TestAdaptiveFailsWithoutLimit(t *testing.T) {
	b := testBench(t)
	b.supports = func(context.Context, string, string) error { return nil }
	b.gateway = standIn(after(100*time.Millisecond, every))
	fails(t, b, "adaptive", "p95 is ")
}

// An item that cannot be carried out has failed.
func TestGatewayThatDoesNotStart(t *testing.T) {
	for _, id := range IDs() {
		b := testBench(t)
		b.supports = func(context.Context, string, string) error { return nil }
		b.gateway = func(context.Context, gatewaySpec) (process, error) { return nil, fmt.Errorf("out of order") }
		fails(t, b, id, "out of order")
	}
}
