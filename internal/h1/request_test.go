package h1

import (
	"strings"
	"testing"

	"tickgate/internal/reason"
)

// parseRequest parses a whole request head that must be sound.
func parseRequest(t *testing.T, raw string) *RequestHead {
	t.Helper()
	h := new(RequestHead)
	if n, err := h.Parse([]byte(raw), nil); n != len(raw) || err != nil {
		t.Fatalf("Parse(%q) = %d, %v; want %d", raw, n, err, len(raw))
	}
	return h
}

func TestRequestTarget(t *testing.T) {
	f := func(line string, form Form, path, query, host, name string, port int, origin string) {
		t.Helper()
		raw := line + "\r\nHost: a.example:80\r\n\r\n"
		h := parseRequest(t, raw)
		if h.Form != form || string(h.Path()) != path || string(h.Query()) != query {
			t.Errorf("%s: form %d, path %q, query %q; want %d, %q, %q", line, h.Form, h.Path(), h.Query(), form, path, query)
		}
		if string(h.Host()) != host || string(h.HostName()) != name || h.Port() != port {
			t.Errorf("%s: host %q = %q and %d; want %q = %q and %d", line, h.Host(), h.HostName(), h.Port(), host, name, port)
		}
		if got := string(h.AppendOriginTarget(nil)); got != origin {
			t.Errorf("%s: origin target %q, want %q", line, got, origin)
		}
		parts := strings.Fields(line)
		if string(h.Method()) != parts[0] || string(h.Target()) != parts[1] || h.Minor != parts[2][7]-'0' {
			t.Errorf("%s: read as %s %s HTTP/1.%d", line, h.Method(), h.Target(), h.Minor)
		}
	}
	f("GET / HTTP/1.1", OriginForm, "/", "", "a.example:80", "a.example", 80, "/")
	f("GET /p%41//../x?a=/?b HTTP/1.0", OriginForm, "/p%41//../x", "a=/?b", "a.example:80", "a.example", 80, "/p%41//../x?a=/?b")
	f("GET /? HTTP/1.1", OriginForm, "/", "", "a.example:80", "a.example", 80, "/?")
	f("OPTIONS * HTTP/1.1", AsteriskForm, "*", "", "a.example:80", "a.example", 80, "*")
	f("GET http://A.example/p?q HTTP/1.1", AbsoluteForm, "/p", "q", "A.example", "A.example", -1, "/p?q")
	f("GET http://a.example:80 HTTP/1.1", AbsoluteForm, "/", "", "a.example:80", "a.example", 80, "/")
	f("GET http://a.example?q HTTP/1.1", AbsoluteForm, "/", "q", "a.example", "a.example", -1, "/?q")
	f("OPTIONS http://a.example HTTP/1.1", AbsoluteForm, "/", "", "a.example", "a.example", -1, "*")
	f("OPTIONS http://a.example/ HTTP/1.1", AbsoluteForm, "/", "", "a.example", "a.example", -1, "/")
	f("CONNECT [::1]:443 HTTP/1.1", AuthorityForm, "", "", "[::1]:443", "[::1]", 443, "[::1]:443")

	h := parseRequest(t, "GET / HTTP/1.0\r\n\r\n")
	if h.Host() != nil || h.HostName() != nil || h.Port() != -1 || h.Query() != nil {
		t.Errorf("without Host: host %q, name %q, port %d, query %q", h.Host(), h.HostName(), h.Port(), h.Query())
	}
	if h = parseRequest(t, "GET /? HTTP/1.0\r\n\r\n"); h.Query() == nil {
		t.Error("an empty query is read as none")
	}
	if h = parseRequest(t, "GET https://a/ HTTP/1.1\r\nHost: a:443\r\n\r\n"); !h.TargetTLS {
		t.Error("https target not noticed")
	}
}

