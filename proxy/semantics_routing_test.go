package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"tickgate/internal/testkit"
)

// named answers with the route's name.
const named = `static_response: {body: "${route}"}`

func TestRouteChoice(t *testing.T) {
	t.Parallel()
	g := newGateway(t, `
routes:
  - {name: api-exact,   path_exact: /api/v1, `+named+`}
  - {name: images,      path_regex: '\.(png|jpg)$', `+named+`}
  - {name: late-regex,  path_regex: '^/api/.*\.png$', `+named+`}
  - {name: api,         path: /api/, `+named+`}
  - {name: api-v2,      path: /api/v2, `+named+`}
  - {name: host,        host: one.example, `+named+`}
  - {name: host-api,    host: one.example, path: /api/, `+named+`}
  - {name: six,         host: "[::1]", `+named+`}
  - {name: only-x,      host: narrow.example, path: /x, `+named+`}
  - {name: suffix,      host: "*.example.org", `+named+`}
  - {name: deep-suffix, host: "*.deep.example.org", `+named+`}
  - {name: beta,        path: /m, headers: [{name: X-Beta, value: "1"}], `+named+`}
  - {name: rx,          path: /m, headers: [{name: X-Beta, regex: "^2"}], `+named+`}
  - {name: not-bot,     path: /m, headers: [{name: X-Bot, not: true}, {name: X-Any}], `+named+`}
  - {name: put,         path: /m, methods: [PUT], `+named+`}
  - {name: get,         path: /m, methods: [GET], headers: [{name: X-Beta, not: true}], `+named+`}
  - {name: default,     path: /, `+named+`}
`)
	f := func(method, host, target, want string, fields ...string) {
		t.Helper()
		raw := method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
		if got := string(g.do(raw).Body); got != want {
			t.Errorf("%s %s%s %q: route %q, want %q", method, host, target, fields, got, want)
		}
	}
	// Path: exact, then regular expressions in file order, then the longest prefix.
	f("GET", "x", "/api/v1", "api-exact")
	f("GET", "x", "/api/v1/", "api")
	f("GET", "x", "/api/v1?q=1", "api-exact")
	f("GET", "x", "/api/a.png", "images")
	f("GET", "x", "/api/v2", "api-v2")
	f("GET", "x", "/api/v2/z", "api-v2")
	f("GET", "x", "/api/v22", "api")
	f("GET", "x", "/api", "default")
	f("GET", "x", "/apix", "default")
	f("GET", "x", "/", "default")
	// Percent-encoded unreserved characters are the characters; others are not decoded, and no path is decoded twice.
	f("GET", "x", "/%61pi/v1", "api-exact")
	f("GET", "x", "/api%2Fv1", "default")
	f("GET", "x", "/%2561pi/v1", "default")
	// The case of a path counts.
	f("GET", "x", "/API/v1", "default")
	// Host: exact, then the longest suffix, then any; in any case, without port and final dot.
	f("GET", "one.example", "/", "host")
	f("GET", "ONE.Example:8080", "/api/x", "host-api")
	f("GET", "one.example.", "/", "host")
	f("GET", "[::1]", "/", "six")
	f("GET", "[::1]:8080", "/", "six")
	f("GET", "narrow.example", "/x/y", "only-x")
	f("GET", "narrow.example", "/api/v1", "api-exact")
	f("GET", "a.example.org", "/api/", "suffix")
	f("GET", "a.b.example.org", "/", "suffix")
	f("GET", "a.deep.example.org", "/", "deep-suffix")
	f("GET", "deep.example.org", "/", "suffix")
	f("GET", "example.org", "/", "default")
	f("GET", "badexample.org", "/", "default")
	// Absolute-form; that the Host field says the same is checked by the parser.
	f("GET", "one.example", "http://one.example/api/", "host-api")
	f("GET", "one.example", "http://one.example", "host")
	// Method and header.
	f("PUT", "x", "/m", "put")
	f("GET", "x", "/m", "get")
	f("GET", "x", "/m", "beta", "X-Beta: 1")
	f("GET", "x", "/m", "rx", "x-beta: 22")
	f("GET", "x", "/m", "not-bot", "X-Any:")
	f("GET", "x", "/m", "get", "X-Any: 1", "X-Bot: 1")
	f("POST", "x", "/m", "default")
	f("OPTIONS", "x", "*", "default")
}

