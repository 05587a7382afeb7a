package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tickgate/config"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
	"tickgate/proxy"
)

// hostileGateway is a gateway in this process, on a plain and a TLS port.
type hostileGateway struct {
	*proxy.Gateway
	plain, secure string
	client        *tls.Config
}

// startHostile runs a gateway with the rest of the configuration in yaml.
func startHostile(t testing.TB, yaml string) *hostileGateway {
	t.Helper()
	pair := testcert.New(t)
	cert, key := pair.Files(t)
	g := &hostileGateway{plain: testkit.FreeAddr(t), secure: testkit.FreeAddr(t), client: pair.ClientTLS("localhost")}
	// Many shake hands at once, on a machine that is busy with other tests.
	src := fmt.Sprintf("admin: {listen: \"off\"}\nhandshakes: {queue_timeout: 60s}\nlisteners:\n  - {listen: %q}\n  - listen: %q\n    tls: {certificates: [{cert_file: %q, key_file: %q}]}\n%s",
		g.plain, g.secure, cert, key, yaml)
	cfg, report := config.Parse("hostile.yaml", []byte(src))
	if err := report.Err(); err != nil {
		t.Fatalf("configuration: %v\n%s", err, src)
	}
	gw, err := proxy.New(cfg, proxy.Options{Version: "test"})
	if err != nil {
		t.Fatalf("start gateway: %v", err)
	}
	t.Cleanup(gw.Stop)
	g.Gateway = gw
	return g
}

// drained waits for every connection to end and returns how requests ended, by reason.
func (g *hostileGateway) drained(t testing.TB) map[string]int {
	t.Helper()
	g.Drain(context.Background())
	return g.ends(t)
}

var endsLine = regexp.MustCompile(`(?m)^tickgate_request_ends_total\{reason="(\w+)"\} (\d+)$`)

// ends returns how requests ended so far, by reason.
func (g *hostileGateway) ends(t testing.TB) map[string]int {
	t.Helper()
	var text bytes.Buffer
	if err := g.Meter().WritePrometheus(&text); err != nil {
		t.Fatalf("write metrics: %v", err)
	}
	ends := map[string]int{}
	for _, m := range endsLine.FindAllStringSubmatch(text.String(), -1) {
		ends[m[1]], _ = strconv.Atoi(m[2]) // digits only
	}
	return ends
}

// hostileClient is one client connection. Everything is bounded by one deadline.
type hostileClient struct {
	net.Conn
	tcp *net.TCPConn
	br  *bufio.Reader
}

// dial connects from the loopback address 127.n, which tells whose request a backend
// sees; n is at least 1<<16 to stay clear of 127.0.0.1.
func (g *hostileGateway) dial(n int, secure bool) (*hostileClient, error) {
	c, err := g.dialRaw(n, secure)
	if err != nil || !secure {
		return c, err
	}
	tc := tls.Client(c.tcp, g.client)
	if err := tc.Handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	c.Conn, c.br = tc, bufio.NewReader(tc)
	return c, nil
}

// dialRaw is dial without the TLS handshake.
func (g *hostileGateway) dialRaw(n int, secure bool) (*hostileClient, error) {
	addr := g.plain
	if secure {
		addr = g.secure
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: sourceOf(n)}, Timeout: testkit.Patience}
	conn, err := d.Dial("tcp4", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	return &hostileClient{Conn: conn, tcp: conn.(*net.TCPConn), br: bufio.NewReader(conn)}, nil
}

func sourceOf(n int) net.IP { return net.IPv4(127, byte(n>>16), byte(n>>8), byte(n)) }

// end sends FIN, after close_notify over TLS.
func (c *hostileClient) end() {
	if tc, ok := c.Conn.(*tls.Conn); ok {
		_ = tc.CloseWrite()
	}
	_ = c.tcp.CloseWrite()
}

// shot is what one client sends, on a connection of its own.
type shot struct {
	name   string
	raw    string
	cuts   []int // where the writes are split
	secure bool
	// want is how the last request must end, if exact. Otherwise it must end soundly,
	// however.
	want  reason.Reason
	exact bool
}

// outcome is what came back. end is the error after the last response.
type outcome struct {
	responses []*testkit.Response
	end       error
}

// soundRequests reads stream as a strict server would that skips one empty line
// before a request (RFC 9112 section 2.2), and returns what follows the last whole
// request.
func soundRequests(stream string) (reqs []*testkit.Request, rest string) {
	for {
		start := maskNominations(strings.TrimPrefix(stream, "\r\n"))
		req, err := testkit.ReadRequest(bufio.NewReader(strings.NewReader(start)))
		if masked, ok := maskTrailer(start, err); ok {
			stream = masked
			continue
		}
		if err != nil {
			return reqs, start
		}
		reqs = append(reqs, req)
		stream = start[len(req.Raw):]
	}
}