func TestRequestFacts(t *testing.T) {
	f := func(line, fields, want string) {
		t.Helper()
		h := parseRequest(t, line+"\r\nHost: a\r\n"+fields+"\r\n")
		var facts []string
		for _, fact := range []struct {
			on   bool
			word string
		}{
			{h.KeepAlive, "keep-alive"},
			{h.Chunked, "chunked"},
			{h.ContentLength >= 0, "length"},
			{h.HasBody(), "body"},
			{h.Expect100, "expect"},
			{h.Upgrade, "upgrade"},
			{h.WebSocket, "websocket"},
			{h.TETrailers, "trailers"},
		} {
			if fact.on {
				facts = append(facts, fact.word)
			}
		}
		if got := strings.Join(facts, " "); got != want {
			t.Errorf("%s with %q: %q, want %q", line, fields, got, want)
		}
	}
	const get, old = "GET / HTTP/1.1", "GET / HTTP/1.0"
	f(get, "", "keep-alive")
	f(old, "", "")
	f(get, "Connection: close\r\n", "")
	f(get, "Connection: foo, CLOSE\r\n", "")
	f(get, "Connection: keep-alive, close\r\n", "")
	f(old, "Connection: Keep-Alive\r\n", "keep-alive")
	f(old, "Connection: keep-alive\r\nConnection: close\r\n", "")
	f(old, "Proxy-Connection: keep-alive\r\n", "")
	f(get, "Content-Length: 0\r\n", "keep-alive length")
	f(get, "Content-Length: 9223372036854775807\r\n", "keep-alive length body")
	f(get, "Transfer-Encoding: Chunked\r\n", "keep-alive chunked body")
	f(get, "TE: gzip;q=0.5, Trailers\r\nConnection: TE\r\n", "keep-alive trailers")
	f(get, "Expect: 100-CONTINUE\r\nContent-Length: 1\r\n", "keep-alive length body expect")
	f(get, "Expect: 100-continue\r\n", "keep-alive")
	f(old, "Expect: 100-continue\r\nContent-Length: 1\r\n", "length body")
	const ws = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	f(get, "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"+ws, "keep-alive upgrade websocket")
	f(get, "Connection: Upgrade\r\nUpgrade: h2c, websocket\r\n"+ws, "keep-alive upgrade websocket")
	f(get, "Connection: Upgrade\r\nUpgrade: h2c\r\n", "keep-alive upgrade")
	f(get, "Connection: Upgrade\r\n"+ws, "keep-alive")
	f(get, "Upgrade: websocket\r\n"+ws, "keep-alive")
	f(old, "Connection: Upgrade\r\nUpgrade: websocket\r\n"+ws, "")
	f("POST / HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n"+ws, "keep-alive upgrade")
}

func TestHostAddresses(t *testing.T) {
	f := func(host string, want bool) {
		t.Helper()
		if _, _, ok := parseAuthority([]byte(host)); ok != want {
			t.Errorf("parseAuthority(%q) = %v, want %v", host, ok, want)
		}
	}
	for _, host := range []string{
		"a", "A-b_c~.example.", "1.2.3.4:0", "[::]", "[::1]:65535", "[1:2:3:4:5:6:7:8]", "[1::8]", "[1:2:3:4:5:6:7::]",
		"[::2:3:4:5:6:7:8]", "[::ffff:1.2.3.4]", "[1:2:3:4:5:6:255.255.255.0]", "[fe80::ABCD]", "a:00080", strings.Repeat("a", 255),
	} {
		f(host, true)
	}
	for _, host := range []string{
		"", ".", "a:", "a:65536", "a:1x", "[::1", "[:]", "[1]", "[:1]", "[1:]", "[1:2:3:4:5:6:7:8:]", "[1:2:3:4:5:6:7:8::]",
		"[::1:2:3:4:5:6:7:8]", "[:::]", "[1:::2]", "[::1.2.3]", "[::1.2.3.4.5]", "[::1.2.3.256]", "[::01.2.3.4]", "[1.2.3.4::]", "[::g]",
		"[1:2:3:4:5:6:7:1.2.3.4]", "[::1]80", "[::1]:", "a!b", "a b", "a@b", "\xff", strings.Repeat("a", 256),
	} {
		f(host, false)
	}
}

func TestFieldAccess(t *testing.T) {
	h := parseRequest(t, "GET / HTTP/1.1\r\nhOST: a\r\nX-One:\t 1 \t\r\nx-one: 2\r\nAccept:\r\nVia: b\r\nVia: c\r\n\r\n")
	if got := string(h.Get(Host)); got != "a" {
		t.Errorf("Get(Host) = %q", got)
	}
	if got := h.Get(Accept); got == nil || len(got) != 0 {
		t.Errorf("Get of an empty field = %#v, want empty and not nil", got)
	}
	if h.Get(Cookie) != nil || h.Has(Cookie) || h.Index(Cookie) != -1 || h.GetName([]byte("x-two")) != nil || h.Has(Unknown) {
		t.Error("absent fields are found")
	}
	if string(h.GetName([]byte("X-ONE"))) != "1" || string(h.GetName([]byte("via"))) != "b" {
		t.Errorf("GetName: %q, %q", h.GetName([]byte("X-ONE")), h.GetName([]byte("via")))
	}
	if !h.Repeated(Via) || h.Repeated(Host) || !h.HasAny(FieldsOf(Cookie, Via)) || h.HasAny(FieldsOf(Cookie)) {
		t.Error("Repeated or HasAny is wrong")
	}
	if string(h.Name(1)) != "X-One" || string(h.Line(1)) != "X-One:\t 1 \t\r\n" || string(h.Line(5)) != "Via: c\r\n" {
		t.Errorf("field 1: %q, %q; last line %q", h.Name(1), h.Line(1), h.Line(5))
	}
}

