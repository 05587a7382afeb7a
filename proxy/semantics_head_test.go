package proxy

import (
	"regexp"
	"strings"
	"testing"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// forwarded returns the head that a backend gets for a raw request, without the
// lines whose names are listed in without.
func forwarded(t testing.TB, g *testGateway, be *testkit.Recorder, raw string, without ...string) string {
	t.Helper()
	be.Forget()
	g.do(raw)
	head, _, _ := strings.Cut(string(be.WaitRequests(t, 1)[0].Raw), "\r\n\r\n")
	var kept []string
lines:
	for _, line := range strings.Split(head, "\r\n") {
		for _, w := range without {
			if name, _, _ := strings.Cut(line, ":"); strings.EqualFold(name, w) {
				continue lines
			}
		}
		kept = append(kept, line)
	}
	return strings.Join(kept, "\n")
}

// added are the fields that the gateway adds to every request by default.
var added = []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-Id"}

func TestRequestHeadPassesUnchanged(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(raw, want string) {
		t.Helper()
		raw = strings.ReplaceAll(raw, "\n", "\r\n") + "\r\n\r\n"
		if got := forwarded(t, g, be, raw, added...); got != want {
			t.Errorf("%q\n got %q\nwant %q", raw, got, want)
		}
	}
	// Order, case, repetition and legal spacing of fields are the client's.
	f("GET /a?b HTTP/1.1\nHost: h\nx-LOWER:v\nACCEPT:   text/*;q=0.5 , */*  \nX-Empty:\nx-tab:\t a\tb \nX-Lower: again\nx-high: \xff\x80",
		"GET /a?b HTTP/1.1\nHost: h\nx-LOWER:v\nACCEPT:   text/*;q=0.5 , */*  \nX-Empty:\nx-tab:\t a\tb \nX-Lower: again\nx-high: \xff\x80")
	f("GET /%7e/%2F//a;b?%zz=?&/ HTTP/1.1\nHost: H.Example:80", "GET /%7e/%2F//a;b?%zz=?&/ HTTP/1.1\nHost: H.Example:80")
	f("PURGE /? HTTP/1.1\nHost: h", "PURGE /? HTTP/1.1\nHost: h")
	// Host is written first, as RFC 9110 section 7.2 advises.
	f("GET / HTTP/1.1\nA: 1\nHost: h\nB: 2", "GET / HTTP/1.1\nHost: h\nA: 1\nB: 2")
	// An empty line before the request line is passed over (RFC 9112 section 2.2).
	f("\nGET / HTTP/1.1\nHost: h", "GET / HTTP/1.1\nHost: h")
	// Absolute-form becomes origin-form.
	f("GET http://h/a?b HTTP/1.1\nHost: h", "GET /a?b HTTP/1.1\nHost: h")
	f("GET http://h HTTP/1.1\nHost: h", "GET / HTTP/1.1\nHost: h")
	f("GET http://h?q HTTP/1.1\nHost: h", "GET /?q HTTP/1.1\nHost: h")
	f("GET https://h:8443/ HTTP/1.1\nHost: h:8443", "GET / HTTP/1.1\nHost: h:8443")
	// OPTIONS for the whole server, in both its forms (RFC 9112 section 3.2.4).
	f("OPTIONS * HTTP/1.1\nHost: h", "OPTIONS * HTTP/1.1\nHost: h")
	f("OPTIONS http://h HTTP/1.1\nHost: h", "OPTIONS * HTTP/1.1\nHost: h")
	f("OPTIONS http://h/ HTTP/1.1\nHost: h", "OPTIONS / HTTP/1.1\nHost: h")
	// The version is the gateway's own.
	f("GET / HTTP/1.0\nHost: h", "GET / HTTP/1.1\nHost: h")
}

func TestHopByHopRequestFields(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, toBackend(be.Addr()))
	f := func(fields, want string) {
		t.Helper()
		got := forwarded(t, g, be, request("GET", "/", strings.Split(fields, "\n")...), append(added, "Host")...)
		if _, got, _ = strings.Cut(got, "\n"); got != want {
			t.Errorf("%q: the backend got %q, want %q", fields, got, want)
		}
	}
	f("Connection: close\nA: 1", "A: 1")
	f("Connection: keep-alive\nKeep-Alive: timeout=5\nProxy-Connection: keep-alive\nA: 1", "A: 1")
	f("A: 1\nX-Hop: 2\nConnection: x-HOP , other\nOther: 3\nB: 4", "A: 1\nB: 4")
	f("Connection: X-One\nConnection: x-two\nX-One: 1\nX-Two: 2\nX-Three: 3", "X-Three: 3")
	// What frames, routes or authorises a request cannot be taken out of it by naming it.
	f("Connection: authorization, cookie\nAuthorization: a\nCookie: c", "Authorization: a\nCookie: c")
	// An upgrade that is not a WebSocket goes as a plain request.
	f("Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABk", "")
	// TE says what this hop takes; only that trailers are welcome is passed on.
	f("TE: gzip;q=0.5\nConnection: TE", "")
	f("TE: trailers, deflate\nConnection: TE", "TE: trailers\nConnection: TE")
	// End-to-end, though about proxies.
	f("Proxy-Authorization: Basic eA==\nMax-Forwards: 3\nTrailer: x", "Proxy-Authorization: Basic eA==\nMax-Forwards: 3\nTrailer: x")
	// An expectation without a body is no expectation (RFC 9110 section 10.1.1).
	f("Expect: 100-continue", "")
}

