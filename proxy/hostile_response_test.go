package proxy_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tickgate/internal/h1/corpus"
	"tickgate/internal/reason"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// ending is what a bad backend does with the connection after its answer.
type ending uint8

const (
	closes  ending = iota // in order: over TLS with close_notify
	cutsOff               // FIN alone, which over TLS is what an attacker can do
	resets
	stays // open and silent, ready for another request
)

var endingWords = [...]string{"closes", "cuts off", "resets", "stays"}

// badAnswer is what a backend says to one request.
type badAnswer struct {
	name   string
	raw    string
	cuts   []int // where the writes are split
	corked bool  // the writes reach the gateway at once: over TLS, several records in one segment
	end    ending
	secure bool // over TLS
	// How the client asks; the method is GET unless set, lines are further fields.
	method       string
	lines        string
	minor        int
	clientSecure bool
	// want is how the request must end, if exact.
	want  reason.Reason
	exact bool

	once   sync.Once
	played chan struct{} // closed when it was said
}

func (a *badAnswer) String() string {
	return fmt.Sprintf("%s (%s, TLS %t, corked %t, client 1.%d TLS %t)\nanswer %.600q\ncuts %v",
		a.name, endingWords[a.end], a.secure, a.corked, a.minor, a.clientSecure, a.raw, a.cuts)
}

// endOfStream is the error that a reader meets after the answer.
type endOfStream struct{ err error }

func (e endOfStream) Read([]byte) (int, error) { return 0, e.err }

func (a *badAnswer) endError() error {
	switch {
	case a.end == closes, a.end == cutsOff && !a.secure:
		return io.EOF
	case a.end == stays:
		return os.ErrDeadlineExceeded
	}
	return syscall.ECONNRESET
}

// reading is the answer as a strict client reads it; excess is what follows it.
func (a *badAnswer) reading() (resp *testkit.Response, excess int, err error) {
	return a.read(tolerated(a.raw))
}

func (a *badAnswer) read(raw string) (resp *testkit.Response, excess int, err error) {
	br := bufio.NewReaderSize(io.MultiReader(strings.NewReader(raw), endOfStream{a.endError()}), len(raw)+16)
	resp, err = testkit.ReadResponse(br, a.asks())
	if masked, ok := maskTrailer(raw, err); ok {
		return a.read(masked)
	}
	if spaced, ok := spaceAfterStatus(raw, err); ok {
		return a.read(spaced)
	}
	if err == nil && resp.Status == 101 {
		err = errors.New("101 unasked")
	}
	return resp, br.Buffered(), err
}

// asks is the method of the request.
func (a *badAnswer) asks() string { return cmp.Or(a.method, "GET") }

// tolerated repairs what the gateway does: an empty body's length where none may be
// (RFC 9110 section 8.6), and nominations of framing fields.
func tolerated(raw string) string {
	if strings.HasPrefix(raw, "HTTP/1.1 204") || strings.HasPrefix(raw, "HTTP/1.0 204") {
		head, rest, _ := strings.Cut(raw, "\r\n\r\n")
		raw = zeroLength.ReplaceAllString(head, "X$1") + "\r\n\r\n" + rest
	}
	return maskNominations(raw)
}

var shortStatus = regexp.MustCompile(`^HTTP/1\.[01] [1-5]\d\d$`)

// spaceAfterStatus adds the space before an empty phrase that err complains about.
// Many servers leave it out, and the gateway puts it in.
func spaceAfterStatus(raw string, err error) (spaced string, ok bool) {
	var flaw *testkit.Flaw
	if !errors.As(err, &flaw) || flaw.Rule != "status-line" {
		return raw, false
	}
	line, err := strconv.Unquote(flaw.What)
	if err != nil || !shortStatus.MatchString(line) {
		return raw, false
	}
	return strings.Replace(raw, line+"\r\n", line+" \r\n", 1), true
}

