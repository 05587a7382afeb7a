package accesslog

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"tickgate/internal/reason"
)

// fakeHeader looks names up as a request would.
func fakeHeader(fields map[string]string) func([]byte) []byte {
	return func(name []byte) []byte { return []byte(fields[string(name)]) }
}

// sample is a record with everything in it.
func sample() *Record {
	return &Record{
		Time:             time.Date(2026, 1, 2, 3, 4, 5, 6_789_000, time.Local),
		Duration:         1234567 * time.Microsecond,
		UpstreamDuration: 1002 * time.Microsecond,
		ClientAddr:       netip.MustParseAddrPort("[::ffff:192.0.2.7]:4567"),
		Method:           []byte("GET"),
		Host:             []byte("example.com"),
		Path:             []byte("/a%20b"),
		Query:            []byte("x=1"),
		Proto:            []byte("HTTP/1.1"),
		Referer:          []byte("https://ref.example/"),
		UserAgent:        []byte("curl/8"),
		RequestID:        []byte("id-1"),
		Header: fakeHeader(map[string]string{
			"Accept":        "text/html",
			"Authorization": "Basic " + base64.StdEncoding.EncodeToString([]byte("alice:secret")),
			"Cookie":        "a=1; session=s3; b=2",
		}),
		Status:        502,
		BytesSent:     1024,
		BytesReceived: 17,
		Reason:        reason.DialFailed,
		Attempts:      2,
		Route:         "api",
		Upstream:      "be",
		Backend:       "10.0.0.1:80",
		Listener:      ":443",
		Scheme:        "https",
		TLSVersion:    "1.3",
		TLSCipher:     "TLS_AES_128_GCM_SHA256",
		TLSServerName: "example.com",
		TLSJA4:        "t13d1516h2_8daaf6152771_e5627efa2ab1",
		TLSClient: &TLSClient{
			Subject: `CN=feed,O=Acme\, Inc.`, Issuer: "CN=ca", SAN: "URI:spiffe://a/b", SPIFFE: "spiffe://a/b", Fingerprint: "0a0b", Serial: "7",
		},
	}
}