func TestFieldsPassedOn(t *testing.T) {
	f := func(fields, want string) {
		t.Helper()
		h := parseRequest(t, "GET / HTTP/1.1\r\nHost: a\r\n"+fields+"\r\n")
		if got := string(h.AppendFields(nil, FieldsOf(Host))); got != want {
			t.Errorf("%q: passed on %q, want %q", fields, got, want)
		}
	}
	f("", "")
	f("X-A:  1 \r\nx-b:2\r\n", "X-A:  1 \r\nx-b:2\r\n")
	f("A: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\nB: 2\r\nProxy-Connection: close\r\n", "A: 1\r\nB: 2\r\n")
	f("Connection: x-a, close\r\nX-A: 1\r\nX-AB: 2\r\nx-a: 3\r\n", "X-AB: 2\r\n")
	f("X-A: 1\r\nConnection: close\r\nConnection: keep-alive ,\t X-A\t\r\n", "")
	f("Trailer: X\r\nProxy-Authorization: y\r\n", "Trailer: X\r\nProxy-Authorization: y\r\n")
	f("Upgrade: h2c\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\nA: 1\r\n", "A: 1\r\n")
	// Nominations of fields that are end-to-end are not obeyed.
	for _, field := range []string{
		"Content-Length: 3\r\n", "X-Forwarded-For: 1\r\n", "Forwarded: for=x\r\n", "Authorization: x\r\n", "Cookie: x\r\n",
		"X-Real-IP: x\r\n", "X-Request-ID: x\r\n", "Cache-Control: x\r\n", "Content-Type: x\r\n",
	} {
		name, _, _ := strings.Cut(field, ":")
		f("Connection: host, "+name+"\r\n"+field, field)
	}
	// What a CGI-like backend takes for a field that the gateway sets is not passed on.
	f("X_Forwarded_For: 1\r\nx-forwarded_proto: 1\r\nX_Real-IP: 1\r\nX_Other: 1\r\n", "X_Other: 1\r\n")
	f("X.Forwarded.For: 1\r\nx-forwarded~proto: 1\r\nX.Real_IP: 1\r\nX!Request'Id: 1\r\nX.Other: 1\r\n", "X.Other: 1\r\n")

	h := parseRequest(t, "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nCookie: 2\r\nx-a: 3\r\nB: 4\r\n\r\n")
	h.DropName([]byte("x-A"))
	h.DropName([]byte("COOKIE"))
	if got, want := string(h.AppendFields(nil, 0)), "Host: a\r\nB: 4\r\n"; got != want {
		t.Errorf("after DropName: %q, want %q", got, want)
	}
}

func TestLimitsAreExact(t *testing.T) {
	f := func(raw string, lim Limits, want reason.Reason) {
		t.Helper()
		var whole, dribble RequestHead
		_, err := whole.Parse([]byte(raw), &lim)
		if got := ends(t, err); got != want {
			t.Errorf("%+v: got %v, want %v", lim, got, want)
		}
		err = nil
		for i := 0; i <= len(raw) && err == nil; i++ {
			_, err = dribble.Parse([]byte(raw[:i]), &lim)
		}
		if got := ends(t, err); got != want {
			t.Errorf("%+v, byte by byte: got %v, want %v", lim, got, want)
		}
	}
	const raw = "GET /0123456789 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"
	const line = len("GET /0123456789 HTTP/1.1")
	f(raw, Limits{MaxLine: line, MaxHead: len(raw), MaxFields: 2}, reason.OK)
	f(raw, Limits{MaxLine: line - 1}, reason.TargetTooLong)
	f(raw, Limits{MaxHead: len(raw) - 1}, reason.HeadTooLarge)
	f(raw, Limits{MaxHead: len(raw) - 2}, reason.HeadTooLarge)
	f(raw, Limits{MaxHead: line + 1}, reason.HeadTooLarge)
	f(raw, Limits{MaxHead: line - 1}, reason.TargetTooLong)
	f(raw, Limits{MaxFields: 1}, reason.TooManyHeaders)
	f("\r\n"+raw, Limits{MaxLine: line, MaxHead: len(raw)}, reason.OK)
	f(raw[:len(raw)-2], Limits{MaxHead: len(raw) - 3}, reason.HeadTooLarge)
	f(raw[:len(raw)-2], Limits{MaxHead: len(raw) - 2}, reason.OK) // incomplete

	// Bytes after the head do not count.
	var h RequestHead
	if n, err := h.Parse([]byte(raw+strings.Repeat("b", 1000)), &Limits{MaxHead: len(raw)}); n != len(raw) || err != nil {
		t.Errorf("with a body: %d, %v", n, err)
	}
}

