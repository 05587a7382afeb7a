package meter

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// tlsVersions are the versions that have a series of their own; the last takes the rest.
var tlsVersions = [...]struct {
	version uint16
	word    string
}{
	{tls.VersionTLS12, "1.2"},
	{tls.VersionTLS13, "1.3"},
	{0, "other"},
}

// Handshake is a TLS handshake with a client that succeeded.
type Handshake struct {
	// Version is crypto/tls's number.
	Version uint16
	// Group is that of the key exchange, "" if there was none.
	Group string
	// KeyType is that of the certificate: "ecdsa", "rsa", "ed25519", or "" if none was sent.
	KeyType string
	Resumed bool
	// All is the time from the whole ClientHello to the end. Gate is what of it was spent waiting for a turn, Client
	// waiting for the client, and the rest computing.
	All, Gate, Client time.Duration
}

// handshakeBounds are those of the histograms of handshakes: one computes for some hundred microseconds, and waits for a round trip.
var handshakeBounds = []time.Duration{
	250 * time.Microsecond, 500 * time.Microsecond, time.Millisecond, 2 * time.Millisecond, 3 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// handshakeKind is what the duration of a handshake is told apart by. There are as many as crypto/tls has versions and groups.
type handshakeKind struct {
	version int // index of tlsVersions
	group   string
	keyType string
	resumed bool
}

// tlsCounters counts the handshakes with clients.
type tlsCounters struct {
	full    [len(tlsVersions)]atomic.Uint64
	resumed [len(tlsVersions)]atomic.Uint64

	gate, client, compute *Histogram

	mu    sync.RWMutex
	kinds map[handshakeKind]*Histogram // guarded by mu
}

func (t *tlsCounters) init() {
	t.gate, t.client, t.compute = NewHistogram(handshakeBounds...), NewHistogram(handshakeBounds...), NewHistogram(handshakeBounds...)
	t.kinds = map[handshakeKind]*Histogram{}
}

// Handshake counts a finished handshake with a client.
func (m *Meter) Handshake(h Handshake) {
	t := &m.tls
	k := handshakeKind{group: cmp.Or(h.Group, "none"), keyType: cmp.Or(h.KeyType, "none"), resumed: h.Resumed}
	for k.version < len(tlsVersions)-1 && tlsVersions[k.version].version != h.Version {
		k.version++
	}
	if h.Resumed {
		t.resumed[k.version].Add(1)
	} else {
		t.full[k.version].Add(1)
	}
	t.kind(k).Add(h.All)
	t.gate.Add(h.Gate)
	t.client.Add(h.Client)
	t.compute.Add(max(0, h.All-h.Gate-h.Client))
}

// kind returns the histogram of a kind.
func (t *tlsCounters) kind(k handshakeKind) *Histogram {
	t.mu.RLock()
	h := t.kinds[k]
	t.mu.RUnlock()
	if h != nil {
		return h
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if h = t.kinds[k]; h == nil {
		h = NewHistogram(handshakeBounds...)
		t.kinds[k] = h
	}
	return h
}

// labels are those of a series.
func (k handshakeKind) labels() string {
	return fmt.Sprintf("version=%q,group=%q,key_type=%q,resumed=\"%t\"", tlsVersions[k.version].word, k.group, k.keyType, k.resumed)
}

func (t *tlsCounters) write(w io.Writer) {
	for i, v := range tlsVersions {
		const line = "tickgate_tls_handshakes_total{version=%q,resumed=\"%t\"} %d\n"
		fmt.Fprintf(w, line, v.word, false, t.full[i].Load())
		fmt.Fprintf(w, line, v.word, true, t.resumed[i].Load())
	}
	t.mu.RLock()
	kinds := make(map[string]*Histogram, len(t.kinds))
	var series []string
	for k, h := range t.kinds {
		kinds[k.labels()] = h
		series = append(series, k.labels())
	}
	t.mu.RUnlock()
	slices.Sort(series)
	for _, labels := range series {
		WriteHistogram(w, "tickgate_tls_handshake_duration_seconds", labels, kinds[labels].Buckets())
	}
	for _, p := range []struct {
		phase string
		h     *Histogram
	}{{"gate", t.gate}, {"client", t.client}, {"compute", t.compute}} {
		WriteHistogram(w, "tickgate_tls_handshake_phase_seconds", fmt.Sprintf("phase=%q", p.phase), p.h.Buckets())
	}
}
