package proxy

import (
	"crypto/tls"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// Connections of one client on one listener have one note, and nobody else has it; it goes with the last of them.
func TestNotesAreShared(t *testing.T) {
	t.Parallel()
	m := newMutual(t, `routes: [{static_response: {body: "${tls_client_subject}"}}]`)
	feed, other := m.client("feed", ""), m.client("other", "")
	var open []*testkit.Client
	dial := func(name string, pair *testcert.Pair, version uint16) {
		t.Helper()
		conf := m.tls(name, pair)
		conf.MaxVersion = version
		c := testkit.DialTLS(t, m.addr, conf)
		open = append(open, c)
		expectStatus(t, name, c.Do(fmt.Sprintf("GET / HTTP/1.1\r\nHost: %s\r\n\r\n", name)), 200)
	}
	for range 3 {
		dial("localhost", feed, tls.VersionTLS13)
	}
	dial("localhost", other, tls.VersionTLS13)
	dial("private.example", feed, tls.VersionTLS13)
	dial("localhost", feed, tls.VersionTLS12) // has another fingerprint
	dial("localhost", nil, tls.VersionTLS13)
	want := map[string]int{"CN=feed,O=Acme": 5, "CN=other,O=Acme": 1}
	m.wait("notes", func() bool {
		shared, names := map[*tlsNote]int{}, map[string]int{}
		m.each(func(v *connView) {
			if n, ok := v.note.(*tlsNote); ok && n.identity != nil {
				shared[n]++
				names[n.identity.Name()]++
			}
		})
		return len(shared) == 4 && names["CN=feed,O=Acme"] == want["CN=feed,O=Acme"] && names["CN=other,O=Acme"] == want["CN=other,O=Acme"]
	})
	for _, c := range open {
		c.Close()
	}
	m.wait("the end of the notes", func() bool {
		runtime.GC()
		m.notes.mu.Lock()
		defer m.notes.mu.Unlock()
		return len(m.notes.notes) == 0
	})
}

// Two that make the same note at once get one.
func TestNotesMadeAtOnce(t *testing.T) {
	t.Parallel()
	var s sharedNotes
	var group sync.WaitGroup
	made := make(chan bool, 2)
	got := [2]*tlsNote{}
	for i := range got {
		group.Go(func() {
			got[i] = s.take(noteKey{1}, func() *tlsNote {
				made <- true
				for len(made) < cap(made) {
					runtime.Gosched()
				}
				return &tlsNote{ja4: "x"}
			})
		})
	}
	group.Wait()
	if got[0] != got[1] || got[0] == nil {
		t.Errorf("%p and %p", got[0], got[1])
	}
	if s.take(noteKey{2}, func() *tlsNote { return nil }) != nil || len(s.notes) != 1 {
		t.Error("there is a note of nobody")
	}
	runtime.KeepAlive(got)
}
