//go:build linux

package proxy

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/config"
	"tickgate/internal/admin"
	"tickgate/internal/preface"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/proxy/park"
)

const (
	headerV1 = "PROXY TCP4 192.0.2.7 198.51.100.1 56224 443\r\n"
	headerV2 = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\xdb\xa0\x01\xbb"
	localV2  = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
	client   = "192.0.2.7 56224" // in both

	stranger = "127.0.0.9" // no proxy of anybody's
)

// headerOf is a version 1 header for a client.
func headerOf(addr string) string { return "PROXY TCP4 " + addr + " 198.51.100.1 56224 443\r\n" }

// wide is a version 2 header of IPv6 and n bytes of padding.
func wide(n int) string {
	b := []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x21")
	b = binary.BigEndian.AppendUint16(b, uint16(36+3+n))
	b = append(b, "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\xdb\xa0\x01\xbb"...)
	return string(binary.BigEndian.AppendUint16(append(b, 4), uint16(n))) + strings.Repeat("\x00", n)
}

// behind is a gateway whose listeners take headers from 127.0.0.1.
type behind struct {
	*testGateway
	secure string
	conf   *tls.Config
	yaml   func(rules string) string
}

// newBehind has rules as further keys of proxy_protocol, and more as further configuration. Requests are answered with
// who sent them.
func newBehind(t testing.TB, rules, more string) *behind {
	t.Helper()
	pair := testcert.New(t)
	cert, key := pair.Files(t)
	yaml := func(rules string) string {
		return `
routes: [{static_response: {body: "${client_addr} ${client_port}"}}]
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1` + rules + `}
  - {listen: "127.0.0.2:0", acceptors: 1` + rules + `, tls: {certificates: [{cert_file: "` + cert + `", key_file: "` + key + `"}]}}
` + more
	}
	g := newGateway(t, yaml(", proxy_protocol: {from: [127.0.0.1]"+rules+"}"))
	return &behind{g, g.listener("127.0.0.2:0"), pair.ClientTLS("localhost"), yaml}
}

// over returns the listeners by transport: how to connect from an address, and to go on after the header.
func (b *behind) over(f func(name string, dial func(source string) *testkit.Client, begin func(c *testkit.Client, header string) *testkit.Client)) {
	b.t.Helper()
	f("plain", func(source string) *testkit.Client { return dialFrom(b.t, source, b.addr) }, func(c *testkit.Client, header string) *testkit.Client {
		return testkit.NewClient(b.t, &headed{Conn: c.Conn, header: header})
	})
	f("TLS", func(source string) *testkit.Client { return dialFrom(b.t, source, b.secure) }, func(c *testkit.Client, header string) *testkit.Client {
		b.t.Helper()
		conn := tls.Client(&headed{Conn: c.Conn, header: header}, b.conf)
		_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
		if err := conn.Handshake(); err != nil {
			b.t.Fatalf("handshake after %.60q: %v", header, err)
		}
		return testkit.NewClient(b.t, conn)
	})
}

// headed is a connection that sends a header with its first bytes, in one segment.
type headed struct {
	net.Conn
	header string
}

// Write implements net.Conn.
func (h *headed) Write(p []byte) (int, error) {
	n := len(h.header)
	wrote, err := h.Conn.Write(append([]byte(h.header), p...))
	h.header = ""
	return max(0, wrote-n), err
}

// failures is how many connections failed at their header for f.
func (b *behind) failures(f preface.Failure) int {
	return int(b.metric("tickgate_proxy_header_failures_total{", `reason="`+f.String()+`"`))
}

// headers is how many connections had what their listener wants.
func (b *behind) headers() int { return int(b.metric("tickgate_proxy_headers_total{")) }

// waitFailure waits until there were n failures, all of them for f.
func (b *behind) waitFailure(f preface.Failure, n int) {
	b.t.Helper()
	b.wait(f.String(), func() bool { return b.failures(f) == n })
	if all := int(b.metric("tickgate_proxy_header_failures_total{")); all != n {
		b.t.Errorf("%d failures, want %d, all %s", all, n, f)
	}
}

