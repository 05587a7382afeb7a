package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	gobwas "github.com/gobwas/ws"

	"tickgate/internal/reason"
	"tickgate/internal/testkit"
)

// frame returns one frame's bytes, masked if it is from the client.
func frame(from side, op gobwas.OpCode, fin bool, payload []byte) []byte {
	f := gobwas.NewFrame(op, fin, bytes.Clone(payload))
	if from == client {
		f = gobwas.MaskFrameInPlaceWith(f, gobwas.NewMask())
	}
	return gobwas.MustCompileFrame(f)
}

func text(from side, s string) []byte { return frame(from, gobwas.OpText, true, []byte(s)) }

func closeFrame(from side, code uint16) []byte {
	return frame(from, gobwas.OpClose, true, binary.BigEndian.AppendUint16(nil, code))
}

// next reads one frame from the relay, unmasked. Frames to the backend must be masked,
// those to the client must not.
func next(t testing.TB, to side, c net.Conn) gobwas.Frame {
	t.Helper()
	h, err := gobwas.ReadHeader(c)
	f := gobwas.Frame{Header: h, Payload: make([]byte, h.Length)}
	if err == nil {
		_, err = io.ReadFull(c, f.Payload)
	}
	if err != nil {
		t.Fatalf("read frame: %v", err)
	}
	if f.Header.Masked != (to == backend) {
		t.Fatalf("frame to side %d has masked=%v", to, f.Header.Masked)
	}
	return gobwas.UnmaskFrameInPlace(f)
}

// wantClose reads a Close frame with a code.
func wantClose(t testing.TB, to side, c net.Conn, code uint16) {
	t.Helper()
	f := next(t, to, c)
	if f.Header.OpCode != gobwas.OpClose || len(f.Payload) < 2 || binary.BigEndian.Uint16(f.Payload) != code {
		t.Fatalf("got opcode %d with %q, want Close %d", f.Header.OpCode, short(f.Payload), code)
	}
}

// conversation returns frames of all kinds that one side may send, and what they count.
func conversation(from side, seed uint64, n int) (all []byte, want Flow) {
	r := rand.New(rand.NewPCG(seed, 3))
	for range n {
		payload := bytes.Repeat([]byte("é1"), r.IntN(1<<r.IntN(14)))
		switch r.IntN(5) {
		case 0: // in fragments, with a ping between
			all = append(all, frame(from, gobwas.OpText, false, payload)...)
			all = append(all, frame(from, gobwas.OpPing, true, []byte("in between"))...)
			all = append(all, frame(from, gobwas.OpContinuation, true, payload)...)
			want.Text++
			want.Control++
		case 1:
			all = append(all, frame(from, gobwas.OpPong, true, payload[:min(len(payload), 125)])...)
			want.Control++
		case 2:
			all = append(all, frame(from, gobwas.OpBinary, true, payload)...)
			want.Binary++
		default:
			all = append(all, frame(from, gobwas.OpText, true, payload)...)
			want.Text++
		}
	}
	want.Messages = want.Text + want.Binary
	want.Bytes = uint64(len(all))
	return all, want
}

// TestFramesPassUnchanged cuts frames at random places, headers included.
func TestFramesPassUnchanged(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Mode: Frames, CheckUTF8: true, Queue: 8 << 10}, on)
		toBackend, wantToBackend := conversation(client, 1, 600)
		toClient, wantToClient := conversation(backend, 2, 600)
		dribble := func(c net.Conn, all []byte) {
			sizes := rand.New(rand.NewPCG(4, 4))
			for len(all) > 0 {
				n := min(len(all), 1+sizes.IntN(1<<sizes.IntN(15)))
				say(t, c, all[:n])
				all = all[n:]
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() { dribble(tn.client, toBackend) })
		wg.Go(func() { dribble(tn.backend, toClient) })
		wg.Go(func() { hear(t, tn.client, toClient) })
		wg.Go(func() { hear(t, tn.backend, toBackend) })
		wg.Wait()
		_ = tn.client.CloseWrite()
		silent(t, tn.backend)
		_ = tn.backend.CloseWrite()
		silent(t, tn.client)
		e := k.endsWith(tn.id, reason.ClosedByClient)
		if e.ToClient != wantToClient || e.ToBackend != wantToBackend || e.Mode != Frames || e.Code != 0 {
			t.Errorf("ended: %+v, want %+v and %+v", e, wantToClient, wantToBackend)
		}
	})
}

