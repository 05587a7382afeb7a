package health

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// maxProbeHead and maxProbeBody bound what is read of an answer; maxProbeWire
	// bounds the body with its chunk framing, which can outweigh it.
	maxProbeHead = 64 << 10
	maxProbeBody = 64 << 10
	maxProbeWire = 1 << 20
	// maxInterim is the most 1xx responses taken before the final one.
	maxInterim = 8
)

// outcome is one probe's end: typed for metrics, and in words for people.
type outcome struct {
	result Result
	reason string
}

// probe is all that stays the same between two probes of one backend.
type probe struct {
	target  Target
	http    bool
	address string // of target, with the options' port
	timeout time.Duration
	host    string // Host header
	method  string
	request []byte
	match   *matcher
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
}

func newProbe(c *Checker, t Target, o *Options) (*probe, error) {
	m, err := compile(o)
	if err != nil {
		return nil, err
	}
	p := &probe{
		target:  t,
		http:    o.Type != "tcp",
		address: probeAddress(t, o.Port),
		timeout: orDefault(o.Timeout, 2*time.Second),
		method:  orText(o.Method, http.MethodGet),
		match:   m,
		dial:    c.dial,
	}
	host := orText(o.Host, t.Host, t.Address)
	if t.Network == "unix" && host == t.Address {
		host = "localhost" // a path is no host (RFC 9110 section 7.2)
	}
	p.host = host
	p.request = buildRequest(p.method, orText(o.Path, "/"), host)
	return p, nil
}

// probeAddress puts the options' port in the place of the target's own.
func probeAddress(t Target, port int) string {
	if port == 0 || t.Network == "unix" {
		return t.Address
	}
	host, _, err := net.SplitHostPort(t.Address)
	if err != nil {
		host = t.Address
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func probeTLS(base *tls.Config, host string) *tls.Config {
	cfg := base.Clone()
	// A probe speaks HTTP/1.1 only, whatever real traffic offers.
	cfg.NextProtos = []string{"http/1.1"}
	if cfg.ServerName == "" {
		cfg.ServerName = host
		if h, _, err := net.SplitHostPort(host); err == nil {
			cfg.ServerName = h
		}
	}
	return cfg
}

func buildRequest(method, path, host string) []byte {
	req := method + " " + path + " HTTP/1.1\r\n" +
		"Host: " + host + "\r\n" +
		"User-Agent: tickgate-health\r\n" +
		"Accept: */*\r\n"
	if method == http.MethodPost {
		req += "Content-Length: 0\r\n"
	}
	return []byte(req + "Connection: close\r\n\r\n")
}

// once runs one probe. It returns soon after ctx is cancelled or the timeout passed.
func (p *probe) once(ctx context.Context) outcome {
	deadline := time.Now().Add(p.timeout)
	dialCtx, cancel := context.WithDeadline(ctx, deadline)
	conn, err := p.dial(dialCtx, p.target.Network, p.address)
	cancel()
	if err != nil {
		return dialFailed(err)
	}
	// A probe that only connected, or that has its answer, has nothing left to say: a
	// reset instead of FIN leaves no TIME_WAIT behind for every probe of every backend.
	defer abort(conn)
	if !p.http {
		return outcome{OK, "ok"}
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return outcome{Connect, "connect: " + err.Error()}
	}
	// Not dialCtx: the connection has the deadline already, and closing it at the same
	// moment would pass a timeout off as a closed connection.
	unhook := context.AfterFunc(ctx, func() { abort(conn) })
	defer unhook()
	if p.target.TLS != nil {
		tc := tls.Client(conn, probeTLS(p.target.TLS(), p.host))
		if err := tc.HandshakeContext(ctx); err != nil {
			return failed(TLS, "tls handshake", err)
		}
		conn = tc
	}
	if _, err := conn.Write(p.request); err != nil {
		return failed(Protocol, "request", err)
	}
	return p.readAnswer(conn)
}

func (p *probe) readAnswer(conn net.Conn) outcome {
	limited := &io.LimitedReader{R: conn, N: maxProbeHead}
	br := bufio.NewReader(limited)
	req := &http.Request{Method: p.method}
	for range maxInterim {
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			if limited.N == 0 {
				return outcome{Protocol, "response head larger than 64KiB"}
			}
			return failed(Protocol, "response head", err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
			continue // an interim response (RFC 9110 section 15.2)
		}
		limited.N = maxProbeWire
		return p.judge(resp)
	}
	return outcome{Protocol, "too many interim responses"}
}

func (p *probe) judge(resp *http.Response) outcome {
	if !p.match.statuses.Has(resp.StatusCode) {
		return outcome{Status, "status " + strconv.Itoa(resp.StatusCode)}
	}
	if !p.match.wantsBody() {
		return outcome{OK, "ok"}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProbeBody))
	if err != nil {
		return failed(Protocol, "response body", err)
	}
	if !p.match.body(body) {
		return outcome{Body, "body does not match"}
	}
	return outcome{OK, "ok"}
}

func dialFailed(err error) outcome {
	switch {
	case isTimeout(err):
		return outcome{Timeout, "timeout in connect"}
	case errors.Is(err, syscall.ECONNREFUSED):
		return outcome{Connect, "connect refused"}
	}
	return outcome{Connect, fmt.Sprintf("connect: %s", err)}
}

// failed classifies an error of a phase that fails with result unless it timed out.
func failed(result Result, phase string, err error) outcome {
	if isTimeout(err) {
		return outcome{Timeout, "timeout in " + phase}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return outcome{result, phase + ": closed early"}
	}
	return outcome{result, phase + ": " + err.Error()}
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// abort closes conn with a reset where there is such a thing.
func abort(conn net.Conn) {
	if tc, ok := conn.(*net.TCPConn); ok {
		_ = tc.SetLinger(0) // fails only on a closed connection
	}
	_ = conn.Close()
}

func orText(texts ...string) string {
	for _, s := range texts {
		if s != "" {
			return s
		}
	}
	return ""
}