func TestHopByHopResponseFields(t *testing.T) {
	t.Parallel()
	f := func(fields, want string) {
		t.Helper()
		head := "HTTP/1.1 200 Fine  by\tme\r\n" + strings.ReplaceAll(fields, "\n", "\r\n") + "\r\nContent-Length: 2\r\n\r\n"
		be := testkit.NewScript(t, testkit.Respond(head+"ok")...)
		g := newGateway(t, toBackend(be.Addr()))
		resp := g.get("/")
		got, _, _ := strings.Cut(withoutDate(t, resp.Raw), "\r\n\r\n")
		want = "HTTP/1.1 200 Fine  by\tme\r\n" + strings.ReplaceAll(want, "\n", "\r\n") + "Content-Length: 2"
		if got != want {
			t.Errorf("%q\n got %q\nwant %q", fields, got, want)
		}
	}
	f("Server: x\nlast-Modified:  d \nSET-Cookie: a\nSet-cookie: b", "Server: x\nlast-Modified:  d \nSET-Cookie: a\nSet-cookie: b\n")
	f("Connection: keep-alive, X-Hop\nKeep-Alive: timeout=5\nX-Hop: 1\nA: 1", "A: 1\n")
	f("Upgrade: h2c\nProxy-Authenticate: Basic\nTrailer: X-T", "Proxy-Authenticate: Basic\nTrailer: X-T\n")
	f("X_Forwarded_For: a\nVia: 1.1 x", "Via: 1.1 x\n")
}