// dribble sends bytes one by one, each seen by the gateway before the next. Those that may be
// a request stay in the socket, so that nobody can tell when they are.
func (b *behind) dribble(c *testkit.Client, raw string, stays bool) {
	b.t.Helper()
	for i := range len(raw) {
		c.Send(raw[i : i+1])
		if sent := raw[:i+1]; !stays || preface.Recognised([]byte(sent)) {
			b.waitSeen(len(sent) % len(raw)) // with the last one nothing is kept
		}
	}
}

// waitSeen waits until the one connection before its first request has this much of a header.
func (b *behind) waitSeen(size int) {
	b.t.Helper()
	b.wait("a look", func() bool {
		fresh, kept := 0, -1
		b.lot.Each(func(i park.Info) bool {
			if i.Phase == park.Preface || i.Phase == park.Fresh {
				fresh, kept = fresh+1, i.Rest
			}
			return true
		})
		return fresh == 1 && kept == size
	})
}

func TestPrefaceNamesTheClient(t *testing.T) {
	t.Parallel()
	f := func(rules, header, want string) {
		t.Helper()
		b := newBehind(t, rules, soon)
		b.over(func(name string, dial func(string) *testkit.Client, begin func(*testkit.Client, string) *testkit.Client) {
			check := func(how string, c *testkit.Client) {
				t.Helper()
				for range 2 { // the second comes from the lot
					expectStatus(t, name+how, c.Do(get("/")), 200)
					if got := string(c.Do(get("/")).Body); want != "" && got != want {
						t.Errorf("%s%s after %.60q: the client is %s, want %s", name, how, header, got, want)
					} else if want == "" && !strings.HasPrefix(got, "127.0.0.1 ") {
						t.Errorf("%s%s after %.60q: the client is %s, want the proxy", name, how, header, got)
					}
					b.waitParked(1)
				}
				c.Close()
				b.waitNone()
			}
			check(", in one segment", begin(dial("127.0.0.1"), header))
			c := dial("127.0.0.1")
			before := b.headers()
			c.Send(header)
			b.wait("the header", func() bool { return header == "" || b.headers() == before+1 })
			check(", in two segments", begin(c, ""))
			c = dial("127.0.0.1")
			b.dribble(c, header, strings.Contains(rules, "false"))
			check(", byte by byte", begin(c, ""))
		})
	}
	for _, rules := range []string{"", ", required: false"} {
		f(rules, headerV1, client)
		f(rules, headerV2, client)
		f(rules, wide(20), "2001:db8::7 56224")
		f(rules, "PROXY UNKNOWN\r\n", "")
		f(rules, localV2, "")
	}
	f(", required: false", "", "")
}

// TestPrefaceAndPipeline has requests follow the header in the same segment.
func TestPrefaceAndPipeline(t *testing.T) {
	t.Parallel()
	b := newBehind(t, "", "")
	c := b.dial()
	c.Send(headerV2 + get("/1") + get("/2"))
	for range 2 {
		if got := string(c.Response("GET").Body); got != client {
			t.Errorf("the client is %s, want %s", got, client)
		}
	}
	c = b.dial()
	c.Send(headerV1 + "GET / HTTP/1.1\r\nHo")
	b.waitHeads(1)
	c.Send("st: example.com\r\n\r\n")
	if got := string(c.Response("GET").Body); got != client {
		t.Errorf("slow: the client is %s, want %s", got, client)
	}
	if n := b.metric("tickgate_proxy_headers_total{", `"v1"`); n != 1 {
		t.Errorf("%v headers of version 1, want 1", n)
	}
	if n := b.metric("tickgate_proxy_headers_total{", `"v2"`); n != 1 {
		t.Errorf("%v headers of version 2, want 1", n)
	}
}

// TestPrefaceLongest has the longest header that is taken come in pieces, and whole.
func TestPrefaceLongest(t *testing.T) {
	t.Parallel()
	b := newBehind(t, "", "")
	header := wide(preface.MaxLen - len(wide(0)))
	b.over(func(name string, dial func(string) *testkit.Client, begin func(*testkit.Client, string) *testkit.Client) {
		for _, size := range []int{0, 1, 15, 16, 17, 107, 1000, preface.MaxLen - 1} {
			c := dial("127.0.0.1")
			if size > 0 {
				c.Send(header[:size])
				b.waitSeen(size)
			}
			if got := string(begin(c, header[size:]).Do(get("/")).Body); got != "2001:db8::7 56224" {
				t.Errorf("%s: after %d bytes the client is %s", name, size, got)
			}
			c.Close()
			b.waitNone()
		}
	})
}