// TestEveryByteByItself sends frames a byte at a time, so that every header is held.
func TestEveryByteByItself(t *testing.T) {
	k := newKit(t, 1)
	all, _ := conversation(client, 5, 3)
	all = append(all, frame(client, gobwas.OpPing, true, bytes.Repeat([]byte("p"), 125))...)
	all = append(all, text(client, "end")...)
	all = all[:min(len(all), 3000)]
	tn := k.open(Policy{Mode: Frames}, plain, func(p *Params) { p.ToBackend = all[:1] })
	go func() {
		for i := range all[1:] {
			_, _ = tn.client.Write(all[1+i : 2+i])
		}
	}()
	hear(t, tn.backend, all)
}

// TestCloseHandshake: both Close frames pass, and whoever was first is the reason.
func TestCloseHandshake(t *testing.T) {
	t.Parallel()
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Mode: Frames}, on)
		say(t, tn.client, append(closeFrame(client, 4001), text(client, "ignored")...))
		wantClose(t, backend, tn.backend, 4001)
		say(t, tn.backend, closeFrame(backend, 1000))
		_ = tn.backend.CloseWrite()
		wantClose(t, client, tn.client, 1000)
		silent(t, tn.client)
		_ = tn.client.Close()
		silent(t, tn.backend)
		if e := k.endsWith(tn.id, reason.ClosedByClient); e.Code != 4001 {
			t.Errorf("code %d, want 4001", e.Code)
		}

		tn = k.open(Policy{Mode: Frames, CloseTimeout: time.Second}, on)
		say(t, tn.backend, closeFrame(backend, 1000))
		wantClose(t, client, tn.client, 1000)
		say(t, tn.client, closeFrame(client, 1000))
		wantClose(t, backend, tn.backend, 1000)
		// Nobody closes the connection: the relay does.
		if e := k.endsWith(tn.id, reason.ClosedByBackend); e.Code != 1000 {
			t.Errorf("code %d, want 1000", e.Code)
		}
	})
}

// TestCloseUnanswered: the side that a Close frame was passed on to may take four times
// as long as for one of the relay.
func TestCloseUnanswered(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Mode: Frames, CloseTimeout: 100 * time.Millisecond}, plain)
	say(t, tn.backend, closeFrame(backend, 1000))
	wantClose(t, client, tn.client, 1000)
	if e := k.endsWith(tn.id, reason.ClosedByBackend); e.Lifetime < 400*time.Millisecond {
		t.Errorf("ended after %v", e.Lifetime)
	}
}

// TestPing: a silent client is pinged, its answer goes no further, and all other pings and
// pongs do.
func TestPing(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Mode: Frames, Ping: 200 * time.Millisecond, Pong: 2 * time.Second}, on)
		for range 2 {
			f := next(t, client, tn.client)
			if f.Header.OpCode != gobwas.OpPing || len(f.Payload) != ownPingSize {
				t.Fatalf("opcode %d with %q, want a ping", f.Header.OpCode, f.Payload)
			}
			say(t, tn.client, append(text(client, "before"), append(frame(client, gobwas.OpPong, true, f.Payload), text(client, "after")...)...))
			for _, want := range []string{"before", "after"} {
				if got := next(t, backend, tn.backend); string(got.Payload) != want {
					t.Fatalf("backend got %q, want %q", got.Payload, want)
				}
			}
		}
		foreign := frame(client, gobwas.OpPong, true, []byte("twelve bytes"))
		say(t, tn.client, foreign)
		hear(t, tn.backend, foreign)
		testkit.WaitUntil(t, "pongs counted", func() bool { return k.relay.Stats().Pongs >= 2 })
		_ = tn.client.CloseWrite()
		_ = tn.backend.CloseWrite()
		if e := k.end(tn.id); e.ToBackend.Control != 1 || e.ToClient.Control != 0 {
			t.Errorf("control frames: %d to the backend, %d to the client, want 1 and 0", e.ToBackend.Control, e.ToClient.Control)
		}
	})
}