func TestForwardingFields(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	pair := testcert.New(t)
	cert, key := pair.Files(t)
	start := func(forwarding string) (plain, secure *testGateway) {
		g := newGateway(t, toBackend(be.Addr())+`
forwarding: {`+forwarding+`}
listeners:
  - {listen: "127.0.0.1:0", acceptors: 1}
  - {listen: "127.0.0.2:0", acceptors: 1, tls: {certificates: [{cert_file: "`+cert+`", key_file: "`+key+`"}]}}
`)
		return g, g
	}
	f := func(g *testGateway, fields, want string) {
		t.Helper()
		got := forwarded(t, g, be, request("GET", "/", strings.Split(fields, "\n")...), "Host")
		got = regexp.MustCompile(`(?i)(x-request-id: )[0-9a-f]{32}\b`).ReplaceAllString(got, "${1}FRESH")
		if _, got, _ = strings.Cut(got, "\n"); got != want {
			t.Errorf("%q\n got %q\nwant %q", fields, got, want)
		}
	}
	const fresh = "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: example.com\nX-Request-Id: FRESH"

	// Nobody is believed: what poses as a proxy's word is removed and set anew.
	g, _ := start("")
	f(g, "A: 1", "A: 1\n"+fresh)
	f(g, "X-Forwarded-For: 1.2.3.4\nx-forwarded-proto: https\nX-Forwarded-Host: evil\nForwarded: for=1.2.3.4\nX-Request-ID: mine", fresh)
	f(g, "X-Forwarded-Port: 443\nX-Forwarded-Server: s\nX-Forwarded-Prefix: /p\nX-Forwarded-Ssl: on\nX-Real-IP: 1.2.3.4\nX-Forward: 1", "X-Forward: 1\n"+fresh)
	f(g, "X_Forwarded_For: 1.2.3.4", fresh)
	f(g, "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n"+fresh)

	// The client is a trusted proxy: its word is extended.
	g, _ = start(`trusted_proxies: [10.0.0.0/8, 127.0.0.1], forwarded: true`)
	f(g, "X-Forwarded-For: 1.2.3.4\nX-Forwarded-For: 5.6.7.8\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop\nX-Forwarded-Port: 443\nForwarded: for=1.2.3.4\nX-Request-Id: theirs",
		"X-Forwarded-Port: 443\nX-Forwarded-For: 1.2.3.4, 5.6.7.8, 127.0.0.1\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop\n"+
			"Forwarded: for=1.2.3.4, for=127.0.0.1;host=\"example.com\";proto=http\nX-Request-Id: theirs")
	f(g, "", "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: example.com\nForwarded: for=127.0.0.1;host=\"example.com\";proto=http\nX-Request-Id: FRESH")
	f(g, "X-Request-Id: "+strings.Repeat("x", 129), "X-Forwarded-For: 127.0.0.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: example.com\nForwarded: for=127.0.0.1;host=\"example.com\";proto=http\nX-Request-Id: FRESH")

	// All switched off, but for Via.
	g, _ = start(`x_forwarded: false, request_id_header: "", via: true`)
	f(g, "A: 1\nX-Forwarded-For: 1.2.3.4", "A: 1\nVia: 1.1 tickgate")
	if via := g.get("/").Get("Via"); via != "1.1 tickgate" {
		t.Errorf("response: Via %q, want 1.1 tickgate", via)
	}

	// The scheme is that of the client's connection.
	g, _ = start("")
	be.Forget()
	testkit.DialTLS(t, g.listener("127.0.0.2:0"), pair.ClientTLS("localhost")).Do(get("/"))
	if got := be.WaitRequests(t, 1)[0].Get("X-Forwarded-Proto"); got != "https" {
		t.Errorf("TLS client: X-Forwarded-Proto %q, want https", got)
	}
}

func TestForwardedFromUnixSocket(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	path := "unix:" + t.TempDir() + "/s"
	g := newGateway(t, toBackend(be.Addr())+`
forwarding: {forwarded: true, trusted_proxies: [unix]}
listeners: [{listen: "`+path+`"}]
`)
	got := forwarded(t, g, be, get("/", "X-Forwarded-For: 1.2.3.4"), "Host", "X-Request-Id", "X-Forwarded-Proto", "X-Forwarded-Host")
	want := "GET / HTTP/1.1\nX-Forwarded-For: 1.2.3.4, unix:\nForwarded: for=unknown;host=\"example.com\";proto=http"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTraceContext(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	f := func(mode, fields, want string) {
		t.Helper()
		g := newGateway(t, toBackend(be.Addr())+`forwarding: {trace_context: `+mode+`}`)
		got := forwarded(t, g, be, request("GET", "/", strings.Split(fields, "\n")...), append(added, "Host")...)
		_, got, _ = strings.Cut(got, "\n")
		if !regexp.MustCompile("^(?:"+want+")$").MatchString(got) || mode == "extend" && strings.Contains(got, "b7ad6b7169203331") {
			t.Errorf("%s %q: the backend got %q, want %s", mode, fields, got, want)
		}
	}
	const state = "tracestate: a=b"
	f("pass", "traceparent: "+parent+"\n"+state, "traceparent: "+parent+"\n"+state)
	f("pass", "traceparent: rubbish", "traceparent: rubbish")
	f("pass", "", "")
	f("off", "Traceparent: "+parent+"\n"+state, "")
	const started = "traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-00"
	f("extend", "traceparent: "+parent+"\n"+state, state+"\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01")
	f("extend", "", started)
	// A broken one begins a new trace, and its state goes with it (W3C Trace Context, section 3.3).
	f("extend", "traceparent: 00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203330-01\n"+state, started)
	f("extend", "traceparent: "+parent+"\ntraceparent: "+parent, started)
	f("extend", state, started)
}

func TestValidTraceparent(t *testing.T) {
	f := func(s string, want bool) {
		t.Helper()
		if got := validTraceparent([]byte(s)); got != want {
			t.Errorf("validTraceparent(%q) = %t, want %t", s, got, want)
		}
	}
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	f("00-"+trace+"-"+span+"-01", true)
	f("01-"+trace+"-"+span+"-01-more", true)
	f("00-"+trace+"-"+span+"-01-more", false)
	f("01-"+trace+"-"+span+"-01more", false)
	f("ff-"+trace+"-"+span+"-01", false)
	f("00-"+strings.Repeat("0", 32)+"-"+span+"-01", false)
	f("00-"+trace+"-"+strings.Repeat("0", 16)+"-01", false)
	f("00-"+strings.ToUpper(trace)+"-"+span+"-01", false)
	f("00-"+trace+"-"+span+"-0", false)
	f("00-"+trace+"_"+span+"-01", false)
	f("", false)
}

func TestHeaderOps(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(*testkit.Request) []byte {
		return []byte("HTTP/1.1 200 OK\r\nServer: be\r\nX-Old: 1\r\nX-Keep: 2\r\nX-Old: 3\r\nContent-Length: 0\r\n\r\n")
	})
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}], host: backend}}
routes:
  - path_regex: '^/u/(\w+)'
    name: users
    upstream: be
    request_headers: {remove: [x-secret, Cookie], set: {X-User: "$1", X-Gone: "", Host: "${header:X-User}.internal"}, add: {X-Twice: "${method}"}}
    response_headers: {remove: [server], set: {X-Old: "${upstream} ${backend}"}, add: {X-Keep: "${route}"}}
  - path: /own
    upstream: be
    request_headers: {remove: [X-Request-Id], set: {X-Forwarded-Proto: https, X-Real-IP: "${client_addr}"}}
  - path: /static
    static_response: {body: hi}
    response_headers: {set: {X-Who: "${client_addr}"}}
  - path: /
    upstream: be