func TestPrefaceRefused(t *testing.T) {
	t.Parallel()
	f := func(raw string, want preface.Failure) {
		t.Helper()
		b := newBehind(t, "", "")
		n := 0
		b.over(func(_ string, dial func(string) *testkit.Client, _ func(*testkit.Client, string) *testkit.Client) {
			c := dial("127.0.0.1")
			_ = c.TrySend(raw)
			c.ExpectClosed()
			n++
			b.waitFailure(want, n)
			b.waitConnEnd(reason.BadPreface, n)
			b.waitNone()
		})
		if log := b.logs.String(); !strings.Contains(log, `"reason":"`+want.String()+`"`) || !strings.Contains(log, `"proxy":"127.0.0.1:`) {
			t.Errorf("%.60q: nothing in the log: %s", raw, log)
		}
	}
	f(get("/"), preface.Missing)
	f("\x16\x03\x01\x00\x05hello", preface.Missing)
	f("POST / HTTP/1.1\r\n", preface.Missing)
	f("PROXY TCP4 nobody nowhere 1 2\r\n"+get("/"), preface.Malformed)
	f("\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x00", preface.Malformed)
	f(headerV2[:15]+"\x13"+headerV2[16:]+"\x03\x00\x04\x00\x00\x00\x00", preface.BadChecksum)
	f("PROXY TCP4 "+strings.Repeat("1", 200), preface.TooLong)
	f(wide(preface.MaxLen), preface.TooLong)
	f("\r\n\r\n\x00\r\nQUIT\n\x20\x00\xff\xff", preface.TooLong)
}

// TestPrefaceFromStrangers takes nothing for a header that comes from elsewhere.
func TestPrefaceFromStrangers(t *testing.T) {
	t.Parallel()
	f := func(rules, source, before, header string) {
		t.Helper()
		b := newBehind(t, rules, "")
		n := 0
		b.over(func(name string, dial func(string) *testkit.Client, begin func(*testkit.Client, string) *testkit.Client) {
			n++
			c := dial(source)
			c.Send(before + header + get("/"))
			if name == "plain" {
				expectStatus(t, "a header from "+source, c.Response("GET"), 400)
			} else {
				c.ExpectClosed()
			}
			b.waitFailure(preface.Unexpected, n)
			if before != "" {
				return
			}
			c = begin(dial(source), "")
			if got := string(c.Do(get("/")).Body); !strings.HasPrefix(got, source+" ") {
				t.Errorf("%s: the client is %s, want %s", name, got, source)
			}
		})
		b.waitConnEnd(reason.TLSFailed, 1)
		if !strings.Contains(b.logs.String(), `"reason":"unexpected"`) {
			t.Errorf("nothing in the log: %s", b.logs)
		}
	}
	f("", stranger, "", headerV1)
	f("", stranger, "", headerV2)
	f(", required: false", stranger, "", headerV1)
	f("", "127.0.0.1", headerV1, headerV2) // a second one
	f("", "127.0.0.1", headerV2, headerV1)
}

func TestPrefaceTimeout(t *testing.T) {
	t.Parallel()
	f := func(raw, rules, more string) {
		t.Helper()
		b := newBehind(t, rules, more)
		n := 0
		b.over(func(_ string, dial func(string) *testkit.Client, _ func(*testkit.Client, string) *testkit.Client) {
			c := dial("127.0.0.1")
			c.Send(raw)
			c.ExpectClosed()
			n++
			b.waitFailure(preface.TimedOut, n)
			b.waitConnEnd(reason.BadPreface, n)
			b.waitNone()
		})
	}
	f("", ", timeout: 100ms", "")
	f("PRO", ", timeout: 100ms", "")
	f(headerV1[:30], ", timeout: 100ms", "")
	f(headerV2[:13], ", timeout: 100ms", "")
	f(headerV2[:13], ", timeout: 3s, required: false", "") // time for the bytes to come
	f("", "", "timeouts: {head: 100ms, handshake: 100ms}") // which bound it too
}