// format compiles a format and applies it.
func format(t *testing.T, f string, r *Record) string {
	t.Helper()
	compiled, err := Compile(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(compiled.Append(nil, r))
}

// zone is the local zone at the time of sample in the given layout.
func zone(layout string) string { return sample().Time.Format(layout) }

func TestJSON(t *testing.T) {
	want := `{"time":"2026-01-02T03:04:05.006` + zone("Z07:00") + `","client_addr":"192.0.2.7","client_port":4567,"listener":":443","scheme":"https",` +
		`"method":"GET","host":"example.com","path":"/a%20b","query":"x=1","proto":"HTTP/1.1","status":502,"reason":"dial_failed",` +
		`"bytes_sent":1024,"bytes_received":17,"duration":1.234567,"upstream_duration":0.001002,"attempts":2,"route":"api","upstream":"be",` +
		`"backend":"10.0.0.1:80","request_id":"id-1","referer":"https://ref.example/","user_agent":"curl/8","tls_version":"1.3",` +
		`"tls_cipher":"TLS_AES_128_GCM_SHA256","tls_server_name":"example.com","tls_ja4":"t13d1516h2_8daaf6152771_e5627efa2ab1",` +
		`"tls_client_verified":"yes","tls_client_subject":"CN=feed,O=Acme\\, Inc.","tls_client_issuer":"CN=ca","tls_client_san":"URI:spiffe://a/b",` +
		`"tls_client_spiffe":"spiffe://a/b","tls_client_fingerprint":"0a0b","tls_client_serial":"7"}`
	if got := format(t, "json", sample()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	want = `{"time":"2026-01-02T03:04:05.006` + zone("Z07:00") + `","client_addr":"unix","client_port":0,"method":"","host":"","path":"","status":0,` +
		`"reason":"ok","bytes_sent":0,"bytes_received":0,"duration":0.000000,"upstream_duration":0.000000,"attempts":0,"route":""}`
	if got := format(t, "json", &Record{Time: sample().Time}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestCombined(t *testing.T) {
	date := "02/Jan/2026:03:04:05 " + zone("-0700")
	check := func(r *Record, want string) {
		t.Helper()
		if got := format(t, "combined", r); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
	}
	check(sample(), `192.0.2.7 - alice [`+date+`] "GET /a%20b?x=1 HTTP/1.1" 502 1024 "https://ref.example/" "curl/8"`)
	check(&Record{Time: sample().Time}, `unix - - [`+date+`] "-" 000 0 "-" "-"`)

	r := sample()
	r.Method, r.Target, r.Proto = []byte("CONNECT"), []byte("h:443"), []byte("HTTP/1.0")
	r.Referer, r.UserAgent, r.Header = nil, []byte("a\"b\\c\nd\x7f\u00e9"), nil
	r.ClientAddr = netip.MustParseAddrPort("[2001:db8::1]:1")
	check(r, `2001:db8::1 - - [`+date+`] "CONNECT h:443 HTTP/1.0" 502 1024 "-" "a\x22b\x5Cc\x0Ad\x7F\xC3\xA9"`)
}

func TestTemplate(t *testing.T) {
	iso := "2026-01-02T03:04:05.006" + zone("Z07:00")
	for template, want := range map[string]string{
		"plain":                            "plain",
		"$$5 ${status}$$":                  "$5 502$",
		"${header:Accept}":                 "text/html",
		"${header:None}|":                  "-|",
		"${cookie:session} ${cookie:none}": "s3 -",
		"${uri} ${path} ${query}":          "/a%20b?x=1 /a%20b x=1",
		"${time_iso8601}":                  iso,
		"${client_addr} ${client_port}":    "192.0.2.7 4567",
		"${duration} ${upstream_duration}": "1.234567 0.001002",
		"${method} ${host} ${scheme} ${proto} ${request_id}":    "GET example.com https HTTP/1.1 id-1",
		"${route} ${upstream} ${backend} ${listener} ${reason}": "api be 10.0.0.1:80 :443 dial_failed",
		"${tls_version} ${tls_cipher} ${tls_server_name}":       "1.3 TLS_AES_128_GCM_SHA256 example.com",
		"${tls_ja4}": "t13d1516h2_8daaf6152771_e5627efa2ab1",
		"${bytes_sent} ${bytes_received} ${attempts}":             "1024 17 2",
		"${referer} ${user_agent} ${remote_user} [${time_local}]": "https://ref.example/ curl/8 alice [02/Jan/2026:03:04:05 " + zone("-0700") + "]",
		"\u00fcber ${request}":                                    "\u00fcber GET /a%20b?x=1 HTTP/1.1",
	} {
		if got := format(t, template, sample()); got != want {
			t.Errorf("%q gives %q, want %q", template, got, want)
		}
	}
}

// TestEveryVariableIsWritten gives every variable a value in sample.
func TestEveryVariableIsWritten(t *testing.T) {
	for _, name := range Variables() {
		if got := format(t, "${"+name+"}", sample()); got == "" || got == "-" {
			t.Errorf("${%s} gives %q for a record that has everything", name, got)
		}
	}
}

func TestCompileFails(t *testing.T) {
	for template, want := range map[string]string{
		"":                      "it is empty",
		"a ${status":            "offset 0: \"${\" without \"}\"",
		"${status} ${nonsense}": "offset 9: unknown variable ${nonsense}",
		"${header:}":            "unknown variable ${header:}",
		"${footer:x}":           "unknown variable ${footer:x}",
		"${}":                   "unknown variable ${}",
		"cost $5":               `"$" without a name`,
		"end $":                 `"$" without a name`,
		"two\nlines":            `control character '\n'`,
	} {
		_, err := Compile(template)
		if !errors.Is(err, ErrBadFormat) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", template, err, want)
		}
	}
}

func TestRemoteUser(t *testing.T) {
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for field, want := range map[string]string{
		basic("bob:pw"):                        "bob",
		"bAsIc " + basic("bob:pw")[6:]:         "bob",
		"Basic   " + basic("bob:p")[6:]:        "bob",
		basic("bob\n\":pw"):                    `bob\x0A\x22`,
		basic("b:" + strings.Repeat("x", 999)): "b",
		// A name without a colon could be a password; too long a name is not looked for.
		basic("secret"):                        "-",
		basic(strings.Repeat("x", 999) + ":p"): "-",
		basic(":pw"):                           "-",
		"Basic ":                               "-",
		"Basic !!!":                            "-",
		"Bearer abc":                           "-",
		"":                                     "-",
	} {
		r := &Record{Header: fakeHeader(map[string]string{"Authorization": field})}
		if got := format(t, "${remote_user}", r); got != want {
			t.Errorf("%q is user %q, want %q", field, got, want)
		}
	}
}

func TestCookie(t *testing.T) {
	for _, c := range []struct{ field, name, want string }{
		{"a=1; b=2", "b", "2"},
		{"a=1;b=2", "b", "2"},
		{"ab=1; b=", "b", ""},
		{"b=x=y", "b", "x=y"},
		{"b; b=3", "b", "3"},
		{"", "b", ""},
		{";;=; b=1", "b", "1"},
		{"B=1", "b", ""},
	} {
		if got := string(cookie([]byte(c.field), []byte(c.name))); got != c.want {
			t.Errorf("cookie %q of %q is %q, want %q", c.name, c.field, got, c.want)
		}
	}
}

func TestDurationsAndStatus(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                       "0.000000",
		999:                     "0.000000",
		time.Microsecond:        "0.000001",
		-time.Second:            "0.000000",
		100 * time.Second:       "100.000000",
		1<<63 - 1:               "9223372036.854775",
		90*time.Minute + 500000: "5400.000500",
	} {
		if got := string(appendSeconds(nil, d)); got != want {
			t.Errorf("%d ns is %s, want %s", d, got, want)
		}
	}
	for status, want := range map[int]string{0: "000", -1: "000", 99: "099", 200: "200"} {
		if got := string(appendStatus(nil, status)); got != want {
			t.Errorf("status %d is %s, want %s", status, got, want)
		}
	}
}

func TestClockFollowsTheSecond(t *testing.T) {
	var c clock
	at := func(ms int) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, ms*1e6, time.UTC) }
	for _, ms := range []int{0, 999, 1000, 59_999, 500, 86_400_000} {
		want := at(ms).Local().Format("2006-01-02T15:04:05.000Z07:00")
		if got := string(c.appendISO(nil, at(ms))); got != want {
			t.Errorf("%d ms: got %s, want %s", ms, got, want)
		}
	}
}

