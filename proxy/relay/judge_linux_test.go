package relay

import (
	"encoding/binary"
	"io"
	"slices"
	"testing"

	"tickgate/internal/reason"
	"tickgate/internal/ws"
)

// noted has a tunnel's client bring a note.
func noted(note any) func(*Params) {
	return func(p *Params) {
		if p.Client.Seat != nil {
			p.Client.Seat.Note = note
		}
		p.Owner = note
	}
}

// close1008 is a Close frame as a client gets it.
var close1008 = binary.BigEndian.AppendUint16([]byte{0x88, 2}, ws.PolicyError)

// hearMaskedClose reads a Close frame with code 1008 as a backend gets it.
func hearMaskedClose(t *testing.T, c io.Reader) {
	t.Helper()
	var b [8]byte
	if _, err := io.ReadFull(c, b[:]); err != nil {
		t.Fatalf("read: %v", err)
	}
	code := [2]byte{b[6] ^ b[2], b[7] ^ b[3]}
	if b[0] != 0x88 || b[1] != 0x82 || binary.BigEndian.Uint16(code[:]) != ws.PolicyError {
		t.Fatalf("got % x, want a masked Close frame of code 1008", b)
	}
}

// TestReview ends the tunnels that there is a reason for, and none else.
func TestReview(t *testing.T) {
	eachKind(t, func(t *testing.T, k *kit, on kind) {
		for _, mode := range []Mode{Opaque, Frames} {
			bad, good := k.open(Policy{Mode: mode}, on, noted("bad")), k.open(Policy{Mode: mode}, on, noted("good"))
			bare := k.open(Policy{Mode: mode}, on)
			var seen []string
			judge := func(r *Reviewed) reason.Reason {
				seen = append(seen, r.Note.(string))
				if r.Owner != r.Note || r.Labels != labels || r.Peer.Port() != 4321 {
					t.Errorf("shown as %+v", r)
				}
				if r.Note == "bad" && r.ID == bad.id {
					return reason.IdentityRevoked
				}
				return reason.OK
			}
			n := k.relay.Review(judge)
			slices.Sort(seen)
			if !on.client {
				if n != 0 || seen != nil {
					t.Errorf("%d ended, %q seen, without TLS to clients", n, seen)
				}
				k.relay.Close(bad.id, reason.IdentityRevoked)
			} else if n != 1 || !slices.Equal(seen, []string{"bad", "good"}) {
				t.Errorf("%d ended, %q seen", n, seen)
			}
			if mode == Frames && on.client {
				hear(t, bad.client, close1008)
				hearMaskedClose(t, bad.backend)
			}
			if seen = nil; k.relay.Review(judge) != 0 || slices.Contains(seen, "bad") {
				t.Errorf("the second time: %q seen", seen)
			}
			_, _ = bad.client.Close(), bad.backend.Close()
			k.endsWith(bad.id, reason.IdentityRevoked)
			for _, tn := range []tunnel{good, bare} {
				say(t, tn.backend, []byte{0x82, 1, 'x'})
				hear(t, tn.client, []byte{0x82, 1, 'x'})
				_, _ = tn.client.Close(), tn.backend.Close()
				k.end(tn.id)
			}
		}
	})
}

// TestReviewOfMany has tunnels beyond the pages of one look, and more to end than in one go. Between the look and the sentence some end, and others take
// their slots: those are not meant.
func TestReviewOfMany(t *testing.T) {
	k := newKit(t, 1)
	k.many(eachSlots, &Policy{}, labels)
	const n, gone = 2*reviewBatch + 10, 10
	var all, later []tunnel
	for range n {
		all = append(all, k.open(Policy{}, kind{client: true}, noted("bad")))
	}
	ended := k.relay.Review(func(*Reviewed) reason.Reason {
		if later == nil {
			for _, tn := range all[:gone] {
				k.relay.Cut(tn.id, reason.KilledByUser)
				k.endsWith(tn.id, reason.KilledByUser)
				later = append(later, k.open(Policy{}, kind{client: true}, noted("bad")))
			}
			k.relay.Close(all[gone].id, reason.IdleTimeout) // begins to close
		}
		return reason.IdentityExpired
	})
	if ended != n-gone-1 {
		t.Errorf("%d ended, want %d", ended, n-gone-1)
	}
	for _, tn := range slices.Concat(all[gone:], later) {
		_, _ = tn.client.Close(), tn.backend.Close()
	}
	for i, tn := range all[gone:] {
		if want := reason.IdentityExpired; i > 0 {
			k.endsWith(tn.id, want)
		}
	}
	k.endsWith(all[gone].id, reason.IdleTimeout)
	for _, tn := range later {
		if e := k.end(tn.id); e.Reason == reason.IdentityExpired {
			t.Error("one that came later was ended")
		}
	}
}

// TestReviewOfClosedLoops ends by itself.
func TestReviewOfClosedLoops(t *testing.T) {
	k := newKit(t, 2)
	tn := k.open(Policy{}, kind{client: true}, noted("bad"))
	ended := k.relay.Review(func(*Reviewed) reason.Reason {
		k.group.Close()
		return reason.IdentityRevoked
	})
	if ended != 0 || k.relay.Review(func(*Reviewed) reason.Reason { return reason.IdentityRevoked }) != 0 {
		t.Errorf("%d ended", ended)
	}
	k.endsWith(tn.id, reason.ShutDown)
	_, _ = tn.client.Close(), tn.backend.Close()
}