// TestPrefaceNotRequired has clients of the proxies' own that are slow: what may be the beginning of a header is not.
func TestPrefaceNotRequired(t *testing.T) {
	t.Parallel()
	b := newBehind(t, ", timeout: 100ms, required: false", "")
	absent := func() int { return int(b.metric("tickgate_proxy_headers_total{", `"absent"`)) }
	n := 0
	b.over(func(name string, dial func(string) *testkit.Client, begin func(*testkit.Client, string) *testkit.Client) {
		c := dial("127.0.0.1")
		n++
		b.wait("the end of the wait for a header", func() bool { return absent() == n })
		expectStatus(t, name+", silent for longer", begin(c, "").Do(get("/")), 200, "127.0.0.1 ")
	})
	for _, start := range []string{"P", "PRO", "\r\n"} {
		c := b.dial()
		c.Send(start)
		n++
		b.wait("the end of the wait for a header", func() bool { return absent() == n })
		c.Send(strings.TrimPrefix(request("PROPFIND", "/"), strings.TrimSpace(start)))
		expectStatus(t, "slow after "+start, c.Response("PROPFIND"), 200, "127.0.0.1 ")
	}
	c := b.dial()
	c.Send(request("POST", "/"))
	expectStatus(t, "at once", c.Response("POST"), 200, "127.0.0.1 ")
	if all := b.metric("tickgate_proxy_header_failures_total{"); all != 0 {
		t.Errorf("%v failures, want none", all)
	}
}

// TestPrefaceCaps counts clients, and not the proxy that they come through.
func TestPrefaceCaps(t *testing.T) {
	t.Parallel()
	b := newBehind(t, "", "connections: {max_per_client: 2}\n"+soon)
	b.over(func(name string, dial func(string) *testkit.Client, begin func(*testkit.Client, string) *testkit.Client) {
		before := b.failures(preface.TooManyConns)
		var silent []*testkit.Client
		for range 5 { // nobody's yet
			silent = append(silent, dial("127.0.0.1"))
		}
		b.wait("silent connections", func() bool { return b.conns.Open() == 5 })
		if n := b.conns.OpenFrom(netip.MustParseAddr("127.0.0.1")); n != 0 {
			t.Errorf("%s: %d connections are the proxy's, want none", name, n)
		}
		one, two := begin(dial("127.0.0.1"), headerV1), begin(dial("127.0.0.1"), headerV2)
		expectStatus(t, name, one.Do(get("/")), 200, client)
		expectStatus(t, name, two.Do(get("/")), 200, client)
		over := dial("127.0.0.1")
		over.Send(headerV1)
		over.ExpectClosed()
		b.waitFailure(preface.TooManyConns, before+1)
		expectStatus(t, name+", another client", begin(dial("127.0.0.1"), headerOf("192.0.2.8")).Do(get("/")), 200, "192.0.2.8 ")
		one.Close()
		b.wait("the end of one", func() bool { return b.conns.OpenFrom(netip.MustParseAddr("192.0.2.7")) == 1 })
		expectStatus(t, name+", in its place", begin(dial("127.0.0.1"), headerV1).Do(get("/")), 200, client)
		for _, c := range silent[2:] { // LOCAL: they are the proxy's
			c.Send(localV2)
		}
		b.waitFailure(preface.TooManyConns, before+2)
		if n := b.conns.OpenFrom(netip.MustParseAddr("127.0.0.1")); n != 2 {
			t.Errorf("%s: %d connections are the proxy's, want 2", name, n)
		}
		b.lot.Evict(func(*park.Info) bool { return true })
		b.wait("the end of all", func() bool { return b.conns.Open() == 0 && b.conns.Clients() == 0 })
		b.waitNone()
	})
}