// zerologString is how zerolog writes a string.
func zerologString(s string) string {
	var b strings.Builder
	log := zerolog.New(&b)
	log.Log().Str("", s).Send()
	return strings.TrimSuffix(strings.TrimPrefix(b.String(), `{"":`), "}\n")
}

func TestJSONStringIsZerologs(t *testing.T) {
	for _, s := range []string{"", "a", "a\"b\\c", "\b\f\n\r\t\x00\x1f\x7f", "\u00e9\u4e16\U0001f600", "\xff", "a\xe2\x82", "\xed\xa0\x80", "\ufffd"} {
		if got, want := string(appendJSON(nil, []byte(s))), zerologString(s); got != want {
			t.Errorf("%q: got %s, zerolog writes %s", s, got, want)
		}
	}
}

func TestJSONHidesMisleadingCharacters(t *testing.T) {
	for s, want := range map[string]string{
		"\u009b2J":     `"\u009b2J"`,
		"\u0085":       `"\u0085"`,
		"a\u2028b":     `"a\u2028b"`,
		"\u202egpj":    `"\u202egpj"`,
		"\u2066\u2069": `"\u2066\u2069"`,
		"\ufeffx":      `"\ufeffx"`,
		"\u00a0":       "\"\u00a0\"",
	} {
		if got := string(appendJSON(nil, []byte(s))); got != want {
			t.Errorf("%q: got %s, want %s", s, got, want)
		}
	}
}

// checkLine fails if a line could be taken for more than it is.
func checkLine(t *testing.T, line []byte) {
	t.Helper()
	for _, c := range line {
		if c < 0x20 || c == 0x7f {
			t.Fatalf("control character %q in %q", c, line)
		}
	}
	if !utf8.Valid(line) {
		t.Fatalf("not UTF-8: %q", line)
	}
}

// FuzzNoInjection puts the same hostile text everywhere and checks that every format still
// gives one line, that JSON stays JSON, and that "combined" keeps its fields.
func FuzzNoInjection(f *testing.F) {
	for _, s := range []string{"", "\n", "\" 200 0 \"", "\xff\xfe", "\\", "${status}", "\u2028\u009b", "a\x00b"} {
		f.Add([]byte(s))
	}
	asJSON, err1 := Compile("json")
	asCombined, err2 := Compile("combined")
	asTemplate, err3 := Compile("${uri} ${header:X} ${cookie:c} ${route} ${tls_server_name} ${remote_user}")
	if err := errors.Join(err1, err2, err3); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		text := string(s)
		r := &Record{
			Method: s, Host: s, Path: s, Query: s, Proto: s, Target: s, Referer: s, UserAgent: s, RequestID: s,
			Header: func([]byte) []byte { return s },
			Route:  text, Upstream: text, Backend: text, Listener: text, Scheme: text,
			TLSVersion: text, TLSCipher: text, TLSServerName: text, TLSJA4: text,
		}
		line := asJSON.Append(nil, r)
		checkLine(t, line)
		var back struct{ Path, Route string }
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if utf8.Valid(s) && (back.Path != text || back.Route != text) {
			t.Fatalf("%q came back as %q", text, back.Path)
		}
		line = asCombined.Append(nil, r)
		checkLine(t, line)
		if n := strings.Count(string(line), `"`); n != 6 {
			t.Fatalf("%d quotes in %q, want 6", n, line)
		}
		checkLine(t, asTemplate.Append(nil, r))
	})
}
