package upstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/config"
	"tickgate/internal/reason"
	"tickgate/internal/sock"
	"tickgate/internal/testcert"
)

// tlsServer is a lineServer behind TLS; hellos receives each ClientHello.
func tlsServer(t testing.TB, cfg *tls.Config) (srv *lineServer, hellos chan *tls.ClientHelloInfo) {
	t.Helper()
	hellos = make(chan *tls.ClientHelloInfo, 100)
	cfg = cfg.Clone()
	cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hellos <- h
		return nil, nil
	}
	return newLineServer(t, tls.NewListener(listenTCP(t), cfg)), hellos
}

func withTLS(o config.BackendTLS) func(*config.Upstream) {
	return func(c *config.Upstream) { c.TLS = &o }
}

func TestTLSIsVerified(t *testing.T) {
	ca, other := testcert.NewCA(t), testcert.NewCA(t)
	local := ca.Issue(t, testcert.Request{Names: []string{"localhost", "127.0.0.1"}})
	named := ca.Issue(t, testcert.Request{Names: []string{"be.example"}})
	// want is empty for success, else a part of the error.
	f := func(name, host, wantSNI, want string, cert *testcert.Pair, o config.BackendTLS) {
		t.Helper()
		srv, hellos := tlsServer(t, cert.ServerTLS(t))
		_, port, _ := net.SplitHostPort(srv.addr)
		p := poolTo(t, Options{}, net.JoinHostPort(host, port), withTLS(o))
		var tm Timing
		err := p.Do(line("a"), 0, &tm)
		if want == "" {
			if err != nil || tm.TLS <= 0 || tm.Dial <= 0 {
				t.Errorf("%s: error %v, timing %+v, want a handshake", name, err, tm)
			}
			if tm := mustDo(t, p, line("b")); tm.Fresh {
				t.Errorf("%s: the connection was not pooled", name)
			}
		} else {
			wantReason(t, err, reason.BackendTLSFailed)
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %q, want %q in it", name, err, want)
			}
		}
		if h := <-hellos; h.ServerName != wantSNI || fmt.Sprint(h.SupportedProtos) != "[http/1.1]" {
			t.Errorf("%s: SNI %q and ALPN %v, want %q and http/1.1", name, h.ServerName, h.SupportedProtos, wantSNI)
		}
	}
	root := ca.RootFile(t)
	f("own CA, name of the address", "localhost", "localhost", "", local, config.BackendTLS{CAFile: root})
	f("own CA, IP address", "127.0.0.1", "", "", local, config.BackendTLS{CAFile: root})
	f("server_name", "127.0.0.1", "be.example", "", named, config.BackendTLS{CAFile: root, ServerName: "be.example"})
	f("not verified", "127.0.0.1", "", "", named, config.BackendTLS{InsecureSkipVerify: true})
	f("wrong name", "localhost", "localhost", "be.example", named, config.BackendTLS{CAFile: root})
	f("wrong server_name", "localhost", "no.example", "no.example", local, config.BackendTLS{CAFile: root, ServerName: "no.example"})
	f("other CA", "localhost", "localhost", "unknown authority", local, config.BackendTLS{CAFile: other.RootFile(t)})
	f("the system's CAs", "localhost", "localhost", "certificate", local, config.BackendTLS{})
}

func TestTLSVersionsAndClientCertificates(t *testing.T) {
	ca := testcert.NewCA(t)
	server := ca.Issue(t, testcert.Request{})
	certFile, keyFile := ca.Issue(t, testcert.Request{Names: []string{"gateway"}}).Files(t)
	f := func(name string, ok bool, serverTLS func(*tls.Config), o config.BackendTLS) {
		t.Helper()
		cfg := server.ServerTLS(t)
		serverTLS(cfg)
		srv, _ := tlsServer(t, cfg)
		o.CAFile, o.ServerName = ca.RootFile(t), "localhost"
		var tm Timing
		err := poolTo(t, Options{}, srv.addr, withTLS(o)).Do(line("a"), 0, &tm)
		if (err == nil) != ok {
			t.Errorf("%s: error %v, want success: %v", name, err, ok)
		}
	}
	only12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	mutual := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool() }
	f("TLS 1.2", true, only12, config.BackendTLS{MinVersion: "1.2"})
	f("TLS 1.2 where 1.3 is wanted", false, only12, config.BackendTLS{MinVersion: "1.3"})
	f("client certificate", true, mutual, config.BackendTLS{CertFile: certFile, KeyFile: keyFile})
	f("no client certificate", false, mutual, config.BackendTLS{})
}

