package upstream

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/config"
	"tickgate/health"
)

// upstreamOf is a configuration with the schema's defaults.
func upstreamOf(balance string, servers ...config.Server) *config.Upstream {
	return &config.Upstream{
		Balance: balance, Servers: servers,
		Pool:     config.Pool{MaxConns: 4, WaitTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxLifetime: time.Hour, KeepAlive: 30 * time.Second},
		Timeouts: config.BackendTimeouts{Dial: 3 * time.Second, TLSHandshake: 3 * time.Second},
		Retry:    config.Retry{Attempts: 2, BudgetPercent: 20, BudgetMin: 3},
	}
}

// servers makes servers with weights; the first is 10.0.0.1:80.
func servers(weights ...int) []config.Server {
	list := make([]config.Server, len(weights))
	for i, w := range weights {
		list[i] = config.Server{Address: fmt.Sprintf("10.0.0.%d:80", i+1), Weight: w}
	}
	return list
}

// seeded returns a random source that repeats itself; it is not for concurrent use.
func seeded() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func newRegistry(t testing.TB, opts Options) *Registry {
	r := NewRegistry(opts)
	t.Cleanup(r.Close)
	return r
}

// build commits one upstream named "up" and returns its Set.
func build(t testing.TB, r *Registry, cfg *config.Upstream) *Set {
	t.Helper()
	sets, commit, _, err := r.Build(map[string]*config.Upstream{"up": cfg}, config.Resolver{Timeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	commit()
	return sets["up"]
}

func newSet(t testing.TB, opts Options, cfg *config.Upstream) *Set {
	t.Helper()
	return build(t, newRegistry(t, opts), cfg)
}

// short returns the last octet of a backend's 10.0.0.x:80, or "-" for nil.
func short(b *Backend) string {
	if b == nil {
		return "-"
	}
	return b.Address()[len("10.0.0.") : len(b.Address())-len(":80")]
}

// lineServer answers each line with the same line. A line "close" is not answered but
// closes the connection; "bye" is answered and then closes it.
type lineServer struct {
	addr     string
	ln       net.Listener
	accepted atomic.Int64
	open     sync.WaitGroup
	stopped  chan struct{} // closed when no more are accepted

	mu    sync.Mutex
	conns []net.Conn
	ended chan struct{} // receives for each connection that ended
}

func newLineServer(t testing.TB, ln net.Listener) *lineServer {
	s := &lineServer{addr: ln.Addr().String(), ln: ln, ended: make(chan struct{}, 1000), stopped: make(chan struct{})}
	go s.accept()
	t.Cleanup(s.stop)
	return s
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func listenUnix(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "a,b")) // a comma, at which HostClient would split
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (s *lineServer) accept() {
	defer close(s.stopped)
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.accepted.Add(1)
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.open.Go(func() { s.serve(c) })
	}
}

func (s *lineServer) serve(c net.Conn) {
	defer func() { s.ended <- struct{}{} }()
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil || line == "close\n" {
			return
		}
		if _, err := io.WriteString(c, line); err != nil || line == "bye\n" {
			return
		}
	}
}

// waitEnded waits until n connections have ended since the last call.
func (s *lineServer) waitEnded(t testing.TB, n int) {
	t.Helper()
	limit := time.NewTimer(10 * time.Second)
	defer limit.Stop()
	for range n {
		select {
		case <-s.ended:
		case <-limit.C:
			t.Fatal("a connection that should end is still open")
		}
	}
}

func (s *lineServer) stop() {
	_ = s.ln.Close()
	<-s.stopped
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.open.Wait()
}

// exchange is an Exchanger made of a function.
type exchange func(c net.Conn, fresh bool) (bool, error)

func (f exchange) Exchange(c net.Conn, fresh bool) (bool, error) { return f(c, fresh) }

// line sends a line and wants it back.
func line(text string) exchange {
	buf := make([]byte, 64)
	out := []byte(text + "\n")
	return func(c net.Conn, _ bool) (bool, error) {
		if _, err := c.Write(out); err != nil {
			return false, err
		}
		n, err := io.ReadFull(c, buf[:len(out)])
		if err == nil && string(buf[:n]) != string(out) {
			err = errors.New("wrong line")
		}
		return err == nil, err
	}
}

// held is an Exchanger that holds its connection until let go.
type held struct{ got, release, done chan struct{} }

func hold(p *Pool) *held {
	h := &held{make(chan struct{}), make(chan struct{}), make(chan struct{})}
	go func() {
		defer close(h.done)
		var t Timing
		_ = p.Do(exchange(func(net.Conn, bool) (bool, error) {
			close(h.got)
			<-h.release
			return true, nil
		}), 0, &t)
	}()
	<-h.got
	return h
}

func (h *held) end() {
	close(h.release)
	<-h.done
}

// fakeChecker records what is watched and lets tests report health.
type fakeChecker struct {
	mu      sync.Mutex
	watches map[string]*fakeWatch // by address
	started int
}

type fakeWatch struct {
	target  HealthTarget
	opts    *health.Options
	report  func(up bool, cause string)
	stopped bool
}

func (f *fakeChecker) Watch(t HealthTarget, o *health.Options, onChange func(bool, string)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watches == nil {
		f.watches = map[string]*fakeWatch{}
	}
	w := &fakeWatch{target: t, opts: o, report: onChange}
	f.watches[t.Address] = w
	f.started++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		w.stopped = true
	}
}

func (f *fakeChecker) at(addr string) fakeWatch {
	f.mu.Lock()
	defer f.mu.Unlock()
	if w := f.watches[addr]; w != nil {
		return *w
	}
	return fakeWatch{}
}
