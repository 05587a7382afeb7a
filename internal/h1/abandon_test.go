package h1

import "testing"

func TestAbandon(t *testing.T) {
	// f parses a head that is not whole, in two pieces, and reads what there is of it.
	f := func(raw, method, path, agent string) {
		t.Helper()
		var h RequestHead
		h.Reset()
		for _, buf := range []string{raw[:len(raw)/2], raw} {
			if n, err := h.Parse([]byte(buf), nil); n != 0 || err != nil {
				t.Fatalf("Parse(%q) = %d, %v; want more to be needed", buf, n, err)
			}
		}
		h.Abandon([]byte(raw))
		if got := string(h.Method()); got != method {
			t.Errorf("%q: method %q, want %q", raw, got, method)
		}
		if got := string(h.Path()); got != path {
			t.Errorf("%q: path %q, want %q", raw, got, path)
		}
		if got := string(h.Get(UserAgent)); got != agent {
			t.Errorf("%q: user agent %q, want %q", raw, got, agent)
		}
		if h.Host() != nil || h.GetName([]byte("X-None")) != nil {
			t.Errorf("%q: host %q before the head was whole", raw, h.Host())
		}
	}
	f("", "", "", "")
	f("\r", "", "", "")
	f("\r\n", "", "", "")
	f("GET /a HTTP/1.1", "", "", "")
	f("GET /a HTTP/1.1\r\n", "GET", "/a", "")
	f("\r\nGET /a?b HTTP/1.1\r\nUser-Agent: me\r\n", "GET", "/a", "me")
	f("HEAD /a HTTP/1.1\r\nUser-Agent: me\r\nHost: a.exa", "HEAD", "/a", "me")
}