var zeroLength = regexp.MustCompile(`(?im)^c(ontent-length:[ \t]*0+[ \t]*\r?)$`)

// badBackend answers each target as it was told, and notes requests on connections
// that must not be used again.
type badBackend struct {
	ln    net.Listener
	conf  *tls.Config // nil for plain
	group sync.WaitGroup

	mu      sync.Mutex
	answers map[string]*badAnswer
	sockets map[net.Conn]struct{} // nil once closed
	reused  []string
}

func newBadBackend(t testing.TB, conf *tls.Config) *badBackend {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	b := &badBackend{ln: ln, conf: conf, answers: map[string]*badAnswer{}, sockets: map[net.Conn]struct{}{}}
	b.group.Go(b.accept)
	t.Cleanup(b.close)
	return b
}

func (b *badBackend) accept() {
	for {
		conn, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		open := b.sockets != nil
		if open {
			b.sockets[conn] = struct{}{}
		}
		b.mu.Unlock()
		if !open {
			_ = conn.Close()
			return
		}
		b.group.Go(func() { b.serve(&corkConn{TCPConn: conn.(*net.TCPConn)}) })
	}
}

func (b *badBackend) close() {
	_ = b.ln.Close()
	b.mu.Lock()
	for conn := range b.sockets {
		_ = conn.Close()
	}
	b.sockets = nil
	b.mu.Unlock()
	b.group.Wait()
}

// corkConn gathers writes while it is corked.
type corkConn struct {
	*net.TCPConn
	corked bool
	held   []byte
}

// Write implements net.Conn.
func (c *corkConn) Write(p []byte) (int, error) {
	if c.corked {
		c.held = append(c.held, p...)
		return len(p), nil
	}
	return c.TCPConn.Write(p)
}

func (c *corkConn) uncork() {
	c.corked = false
	_, _ = c.TCPConn.Write(c.held) // a gateway that has seen enough may have closed
	c.held = nil
}

func (b *badBackend) serve(raw *corkConn) {
	var conn net.Conn = raw
	if b.conf != nil {
		conn = tls.Server(raw, b.conf)
	}
	defer func() {
		b.mu.Lock()
		delete(b.sockets, net.Conn(raw.TCPConn))
		b.mu.Unlock()
		_ = conn.Close()
	}()
	br := bufio.NewReader(conn)
	poisoned := ""
	for {
		req, err := testkit.ReadRequest(br)
		if err != nil {
			return
		}
		b.mu.Lock()
		a := b.answers[req.Target]
		if poisoned != "" {
			b.reused = append(b.reused, poisoned)
		}
		b.mu.Unlock()
		if a == nil {
			_, _ = conn.Write(testkit.OK("good " + req.Target))
			continue
		}
		if _, excess, err := a.reading(); err != nil || excess > 0 {
			poisoned = a.String()
		}
		if !a.play(conn, raw) {
			return
		}
	}
}

// play sends the answer and ends the connection as it says. It reports whether the
// connection is open for another request.
func (a *badAnswer) play(conn net.Conn, raw *corkConn) bool {
	defer a.once.Do(func() { close(a.played) }) // a retry plays it again
	raw.corked = a.corked
	from := 0
	for _, cut := range append(a.cuts, len(a.raw)) {
		if _, err := io.WriteString(conn, a.raw[from:cut]); err != nil {
			return false
		}
		from = cut
	}
	raw.uncork()
	switch a.end {
	case closes:
		_ = conn.Close()
	case resets:
		_ = raw.SetLinger(0)
		_ = raw.TCPConn.Close()
	case cutsOff:
		_ = raw.TCPConn.Close()
	}
	return a.end == stays
}

// badPair is a gateway with a plain and a TLS backend.
type badPair struct {
	*hostileGateway
	plainBackend, tlsBackend *badBackend
	fired                    atomic.Int64
}

