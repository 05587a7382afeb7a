// Package target is what a load tool connects to: a URL, the TLS settings for it,
// and the source addresses that take a tool on loopback past the port range.
package target

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"time"
)

// ErrURL is returned for a URL that a tool cannot use.
var ErrURL = errors.New("target: bad URL")

// ErrSources is returned for source addresses that cannot be had.
var ErrSources = errors.New("target: bad source addresses")

// maxSources is how many addresses 127.0.0.2 and up are handed out: 127.0.0.0/16
// without those that people use.
const maxSources = 60_000

// Options says how to connect.
type Options struct {
	// Sources is how many loopback addresses the connections are spread over, from
	// 127.0.0.2 on; 0 leaves the choice to the system. One address has about 28,000
	// ports for one target (net.ipv4.ip_local_port_range).
	Sources int
	// Insecure does not verify the server's certificate.
	Insecure bool
	// Timeout bounds connect and TLS handshake together; 0 is ten seconds.
	Timeout time.Duration
}

// Target is a server to connect to. It does not change.
type Target struct {
	// URL as it was given.
	URL *url.URL
	// Addr is the host:port to connect to.
	Addr string
	// Secure says that connections are TLS.
	Secure bool

	tls     *tls.Config
	sources []netip.Addr
	timeout time.Duration
}

// ports are the default ports of the schemes, and whether they are TLS.
var ports = map[string]struct {
	port   string
	secure bool
}{"http": {"80", false}, "ws": {"80", false}, "https": {"443", true}, "wss": {"443", true}}

// New reads a URL of one of the schemes.
func New(raw string, o Options, schemes ...string) (*Target, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || !slices.Contains(schemes, u.Scheme) {
		return nil, fmt.Errorf("%w: %q (want one of %v)", ErrURL, raw, schemes)
	}
	scheme := ports[u.Scheme]
	t := &Target{URL: u, Addr: u.Host, Secure: scheme.secure, timeout: o.Timeout}
	if u.Port() == "" {
		t.Addr = net.JoinHostPort(u.Hostname(), scheme.port)
	}
	if t.timeout == 0 {
		t.timeout = 10 * time.Second
	}
	if t.Secure {
		// Without a session cache every handshake is a full one.
		t.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: o.Insecure, NextProtos: []string{"http/1.1"}} //nolint:gosec // asked for by name
	}
	if o.Sources > 0 {
		ip, err := netip.ParseAddr(u.Hostname())
		if err != nil || !ip.Is4() || !ip.IsLoopback() || o.Sources > maxSources {
			return nil, fmt.Errorf("%w: %d for %q (want at most %d, and a target in 127.0.0.0/8)", ErrSources, o.Sources, u.Host, maxSources)
		}
		t.sources = sources(o.Sources)
	}
	return t, nil
}

// sources lists n loopback addresses.
func sources(n int) []netip.Addr {
	list := make([]netip.Addr, 0, n)
	for ip := netip.AddrFrom4([4]byte{127, 0, 0, 2}); len(list) < n; ip = ip.Next() {
		list = append(list, ip)
	}
	return list
}

// Resolve returns the address to connect to, for who makes sockets of his own. It asks for
// the host's name once: an IPv4 address is preferred.
func (t *Target) Resolve(ctx context.Context) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", ErrURL, err)
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", ErrURL, err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("resolve: %w", err)
	}
	ip := ips[0]
	if i := slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Unmap().Is4() }); i >= 0 {
		ip = ips[i]
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}

// Source returns the address that connection number i comes from; false if the system
// chooses.
func (t *Target) Source(i int) (netip.Addr, bool) {
	if len(t.sources) == 0 {
		return netip.Addr{}, false
	}
	return t.sources[i%len(t.sources)], true
}

// Timeout bounds connect and TLS handshake together.
func (t *Target) Timeout() time.Duration { return t.timeout }

// TLS returns a copy of the TLS settings, to be changed; nil if the target is not TLS.
func (t *Target) TLS() *tls.Config { return t.tls.Clone() }

// Request returns a GET request for the target's path.
func (t *Target) Request() []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", t.URL.RequestURI(), t.URL.Host)
}

// DialTCP opens connection number i, without TLS.
func (t *Target) DialTCP(ctx context.Context, i int) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: t.timeout, KeepAlive: -1, Control: bindWithoutPort}
	if ip, ok := t.Source(i); ok {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
	}
	conn, err := d.DialContext(ctx, "tcp", t.Addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

// Dial opens connection number i and, for a TLS target, performs the handshake.
func (t *Target) Dial(ctx context.Context, i int) (net.Conn, error) {
	conn, err := t.DialTCP(ctx, i)
	if err != nil {
		return nil, err
	}
	return t.Handshake(ctx, conn)
}

// Handshake performs the TLS handshake on a connection to a TLS target; to another
// it returns the connection. It closes the connection if it fails.
func (t *Target) Handshake(ctx context.Context, conn *net.TCPConn) (net.Conn, error) {
	if !t.Secure {
		return conn, nil
	}
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	secure := tls.Client(conn, t.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS handshake: %w", err)
	}
	return secure, nil
}

// TCP returns the TCP connection beneath a connection that Dial made.
func TCP(conn net.Conn) *net.TCPConn {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		panic(fmt.Sprintf("BUG: target: %T is not a connection of Dial", conn))
	}
	return tcp
}
