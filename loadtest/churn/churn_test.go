package churn

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testkit"
	"tickgate/loadtest/baseline"
	"tickgate/loadtest/target"
	"tickgate/loadtest/wsload"
)

func started(t *testing.T, run func(context.Context, net.Listener) error) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return ln.Addr().String()
}

// secure starts a gateway that speaks TLS and returns its URL. Its end does not wait
// for clients that have vanished.
func secure(t *testing.T, backend string) string {
	t.Helper()
	handler, err := baseline.Handler(baseline.Options{Backend: backend})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// Every behaviour happens, and none fails, against a server that does all right.
func TestEveryBehaviour(t *testing.T) {
	echo, err := wsload.NewBackend(wsload.BackendOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tunnels := started(t, echo.Serve)
	plain := testkit.NewRecorder(t, nil).Addr()
	f := func(name string, o Options, want int) {
		t.Run(name, func(t *testing.T) {
			o.Clients, o.Longest, o.Target.Insecure = 50, 5*time.Millisecond, true
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o.Duration = time.Minute
			reports := 0
			o.Progress = func(string) {
				if reports++; reports == 2 {
					cancel()
				}
			}
			r, err := Run(ctx, o)
			if err != nil || r.Failed() > 0 || len(r.Behaviours)+len(r.LeftOut) != want {
				t.Errorf("%v\n%v; want %d behaviours", r, err, want)
			}
			for name, tally := range r.Behaviours {
				if tally.Done == 0 {
					t.Errorf("nobody did %q", name)
				}
			}
		})
	}
	f("plain", Options{URL: "http://" + plain, TunnelURL: "ws://" + tunnels}, 14)
	f("only tunnels", Options{TunnelURL: "ws://" + tunnels}, 6)
	f("TLS", Options{URL: secure(t, plain), TunnelURL: "wss" + strings.TrimPrefix(secure(t, tunnels), "https")}, 14)
}

func TestFailuresAreTold(t *testing.T) {
	refusing := testkit.NewScript(t, testkit.Respond("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")...)
	r, err := Run(t.Context(), Options{URL: "http://" + refusing.Addr(), TunnelURL: "ws://" + refusing.Addr(), Clients: 20, Duration: 1500 * time.Millisecond})
	if err != nil || r.Failed() == 0 {
		t.Errorf("%v, %v", r, err)
	}
	for _, name := range []string{"talk", "tunnel"} {
		if !strings.Contains(r.Behaviours[name].FirstError, "503") {
			t.Errorf("%s: %+v", name, r.Behaviours[name])
		}
	}
}

func TestBadOptions(t *testing.T) {
	f := func(o Options, want error) {
		t.Helper()
		if _, err := Run(t.Context(), o); !errors.Is(err, want) {
			t.Errorf("%+v: %v, want %v", o, err, want)
		}
	}
	f(Options{Clients: 1, Duration: time.Second}, ErrOptions)
	f(Options{URL: "http://127.0.0.1:1", Duration: time.Second}, ErrOptions)
	f(Options{URL: "http://127.0.0.1:1", Clients: 1}, ErrOptions)
	f(Options{URL: "ws://127.0.0.1:1", Clients: 1, Duration: time.Second}, target.ErrURL)
	f(Options{TunnelURL: "http://127.0.0.1:1", Clients: 1, Duration: time.Second}, target.ErrURL)
}