// TestPrefaceEnds has proxies go in the middle of a header, which costs nothing while it is awaited.
func TestPrefaceEnds(t *testing.T) {
	t.Parallel()
	f := func(b *behind, header string, size int, how string, end func(c *testkit.Client)) {
		t.Helper()
		cut, closed := b.failures(preface.CutShort), b.connEnds(reason.ClientClosed)
		c := b.dial()
		c.Send(header[:size])
		b.waitSeen(size)
		before := b.events()
		b.ticks(2)
		if n := b.events() - before; n > 4 {
			t.Errorf("%s after %d bytes: the loops were woken %d times while nothing came", how, size, n)
		}
		end(c)
		b.waitNone()
		if size == 0 {
			closed++
		} else {
			cut++
		}
		b.wait("end", func() bool { return b.failures(preface.CutShort) == cut && b.connEnds(reason.ClientClosed) == closed })
		c.Close()
	}
	b := newBehind(t, ", timeout: 1h", "timeouts: {handshake: 1h, head: 1h}")
	optional := newBehind(t, ", timeout: 1h, required: false", "timeouts: {handshake: 1h, head: 1h}")
	for _, header := range []string{headerV1, headerV2} {
		for _, size := range []int{0, 1, 12, 17, len(header) - 1} {
			f(b, header, size, "FIN", (*testkit.Client).Close)
			f(b, header, size, "half-closed", (*testkit.Client).CloseWrite)
			f(b, header, size, "RST", (*testkit.Client).Reset)
		}
		f(optional, header, 13, "FIN", (*testkit.Client).Close)
	}
}

// connEnds is how many connections ended for r.
func (b *behind) connEnds(r reason.Reason) int {
	return int(b.metric("tickgate_connection_ends_total{", `reason="`+r.String()+`"`))
}

// TestPrefaceMayBeARequest has clients go while it is not clear whether they send a header.
func TestPrefaceMayBeARequest(t *testing.T) {
	t.Parallel()
	b := newBehind(t, ", timeout: 1h, required: false", "")
	for _, end := range []func(*testkit.Client){(*testkit.Client).Close, (*testkit.Client).CloseWrite, (*testkit.Client).Reset} {
		c := b.dial()
		c.Send("PR")
		b.waitSeen(0)
		end(c)
		b.waitNone()
		before := b.events()
		b.ticks(2)
		if n := b.events() - before; n > 4 {
			t.Errorf("the loops were woken %d times after the end", n)
		}
		c.Close()
	}
}

// TestPrefaceAndReload begins and ends to take headers on sockets that stay open.
func TestPrefaceAndReload(t *testing.T) {
	t.Parallel()
	b := newBehind(t, "", "")
	waiting := b.dial()
	b.wait("a connection", func() bool { return b.conns.Open() == 1 })
	sockets := b.listeners[firstListener].sockets[0]
	b.reload(b.yaml(""))
	if b.listeners[firstListener].sockets[0] != sockets {
		t.Error("the reload opened new sockets")
	}
	expectStatus(t, "without", b.get("/"), 200, "127.0.0.1 ")
	waiting.Send(headerV1 + get("/")) // what it was accepted with stays
	expectStatus(t, "from before", waiting.Response("GET"), 200, client)
	b.reload(b.yaml(", proxy_protocol: {from: [127.0.0.1]}"))
	partial := b.dial()
	partial.Send("PRO")
	b.wait("a part", func() bool { return b.partial() == 1 })
	b.reload(b.yaml(", proxy_protocol: {from: [127.0.0.1], required: false}"))
	partial.Send("PFIND / HTTP/1.1\r\n") // what was taken for a header's beginning is lost
	partial.ExpectClosed()
	b.waitFailure(preface.Missing, 1)
	b.reload(b.yaml(""))
	b.wait("the end of others", func() bool { return b.conns.Open() == 1 })
	early := b.dial()
	b.wait("another connection", func() bool { return b.conns.Open() == 2 })
	b.reload(b.yaml(", proxy_protocol: {from: [127.0.0.1, 10.0.0.0/8]}"))
	early.Send(get("/"))
	expectStatus(t, "from between", early.Response("GET"), 200, "127.0.0.1 ")
	expectStatus(t, "with", b.do(headerV2+get("/")), 200, client)
}

// TestPrefaceIsThePeer has everything that knows a client's address know that of the header.
func TestPrefaceIsThePeer(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr())+`
listeners: [{listen: "127.0.0.1:0", acceptors: 1, proxy_protocol: {from: ["127.0.0.1"]}}]
forwarding: {trusted_proxies: [127.0.0.1, 192.0.2.0/24]}
`)
	f := func(header, sent, want string) {
		t.Helper()
		be.Forget()
		c := g.dial()
		c.Send(header + get("/", "X-Forwarded-For: "+sent))
		c.Response("GET")
		if got := be.WaitRequests(t, 1)[0].Get("X-Forwarded-For"); got != want {
			t.Errorf("after %.60q: X-Forwarded-For is %q, want %q", header, got, want)
		}
		c.Close()
		g.waitNone()
	}
	f(headerV1, "203.0.113.1", "203.0.113.1, 192.0.2.7")       // a trusted proxy behind the header
	f(headerOf("198.51.100.9"), "203.0.113.1", "198.51.100.9") // a client that is nobody's proxy
	f(localV2, "203.0.113.1", "203.0.113.1, 127.0.0.1")        // the proxy itself
	c := g.dial()
	c.Send(headerOf("198.51.100.9"))
	g.wait("the client in the list", func() bool {
		list := g.list(admin.ConnFilter{Peer: netip.MustParsePrefix("198.51.100.9/32")})
		return len(list) == 1 && list[0].Peer == "198.51.100.9:56224" && list[0].State == "accepted"
	})
}

