package tlsterm

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"testing"

	"tickgate/internal/selfsigned"
)

// seat is a net.Conn that can be left empty, as an idle connection's is.
type seat struct{ net.Conn }

// idle returns a server connection that has shaken hands, answered one request of the
// given length, and has nobody on its seat.
func idle(t testing.TB, server, client *tls.Config, request int) *tls.Conn {
	t.Helper()
	ours, theirs := newWires() // not net.Pipe, on which a client that writes and a server that sends a ticket wait for each other
	at := &seat{ours}
	sc, cc := tls.Server(at, server), tls.Client(theirs, client)
	done := make(chan error, 1)
	go func() {
		_, err := cc.Write(make([]byte, request))
		if err == nil {
			_, err = io.ReadFull(cc, make([]byte, 1))
		}
		done <- err
	}()
	if _, err := io.ReadFull(sc, make([]byte, request)); err != nil {
		t.Fatal(err)
	}
	if _, err := sc.Write([]byte("!")); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	at.Conn = nil
	return sc
}

// liveHeap is the bytes alive after collections.
func liveHeap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// heapPerConn returns the bytes of an idle connection before and after Trim.
func heapPerConn(t testing.TB, server, client *tls.Config, request int) (before, after int) {
	const conns = 300 // with 1,000 it is the same to 1 %, and takes 3 s
	keep := make([]*tls.Conn, conns)
	_ = idle(t, server, client, request) // what the first one allocates for all
	base := liveHeap()
	for i := range keep {
		keep[i] = idle(t, server, client, request)
	}
	full := liveHeap()
	for _, c := range keep {
		Trim(c)
	}
	trimmed := liveHeap()
	runtime.KeepAlive(keep)
	return (full - base) / conns, (trimmed - base) / conns
}

// maxTrimmed is the most that the heap may keep for an idle connection, in bytes.
const maxTrimmed = 3500

func TestTrimSaves(t *testing.T) {
	if raceEnabled {
		t.Log("memory is not measured under the race detector")
		return
	}
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "example.com")}}, nil)
	f := func(what string, version uint16, curve tls.CurveID, request, most int) {
		t.Helper()
		client := anyCert("example.com")
		client.MaxVersion, client.CurvePreferences = version, []tls.CurveID{curve}
		client.DynamicRecordSizingDisabled = true // large records at once
		before, after := heapPerConn(t, s.Config(), client, request)
		t.Logf("%s: %d B, trimmed %d B", what, before, after)
		if after > most {
			t.Errorf("%s: %d B after Trim, want at most %d", what, after, most)
		}
	}
	f("TLS 1.3, X25519MLKEM768", tls.VersionTLS13, tls.X25519MLKEM768, 100, maxTrimmed)
	f("TLS 1.3, X25519", tls.VersionTLS13, tls.X25519, 100, maxTrimmed)
	f("TLS 1.3, X25519, 16 KiB record", tls.VersionTLS13, tls.X25519, 16<<10, maxTrimmed)
	f("TLS 1.2, X25519", tls.VersionTLS12, tls.X25519, 100, maxTrimmed)
}