func TestNoRoute(t *testing.T) {
	t.Parallel()
	g := newGateway(t, `
routes:
  - {path: /a, methods: [GET, PUT], `+named+`}
  - {path: /a, methods: [DELETE, PUT], `+named+`}
  - {path: /a/b, methods: [POST], `+named+`}
`)
	f := func(raw string, want int, allow, why string) {
		t.Helper()
		resp := g.do(raw)
		expectStatus(t, raw, resp, want)
		if got := resp.Get("Allow"); got != allow {
			t.Errorf("%q: Allow %q, want %q", raw, got, allow)
		}
		if resp.Status >= 400 && !strings.Contains(string(resp.Raw), "reason: "+why+"\n") && !strings.HasPrefix(raw, "HEAD") {
			t.Errorf("%q: body %q, want reason %s", raw, resp.Body, why)
		}
	}
	f(get("/b"), 404, "", "no_route")
	f(request("PATCH", "/a"), 405, "GET, HEAD, PUT, DELETE", "method_not_allowed")
	f(request("HEAD", "/a"), 200, "", "")
	f(request("DELETE", "/a/b"), 200, "", "")
	f(request("PATCH", "/a/b"), 405, "POST, GET, HEAD, PUT, DELETE", "method_not_allowed")
	f("CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n", 405, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", "method_not_allowed")
	f(request("TRACE", "/a"), 405, "GET, HEAD, PUT, DELETE", "method_not_allowed")
	f(request("TRACE", "/b"), 404, "", "no_route")
	f(request("OPTIONS", "*"), 404, "", "no_route")
	// A dot segment would be another path behind than the one routed on.
	f(get("/a/../b"), 400, "", "bad_target")
	f(get("/a/%2e%2E/b"), 400, "", "bad_target")
	f(get("/a/."), 400, "", "bad_target")
	f(get("/a/..b"), 200, "", "")
	f(get("/a/.b"), 200, "", "")
}

// TestTrace shows a client what its backend is told only where a route says so.
func TestTrace(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, func(r *testkit.Request) []byte { return testkit.OK(string(r.Raw)) })
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /, upstream: be}
  - {path: /debug, methods: [GET, TRACE], upstream: be}
  - {path: /post, methods: [POST], upstream: be}
`)
	refused := func(path, allow string) {
		t.Helper()
		resp := g.do(request("TRACE", path, "Cookie: secret=1", "Max-Forwards: 3"))
		expectStatus(t, path, resp, 405, "reason: method_not_allowed")
		if got := resp.Get("Allow"); got != allow {
			t.Errorf("%s: Allow %q, want %q", path, got, allow)
		}
		if strings.Contains(string(resp.Raw), "secret") {
			t.Errorf("%s: the answer repeats the request: %q", path, resp.Raw)
		}
	}
	refused("/", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
	refused("/post", "POST, GET, HEAD, PUT, PATCH, DELETE, OPTIONS")
	if n := be.Requests(); len(n) != 0 {
		t.Errorf("the backend got %d of them, want none", len(n))
	}
	expectStatus(t, "a route that lists it", g.do(request("TRACE", "/debug")), 200, "TRACE /debug HTTP/1.1")
	expectStatus(t, "another method", g.do(request("trace", "/")), 200, "trace / HTTP/1.1") // methods are case-sensitive
}

func TestStaticResponseVariables(t *testing.T) {
	t.Parallel()
	g := newGateway(t, `
upstreams: {be: {servers: [{address: 127.0.0.1:1}]}}
routes:
  - {name: facts, path: /f, static_response: {status: 418, content_type: text/x, body: "${method} ${host} ${scheme} ${path} ${query} ${uri} ${route} [${upstream}${backend}${tls_version}] ${listener} ${client_addr} $$5"}}
  - {path: /h, static_response: {body: "${header:X-A}|${header:host}|${cookie:b}|${cookie:none}"}}
  - {path_regex: '^/c/(\w+)/(?P<id>\d+)(/opt)?', static_response: {body: "$1-${id}-${2}-$3."}}
  - {path: /id, static_response: {body: "${request_id}"}}
  - {path: /empty, static_response: {status: 204}}
`)
	f := func(raw string, status int, want string) {
		t.Helper()
		resp := g.do(raw)
		expectStatus(t, raw, resp, status)
		if got := string(resp.Body); got != want {
			t.Errorf("%q: body %q, want %q", raw, got, want)
		}
	}
	f(get("/f/x?a=b&c"), 418, "GET example.com http /f/x a=b&c /f/x?a=b&c facts [] "+firstListener+" 127.0.0.1 $5")
	f(get("/h", "x-a:  1 2 ", "Cookie: a=1; b=2;c=3"), 200, "1 2|example.com|2|")
	f(get("/c/ab/12"), 200, "ab-12-12-.")
	f(get("/c/ab/12/opt"), 200, "ab-12-12-/opt.")
	f(request("HEAD", "/f"), 418, "")
	f(get("/empty"), 204, "")

	if resp := g.get("/f"); resp.Get("Content-Type") != "text/x" {
		t.Errorf("Content-Type %q, want text/x", resp.Get("Content-Type"))
	}
	if resp := g.do(request("HEAD", "/h")); resp.Get("Content-Length") != "14" {
		t.Errorf("HEAD: Content-Length %q, want that of GET, 14", resp.Get("Content-Length"))
	}
	a, b := string(g.get("/id").Body), string(g.get("/id").Body)
	if len(a) != 32 || a == b || strings.Trim(a, "0123456789abcdef") != "" {
		t.Errorf("request ids %q and %q, want 32 hex digits, different", a, b)
	}
}

func TestRedirect(t *testing.T) {
	t.Parallel()
	g := newGateway(t, `
routes:
  - {path: /u, redirect: {location: "https://${host}${uri}"}}
  - {path_regex: '^/old/(.*)$', redirect: {status: 301, location: "/new/$1?${query}"}}