`)
	f := func(path, fields, want string) {
		t.Helper()
		got := forwarded(t, g, be, request("GET", path, strings.Split(fields, "\n")...), "X-Forwarded-For", "X-Forwarded-Host")
		if got != want {
			t.Errorf("%s %q\n got %q\nwant %q", path, fields, got, want)
		}
	}
	got := forwarded(t, g, be, get("/u/ann", "X-SECRET: 1", "Cookie: a", "X-User: root", "X-Gone: 1", "X-Twice: 1"), added...)
	want := "GET /u/ann HTTP/1.1\nHost: root.internal\nX-Twice: 1\nX-User: ann\nX-Twice: GET"
	if got != want {
		t.Errorf("request\n got %q\nwant %q", got, want)
	}
	// What the gateway itself sends can be set and removed as well.
	f("/own", "X-Real-IP: 6.6.6.6", "GET /own HTTP/1.1\nHost: "+be.Addr()+"\nX-Forwarded-Proto: https\nX-Real-IP: 127.0.0.1")

	head, _, _ := strings.Cut(withoutDate(t, g.get("/u/ann").Raw), "\r\n\r\n")
	want = "HTTP/1.1 200 OK\r\nX-Keep: 2\r\nContent-Length: 0\r\nX-Old: be " + be.Addr() + "\r\nX-Keep: users"
	if head != want {
		t.Errorf("response\n got %q\nwant %q", head, want)
	}
	if got := g.get("/static").Get("X-Who"); got != "127.0.0.1" {
		t.Errorf("static response: X-Who %q, want 127.0.0.1", got)
	}
	if got := g.get("/other").All("X-Old"); len(got) != 2 {
		t.Errorf("a route without operations: X-Old %q, want both of the backend's", got)
	}
}

func TestUpstreamHost(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	f := func(host, raw, want string) {
		t.Helper()
		g := newGateway(t, toBackends("host: "+host, "", be.Addr()))
		be.Forget()
		g.do(raw)
		if got := be.WaitRequests(t, 1)[0].Get("Host"); got != want {
			t.Errorf("host: %s: the backend got Host %q, want %q", host, got, want)
		}
	}
	f("client", get("/"), "example.com")
	f("backend", get("/"), be.Addr())
	f("fixed.example:81", get("/"), "fixed.example:81")
	f("client", "GET / HTTP/1.0\r\n\r\n", be.Addr()) // HTTP/1.1 wants one
}
