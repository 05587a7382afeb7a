package hello

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// made is the hello of a client of TLS 1.2 and 1.3 with some groups.
func made(t testing.TB, groups ...tls.CurveID) *Hello {
	t.Helper()
	h, err := New(&tls.Config{ServerName: "localhost", CurvePreferences: groups, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// answerTo returns the first bytes that crypto/tls sends in answer to bytes with an end behind them, and what it
// thinks of them.
func answerTo(t testing.TB, server *tls.Config, raw []byte) (answer []byte, err error) {
	t.Helper()
	serverEnd, clientEnd := testkit.TCPPair(t)
	limit := time.Now().Add(testkit.Patience)
	_ = serverEnd.SetDeadline(limit)
	_ = clientEnd.SetDeadline(limit)
	if _, err := clientEnd.Write(raw); err != nil {
		t.Fatal(err)
	}
	_ = clientEnd.CloseWrite()
	err = tls.Server(serverEnd, server).Handshake()
	_ = serverEnd.CloseWrite()
	answer, _ = io.ReadAll(io.LimitReader(clientEnd, 6))
	_ = serverEnd.Close()
	_ = clientEnd.Close()
	return answer, err
}

// A fresh copy is another hello, and one that a server answers with its own.
func TestFresh(t *testing.T) {
	server := testcert.New(t).ServerTLS(t)
	// f says how many X25519 keys there must be.
	f := func(shares int, groups ...tls.CurveID) {
		t.Helper()
		h := made(t, groups...)
		if len(h.shares) != shares || h.random != (span{11, 43}) || !bytes.Equal(h.body.record(), h.raw) {
			t.Errorf("%v: %d shares, random at %v", groups, len(h.shares), h.random)
		}
		rng := rand.New(rand.NewPCG(1, 1))
		before := bytes.Clone(h.Raw())
		one, two := h.AppendFresh(nil, rng), h.AppendFresh([]byte("x"), rng)[1:]
		if len(one) != len(h.Raw()) || len(two) != len(one) || bytes.Equal(one, two) || !bytes.Equal(before, h.Raw()) {
			t.Errorf("%v: the copies are no copies", groups)
		}
		for _, raw := range [][]byte{h.Raw(), one, two} {
			records, err := answerTo(t, server, raw)
			if len(records) < 6 || records[0] != handshakeRecord || records[5] != 2 {
				t.Errorf("%v: answer %x, %v", groups, records, err)
			}
		}
	}
	f(1, tls.X25519)
	f(2, tls.X25519MLKEM768, tls.X25519)
	f(0, tls.CurveP256)
	f(2)
}

// Mutants are the same for the same seed, differ for others, leave the hello alone, and are neither all refused
// nor all answered.
func TestMutants(t *testing.T) {
	h, server := made(t, tls.X25519), testcert.New(t).ServerTLS(t)
	before := bytes.Clone(h.Raw())
	seen := map[string]bool{}
	answered, refused := 0, 0
	for seed := range uint64(300) {
		raw := h.Mutant(rand.New(rand.NewPCG(seed, 0)))
		if again := h.Mutant(rand.New(rand.NewPCG(seed, 0))); !bytes.Equal(raw, again) {
			t.Fatalf("seed %d: two mutants", seed)
		}
		if len(raw) < 1 || len(raw) > 2*mostInRecord {
			t.Errorf("seed %d: %d bytes", seed, len(raw))
		}
		seen[string(raw)] = true
		records, err := answerTo(t, server, raw)
		switch {
		case err == nil:
			t.Errorf("seed %d: a whole handshake with a client that sent one message", seed)
		case len(records) > 0 && records[0] == handshakeRecord:
			answered++
		default:
			refused++
		}
	}
	if !bytes.Equal(before, h.Raw()) {
		t.Error("the hello itself was changed")
	}
	if len(seen) < 290 || answered < 20 || refused < 100 {
		t.Errorf("%d different mutants, %d answered and %d refused", len(seen), answered, refused)
	}
}

func TestNoHello(t *testing.T) {
	if _, err := New(&tls.Config{}); !errors.Is(err, ErrHello) { // crypto/tls wants a server name
		t.Errorf("%v", err)
	}
}

// A fresh copy costs no allocation but for its bytes.
func TestFreshAllocates(t *testing.T) {
	h, rng, buf := made(t, tls.X25519), rand.New(rand.NewPCG(1, 1)), make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { buf = h.AppendFresh(buf[:0], rng) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