// TestPingAndIdle: a client that does nothing but answer pings is idle.
func TestPingAndIdle(t *testing.T) {
	t.Parallel()
	k := newKit(t, 1)
	tn := k.open(Policy{Mode: Frames, Ping: 100 * time.Millisecond, Pong: time.Minute, Idle: 3 * time.Second, CloseTimeout: 100 * time.Millisecond}, plain)
	pings := 0
	for {
		f := next(t, client, tn.client)
		if f.Header.OpCode == gobwas.OpClose {
			break
		}
		pings++
		say(t, tn.client, frame(client, gobwas.OpPong, true, f.Payload))
	}
	if pings == 0 {
		t.Error("no ping came")
	}
	k.endsWith(tn.id, reason.IdleTimeout)
}

// TestPingWhilePaused: a client that the relay does not read cannot be heard, so it is not
// dead.
func TestPingWhilePaused(t *testing.T) {
	t.Parallel()
	k := newKit(t, 1)
	const pong = 3 * time.Second
	tn := k.open(Policy{Mode: Frames, Queue: 4 << 10, Ping: 100 * time.Millisecond, Pong: pong}, plain)
	if f := next(t, client, tn.client); f.Header.OpCode != gobwas.OpPing {
		t.Fatalf("opcode %d, want a ping", f.Header.OpCode)
	}
	const total = 16 << 20
	_ = tn.backend.(*net.TCPConn).SetReadBuffer(64 << 10) // else the kernel may take all of it
	message := frame(client, gobwas.OpBinary, true, make([]byte, total))
	go func() { _, _ = tn.client.Write(message) }()
	testkit.WaitUntil(t, "back-pressure", func() bool { return k.relay.Stats().Paused == 1 })
	paused := k.group.Now()
	testkit.WaitUntil(t, "a few pong timeouts", func() bool { return k.group.Now() > paused+3*pong })
	hear(t, tn.backend, message)
}

// TestPingWaitsForBoundary: no ping in the middle of the backend's frame.
func TestPingWaitsForBoundary(t *testing.T) {
	k := newKit(t, 1)
	message := frame(backend, gobwas.OpBinary, true, make([]byte, 1000))
	// Its half is an early one: otherwise the ping may come before it.
	tn := k.open(Policy{Mode: Frames, Ping: 100 * time.Millisecond}, plain, func(p *Params) { p.ToClient = bytes.Clone(message[:500]) })
	hear(t, tn.client, message[:500])
	testkit.WaitUntil(t, "a ping that waits", func() bool {
		wanted := false
		k.relay.loops[0].call(func() {
			for _, s := range k.relay.loops[0].all {
				wanted = k.relay.loops[0].frames.get(s.frames).pingWanted
			}
		})
		return wanted
	})
	say(t, tn.backend, message[500:])
	hear(t, tn.client, message[500:])
	if f := next(t, client, tn.client); f.Header.OpCode != gobwas.OpPing {
		t.Errorf("opcode %d, want a ping", f.Header.OpCode)
	}
}

func TestDeadClient(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		tn := k.open(Policy{Mode: Frames, Ping: 200 * time.Millisecond, Pong: 200 * time.Millisecond}, on)
		wantClose(t, backend, tn.backend, 1001)
		silent(t, tn.backend)
		if e := k.endsWith(tn.id, reason.PingTimeout); e.Code != 1001 {
			t.Errorf("code %d", e.Code)
		}
		reset(t, tn.client)
	})
}