// backendLimit is how long backends may be silent. A good answer comes sooner on a busy
// machine too; under the race detector a handshake alone can take seconds.
const backendLimit = (2 + hostileScale) * time.Second

const (
	// noRetries makes every attempt count.
	noRetries = "{attempts: 1}"
	// retries are for backends that close connections which may be in the pool.
	retries = "{attempts: 3, budget_percent: 100, budget_min: 1000}"
)

func startBadPair(t *testing.T, retry string) *badPair {
	t.Helper()
	pair := testcert.New(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pair.CertPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	p := &badPair{plainBackend: newBadBackend(t, nil), tlsBackend: newBadBackend(t, pair.ServerTLS(t))}
	upstream := "  %s: {servers: [{address: %q}], retry: " + retry + ", timeouts: {response_header: " + backendLimit.String() + ", read: " + backendLimit.String() + "}%s}\n"
	p.hostileGateway = startHostile(t, "upstreams:\n"+
		fmt.Sprintf(upstream, "plain", p.plainBackend.ln.Addr(), "")+
		fmt.Sprintf(upstream, "tls", p.tlsBackend.ln.Addr(), fmt.Sprintf(", tls: {ca_file: %q, server_name: localhost}", ca))+
		"routes: [{path: /plain/, upstream: plain}, {path: /tls/, upstream: tls}]\n")
	return p
}

// ask gets the answer through the gateway, judges it, and then a good one, on the
// same connection if the gateway keeps it.
func (p *badPair) ask(a *badAnswer) error {
	n := 1<<16 + int(p.fired.Add(1))
	backend, prefix := p.plainBackend, "/plain/"
	if a.secure {
		backend, prefix = p.tlsBackend, "/tls/"
	}
	bad, good := fmt.Sprintf("%sbad/%d", prefix, n), fmt.Sprintf("%sgood/%d", prefix, n)
	a.played = make(chan struct{})
	backend.mu.Lock()
	backend.answers[bad] = a
	backend.mu.Unlock()
	c, err := p.dial(n, a.clientSecure)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, _ = fmt.Fprintf(c, "%s %s HTTP/1.%d\r\nHost: a.example\r\n%s\r\n", a.asks(), bad, a.minor, a.lines)
	resp, err := testkit.ReadResponse(c.br, a.asks())
	if judged := a.judge(resp, err); judged != nil {
		return judged
	}
	<-a.played
	if err == nil && !saysClose(resp) && !resp.UntilClose {
		return askGood(c, good)
	}
	if rest, _ := io.ReadAll(c.br); len(rest) > 0 {
		return fmt.Errorf("%d bytes after the end: %.100q", len(rest), rest)
	}
	again, err := p.dial(n, a.clientSecure)
	if err != nil {
		return err
	}
	defer func() { _ = again.Close() }()
	return askGood(again, good)
}

func askGood(c *hostileClient, target string) error {
	_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.example\r\n\r\n", target)
	resp, err := testkit.ReadResponse(c.br, "GET")
	if err != nil {
		return fmt.Errorf("good request: %w", err)
	}
	if string(resp.Body) != "good "+target {
		return fmt.Errorf("good request %s got %d %q", target, resp.Status, resp.Body)
	}
	return nil
}

// judge checks what the client got for the answer.
func (a *badAnswer) judge(got *testkit.Response, err error) error {
	want, _, unsound := a.reading()
	own := err == nil && (got.Status == 502 || got.Status == 504) && reasonOf(got) != ""
	if err == nil {
		if err := agreesOnResponse(got, a.asks()); err != nil {
			return err
		}
	}
	switch rule := testkit.RuleOf(err); {
	case err != nil && rule != "cut" && rule != "io":
		return fmt.Errorf("the client got malformed bytes, %s: %w: %q", rule, err, got.Raw)
	case err == nil && !own && unsound != nil:
		return fmt.Errorf("passed on as sound though it is not, %w: %q", unsound, got.Raw)
	case err == nil && !own && (got.Status != want.Status || string(got.Body) != string(want.Body)):
		return fmt.Errorf("got %d %q, want %d %q", got.Status, got.Body, want.Status, want.Body)
	case !a.exact:
		return nil
	case a.want == reason.OK && (err != nil || own):
		return fmt.Errorf("want it passed on, got %v, %q", err, got.Raw)
	case own && (reasonOf(got) != a.want.String() || got.Status != a.want.Status()):
		return fmt.Errorf("got %d %s, want %v", got.Status, reasonOf(got), a.want)
	}
	return nil
}

// agreesOnResponse compares net/http's reading of a response with the strict parser's.
func agreesOnResponse(want *testkit.Response, method string) error {
	got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(want.Raw)), &http.Request{Method: method})
	if err != nil {
		return fmt.Errorf("net/http: %w: %.300q", err, want.Raw)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil || got.StatusCode != want.Status || !bytes.Equal(body, want.Body) {
		return fmt.Errorf("net/http reads %d %.100q, %w: %.300q", got.StatusCode, body, err, want.Raw)
	}
	return nil
}