func TestTLSHandshakeTimeout(t *testing.T) {
	ln := listenTCP(t) // nobody accepts: the kernel completes the connection and nothing answers
	t.Cleanup(func() { _ = ln.Close() })
	f := func(left time.Duration, want reason.Reason) {
		t.Helper()
		p := poolTo(t, Options{}, ln.Addr().String(), func(c *config.Upstream) {
			c.TLS = &config.BackendTLS{InsecureSkipVerify: true}
			c.Timeouts.TLSHandshake = 20 * time.Millisecond
		})
		var tm Timing
		wantReason(t, p.Do(line("a"), left, &tm), want)
		if st := p.Stats(); st.DialFailures != 1 || st.InUse != 0 {
			t.Errorf("stats %+v", st)
		}
	}
	f(0, reason.BackendTLSFailed)
	f(time.Minute, reason.BackendTLSFailed)
	f(5*time.Millisecond, reason.RequestTimeout)
}

func TestDetachedTLSConnectionGetsNoCloseNotify(t *testing.T) {
	pair := testcert.New(t)
	srv, _ := tlsServer(t, pair.ServerTLS(t))
	p := poolTo(t, Options{Wrap: func(c net.Conn) net.Conn { return &staler{Conn: c, peek: newPeeker(c)} }}, srv.addr,
		withTLS(config.BackendTLS{InsecureSkipVerify: true}))
	var taken *tls.Conn
	mustDo(t, p, exchange(func(c net.Conn, fresh bool) (bool, error) {
		taken = c.(*tls.Conn)
		taken.NetConn().(*sock.Seat).Conn.(*staler).detached.Store(true)
		return false, nil
	}))
	if _, err := line("relayed")(taken, false); err != nil {
		t.Errorf("the detached connection does not work any more: %v", err)
	}
	_ = taken.Close()
}

func TestUnixSocket(t *testing.T) {
	srv := newLineServer(t, listenUnix(t))
	p := poolTo(t, Options{}, "unix:"+srv.addr, nil)
	mustDo(t, p, line("a"))
	if tm := mustDo(t, p, line("b")); tm.Fresh {
		t.Error("the connection was not pooled")
	}
	if p.b.Network() != "unix" || p.b.Address() != srv.addr || p.b.Host() != "localhost" {
		t.Errorf("network %q, address %q, host %q", p.b.Network(), p.b.Address(), p.b.Host())
	}
}

