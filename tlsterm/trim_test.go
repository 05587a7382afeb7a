package tlsterm

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"reflect"
	"sync"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
)

// errAgain is what a non-blocking end without bytes says.
type errAgain struct{}

func (errAgain) Error() string   { return "no bytes now" }
func (errAgain) Timeout() bool   { return false }
func (errAgain) Temporary() bool { return true }

// wire is one end of a connection in memory. It waits for bytes until block is cleared.
type wire struct {
	mu    sync.Mutex
	come  sync.Cond
	in    []byte // guarded by mu
	held  []byte // guarded by mu; what hold keeps back
	hold  bool   // guarded by mu
	block bool   // guarded by mu
	peer  *wire
}

func newWires() (a, b *wire) {
	a, b = &wire{block: true}, &wire{block: true}
	a.come.L, b.come.L = &a.mu, &b.mu
	a.peer, b.peer = b, a
	return a, b
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.in) == 0 {
		if !w.block {
			return 0, errAgain{}
		}
		w.come.Wait()
	}
	n := copy(p, w.in)
	w.in = w.in[n:]
	return n, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.peer.mu.Lock()
	defer w.peer.mu.Unlock()
	if w.peer.hold {
		w.peer.held = append(w.peer.held, p...)
	} else {
		w.peer.in = append(w.peer.in, p...)
	}
	w.peer.come.Broadcast()
	return len(p), nil
}

// set changes what Read does without bytes and whether bytes are kept back.
func (w *wire) set(block, hold bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.block, w.hold = block, hold
}

// let lets n of the bytes kept back through, all if n < 0, and returns how many are left.
func (w *wire) let(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 0 {
		n = len(w.held)
	}
	w.in = append(w.in, w.held[:n]...)
	w.held = w.held[n:]
	return len(w.held)
}

func (*wire) Close() error                     { return nil }
func (*wire) LocalAddr() net.Addr              { return nil }
func (*wire) RemoteAddr() net.Addr             { return nil }
func (*wire) SetDeadline(time.Time) error      { return nil }
func (*wire) SetReadDeadline(time.Time) error  { return nil }
func (*wire) SetWriteDeadline(time.Time) error { return nil }

// talk is a connection of which both ends are trimmed by a test.
type talk struct {
	t              *testing.T
	wire           *wire // the server's end
	server, client *tls.Conn
}

// newTalk shakes hands, after which the server's end does not block.
func newTalk(t *testing.T, server *tls.Config, version uint16) *talk {
	t.Helper()
	ours, theirs := newWires()
	client := anyCert("example.com")
	client.MaxVersion, client.DynamicRecordSizingDisabled = version, true
	x := &talk{t, ours, tls.Server(ours, server), tls.Client(theirs, client)}
	done := make(chan error, 1)
	go func() { done <- x.client.Handshake() }()
	if err := errors.Join(x.server.Handshake(), <-done); err != nil {
		t.Fatal(err)
	}
	ours.set(false, false)
	theirs.set(false, false)
	return x
}

func (x *talk) trim() { Trim(x.server); Trim(x.client) }

// text is n bytes in which every place can be told.
func text(n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(i * 7 / 3)
	}
	return out
}

func (x *talk) write(c *tls.Conn, p []byte) {
	x.t.Helper()
	if n, err := c.Write(p); n != len(p) || err != nil {
		x.t.Fatalf("wrote %d of %d: %v", n, len(p), err)
	}
}

func (x *talk) read(c *tls.Conn, want []byte) {
	x.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil {
		x.t.Fatalf("read %d of %d: %v", n, len(want), err)
	}
	if !bytes.Equal(got, want) {
		x.t.Fatalf("%d bytes came changed", len(want))
	}
}

// nothing wants no bytes to be there.
func (x *talk) nothing(c *tls.Conn) {
	x.t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.As(err, new(errAgain)) {
		x.t.Fatalf("read %d bytes, %v; want none yet", n, err)
	}
}

// bothWays sends and takes some bytes each way, trimming in between.
func (x *talk) bothWays() {
	x.t.Helper()
	for _, n := range []int{1, 100, 5000, 16 << 10, 40_000} {
		p := text(n)
		x.write(x.client, p)
		x.trim()
		x.read(x.server, p)
		x.trim()
		x.write(x.server, p)
		x.trim()
		x.read(x.client, p)
		x.trim()
		x.nothing(x.server)
		x.nothing(x.client)
		x.trim()
	}
}