// The strict parser refuses a few messages that the gateway repairs, since it never
// passes on what is wrong with them. The masks below hide that from the parser, and
// keep every length as it is.

var connectionLine = regexp.MustCompile(`(?im)^connection:.*$`)

// maskNominations takes the names of framing fields out of the Connection fields of
// the first head. The gateway does not obey them and passes no Connection on, while
// the strict parser refuses the whole request.
func maskNominations(stream string) string {
	end := strings.Index(stream, "\r\n\r\n")
	if end < 0 {
		return stream
	}
	masked := connectionLine.ReplaceAllStringFunc(stream[:end], func(line string) string {
		return framingName.ReplaceAllStringFunc(line, func(name string) string { return strings.Repeat("x", len(name)) })
	})
	return masked + stream[end:]
}

var framingName = regexp.MustCompile(`(?i)host|content-length|transfer-encoding`)

// maskTrailer renames the trailer that err complains about, if it is one of those that
// the gateway leaves out. Framing fields are not.
func maskTrailer(stream string, err error) (masked string, ok bool) {
	var flaw *testkit.Flaw
	if !errors.As(err, &flaw) || flaw.Rule != "trailer" {
		return stream, false
	}
	name, err := strconv.Unquote(flaw.What)
	if err != nil || framingName.MatchString(name) {
		return stream, false
	}
	at := strings.LastIndex(stream[:flaw.Where], "\r\n"+name+":") + 2
	return stream[:at] + strings.Repeat("x", len(name)) + stream[at+len(name):], true
}

// fire sends the shot and reads everything that comes back. The answers to whole
// requests are awaited before the client ends its half, since a client that has
// gone need not be answered.
func (g *hostileGateway) fire(s *shot, n int) (outcome, error) {
	c, err := g.dial(n, s.secure)
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = c.Close() }()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.send(c)
	}()
	sound, rest := soundRequests(s.raw)
	var o outcome
	for _, req := range sound {
		if !o.read(c.br, req.Method) || saysClose(o.last()) {
			break
		}
	}
	<-sent
	if o.end == nil {
		c.end()
		method, _, _ := strings.Cut(rest, " ")
		for o.read(c.br, method) {
		}
	}
	return o, nil
}

// send writes the shot in its pieces. A gateway that has refused it may close before
// the last.
func (s *shot) send(w io.Writer) {
	from := 0
	for _, cut := range append(s.cuts, len(s.raw)) {
		if _, err := io.WriteString(w, s.raw[from:cut]); err != nil {
			return
		}
		from = cut
	}
}

// read reads one response; false is the end.
func (o *outcome) read(br *bufio.Reader, method string) bool {
	resp, err := testkit.ReadResponse(br, method)
	if err != nil {
		o.end = err
		return false
	}
	o.responses = append(o.responses, resp)
	return true
}

// saysClose reports whether a response ends its connection.
func saysClose(r *testkit.Response) bool {
	return slices.ContainsFunc(r.All("Connection"), func(v string) bool { return strings.Contains(v, "close") })
}

func (o *outcome) last() *testkit.Response { return o.responses[len(o.responses)-1] }

var reasonLine = regexp.MustCompile(`(?m)^reason: (\w+)$`)

// reasonOf returns the reason in an answer of the gateway's own, or "".
func reasonOf(r *testkit.Response) string {
	if m := reasonLine.FindSubmatch(r.Body); m != nil {
		return string(m[1])
	}
	return ""
}

// witness is the backend's side: a strict recorder that notes who sent what.
type witness struct {
	*testkit.Recorder

	mu   sync.Mutex
	seen map[string][]*testkit.Request // by client address
}

func newWitness(t testing.TB) *witness {
	w := &witness{seen: map[string][]*testkit.Request{}}
	w.Recorder = testkit.NewRecorder(t, w.answer)
	return w
}

// answer tells the client what was understood.
func (w *witness) answer(req *testkit.Request) []byte {
	w.mu.Lock()
	addr := req.Get("X-Forwarded-For")
	w.seen[addr] = append(w.seen[addr], req)
	w.mu.Unlock()
	resp := testkit.OK(understood(req.Method, req.Target, req.Body))
	if req.Method == "HEAD" {
		return resp[:bytes.Index(resp, []byte("\r\n\r\n"))+4]
	}
	return resp
}

func understood(method, target string, body []byte) string {
	return fmt.Sprintf("understood %s %s with %d bytes\n", method, target, len(body))
}