// TestViolations: the side to blame gets the code and FIN, the other Close 1001.
func TestViolations(t *testing.T) {
	k := newKit(t, 2)
	policy := Policy{Mode: Frames, CheckUTF8: true, MaxMessage: 1000}
	f := func(from side, bad []byte, why reason.Reason, code uint16) {
		t.Helper()
		for _, on := range kinds {
			tn := k.open(policy, on)
			offender, victim := tn.client, tn.backend
			if from == backend {
				offender, victim = victim, offender
			}
			good := text(from, "good")
			say(t, offender, append(bytes.Clone(good), bad...))
			hear(t, victim, good)
			wantClose(t, from.other(), victim, 1001)
			wantClose(t, from, offender, code)
			silent(t, offender)
			_, _ = offender.Write(text(from, "dropped"))
			say(t, victim, closeFrame(from.other(), 1001))
			_ = offender.Close()
			silent(t, victim)
			if e := k.endsWith(tn.id, why); e.Code != code && e.Code != 1001 {
				t.Errorf("code %d, want %d", e.Code, code)
			}
		}
	}
	for _, from := range [...]side{client, backend} {
		f(from, text(from.other(), "wrong masking"), reason.BadFrame, 1002)
		f(from, []byte{0xf1, 0x80, 0, 0, 0, 0}, reason.BadFrame, 1002)
		f(from, frame(from, gobwas.OpContinuation, true, []byte("of nothing")), reason.BadFrame, 1002)
		f(from, frame(from, gobwas.OpText, true, []byte{'x', 0xff}), reason.BadText, 1007)
		f(from, frame(from, gobwas.OpBinary, true, make([]byte, 1001)), reason.MessageTooBig, 1009)
	}
}

// TestViolationInsideFrame: where no frame can stand, the other side gets FIN only.
func TestViolationInsideFrame(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Mode: Frames, CheckUTF8: true}, plain)
	bad := frame(client, gobwas.OpText, true, append(bytes.Repeat([]byte("x"), 100), 0xff))
	say(t, tn.client, bad[:50])
	hear(t, tn.backend, bad[:50])
	say(t, tn.client, bad[50:])
	silent(t, tn.backend)
	wantClose(t, client, tn.client, 1007)
	silent(t, tn.client)
	_ = tn.client.Close()
	_ = tn.backend.Close()
	k.endsWith(tn.id, reason.BadText)
}

// TestDeflate: RSV1 is allowed only where it was negotiated.
func TestDeflate(t *testing.T) {
	k := newKit(t, 1)
	message := text(client, "not what was compressed, but nobody looks: \xff")
	message[0] |= 0x40
	tn := k.open(Policy{Mode: Frames, CheckUTF8: true}, plain, func(p *Params) { p.Deflate = true })
	say(t, tn.client, message)
	hear(t, tn.backend, message)

	tn = k.open(Policy{Mode: Frames, CheckUTF8: true}, plain)
	say(t, tn.client, message)
	wantClose(t, client, tn.client, 1002)
	_ = tn.client.Close()
	_ = tn.backend.Close()
	k.endsWith(tn.id, reason.BadFrame)
}

func TestTooFast(t *testing.T) {
	k := newKit(t, 1)
	f := func(p Policy, message []byte, allowed int) {
		t.Helper()
		p.Mode = Frames
		tn := k.open(p, plain)
		say(t, tn.client, bytes.Repeat(message, allowed+1))
		hear(t, tn.backend, bytes.Repeat(message, allowed))
		wantClose(t, backend, tn.backend, 1001)
		wantClose(t, client, tn.client, 1008)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		k.endsWith(tn.id, reason.TooFast)
	}
	small := text(client, "0123456789")
	f(Policy{MessageRate: 10}, small, 10)
	f(Policy{MessageRate: 3}, frame(client, gobwas.OpPing, true, nil), 3)
	f(Policy{ByteRate: int64(20 * len(small))}, small, 20)

	tn := k.open(Policy{Mode: Frames, MessageRate: 3}, plain) // a message that never ends
	say(t, tn.client, frame(client, gobwas.OpText, false, []byte("a")))
	say(t, tn.client, bytes.Repeat(frame(client, gobwas.OpContinuation, false, nil), 10))
	k.endsWith(tn.id, reason.TooFast)

	// The backend has no rate.
	tn = k.open(Policy{Mode: Frames, MessageRate: 10, ByteRate: 100}, plain)
	many := bytes.Repeat(text(backend, "0123456789"), 1000)
	say(t, tn.backend, many)
	hear(t, tn.client, many)
}

