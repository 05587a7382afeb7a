package tlsterm

import (
	"crypto/tls"
	"crypto/x509"
	"reflect"
	"runtime"
	"testing"

	"tickgate/internal/testcert"
)

// maxIdentity is the most that the heap may keep for a client's identity, in bytes.
const maxIdentity = 2500

func TestTrimClientSaves(t *testing.T) {
	if raceEnabled {
		t.Log("memory is not measured under the race detector")
		return
	}
	const conns = 300
	b := newAuthBench(t, "optional", nil)
	pair := b.ca.Issue(t, testcert.Request{Names: []string{"feed"}})
	f := func(what string, version uint16) {
		t.Helper()
		client := clientOf(t, version, pair)
		client.ClientSessionCache, client.CurvePreferences = nil, []tls.CurveID{tls.X25519}
		nobody := client.Clone()
		nobody.GetClientCertificate = nil
		_, plain := heapPerConn(t, b.store.Config(), nobody, 100)
		keep, who := make([]*tls.Conn, conns), make([]*Identity, conns)
		_ = idle(t, b.store.Config(), client, 100)
		base := liveHeap()
		for i := range keep {
			keep[i] = idle(t, b.store.Config(), client, 100)
			Trim(keep[i])
			st := keep[i].ConnectionState()
			who[i] = IdentityOf(&st)
		}
		before := (liveHeap() - base) / conns
		for _, c := range keep {
			TrimClient(c)
		}
		after := (liveHeap() - base) / conns
		runtime.KeepAlive(keep)
		runtime.KeepAlive(who)
		t.Logf("%s: %d B, after TrimClient %d B, without a certificate %d B", what, before, after, plain)
		if after-plain > maxIdentity {
			t.Errorf("%s: a client's identity takes %d B, want at most %d", what, after-plain, maxIdentity)
		}
	}
	f("TLS 1.3", tls.VersionTLS13)
	f("TLS 1.2", tls.VersionTLS12)
}

func TestClientLayout(t *testing.T) {
	if !clientLayout.known {
		t.Fatal("this crypto/tls is unknown")
	}
	b := newAuthBench(t, "required", nil)
	for _, version := range bothVersions {
		server := idle(t, b.store.Config(), clientOf(t, version, b.ca.Issue(t, testcert.Request{})), 1)
		if st := server.ConnectionState(); IdentityOf(&st) == nil {
			t.Error("no identity")
		}
		TrimClient(server)
		if st := server.ConnectionState(); st.PeerCertificates != nil || st.VerifiedChains != nil {
			t.Error("certificates are still there")
		}
	}
	open := mustLoad(t, &Options{Certificates: b.opts.Certificates}, nil)
	x := newTalk(t, open.Config(), tls.VersionTLS13)
	TrimClient(x.client)
	if len(x.client.ConnectionState().PeerCertificates) == 0 {
		t.Error("a client's own connection was trimmed")
	}
	l := clientLayoutOf(reflect.TypeFor[struct{ peerCertificates []x509.Certificate }]())
	if l.known {
		t.Error("another type is taken for a tls.Conn")
	}
	l.trim(nil) // touches nothing
}