`)
	f := func(target string, status int, want string) {
		t.Helper()
		resp := g.get(target)
		expectStatus(t, target, resp, status)
		if got := resp.Get("Location"); got != want {
			t.Errorf("%s: Location %q, want %q", target, got, want)
		}
		if len(resp.Body) > 0 || resp.Get("Content-Length") != "0" {
			t.Errorf("%s: a body: %q", target, resp.Raw)
		}
	}
	f("/u/a%20b?x=%2F", 308, "https://example.com/u/a%20b?x=%2F")
	f("/old/a/b?q", 301, "/new/a/b?q")
	// Encoded line ends stay encoded.
	f("/old/a%0d%0aSet-Cookie:x", 301, "/new/a%0d%0aSet-Cookie:x?")
}

func TestRewrite(t *testing.T) {
	t.Parallel()
	be := testkit.NewRecorder(t, nil)
	g := newGateway(t, `
upstreams: {be: {servers: [{address: "`+be.Addr()+`"}]}}
routes:
  - {path: /strip/, upstream: be, rewrite: {strip_prefix: /strip}}
  - {path: /gone,   upstream: be, rewrite: {strip_prefix: /gone}}
  - {path: /half/x, upstream: be, rewrite: {strip_prefix: /half/}}
  - {path: /old,    upstream: be, rewrite: {replace_prefix: /new}}
  - {path: /slash/, upstream: be, rewrite: {replace_prefix: /}}
  - {path_exact: /one, upstream: be, rewrite: {replace_prefix: /eins}}
  - {path_regex: '^/r/(\d+)/(?P<rest>.*)', upstream: be, rewrite: {path: "/v2/${rest}/$1"}}
  - {path: /q, upstream: be, rewrite: {path: "/fixed?a=1"}}
  - {path: /, upstream: be}
`)
	f := func(target, want string) {
		t.Helper()
		be.Forget()
		g.get(target)
		if got := be.WaitRequests(t, 1)[0].Target; got != want {
			t.Errorf("%s: the backend got %s, want %s", target, got, want)
		}
	}
	f("/strip/a/b?c=d", "/a/b?c=d")
	f("/strip/", "/")
	f("/strip/%41%2f?", "/%41%2f?")
	f("/%73trip/a", "/a")
	f("/gone", "/")
	f("/gone?x", "/?x")
	f("/half/x/y", "/x/y")
	f("/old/a//b", "/new/a//b")
	f("/old", "/new")
	f("/slash/a", "/a")
	f("/slash/", "/")
	f("/one", "/eins")
	f("/r/12/x/y?z", "/v2/x/y/12?z")
	f("/q?b=2", "/fixed?a=1&b=2")
	f("/q", "/fixed?a=1")
	// Without a rewrite every byte is the client's.
	f("/a%2fb/%7Euser//x;p=1?q=%zz&&a=?/", "/a%2fb/%7Euser//x;p=1?q=%zz&&a=?/")
}

func TestDotSegments(t *testing.T) {
	f := func(path string, want bool) {
		t.Helper()
		if got := hasDotSegment([]byte(path)); got != want {
			t.Errorf("hasDotSegment(%q) = %t, want %t", path, got, want)
		}
	}
	f("/", false)
	f("/a/b", false)
	f("/.a", false)
	f("/..a/b", false)
	f("/...", false)
	f("/a./b", false)
	f("/a../b", false)
	f("/.", true)
	f("/..", true)
	f("/./a", true)
	f("/a/../b", true)
	f("/.a/..", true)
	f("/..a/./b", true)
	f("/.../..", true)
}

func TestAppendNode(t *testing.T) {
	f := func(addr, want string) {
		t.Helper()
		var a netip.Addr
		if addr != "" {
			a = netip.MustParseAddr(addr)
		}
		if got := string(appendNode(nil, a)); got != want {
			t.Errorf("appendNode(%s) = %s, want %s", addr, got, want)
		}
	}
	f("192.0.2.1", "192.0.2.1")
	f("2001:db8::1", `"[2001:db8::1]"`)
	f("", "unknown")
}

func TestTrusts(t *testing.T) {
	f := func(list, addr string, want bool) {
		t.Helper()
		s := &Snapshot{}
		if err := s.parseTrusted(strings.Fields(list)); err != nil {
			t.Fatal(err)
		}
		var a netip.Addr
		if addr != "unix" {
			a = netip.MustParseAddr(addr)
		}
		if got := s.trusts(a); got != want {
			t.Errorf("trusted %q: %s is %t, want %t", list, addr, got, want)
		}
	}
	f("", "127.0.0.1", false)
	f("127.0.0.1", "127.0.0.1", true)
	f("10.0.0.0/8 ::1", "10.9.8.7", true)
	f("10.0.0.0/8 ::1", "::1", true)
	f("10.0.0.0/8 ::1", "11.0.0.1", false)
	f("10.0.0.0/8", "unix", false)
	f("unix", "unix", true)
	f("unix", "127.0.0.1", false)
	f("fe80::/10", "fe80::1%lo", true) // the zone of a link-local peer is no part of its address
	f("fe80::/10", "fec0::1%lo", false)
}