// TestPrefaceUnixSocket has a proxy on this machine.
func TestPrefaceUnixSocket(t *testing.T) {
	t.Parallel()
	name := "unix:" + t.TempDir() + "/s"
	g := newGateway(t, static(`listeners: [{listen: "`+name+`", proxy_protocol: {from: [unix]}}]`))
	c := testkit.Dial(t, name)
	c.Send(headerV2)
	g.wait("the client", func() bool {
		list := g.list(admin.ConnFilter{})
		return len(list) == 1 && list[0].Peer == "192.0.2.7:56224"
	})
	expectStatus(t, "over a Unix socket", c.Do(get("/")), 200)
	c = testkit.Dial(t, name)
	c.Send(get("/"))
	c.ExpectClosed()
	g.waitConnEnd(reason.BadPreface, 1)
}

// TestPrefaceDrain ends connections before their header, at once or with the process.
func TestPrefaceDrain(t *testing.T) {
	t.Parallel()
	b := newBehind(t, ", timeout: 1h", "drain: {grace: 0s, timeout: 200ms}\ntimeouts: {head: 1h, handshake: 1h}")
	silent, partial := b.dial(), b.dial()
	partial.Send(headerV1[:20])
	b.wait("both", func() bool { return b.conns.Open() == 2 && b.partial() == 1 })
	if cut := <-b.drain(); cut == 0 {
		t.Errorf("nothing was cut")
	}
	silent.ExpectClosed()
	partial.ExpectClosed()
	b.waitNone()
}

// partial is how many connections have a part of a header.
func (b *behind) partial() (n int) {
	b.lot.Each(func(i park.Info) bool {
		if i.Phase == park.Preface && i.Rest > 0 {
			n++
		}
		return true
	})
	return n
}

// TestPrefaceKill ends a connection that waits for its header by the admin API.
func TestPrefaceKill(t *testing.T) {
	t.Parallel()
	b := newBehind(t, "", "")
	c := b.dial()
	b.wait("it", func() bool { return len(b.list(admin.ConnFilter{})) == 1 })
	if !b.lot.EvictID(b.list(admin.ConnFilter{})[0].ID) {
		t.Fatal("it was not found")
	}
	c.ExpectClosed()
	b.waitConnEnd(reason.KilledByUser, 1)
	b.waitNone()
}

// TestAwaitMore does not rely on a kernel that tells with less than it was asked for.
func TestAwaitMore(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		defer unix.Close(fd)
	}
	f := func(step, n int, marked, want bool) {
		t.Helper()
		if got := awaitMore(fds[0], n, marked); got != want {
			t.Errorf("step %d: %t, want %t", step, got, want)
		}
	}
	f(1, 2, false, true)
	f(2, 3, true, true)
	f(3, 3, true, false) // it was to wait for a fourth
	wakeOnAny(fds[0])
	f(4, 1, true, true)
}