// TestTooFastInsideFrame: a Close frame only where one can stand, even if the piece that
// was too much ends a frame or begins one.
func TestTooFastInsideFrame(t *testing.T) {
	k := newKit(t, 1)
	f := func(first, second []byte, clean bool) {
		t.Helper()
		tn := k.open(Policy{Mode: Frames, ByteRate: int64(len(first))}, plain)
		say(t, tn.client, first)
		hear(t, tn.backend, first)
		say(t, tn.client, second)
		if clean {
			wantClose(t, backend, tn.backend, 1001)
		} else {
			silent(t, tn.backend)
		}
		wantClose(t, client, tn.client, 1008)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		k.endsWith(tn.id, reason.TooFast)
	}
	whole := frame(client, gobwas.OpBinary, true, make([]byte, 30<<10))
	f(whole[:1000], whole[1000:], false) // ends the frame
	f(whole[:1000], whole[1000:20000], false)
	small := text(client, "small")
	f(small, whole, true)
	f(small, whole[:20000], true) // begins one
}

// TestDelay: over a rate, a client with Delay is only read later.
func TestDelay(t *testing.T) {
	f := func(p Policy, on kind, payload, messages int, atLeast time.Duration) {
		t.Helper()
		k := newKit(t, 1)
		p.Mode, p.Delay = Frames, true
		tn := k.open(p, on)
		all := bytes.Repeat(frame(client, gobwas.OpBinary, true, make([]byte, payload)), messages)
		began := time.Now()
		go func() { _, _ = tn.client.Write(all) }()
		hear(t, tn.backend, all)
		if took := time.Since(began); took < atLeast || took > 20*atLeast {
			t.Errorf("%d messages of %d bytes took %v, want about %v", messages, payload, took, atLeast)
		}
		testkit.WaitUntil(t, "no more delays", func() bool { return k.relay.Stats().Delayed == 0 })
	}
	// Burst included, and up to one read beyond it.
	f(Policy{ByteRate: 1 << 20}, plain, 1000, 1600, 400*time.Millisecond)
	f(Policy{ByteRate: 1 << 20}, kind{client: true}, 1000, 1600, 400*time.Millisecond)
	f(Policy{MessageRate: 100}, plain, 4<<10, 150, 400*time.Millisecond)
}

