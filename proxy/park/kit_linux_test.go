package park

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tickgate/proxy/reactor"
)

// patience is how long a test waits for what must happen. It is long since only a
// failure takes that long.
const patience = 20 * time.Second

// woken is a call of Wake.
type woken struct {
	Conn
	why Why
}

// rig is a lot on loops of its own.
type rig struct {
	*Lot
	t     testing.TB
	group *reactor.Group
	wakes chan woken
}

// newRig returns a rig whose loops do not run yet, so that a test calls the handlers
// itself and nothing else does.
func newRig(t testing.TB, loops int) *rig {
	t.Helper()
	g, err := reactor.New(reactor.Options{Loops: loops, Log: func(event string, err error) { t.Errorf("%s: %v", event, err) }})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, group: g, wakes: make(chan woken, 1000)}
	over := make(chan struct{}) // what Closing hands out then, nobody reads
	r.Lot = New(Options{Group: g, Wake: func(c Conn, why Why) {
		select {
		case r.wakes <- woken{c, why}:
		case <-over:
		}
	}})
	t.Cleanup(func() { close(over); g.Close() })
	return r
}

// started is newRig with running loops.
func started(t testing.TB, loops int) *rig {
	t.Helper()
	r := newRig(t, loops)
	r.group.Start()
	return r
}

// next waits for the next Wake.
func (r *rig) next() woken {
	r.t.Helper()
	select {
	case w := <-r.wakes:
		return w
	case <-time.After(patience):
		r.t.Fatal("nothing was handed out")
		panic("unreachable")
	}
}

// expect waits for the next Wake and checks what it hands out.
func (r *rig) expect(id uint64, why Why) Conn {
	r.t.Helper()
	w := r.next()
	if w.ID != id || w.why != why {
		r.t.Fatalf("connection %d handed out as %s, want %d as %s", w.ID, w.why, id, why)
	}
	return w.Conn
}

// none checks that nothing was handed out that the test has not seen.
func (r *rig) none() {
	r.t.Helper()
	select {
	case w := <-r.wakes:
		r.t.Fatalf("connection %d handed out as %s, want none", w.ID, w.why)
	default:
	}
}

// count checks Count.
func (r *rig) count(fresh, idle, head int) {
	r.t.Helper()
	if f, i, h := r.Count(); f != fresh || i != idle || h != head {
		r.t.Fatalf("Count() = %d, %d, %d, want %d, %d, %d", f, i, h, fresh, idle, head)
	}
}

// park parks c, which must succeed.
func (r *rig) park(c Conn) {
	r.t.Helper()
	if !r.Park(c) {
		r.t.Fatalf("Park(%d) refused", c.ID)
	}
}

// pair returns a non-blocking accepted socket and its peer, connected over loopback.
// Both are closed at the end; closing them before does no harm unless the number of
// the descriptor is in use again, so a test that closes one takes it from raw.
func pair(t testing.TB) (fd int, peer *net.TCPConn) {
	t.Helper()
	fd, peer = raw(t)
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd, peer
}

// raw is pair, but the test closes the descriptor.
func raw(t testing.TB) (fd int, peer *net.TCPConn) {
	t.Helper()
	l := listenRaw(t)
	defer unix.Close(l.fd)
	return l.pair(t)
}

// rawListener is a listening socket that is not the Go runtime's.
type rawListener struct {
	fd   int
	addr string
}

func listenRaw(t testing.TB) rawListener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*unix.SockaddrInet4).Port
	return rawListener{fd, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)).String()}
}

func (l rawListener) pair(t testing.TB) (fd int, peer *net.TCPConn) {
	t.Helper()
	c, err := net.Dial("tcp4", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	fd, _, err = unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return fd, c.(*net.TCPConn)
}

// say writes from the peer.
func say(t testing.TB, peer net.Conn, text string) {
	t.Helper()
	if _, err := peer.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// hear reads what is there on the descriptor, which must be the text.
func hear(t testing.TB, fd int, text string) {
	t.Helper()
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil || string(b[:n]) != text {
		t.Fatalf("read %q, %v, want %q", b[:max(n, 0)], err, text)
	}
}

// reset closes the peer with RST.
func reset(t testing.TB, peer *net.TCPConn) {
	t.Helper()
	if err := peer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = peer.Close()
}

// await waits until the kernel reports the events on a descriptor.
func await(t testing.TB, fd int, events int16) {
	t.Helper()
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if n, err := unix.Poll(p, 100); err == nil && n > 0 && p[0].Revents&events == events {
			return
		}
	}
	t.Fatalf("descriptor %d: events %x, want %x", fd, p[0].Revents, events)
}