// wantAfter is how a request ends whose answer should end for want if the backend
// closes after it.
func wantAfter(want reason.Reason, end ending) reason.Reason {
	switch {
	case end == stays && want == reason.BackendReset:
		return reason.BackendTimeout
	case end == stays && want == reason.BackendTruncated:
		return reason.BackendStalled
	}
	return want
}

const badClients = 48

// askAll asks for all answers from several clients at once.
func (p *badPair) askAll(t *testing.T, answers []*badAnswer, clients int) {
	t.Helper()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(answers); i = next.Add(1) - 1 {
				if err := p.ask(answers[i]); err != nil && failed.Add(1) <= maxShown {
					t.Errorf("seed %d, answer %d, %v: %v", hostileSeed, i, answers[i], err)
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > maxShown {
		t.Errorf("%d more failures", n-maxShown)
	}
	for _, b := range []*badBackend{p.plainBackend, p.tlsBackend} {
		b.mu.Lock()
		for _, name := range b.reused[:min(len(b.reused), maxShown)] {
			t.Errorf("a connection was used again after %s", name)
		}
		b.mu.Unlock()
	}
}

// TestHostileResponses has backends send every bad answer of the corpus.
func TestHostileResponses(t *testing.T) {
	p := startBadPair(t, noRetries)
	rng := rand.New(rand.NewPCG(hostileSeed, 3))
	var answers []*badAnswer
	wanted := map[string]int{}
	for _, c := range corpus.Responses {
		for _, end := range []ending{closes, cutsOff, resets, stays} {
			for _, secure := range []bool{false, true} {
				if hostileScale > 1 && rng.IntN(2) == 0 {
					continue
				}
				a := &badAnswer{
					name: c.Name, raw: c.Raw, end: end, secure: secure, want: wantAfter(c.Want, end), exact: true,
					minor: 1 - rng.IntN(4)/3, clientSecure: rng.IntN(8) == 0,
				}
				if rng.IntN(2) == 0 {
					a.cuts = cutsIn(rng, c.Raw, 6)
				}
				answers = append(answers, a)
				wanted[a.want.String()]++
			}
		}
	}
	p.askAll(t, answers, badClients)
	ends := p.drained(t)
	wanted[reason.OK.String()] = len(answers) // the good ones after
	for _, r := range reason.All() {
		if got, want := ends[r.String()], wanted[r.String()]; got != want {
			t.Errorf("counter of %v is %d, want %d", r, got, want)
		}
	}
}

// soundAnswers must be passed on, which keeps strictness honest.
var soundAnswers = []string{
	"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.1 200 caf\xe9\r\nContent-Length: 2\r\nX-A: \xff\r\n\r\nhi",
	"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n",
	"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
	"HTTP/1.1 204 No Content\r\n\r\n",
	"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
	"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
	"HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
	"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + strings.Repeat("0123456789", 4000),
}

// untilClose is whole when the backend closes, and only then.
const untilClose = "HTTP/1.1 200 OK\r\n\r\nto the end"

// TestSoundResponses passes sound answers on, whole and in pieces.
func TestSoundResponses(t *testing.T) {
	p := startBadPair(t, retries)
	rng := rand.New(rand.NewPCG(hostileSeed, 4))
	var answers []*badAnswer
	for i, raw := range soundAnswers {
		for _, end := range []ending{closes, stays} {
			for v := range 8 {
				a := &badAnswer{
					name: fmt.Sprintf("sound %d", i), raw: raw, end: end, secure: v&1 != 0, exact: true,
					minor: v >> 1 & 1, clientSecure: v&4 != 0,
				}
				if v&1 != 0 {
					a.cuts = cutsIn(rng, raw, 8)
				}
				answers = append(answers, a)
			}
		}
	}
	for v := range 8 {
		answers = append(answers, &badAnswer{
			name: "until close", raw: untilClose, end: closes, secure: v&1 != 0, exact: true,
			minor: v >> 1 & 1, clientSecure: v&4 != 0,
		})
	}
	p.askAll(t, answers, badClients)
}

// TestCutResponses has the connection end without a word that says so: an answer
// that ends with it cannot be known to be whole.
func TestCutResponses(t *testing.T) {
	p := startBadPair(t, noRetries)
	var answers []*badAnswer
	for v := range 4 {
		add := func(end ending, secure bool, want reason.Reason) {
			answers = append(answers, &badAnswer{
				name: "until close", raw: untilClose, end: end, secure: secure, want: want, exact: true,
				minor: v & 1, clientSecure: v&2 != 0,
			})
		}
		add(resets, false, reason.BackendTruncated)
		add(resets, true, reason.BackendTruncated)
		add(cutsOff, true, reason.BackendTruncated) // no close_notify
		add(stays, false, reason.BackendStalled)
		add(stays, true, reason.BackendStalled)
	}
	p.askAll(t, answers, badClients)
	ends := p.drained(t)
	if got := ends[reason.BackendTruncated.String()]; got != 12 {
		t.Errorf("%d truncated, want 12", got)
	}
	if got := ends[reason.BackendStalled.String()]; got != 8 {
		t.Errorf("%d stalled, want 8", got)
	}
}

// excessOfHead are answers to HEAD with a body, which may not be there.
var excessOfHead = []corpus.Case{
	{Name: "HEAD: body with length", Raw: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"},
	{Name: "HEAD: chunked body", Raw: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"},
	{Name: "HEAD: response for body", Raw: "HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"},
}

func methodOf(c corpus.Case) string {
	method, _, _ := strings.Cut(c.Name, ":")
	if method == "HEAD" {
		return method
	}
	return "GET"
}

// TestExcessIsNotReused has backends send more than the response, at once, in pieces
// and in further TLS records. One client asks, since what comes late is told from
// nothing only by a request that comes later still.
func TestExcessIsNotReused(t *testing.T) {
	p := startBadPair(t, noRetries)
	var answers []*badAnswer
	for _, c := range append(slices.Clone(corpus.Poison), excessOfHead...) {
		for v := range 16 {
			a := &badAnswer{
				name: c.Name, raw: c.Raw, method: methodOf(c), minor: 1, end: stays, exact: true,
				secure: v&1 != 0, corked: v&2 != 0, clientSecure: v&4 != 0,
			}
			_, excess, err := a.reading()
			if err != nil || excess == 0 {
				t.Fatalf("%s: %d bytes after it, %v", c.Name, excess, err)
			}
			if v&8 != 0 {
				a.cuts = []int{len(c.Raw) - excess}
			}
			answers = append(answers, a)
		}
	}
	p.askAll(t, answers, 1)
}

// TestMutantResponses has backends send mutations of good and bad answers.
func TestMutantResponses(t *testing.T) {
	p := startBadPair(t, retries)
	rng := rand.New(rand.NewPCG(hostileSeed, 5))
	answers := make([]*badAnswer, 1500/hostileScale)
	for i := range answers {
		base := soundAnswers[rng.IntN(len(soundAnswers))]
		switch rng.IntN(4) {
		case 0:
			base = corpus.Responses[rng.IntN(len(corpus.Responses))].Raw
		case 1:
			base = corpus.Poison[rng.IntN(len(corpus.Poison))].Raw
		}
		a := &badAnswer{
			name: fmt.Sprintf("mutant %d", i), raw: corpus.Mutate(rng, base), end: ending(rng.IntN(4)), secure: rng.IntN(2) == 0,
			minor: 1 - rng.IntN(4)/3, clientSecure: rng.IntN(8) == 0,
		}
		// Excess that comes late may meet another client's request, which nothing can tell
		// from an answer to that.
		if _, excess, _ := a.reading(); excess == 0 && rng.IntN(2) == 0 {
			a.cuts = cutsIn(rng, a.raw, 6)
		}
		answers[i] = a
	}
	p.askAll(t, answers, badClients)
	if n := p.drained(t)[reason.Internal.String()]; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// TestBadUpgrades has backends answer a WebSocket handshake with a 101 that a client
// must refuse (RFC 6455 section 4.1).
func TestBadUpgrades(t *testing.T) {
	p := startBadPair(t, noRetries)
	const (
		ask       = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: a, b\r\n"
		switching = "HTTP/1.1 101 Switching Protocols\r\n"
		upgrade   = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
		accept    = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
	)
	var answers []*badAnswer
	f := func(name, lines string, want reason.Reason) {
		for v := range 4 {
			answers = append(answers, &badAnswer{
				name: name, raw: switching + lines + "\r\n", end: stays, secure: v&1 != 0, want: want, exact: true,
				lines: ask, minor: 1, clientSecure: v&2 != 0,
			})
		}
	}
	f("bare", "", reason.UnaskedUpgrade)
	f("no key", upgrade, reason.UnaskedUpgrade)
	f("wrong key", upgrade+strings.Replace(accept, "s3", "S3", 1), reason.UnaskedUpgrade)
	f("two keys", upgrade+accept+strings.Replace(accept, "s3", "S3", 1), reason.UnaskedUpgrade)
	f("no Connection", "Upgrade: websocket\r\n"+accept, reason.UnaskedUpgrade)
	f("no Upgrade", "Connection: Upgrade\r\n"+accept, reason.UnaskedUpgrade)
	f("another protocol", "Connection: Upgrade\r\nUpgrade: h2c\r\n"+accept, reason.UnaskedUpgrade)
	f("two protocols", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"+accept, reason.UnaskedUpgrade)
	f("sub-protocol not offered", upgrade+accept+"Sec-WebSocket-Protocol: c\r\n", reason.UnaskedUpgrade)
	f("two sub-protocols", upgrade+accept+"Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b\r\n", reason.UnaskedUpgrade)
	f("empty sub-protocol", upgrade+accept+"Sec-WebSocket-Protocol:\r\n", reason.UnaskedUpgrade)
	f("extension not offered", upgrade+accept+"Sec-WebSocket-Extensions: permessage-deflate\r\n", reason.UnaskedUpgrade)
	f("length", upgrade+accept+"Content-Length: 3\r\n", reason.BadBackendFraming)
	f("chunked", upgrade+accept+"Transfer-Encoding: chunked\r\n", reason.BadBackendFraming)
	f("bare LF", upgrade+strings.Replace(accept, "\r\n", "\n", 1), reason.BadBackendHead)
	p.askAll(t, answers, badClients)
}
