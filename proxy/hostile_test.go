package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tickgate/internal/h1/corpus"
	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

const (
	// hostileSeed makes every run the same; a failure tells it.
	hostileSeed = 20261
	// hostileMutants are fired besides every case of the corpus as it is.
	hostileMutants = 4400 / hostileScale
	// hostileClients fire at the same time.
	hostileClients = 48
)

// smuggler is the path that hides in bodies and after bad lengths.
const smuggler = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"

// goodRequest is a request that must be understood wherever it stands.
func goodRequest(tag string) string {
	return "GET /good/" + tag + " HTTP/1.1\r\nHost: a.example\r\n\r\n"
}

// smuggling hides a request where some parser has been seen to find it. None may
// reach the backend.
var smuggling = []corpus.Case{
	{Name: "smuggle: in a body with length", Raw: postWith(fmt.Sprintf("Content-Length: %d", len(smuggler)), smuggler), Want: reason.OK},
	{Name: "smuggle: in a body of GET", Raw: strings.Replace(postWith(fmt.Sprintf("Content-Length: %d", len(smuggler)), smuggler), "POST", "GET", 1), Want: reason.OK},
	{Name: "smuggle: in a chunk", Raw: postWith("Transfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggler), smuggler)), Want: reason.OK},
	{Name: "smuggle: CL.TE", Raw: postWith("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\n"+smuggler), Want: reason.LengthConflict},
	{Name: "smuggle: TE.CL", Raw: postWith("Transfer-Encoding: chunked\r\nContent-Length: 4", "2c\r\n"+smuggler+"\r\n0\r\n\r\n"), Want: reason.LengthConflict},
	{Name: "smuggle: CL.CL", Raw: postWith("Content-Length: 0\r\nContent-Length: 44", smuggler), Want: reason.LengthConflict},
	{Name: "smuggle: TE.TE", Raw: postWith("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "0\r\n\r\n"+smuggler), Want: reason.LengthConflict},
	{Name: "smuggle: TE with vertical tab", Raw: postWith("Transfer-Encoding: \x0bchunked", "0\r\n\r\n"+smuggler), Want: reason.BadHeaderValue},
	{Name: "smuggle: TE in 1.0", Raw: strings.Replace(postWith("Transfer-Encoding: chunked", "0\r\n\r\n"+smuggler), "1.1", "1.0", 1), Want: reason.LengthConflict},
	{Name: "smuggle: folded coding", Raw: postWith("Transfer-Encoding:\r\n chunked", "0\r\n\r\n"+smuggler), Want: reason.LengthConflict},
	{Name: "smuggle: length with plus", Raw: postWith("Content-Length: +0", smuggler), Want: reason.LengthConflict},
	{Name: "smuggle: space before colon", Raw: postWith("Content-Length : 0", smuggler), Want: reason.BadHeaderName},
	{Name: "smuggle: extension over lines", Raw: postWith("Transfer-Encoding: chunked", "0;a=\"\r\n\r\n"+smuggler+"\"\r\n\r\n"), Want: reason.BadChunk},
	{Name: "smuggle: bare LF ends the extension", Raw: postWith("Transfer-Encoding: chunked", "0;\n\n"+smuggler), Want: reason.BadChunk},
	{Name: "smuggle: chunk size that wraps", Raw: postWith("Transfer-Encoding: chunked", "10000000000000000\r\n\r\n"+smuggler), Want: reason.BadChunk},
	{Name: "smuggle: in trailers", Raw: postWith("Transfer-Encoding: chunked", "0\r\n"+smuggler), Want: reason.BadChunk},
	{Name: "smuggle: in the target", Raw: "GET /a HTTP/1.1\rHost: a.example\r\r" + smuggler, Want: reason.BareLineFeed},
	{Name: "smuggle: in a value", Raw: "GET /a HTTP/1.1\r\nHost: a.example\r\nX-A: 1\n\n" + smuggler, Want: reason.BareLineFeed},
	{Name: "smuggle: body on upgrade", Raw: "GET /a HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 43\r\n\r\n" + smuggler, Want: reason.BodyOnUpgrade},
	{Name: "smuggle: version unknown", Raw: "GET /a HTTP/1.2\r\nHost: a.example\r\n\r\n" + smuggler, Want: reason.BadVersion},
}

func postWith(lines, body string) string {
	return "POST /post HTTP/1.1\r\nHost: a.example\r\n" + lines + "\r\n\r\n" + body
}

// TestHostileRequests fires the corpus and its mutations at the gateway. The backend
// is a strict parser of its own, and net/http's has to agree with it.
func TestHostileRequests(t *testing.T) {
	w := newWitness(t)
	g := startHostile(t, "timeouts: {head: 5s, body: 5s}\nupstreams: {be: {servers: [{address: \""+w.Addr()+"\"}]}}\nroutes: [{upstream: be}]\n")
	shots := append(wholeShots(), mutantShots(hostileMutants)...)
	if len(shots) < 5000/hostileScale {
		t.Errorf("%d shots, want at least %d", len(shots), 5000/hostileScale)
	}
	fireAll(t, g, w, shots)
	ends := g.drained(t)
	w.WaitIdle(t)
	checkRecord(t, w)
	wanted := map[string]int{}
	for _, s := range shots {
		if s.exact && s.want != reason.OK {
			wanted[s.want.String()]++
		}
	}
	for word, n := range wanted {
		if ends[word] < n {
			t.Errorf("counter of %s is %d, want at least %d", word, ends[word], n)
		}
	}
	if n := ends[reason.Internal.String()]; n != 0 {
		t.Errorf("%d panics", n)
	}
}

// wholeShots are all cases as they are: alone, in pieces, over TLS, and with good
// requests around.
func wholeShots() []*shot {
	rng := rand.New(rand.NewPCG(hostileSeed, 1))
	var shots []*shot
	add := func(c corpus.Case, variant, raw string, cuts []int, secure bool) {
		shots = append(shots, &shot{name: c.Name + ", " + variant, raw: raw, cuts: cuts, secure: secure, want: wantOf(c), exact: true})
	}
	for _, list := range [][]corpus.Case{corpus.Requests, corpus.Sound, smuggling} {
		for _, c := range list {
			add(c, "alone", c.Raw, nil, false)
			add(c, "in pieces", c.Raw, cutsIn(rng, c.Raw, 8), false)
			add(c, "over TLS", c.Raw, cutsIn(rng, c.Raw, 2), true)
			raw := goodRequest("before") + c.Raw
			add(c, "after a good request", raw, cutsIn(rng, raw, rng.IntN(3)), false)
			if c.Want != reason.OK && c.Want != reason.BadChunk {
				add(c, "before a good request", c.Raw+goodRequest("after"), nil, false)
			}
		}
	}
	return append(shots, soundThenGood()...)
}

// wantOf is how a gateway ends a case that the codec judges by itself.
func wantOf(c corpus.Case) reason.Reason {
	switch {
	case c.Want != reason.OK:
		return c.Want
	case strings.HasPrefix(c.Raw, "CONNECT "):
		return reason.MethodNotAllowed
	case strings.Contains(c.Raw, "/../"): // routes and backends could read it as different paths
		return reason.BadTarget
	}
	return reason.OK
}

// soundThenGood are odd but sound requests, each followed by a good one that must be
// answered too where the connection goes on.
func soundThenGood() []*shot {
	var shots []*shot
	for _, c := range append(smuggling[:3:3], corpus.Sound...) {
		goesOn := strings.Contains(c.Raw, "HTTP/1.1\r\n") || strings.Contains(c.Raw, "keep-alive")
		shots = append(shots, &shot{name: c.Name + ", before a good request", raw: c.Raw + goodRequest("after"), want: reason.OK, exact: goesOn})
	}
	return shots
}

// mutantShots are n mutations in every surrounding.
func mutantShots(n int) []*shot {
	rng := rand.New(rand.NewPCG(hostileSeed, 2))
	lists := [][]corpus.Case{corpus.Requests, corpus.Sound, corpus.Sound, smuggling}
	shots := make([]*shot, n)
	for i := range shots {
		list := lists[rng.IntN(len(lists))]
		c := list[rng.IntN(len(list))]
		raw := corpus.Mutate(rng, c.Raw)
		if rng.IntN(4) == 0 {
			raw = goodRequest("before") + raw
		}
		if rng.IntN(4) == 0 {
			raw += goodRequest("after")
		}
		s := &shot{name: fmt.Sprintf("mutant %d of %s", i, c.Name), raw: raw, secure: rng.IntN(16) == 0}
		if rng.IntN(2) == 0 {
			s.cuts = cutsIn(rng, raw, 1+rng.IntN(6))
		}
		shots[i] = s
	}
	return shots
}

// maxShown bounds the failures that are told one by one.
const maxShown = 20

// fireAll fires the shots from several clients at once and judges each.
func fireAll(t *testing.T, g *hostileGateway, w *witness, shots []*shot) {
	t.Helper()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range hostileClients {
		wg.Go(func() {
			for i := next.Add(1) - 1; int(i) < len(shots); i = next.Add(1) - 1 {
				n := 1<<16 + int(i)
				o, err := g.fire(shots[i], n)
				if err == nil {
					err = shots[i].judge(o, w.of(n))
				}
				if err != nil && failed.Add(1) <= maxShown {
					t.Errorf("seed %d, shot %d, %s: %v\nsent %.600q\ncuts %v", hostileSeed, i, shots[i].name, err, shots[i].raw, shots[i].cuts)
				}
			}
		})
	}
	wg.Wait()
	if n := failed.Load(); n > maxShown {
		t.Errorf("%d more failures", n-maxShown)
	}
}

// checkRecord checks every byte that reached the backend: the strict parser found no
// flaw, net/http reads the same requests, and nobody unknown sent one.
func checkRecord(t *testing.T, w *witness) {
	t.Helper()
	for _, f := range w.Flaws() {
		t.Errorf("flaw at the backend: %v", f)
	}
	for _, conn := range w.Conns() {
		if err := agrees(conn.Raw, conn.Requests); err != nil {
			t.Errorf("net/http reads otherwise: %v", err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr, reqs := range w.seen {
		t.Errorf("requests that no client sent, from %q: %q", addr, reqs[0].Raw)
	}
}

// agrees compares net/http's reading of raw with the strict parser's.
func agrees(raw []byte, reqs []*testkit.Request) error {
	br := bufio.NewReader(bytes.NewReader(raw))
	for _, want := range reqs {
		got, err := http.ReadRequest(br)
		if err != nil {
			return fmt.Errorf("%w: %q", err, want.Raw)
		}
		body, err := io.ReadAll(got.Body)
		if err != nil {
			return fmt.Errorf("body: %w: %q", err, want.Raw)
		}
		if got.Method != want.Method || got.RequestURI != want.Target || got.Host != want.Get("Host") || !bytes.Equal(body, want.Body) {
			return fmt.Errorf("%s %s of %q with %q: %q", got.Method, got.RequestURI, got.Host, body, want.Raw)
		}
	}
	if got, err := http.ReadRequest(br); err == nil {
		if body, err := io.ReadAll(got.Body); err == nil {
			return fmt.Errorf("a further request: %s %s with %q", got.Method, got.RequestURI, body)
		}
	}
	return nil
}
