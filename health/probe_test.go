package health

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
)

// probeOnce runs one probe of t with o, within a second unless o says otherwise.
func probeOnce(t *testing.T, target Target, o Options) outcome {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	p, err := newProbe(NewChecker(), target, &o)
	if err != nil {
		t.Fatalf("newProbe: %s", err)
	}
	return p.once(t.Context())
}

func wantOutcome(t *testing.T, what string, got outcome, result Result, reason string) {
	t.Helper()
	if got.result != result || got.reason != reason {
		t.Errorf("%s: %s, %q; want %s, %q", what, got.result, got.reason, result, reason)
	}
}

// serveHTTP returns a target that answers with h.
func serveHTTP(t *testing.T, h http.HandlerFunc) Target {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return Target{Network: "tcp", Address: srv.Listener.Addr().String()}
}

// serveRaw returns a target that reads a request head, answers with these bytes and closes.
func serveRaw(t *testing.T, answer string) Target {
	t.Helper()
	return serveConns(t, func(c net.Conn) {
		var head []byte
		buf := make([]byte, 1024)
		for !strings.Contains(string(head), "\r\n\r\n") {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			head = append(head, buf[:n]...)
		}
		_, _ = io.WriteString(c, answer) // the probe may have seen enough
	})
}

// serveConns returns a target that hands every connection to f and then closes it.
func serveConns(t *testing.T, f func(net.Conn)) Target {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				f(c)
				_ = c.Close()
			}()
		}
	}()
	return Target{Network: "tcp", Address: ln.Addr().String()}
}

func TestProbeMatching(t *testing.T) {
	target := serveHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/busy":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/long":
			_, _ = io.WriteString(w, strings.Repeat("x", maxProbeBody)+"needle")
		}
		_, _ = fmt.Fprintf(w, "%s %s host=%s", r.Method, r.RequestURI, r.Host)
	})
	f := func(o Options, result Result, reason string) {
		t.Helper()
		wantOutcome(t, fmt.Sprintf("%+v", o), probeOnce(t, target, o), result, reason)
	}
	f(Options{}, OK, "ok")
	f(Options{Path: "/busy"}, Status, "status 503")
	f(Options{Path: "/busy", Status: "503"}, OK, "ok")
	f(Options{Path: "/moved", Status: "200-299"}, Status, "status 302") // not followed
	f(Options{Path: "/moved", Status: "302"}, OK, "ok")
	f(Options{Path: "/a?b=c", BodyContains: "GET /a?b=c host=" + target.Address}, OK, "ok")
	f(Options{Host: "be.example", BodyRegex: `host=be\.example$`}, OK, "ok")
	f(Options{BodyContains: "absent"}, Body, "body does not match")
	f(Options{BodyRegex: "^absent"}, Body, "body does not match")
	f(Options{BodyContains: "GET", BodyRegex: "absent"}, Body, "body does not match")
	f(Options{Path: "/long", BodyContains: "xxx"}, OK, "ok")
	f(Options{Path: "/long", BodyContains: "needle"}, Body, "body does not match") // beyond 64 KiB
	f(Options{Method: "HEAD"}, OK, "ok")
	f(Options{Method: "POST", BodyContains: "POST /"}, OK, "ok")
	f(Options{Method: "OPTIONS", BodyContains: "OPTIONS /"}, OK, "ok")
	f(Options{Type: "tcp", Path: "/busy", Status: "none"}, OK, "ok")
}

func TestProbeAnswers(t *testing.T) {
	f := func(what, answer string, o Options, result Result, reason string) {
		t.Helper()
		wantOutcome(t, what, probeOnce(t, serveRaw(t, answer), o), result, reason)
	}
	f("whole", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Options{BodyContains: "ok"}, OK, "ok")
	f("until close", "HTTP/1.0 200 OK\r\n\r\nok", Options{BodyContains: "ok"}, OK, "ok")
	f("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", Options{BodyContains: "ok"}, OK, "ok")
	f("interim first", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", Options{}, OK, "ok")
	f("interim only", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20), Options{}, Protocol, "too many interim responses")
	f("unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n", Options{}, Status, "status 101")
	f("nothing", "", Options{}, Protocol, "response head: closed early")
	f("half a head", "HTTP/1.1 200 OK\r\nServer: x\r\n", Options{}, Protocol, "response head: closed early")
	f("no field", "HTTP/1.1 200 OK\r\nServer\r\n\r\n", Options{}, Protocol, `response head: malformed MIME header: missing colon: "Server"`)
	f("HTTP/0.9", "<html>\r\n", Options{}, Protocol, `response head: malformed HTTP response "<html>"`)
	f("another protocol", "SSH-2.0-x\r\n\r\n", Options{}, Protocol, `response head: malformed HTTP response "SSH-2.0-x"`)
	f("endless head", "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", maxProbeHead), Options{}, Protocol, "response head larger than 64KiB")
	f("short body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Options{BodyContains: "ok"}, Protocol, "response body: closed early")
	f("short body, not read", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", Options{}, OK, "ok")
}

// always is a Target.TLS that stays the same.
func always(cfg *tls.Config) func() *tls.Config { return func() *tls.Config { return cfg } }

func TestProbeTLS(t *testing.T) {
	t.Parallel()
	pair := testcert.New(t, "be.example")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s", r.Proto, r.TLS.ServerName, r.TLS.NegotiatedProtocol)
	}))
	srv.TLS = pair.ServerTLS(t)
	srv.TLS.NextProtos = []string{"h2", "http/1.1"}
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it would report the handshakes that are to fail
	srv.StartTLS()
	t.Cleanup(srv.Close)
	secure := func(host string, cfg *tls.Config) Target {
		return Target{Network: "tcp", Address: srv.Listener.Addr().String(), Host: host, TLS: always(cfg)}
	}
	trusting := &tls.Config{RootCAs: pair.Pool(), NextProtos: []string{"h2"}}

	f := func(what string, target Target, o Options, result Result, reason string) {
		t.Helper()
		if o.Timeout == 0 {
			o.Timeout = time.Minute
		}
		got := probeOnce(t, target, o)
		if got.result != result || !strings.HasPrefix(got.reason, reason) {
			t.Errorf("%s: %s, %q; want %s, %q", what, got.result, got.reason, result, reason)
		}
	}
	f("name of the host", secure("be.example:443", trusting), Options{BodyContains: "HTTP/1.1 be.example http/1.1"}, OK, "ok")
	f("name of the options", secure("", trusting), Options{Host: "be.example"}, OK, "ok")
	f("wrong name", secure("other.example", trusting), Options{}, TLS, "tls handshake: ")
	f("unknown authority", secure("be.example", &tls.Config{}), Options{}, TLS, "tls handshake: ")
	f("verification off", secure("x.example", &tls.Config{InsecureSkipVerify: true}), Options{}, OK, "ok")
	f("tcp probe", secure("other.example", trusting), Options{Type: "tcp"}, OK, "ok")
	f("TLS to a plain port", Target{Network: "tcp", Address: serveRaw(t, "HTTP/1.1 400 Bad Request\r\n\r\n").Address, TLS: always(trusting)},
		Options{Timeout: 2 * time.Second}, Timeout, "timeout in tls handshake") // not in the dial, on a busy machine either
	if got := trusting.NextProtos[0]; got != "h2" || trusting.ServerName != "" {
		t.Errorf("the target's configuration was changed: %q, %q", got, trusting.ServerName)
	}
}