func TestTLSFilesAreChecked(t *testing.T) {
	pair := testcert.New(t)
	certFile, keyFile := pair.Files(t)
	_, otherKey := testcert.New(t).Files(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := func(address, want string, o config.BackendTLS) {
		t.Helper()
		r := newRegistry(t, Options{})
		cfg := upstreamOf("round_robin", config.Server{Address: address, Weight: 1})
		cfg.TLS = &o
		_, _, _, err := r.Build(map[string]*config.Upstream{"up": cfg}, config.Resolver{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	f("10.0.0.1:443", "upstreams.up.tls.ca_file: open", config.BackendTLS{CAFile: "/nonexistent"})
	f("10.0.0.1:443", "upstreams.up.tls.ca_file: no certificate in", config.BackendTLS{CAFile: empty})
	f("10.0.0.1:443", "upstreams.up.tls.key_file: open", config.BackendTLS{CertFile: certFile, KeyFile: "/nonexistent"})
	f("10.0.0.1:443", "private key does not match", config.BackendTLS{CertFile: certFile, KeyFile: otherKey})
	f("10.0.0.1:443", "upstreams.up.tls.cert_file:", config.BackendTLS{KeyFile: keyFile})
	f("unix:/run/be.sock", "upstreams.up.tls.server_name: needed", config.BackendTLS{})

	r := newRegistry(t, Options{})
	_, _, _, err := r.Build(map[string]*config.Upstream{"a": halfCertificate(certFile), "b": halfCertificate(keyFile)}, config.Resolver{})
	if err == nil || !strings.Contains(err.Error(), "upstreams.a.") || !strings.Contains(err.Error(), "upstreams.b.") {
		t.Errorf("error %v, want those of both upstreams", err)
	}
	if errors.Is(err, os.ErrNotExist) {
		t.Errorf("unexpected cause %v", err)
	}
}

// halfCertificate is an upstream whose client certificate lacks its other half.
func halfCertificate(certFile string) *config.Upstream {
	cfg := upstreamOf("round_robin", config.Server{Address: "10.0.0.1:443", Weight: 1})
	cfg.TLS = &config.BackendTLS{CertFile: certFile}
	return cfg
}

func TestServerName(t *testing.T) {
	f := func(address, want string) {
		t.Helper()
		if got := serverName(parseOrigin(address, "any")); got != want {
			t.Errorf("serverName(%q) = %q, want %q", address, got, want)
		}
	}
	f("be.example:443", "be.example")
	f("be.example.:443", "be.example")
	f("10.0.0.1:443", "10.0.0.1")
	f("[fe80::1%eth0]:443", "fe80::1")
	f("localhost:443", "localhost")
	f("srv:_https._tcp.be.example", "be.example")
	f("srv:be.example.", "be.example")
	f("unix:/run/be.sock", "")
}

func TestParseOrigin(t *testing.T) {
	f := func(address, family, kind, network, dial, host string) {
		t.Helper()
		o, targets := parseOrigin(address, family)
		got := map[originKind]string{fixedAddress: "fixed", hostName: "name", srvName: "srv"}[o.kind]
		if got != kind {
			t.Errorf("%q is %s, want %s", address, got, kind)
			return
		}
		if kind != "fixed" {
			if len(targets) != 0 || o.host != host {
				t.Errorf("%q: host %q with targets %v, want %q without", address, o.host, targets, host)
			}
			return
		}
		if tg := targets[0]; tg.network != network || tg.address != dial || hostHeader(&tg, false) != host {
			t.Errorf("%q: %s %s with Host %s, want %s %s with %s", address, tg.network, tg.address, hostHeader(&tg, false), network, dial, host)
		}
	}
	f("10.0.0.1:80", "any", "fixed", "tcp", "10.0.0.1:80", "10.0.0.1")
	f("10.0.0.1:8080", "any", "fixed", "tcp", "10.0.0.1:8080", "10.0.0.1:8080")
	f("[::1]:80", "any", "fixed", "tcp", "[::1]:80", "[::1]")
	f("[::1]:8080", "any", "fixed", "tcp", "[::1]:8080", "[::1]:8080")
	f("unix:/run/a.sock", "any", "fixed", "unix", "/run/a.sock", "localhost")
	f("localhost:9000", "any", "fixed", "tcp", "localhost:9000", "localhost:9000")
	f("LOCALHOST:9000", "ipv4", "fixed", "tcp4", "LOCALHOST:9000", "LOCALHOST:9000")
	f("localhost.:9000", "ipv6", "fixed", "tcp6", "localhost.:9000", "localhost.:9000")
	f("be.example:80", "any", "name", "", "", "be.example")
	f("srv:_http._tcp.be.example", "any", "srv", "", "", "_http._tcp.be.example")
}

func TestHostHeaderOmitsTheDefaultPort(t *testing.T) {
	f := func(name, port string, secure bool, want string) {
		t.Helper()
		if got := hostHeader(&target{name: name, port: port}, secure); got != want {
			t.Errorf("hostHeader(%q, %q, %v) = %q, want %q", name, port, secure, got, want)
		}
	}
	f("be.example", "80", false, "be.example")
	f("be.example", "443", true, "be.example")
	f("be.example", "443", false, "be.example:443")
	f("be.example", "80", true, "be.example:80")
	f("::1", "443", true, "[::1]")
}
