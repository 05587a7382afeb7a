package relay

import (
	"bytes"
	"net"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"
	"golang.org/x/sys/unix"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
	"tickgate/proxy/reactor"
)

// TestPanicThenItsOwnEvent: what comes next for a tunnel whose handler panicked is the same
// tunnel's. It ends once, and its slot is nobody's until it is given out again.
func TestPanicThenItsOwnEvent(t *testing.T) {
	f := func(what string, next func(lp *loop, i uint32, s *slot, id uint64)) {
		t.Run(what, func(t *testing.T) {
			k := newKit(t, 1)
			lp := k.relay.loops[0]
			tn, other := k.open(Policy{}, plain), k.open(Policy{}, plain)
			testkit.WaitUntil(t, "both", func() bool { return tunnels(k) == 2 })
			lp.call(func() {
				for i, s := range lp.all {
					if s.id != tn.id {
						continue
					}
					gen := s.gen
					lp.enter(i) // and never leave, as after a panic
					next(lp, i, s, tn.id)
					if s.gen == gen || *s != (slot{}) && s.gen == 0 && s.fd != [2]int32{} {
						t.Errorf("the slot is not free: %+v", *s)
					}
					if lp.current != 0 {
						t.Errorf("tunnel %d is still being worked on", lp.current-1)
					}
					return
				}
				t.Error("no such tunnel")
			})
			k.endsWith(tn.id, reason.Internal)
			// No slot is given out twice.
			for range 3 {
				tn := k.open(Policy{}, plain)
				say(t, tn.client, []byte("new"))
				hear(t, tn.backend, []byte("new"))
			}
			say(t, other.client, []byte("other"))
			hear(t, other.backend, []byte("other"))
			if n := tunnels(k); n != 4 {
				t.Errorf("%d tunnels, want 4", n)
			}
		})
	}
	f("readable", func(lp *loop, i uint32, s *slot, _ uint64) { lp.Ready(token(i, s, client), reactor.Readable) })
	f("writable", func(lp *loop, i uint32, s *slot, _ uint64) { lp.Ready(token(i, s, backend), reactor.Writable) })
	f("failed", func(lp *loop, i uint32, s *slot, _ uint64) { lp.Ready(token(i, s, client), reactor.Failed) })
	f("its turn", func(lp *loop, i uint32, s *slot, _ uint64) { lp.Ready(token(i, s, client), 0) })
	f("tick", func(lp *loop, i uint32, s *slot, _ uint64) { lp.check(i, s) })
	f("close", func(lp *loop, _ uint32, _ *slot, id uint64) {
		lp.doByID(id, func(*loop, uint32, *slot) { t.Error("done to a tunnel that is gone") })
	})
}

// TestTurnOfSmallRecords: records of a byte each take more of a turn than their bytes.
func TestTurnOfSmallRecords(t *testing.T) {
	for _, on := range kinds {
		if !on.client {
			continue
		}
		t.Run(on.name, func(t *testing.T) {
			k := newKit(t, 1)
			tn := k.open(Policy{Queue: 1 << 20}, on)
			testkit.WaitUntil(t, "the tunnel", func() bool { return tunnels(k) == 1 })
			const total = 2000
			lp := k.relay.loops[0]
			lp.call(func() {
				for i, s := range lp.all {
					for range total {
						say(t, tn.client, []byte("x"))
					}
					testkit.WaitUntil(t, "more than a turn's records in the socket", func() bool {
						n, err := unix.IoctlGetInt(int(s.fd[client]), unix.SIOCINQ)
						return err != nil || n > 22*4*turnBytes/leastCharge // of a header, a byte, its type, and a tag
					})
					lp.Ready(token(i, s, client), reactor.Readable)
					if n := s.bytes[client]; n == 0 || n > turnBytes/leastCharge || s.flags&queued == 0 {
						t.Errorf("one turn moved %d records, want 1 to %d; flags %b", n, turnBytes/leastCharge, s.flags)
					}
				}
			})
			hear(t, tn.backend, bytes.Repeat([]byte("x"), total))
		})
	}
}

// TestOwnQueueStopsReading: a side whose own queue is over the limit is not read over TLS, as
// reading can add to that queue (KeyUpdates are answered); when it has taken its bytes, it is.
func TestOwnQueueStopsReading(t *testing.T) {
	for _, on := range kinds {
		if !on.client {
			continue
		}
		t.Run(on.name, func(t *testing.T) {
			k := newKit(t, 1)
			const limit = 64 << 10
			tn := k.open(Policy{Queue: limit}, on)
			testkit.WaitUntil(t, "the tunnel", func() bool { return tunnels(k) == 1 })
			lp := k.relay.loops[0]
			record := bytes.Repeat([]byte("b"), 16<<10)
			filled := 0
			lp.call(func() {
				for i, s := range lp.all {
					for ; lp.waiting(s, client) <= limit+ownSlack; filled++ {
						if !lp.seal(i, s, client, record) {
							t.Fatal("the tunnel has ended")
						}
					}
					before := lp.waiting(s, client)
					say(t, tn.client, []byte("hello"))
					lp.Ready(token(i, s, client), reactor.Readable)
					if s.bytes[client] != 0 || lp.waiting(s, client) > before {
						t.Errorf("%d bytes were read from a client that has %d to take", s.bytes[client], before)
					}
				}
			})
			hear(t, tn.client, bytes.Repeat(record, filled))
			hear(t, tn.backend, []byte("hello"))
			say(t, tn.client, []byte("more"))
			hear(t, tn.backend, []byte("more"))
		})
	}
}

// TestUrgentData has a byte of urgent data amid others: a read ends before it, though the socket
// is not empty.
func TestUrgentData(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{}, plain)
	testkit.WaitUntil(t, "the tunnel", func() bool { return tunnels(k) == 1 })
	raw, err := tn.client.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	k.relay.loops[0].call(func() { // so that all is there when the loop reads
		_ = raw.Control(func(fd uintptr) {
			for _, part := range []struct {
				text  string
				flags int
			}{{"abc", 0}, {"U", unix.MSG_OOB}, {"efg", 0}} {
				if _, err := unix.SendmsgN(int(fd), []byte(part.text), nil, nil, part.flags); err != nil {
					t.Error(err)
				}
			}
		})
	})
	hear(t, tn.backend, []byte("abcefg"))
}

// TestPongsBeyondPings sends more answers than there were pings: the rest is charged as any
// frame.
func TestPongsBeyondPings(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Mode: Frames, ByteRate: 1000, Ping: 100 * time.Millisecond, Pong: time.Hour}, plain)
	ping := next(t, client, tn.client)
	if ping.Header.OpCode != gobwas.OpPing {
		t.Fatalf("opcode %d, want a ping", ping.Header.OpCode)
	}
	pong := frame(client, gobwas.OpPong, true, ping.Payload)
	go func() {
		for range 10_000 {
			if _, err := tn.client.Write(pong); err != nil {
				return
			}
		}
	}()
	k.endsWith(tn.id, reason.TooFast)
	if stats := k.relay.Stats(); stats.Pongs > stats.Pings {
		t.Errorf("%d answers to %d pings are counted", stats.Pongs, stats.Pings)
	}
}