// TestProbesFollowRenewedCertificates probes a backend that wants a client certificate, as one probe after the other finds another.
func TestProbesFollowRenewedCertificates(t *testing.T) {
	t.Parallel()
	ca, pair := testcert.NewCA(t), testcert.New(t, "be.example")
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	srv.TLS = pair.ServerTLS(t)
	srv.TLS.ClientAuth, srv.TLS.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	next := 0
	target := Target{Network: "tcp", Address: srv.Listener.Addr().String(), Host: "be.example", TLS: func() *tls.Config {
		next++
		cert := ca.Issue(t, testcert.Request{Names: []string{fmt.Sprintf("gateway-%d", next)}}).TLS(t)
		return &tls.Config{RootCAs: pair.Pool(), Certificates: []tls.Certificate{cert}}
	}}
	p, err := newProbe(NewChecker(), target, &Options{BodyContains: "gateway-2", Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Result{Body, OK, Body} {
		if got := p.once(t.Context()); got.result != want {
			t.Errorf("probe %d: %s, %q; want %s", i+1, got.result, got.reason, want)
		}
	}
}

func TestProbeTargets(t *testing.T) {
	// A port that was just given up refuses.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing := ln.Addr().String()
	_ = ln.Close()
	serving := serveHTTP(t, func(http.ResponseWriter, *http.Request) {})
	_, port, _ := net.SplitHostPort(serving.Address)
	var portNumber int
	if _, err := fmt.Sscan(port, &portNumber); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(shortTempDir(t), "be.sock")
	uln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	usrv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Host)
	})}
	go func() { _ = usrv.Serve(uln) }()
	t.Cleanup(func() { _ = usrv.Close() })

	f := func(what string, target Target, o Options, result Result, reason string) {
		t.Helper()
		wantOutcome(t, what, probeOnce(t, target, o), result, reason)
	}
	f("refused", Target{Network: "tcp", Address: refusing}, Options{}, Connect, "connect refused")
	f("refused, tcp", Target{Network: "tcp", Address: refusing}, Options{Type: "tcp"}, Connect, "connect refused")
	f("another port", Target{Network: "tcp", Address: refusing}, Options{Port: portNumber}, OK, "ok")
	f("unix socket", Target{Network: "unix", Address: socket}, Options{BodyRegex: "^localhost$", Port: 9}, OK, "ok")
	f("unix socket, tcp probe", Target{Network: "unix", Address: socket}, Options{Type: "tcp"}, OK, "ok")
	if got := probeOnce(t, Target{Network: "unix", Address: socket + "x"}, Options{}); got.result != Connect {
		t.Errorf("absent unix socket: %s, %q", got.result, got.reason)
	}
}

// shortTempDir is short enough for the path of a Unix socket, unlike t.TempDir.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "h")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestProbeAddress(t *testing.T) {
	f := func(network, address string, port int, want string) {
		t.Helper()
		if got := probeAddress(Target{Network: network, Address: address}, port); got != want {
			t.Errorf("probeAddress(%s %s, %d) = %q, want %q", network, address, port, got, want)
		}
	}
	f("tcp", "192.0.2.1:80", 0, "192.0.2.1:80")
	f("tcp", "192.0.2.1:80", 9000, "192.0.2.1:9000")
	f("tcp", "[2001:db8::1]:80", 9000, "[2001:db8::1]:9000")
	f("tcp", "2001:db8::1", 9000, "[2001:db8::1]:9000")
	f("unix", "/run/be.sock", 9000, "/run/be.sock")
}