// Whenever a connection is trimmed, it goes on as if nothing had happened.
func TestTrimMoments(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}}, nil)
	f := func(what string, do func(x *talk)) {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(what+", "+tls.VersionName(version), func(t *testing.T) {
				x := newTalk(t, s.Config(), version)
				do(x)
				x.bothWays()
				// The end arrives, too.
				if err := x.client.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				x.trim()
				if n, err := x.server.Read(make([]byte, 1)); n != 0 || err != io.EOF {
					t.Errorf("at the end: %d, %v", n, err)
				}
			})
		}
	}
	f("after the handshake", func(x *talk) { x.trim() })
	f("twice", func(x *talk) { x.trim(); x.trim() })
	f("after a read without bytes", func(x *talk) { x.nothing(x.server); x.trim() })
	f("with plaintext unread", func(x *talk) {
		p := text(5000)
		x.write(x.client, p)
		for len(p) > 0 {
			n := min(len(p), 700)
			x.read(x.server, p[:n])
			p = p[n:]
			x.trim()
		}
	})
	f("with a second record unread", func(x *talk) {
		x.write(x.client, text(100))
		x.write(x.client, text(200))
		x.read(x.server, text(100))
		x.trim()
		x.read(x.server, text(200))
	})
	f("with a part of a record", func(x *talk) {
		x.wire.set(false, true)
		x.write(x.client, text(300))
		x.wire.set(false, false)
		for left := 1; left > 0; { // byte by byte, also through the record's header
			left = x.wire.let(1)
			if left > 0 {
				x.nothing(x.server)
				x.trim()
			}
		}
		x.read(x.server, text(300))
	})
	f("with a part of the next record behind plaintext", func(x *talk) {
		x.wire.set(false, true)
		x.write(x.client, text(300))
		x.write(x.client, text(400))
		x.wire.set(false, false)
		x.wire.let(500)
		x.read(x.server, text(100))
		x.trim()
		x.read(x.server, text(300)[100:])
		x.trim()
		x.nothing(x.server)
		x.trim()
		x.wire.let(-1)
		x.read(x.server, text(400))
	})
}

// What is in a buffer is never thrown away, and what is not is.
func TestTrimBuffers(t *testing.T) {
	if !Trimmable() {
		t.Fatal("this crypto/tls is unknown")
	}
	f := func(rawInput, input, hand string, wantMemory int) {
		t.Helper()
		c := tls.Client(nil, nil)
		raw, in, h := layout.of(c)
		raw.WriteString("xx" + rawInput)
		_ = raw.Next(2)
		in.Reset([]byte("yy" + input))
		_, _ = in.Seek(2, io.SeekStart)
		h.WriteString("zz" + hand)
		_ = h.Next(2)
		Trim(c)
		plain, _ := io.ReadAll(in)
		if raw.String() != rawInput || string(plain) != input || h.String() != hand {
			t.Errorf("%q %q %q became %q %q %q", rawInput, input, hand, raw, plain, h)
		}
		memory := 0
		for _, size := range []int{raw.Cap(), int(in.Size()), h.Cap()} {
			if size > 0 {
				memory++
			}
		}
		if memory != wantMemory {
			t.Errorf("%q %q %q: %d buffers hold memory, want %d", rawInput, input, hand, memory, wantMemory)
		}
	}
	f("", "", "", 0)
	f("a", "", "", 2)
	f("", "b", "", 2)
	f("", "", "c", 1)
	f("a", "b", "c", 3)
}

func TestLayout(t *testing.T) {
	f := func(what string, conn any, want bool) {
		t.Helper()
		b := layoutOf(reflect.TypeOf(conn))
		if b.known != want {
			t.Errorf("%s: known is %t, want %t", what, b.known, want)
		}
		if !want {
			b.trim(nil) // touches nothing
		}
	}
	f("as expected", struct {
		n              int
		hand, rawInput bytes.Buffer
		input          bytes.Reader
	}{}, true)
	f("without rawInput", struct {
		hand  bytes.Buffer
		input bytes.Reader
	}{}, false)
	f("hand is a pointer", struct {
		rawInput bytes.Buffer
		hand     *bytes.Buffer
		input    bytes.Reader
	}{}, false)
	f("input of another type", struct{ hand, rawInput, input bytes.Buffer }{}, false)
	f("promoted fields", struct{ *tls.Conn }{}, false)
	f("nothing", struct{}{}, false)
}

// Both ends trim after each message, on goroutines of their own.
func TestTrimConcurrent(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}}, nil)
	var wg sync.WaitGroup
	for range 4 {
		ours, theirs := net.Pipe()
		sc, cc := tls.Server(ours, s.Config()), tls.Client(theirs, anyCert("example.com"))
		echo := func(c *tls.Conn, first bool) {
			for i := range 100 {
				p := text(1 + i*i)
				if first {
					if _, err := c.Write(p); err != nil {
						t.Error(err)
						return
					}
				}
				got := make([]byte, len(p))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, p) {
					t.Errorf("%d: %v", i, err)
					return
				}
				if !first {
					if _, err := c.Write(got); err != nil {
						t.Error(err)
						return
					}
				}
				Trim(c)
			}
		}
		wg.Go(func() { echo(sc, false) })
		wg.Go(func() { echo(cc, true) })
	}
	wg.Wait()
}