func TestBabbleEndsAtItsFirstByte(t *testing.T) {
	var req RequestHead
	if _, err := req.Parse([]byte{0x16}, nil); err != reason.BadRequestLine {
		t.Errorf("TLS on a plain port: %v", err)
	}
	var resp ResponseHead
	if n, err := resp.Parse([]byte("HTT"), nil); n != 0 || err != nil {
		t.Errorf("HTT: %d, %v", n, err)
	}
	if _, err := resp.Parse([]byte("HTTQ"), nil); err != reason.BadBackendHead {
		t.Errorf("HTTQ: %v", err)
	}
}

func TestRefusedRequestCanBeLogged(t *testing.T) {
	var h RequestHead
	_, err := h.Parse([]byte("\r\nPOST /log?me HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"), nil)
	if err != reason.LengthConflict || string(h.Method()) != "POST" || string(h.Path()) != "/log" || string(h.Get(Host)) != "a" {
		t.Errorf("%v: %q %q %q", err, h.Method(), h.Path(), h.Get(Host))
	}
	h.Reset()
	if _, err = h.Parse([]byte("\n"), nil); err != reason.BareLineFeed || len(h.Method())+len(h.Path())+len(h.Host()) != 0 {
		t.Errorf("%v: %q %q %q", err, h.Method(), h.Path(), h.Host())
	}
}

func TestOldWebSocketVersionIsTold(t *testing.T) {
	f := func(version string, want bool) {
		t.Helper()
		var h RequestHead
		raw := "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n" + version + "\r\n"
		if _, err := h.Parse([]byte(raw), nil); err != reason.BadUpgrade || h.UpgradeRequired != want {
			t.Errorf("%q: %v, UpgradeRequired %v; want %v", version, err, h.UpgradeRequired, want)
		}
	}
	f("Sec-WebSocket-Version: 8\r\n", true)
	f("Sec-WebSocket-Version: 13\r\n", false) // no key
	f("", false)
}

func TestWebSocketAccept(t *testing.T) {
	// The example of RFC 6455 section 1.3.
	if got := WebSocketAccept([]byte("dGhlIHNhbXBsZSBub25jZQ==")); string(got[:]) != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("%s", got)
	}
}

func TestLookupField(t *testing.T) {
	f := func(name string, want FieldID) {
		t.Helper()
		if got := LookupField([]byte(name)); got != want {
			t.Errorf("LookupField(%q) = %q, want %q", name, got, want)
		}
	}
	for id := Unknown + 1; id < NumFieldIDs; id++ {
		name := id.String()
		f(name, id)
		f(strings.ToUpper(name), id)
		f(strings.ToLower(name), id)
		f(name+"x", Unknown)
		f(name[1:], Unknown)
		for i := range name { // no other byte folds onto a letter, digit or dash
			for c := range 256 {
				other := name[:i] + string([]byte{byte(c)}) + name[i+1:]
				if !strings.EqualFold(other, name) || c >= 0x80 {
					if got := LookupField([]byte(other)); got == id {
						t.Errorf("LookupField(%q) = %q", other, got)
					}
				}
			}
		}
	}
	f("", Unknown)
	f("x", Unknown)
	f(strings.Repeat("x", 100), Unknown)
	if NumFieldIDs > 64 {
		t.Errorf("%d known fields do not fit in a FieldSet", NumFieldIDs)
	}
}

func TestMethods(t *testing.T) {
	f := func(name string, want MethodID, idempotent bool) {
		t.Helper()
		if got := LookupMethod([]byte(name)); got != want || got.Idempotent() != idempotent {
			t.Errorf("%s: %d, idempotent %v; want %d, %v", name, got, got.Idempotent(), want, idempotent)
		}
	}
	f("GET", MethodGet, true)
	f("HEAD", MethodHead, true)
	f("POST", MethodPost, false)
	f("PUT", MethodPut, true)
	f("DELETE", MethodDelete, true)
	f("CONNECT", MethodConnect, false)
	f("OPTIONS", MethodOptions, true)
	f("TRACE", MethodTrace, true)
	f("PATCH", MethodPatch, false)
	f("get", MethodOther, false)
	f("", MethodOther, false)
}