// TestDrainFrames: the client gets 1012 and the backend 1001 between two frames, nothing
// of the other side after that, and the client's answer ends it.
func TestDrainFrames(t *testing.T) {
	drain := DrainOptions{Code: 1012, Reason: reason.Draining}
	finish := func(t *testing.T, k *kit, tn tunnel, d *Draining) {
		t.Helper()
		say(t, tn.backend, text(backend, "too late"))
		say(t, tn.client, append(text(client, "too late"), closeFrame(client, 1012)...))
		silent(t, tn.client)
		silent(t, tn.backend)
		_ = tn.backend.Close()
		if e := k.endsWith(tn.id, reason.Draining); e.Code != 1012 && e.Code != 1001 {
			t.Errorf("code %d", e.Code)
		}
		<-d.Done()
		if d.Left() != 0 || d.Total() != 1 {
			t.Errorf("%d of %d left", d.Left(), d.Total())
		}
	}
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		// Idle.
		tn := k.open(Policy{Mode: Frames}, on)
		d := k.relay.Drain(drain)
		wantClose(t, client, tn.client, 1012)
		wantClose(t, backend, tn.backend, 1001)
		finish(t, k, tn, d)

		// In the middle of a fragmented message, both ways: between the fragments.
		tn = k.open(Policy{Mode: Frames}, on)
		for _, d := range [...]side{client, backend} {
			from, to := tn.client, tn.backend
			if d == backend {
				from, to = to, from
			}
			first := frame(d, gobwas.OpText, false, []byte("first"))
			say(t, from, first)
			hear(t, to, first)
		}
		d = k.relay.Drain(drain)
		wantClose(t, client, tn.client, 1012)
		wantClose(t, backend, tn.backend, 1001)
		say(t, tn.client, frame(client, gobwas.OpContinuation, true, []byte("last")))
		finish(t, k, tn, d)

		// In the middle of a frame, both ways: after it.
		tn = k.open(Policy{Mode: Frames}, on)
		toBackend, toClient := frame(client, gobwas.OpBinary, true, make([]byte, 9000)), frame(backend, gobwas.OpBinary, true, make([]byte, 7000))
		say(t, tn.client, toBackend[:4000])
		say(t, tn.backend, toClient[:4000])
		hear(t, tn.backend, toBackend[:4000])
		hear(t, tn.client, toClient[:4000])
		d = k.relay.Drain(drain)
		say(t, tn.client, append(toBackend[4000:], text(client, "not passed on")...))
		hear(t, tn.backend, toBackend[4000:])
		wantClose(t, backend, tn.backend, 1001)
		say(t, tn.backend, toClient[4000:])
		hear(t, tn.client, toClient[4000:])
		wantClose(t, client, tn.client, 1012)
		finish(t, k, tn, d)
	})
}

// TestDrainAnswers: what counts as the client's answer.
func TestDrainAnswers(t *testing.T) {
	k := newKit(t, 1)
	f := func(answer func(tn tunnel)) {
		t.Helper()
		tn := k.open(Policy{Mode: Frames, CloseTimeout: 300 * time.Millisecond}, plain)
		k.relay.Drain(DrainOptions{Code: 1012, Reason: reason.Draining})
		wantClose(t, client, tn.client, 1012)
		answer(tn)
		k.endsWith(tn.id, reason.Draining)
	}
	f(func(tn tunnel) { say(t, tn.client, closeFrame(client, 1012)) })
	f(func(tn tunnel) { _ = tn.client.CloseWrite() })
	f(func(tn tunnel) { _ = tn.client.Close() })
	f(func(tn tunnel) { cut(t, tn.client) })
	f(func(tn tunnel) { say(t, tn.client, []byte("rubbish")) }) // and close_timeout
	f(func(tunnel) {})                                          // close_timeout
}

// TestDrainDuringClose: who is already closing by itself gets no second Close frame.
func TestDrainDuringClose(t *testing.T) {
	k := newKit(t, 1)
	tn := k.open(Policy{Mode: Frames}, plain)
	say(t, tn.backend, closeFrame(backend, 1000))
	wantClose(t, client, tn.client, 1000)
	k.relay.Drain(DrainOptions{Code: 1012, Reason: reason.Draining})
	wantClose(t, backend, tn.backend, 1001)
	say(t, tn.client, closeFrame(client, 1000))
	if rest, err := io.ReadAll(tn.client); len(rest) != 0 || err != nil {
		t.Errorf("client got %q, %v", rest, err)
	}
	if e := k.endsWith(tn.id, reason.Draining); e.Code != 1000 {
		t.Errorf("code %d, want the first", e.Code)
	}
}

// TestFramesLimits: the relay's own ends in Frames mode say 1001.
func TestFramesLimits(t *testing.T) {
	k := newKit(t, 1)
	f := func(p Policy, want reason.Reason) {
		t.Helper()
		p.Mode = Frames
		tn := k.open(p, plain)
		wantClose(t, client, tn.client, 1001)
		wantClose(t, backend, tn.backend, 1001)
		_ = tn.client.Close()
		_ = tn.backend.Close()
		k.endsWith(tn.id, want)
	}
	f(Policy{Idle: 200 * time.Millisecond}, reason.IdleTimeout)
	f(Policy{Lifetime: 200 * time.Millisecond}, reason.MaxLifetime)
}