// of returns what came from one client, and forgets it.
func (w *witness) of(n int) []*testkit.Request {
	w.mu.Lock()
	defer w.mu.Unlock()
	addr := sourceOf(n).String()
	reqs := w.seen[addr]
	delete(w.seen, addr)
	return reqs
}

// judge compares what the client sent, what the backend saw and what came back. It
// returns what is wrong.
func (s *shot) judge(o outcome, seen []*testkit.Request) error {
	sound, _ := soundRequests(s.raw)
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if rule := testkit.RuleOf(o.end); rule != "end" {
		fail("the gateway's bytes end with %q: %w", rule, o.end)
	}
	if s.exact && slices.ContainsFunc(seen, func(r *testkit.Request) bool { return r.Target == "/smuggled" }) {
		fail("smuggled")
	}
	for i, r := range o.responses {
		switch {
		case saysClose(r) && i != len(o.responses)-1:
			fail("response %d says close, but another follows", i)
		case r.Status == 501 || r.Status == 505 || r.Status >= 400 && r.Status < 500: // the gateway's own word
		case r.Status != 200:
			fail("response %d is %d: %q", i, r.Status, r.Body)
		case i >= len(sound) || len(seen) == 0:
			fail("response %d is for no request: %q", i, r.Body)
		default:
			errs = append(errs, answered(sound[i], seen[0], r))
			seen = seen[1:]
		}
	}
	if len(o.responses) < len(sound) && (len(o.responses) == 0 || !saysClose(o.last())) {
		fail("%d responses to %d sound requests", len(o.responses), len(sound))
	}
	for _, req := range seen {
		fail("the backend saw a request that is none, or was refused: %q", req.Raw)
	}
	return errors.Join(append(errs, s.endedAsWanted(o))...)
}

// sameHost reports whether the backend saw the client's host. Without one, which
// HTTP/1.0 allows, the gateway names the backend.
func sameHost(sent, seen *testkit.Request) bool {
	if want := hostOf(sent); want != "" {
		return seen.Get("Host") == want
	}
	return sent.Proto == "HTTP/1.0" && seen.Get("Host") != ""
}

// answered checks one request on its way: as a strict server reads it in the client's
// stream, as the backend saw it, and the backend's word for it.
func answered(sent, seen *testkit.Request, got *testkit.Response) error {
	if seen.Method != sent.Method || seen.Target != originForm(sent) || !bytes.Equal(seen.Body, sent.Body) || !sameHost(sent, seen) {
		return fmt.Errorf("the backend saw %q in place of %q", seen.Raw, sent.Raw)
	}
	if want := understood(seen.Method, seen.Target, seen.Body); seen.Method != "HEAD" && string(got.Body) != want {
		return fmt.Errorf("response %q, want %q", got.Body, want)
	}
	return nil
}

var absoluteForm = regexp.MustCompile(`^(?i:https?)://([^/?]*)(/[^?]*)?(\?.*)?$`)

// originForm is the target that an origin server gets (RFC 9112 section 3.2).
func originForm(r *testkit.Request) string {
	m := absoluteForm.FindStringSubmatch(r.Target)
	switch {
	case m == nil:
		return r.Target
	case m[2] != "":
		return m[2] + m[3]
	case r.Method == "OPTIONS" && m[3] == "":
		return "*"
	}
	return "/" + m[3]
}

// hostOf is the host that a request names.
func hostOf(r *testkit.Request) string {
	if m := absoluteForm.FindStringSubmatch(r.Target); m != nil {
		return m[1]
	}
	return r.Get("Host")
}

// endedAsWanted checks how the last request ended.
func (s *shot) endedAsWanted(o outcome) error {
	if !s.exact {
		return nil
	}
	if len(o.responses) == 0 {
		return fmt.Errorf("no response, want %v", s.want)
	}
	last := o.last()
	if s.want == reason.OK {
		if last.Status != 200 {
			return fmt.Errorf("%d %s, want 200", last.Status, reasonOf(last))
		}
		return nil
	}
	isHead := len(last.Body) == 0 && last.Get("Content-Length") != "0"
	otherVersion := s.want == reason.BadUpgrade && last.Status == http.StatusUpgradeRequired // RFC 6455 section 4.2.2
	if got := reasonOf(last); last.Status != s.want.Status() && !otherVersion || !isHead && got != s.want.String() {
		return fmt.Errorf("%d %s, want %d %v", last.Status, got, s.want.Status(), s.want)
	}
	return nil
}

// cutsIn draws up to most places to split raw at, in order.
func cutsIn(rng *rand.Rand, raw string, most int) []int {
	var cuts []int
	for at := 0; len(raw) > 0 && most > 0; most-- {
		at += 1 + rng.IntN(max(1, len(raw)/most))
		if at >= len(raw) {
			break
		}
		cuts = append(cuts, at)
	}
	return cuts
}