// TestGreet reads headers where there is no lot: no byte behind them is lost.
func TestGreet(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static(""))
	ln := g.listeners[firstListener]
	peer := netip.MustParseAddrPort("127.0.0.1:5")
	f := func(required bool, timeout time.Duration, wantRest string, wantClient string, want reason.Reason, parts ...string) {
		t.Helper()
		server, conn := testkit.TCPPair(t)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			for _, part := range parts {
				_, _ = conn.Write([]byte(part))
			}
			if timeout > time.Minute && want != reason.OK {
				_ = conn.CloseWrite()
			}
		}()
		rules := &prefaceRules{timeout: timeout, required: required}
		rest, client, end := ln.await(server, peer, rules, time.Now())
		if end != want || end == reason.OK && (client.String() != wantClient || !strings.HasPrefix(wantRest, string(rest))) {
			t.Errorf("%.60q: %q, %s, %s, want %q, %s, %s", parts, rest, client, end, wantRest, wantClient, want)
		}
		if end != reason.OK {
			return
		}
		<-sent
		_ = conn.CloseWrite()
		r := &replay{Conn: server, rest: rest}
		if all, err := io.ReadAll(r); string(all) != wantRest || err != nil {
			t.Errorf("%.60q: read %q, %v, want %q", parts, all, err, wantRest)
		}
	}
	g.reload(static("timeouts: {head: 1h}"))
	f(true, time.Hour, "", "192.0.2.7:56224", reason.OK, headerV1)
	f(true, time.Hour, get("/"), "192.0.2.7:56224", reason.OK, headerV2+get("/"))
	f(true, time.Hour, get("/"), "192.0.2.7:56224", reason.OK, strings.SplitAfter(headerV1+get("/"), "")...)
	f(true, time.Hour, "\x16\x03", "127.0.0.1:5", reason.OK, localV2+"\x16\x03")
	f(false, time.Hour, get("/"), "127.0.0.1:5", reason.OK, get("/"))
	f(false, time.Hour, request("PROPFIND", "/"), "127.0.0.1:5", reason.OK, strings.SplitAfter(request("PROPFIND", "/"), "")...)
	f(false, 100*time.Millisecond, "PRO", "127.0.0.1:5", reason.OK, "PRO")
	f(false, 100*time.Millisecond, "", "127.0.0.1:5", reason.OK)
	f(true, time.Hour, "", "", reason.BadPreface, get("/"))
	f(true, time.Hour, "", "", reason.BadPreface, headerV1[:20])
	f(true, time.Hour, "", "", reason.ClientClosed)
	f(true, 100*time.Millisecond, "", "", reason.BadPreface)
	f(false, 3*time.Second, "", "", reason.BadPreface, headerV1[:20]) // time for the bytes to come
	for want, n := range map[preface.Failure]float64{preface.Missing: 1, preface.CutShort: 1, preface.TimedOut: 2} {
		if got := g.metric("tickgate_proxy_header_failures_total{", `"`+want.String()+`"`); got != n {
			t.Errorf("%v connections that failed with %s, want %v", got, want, n)
		}
	}
}

// TestGreetEndsWithTheGateway does not leave a goroutine with a silent proxy behind.
func TestGreetEndsWithTheGateway(t *testing.T) {
	t.Parallel()
	g := newGateway(t, static("timeouts: {head: 1h}"))
	server, _ := testkit.TCPPair(t)
	ln := g.listeners[firstListener]
	ended := make(chan reason.Reason)
	go func() {
		_, _, end := ln.await(server, netip.AddrPort{}, &prefaceRules{timeout: time.Hour, required: true}, time.Now())
		ended <- end
	}()
	g.Stop()
	select {
	case end := <-ended:
		if end != reason.ShutDown {
			t.Errorf("it ended with %s, want %s", end, reason.ShutDown)
		}
	case <-time.After(testkit.Patience):
		t.Fatal("it did not end")
	}
}

// TestPrefaceAllocs is the promise that listeners without proxy_protocol pay nothing for it, and
// that a look at an unfinished header allocates nothing.
func TestPrefaceAllocs(t *testing.T) {
	if raceEnabled {
		t.Log("allocations are not counted under the race detector")
		return
	}
	peer := netip.MustParseAddrPort("127.0.0.1:1")
	ln := &listener{}
	if n := testing.AllocsPerRun(100, func() {
		if ln.preface.Load().expects(peer) {
			t.Fatal("a header is expected")
		}
	}); n != 0 {
		t.Errorf("%v allocations without proxy_protocol, want none", n)
	}
	rules, err := newPrefaceRules(&config.ProxyProtocol{From: []string{"10.0.0.0/8", "127.0.0.1"}, Required: true})
	if err != nil || !rules.expects(peer) {
		t.Fatal(err)
	}
	part := []byte(headerV2[:20])
	if n := testing.AllocsPerRun(100, func() {
		if end, _, _, _ := rules.judge(part); end != prefaceWait {
			t.Fatal(end)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a look, want none", n)
	}
}
