package tlsterm

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"tickgate/internal/testcert"
)

// A client that has been here for long is judged by the lists and authorities of now and by the time of now, and the worst that is found is told.
func TestLapsed(t *testing.T) {
	b := newAuthBench(t, "required", func(b *authBench, a *ClientAuthOptions) {
		a.CRLFiles = []string{b.file("a.crl", slices.Concat(b.ca.InterPEM, b.ca.RevocationList(t, nil)))}
	})
	pair := b.ca.Issue(t, testcert.Request{})
	st, err := shakeState(t, b.store, clientOf(t, tls.VersionTLS13, pair))
	if err != nil {
		t.Fatal(err)
	}
	id := IdentityOf(&st)
	after := pair.Leaf(t).NotAfter.Add(time.Second)
	late, overdue := func() time.Time { return after }, func(l *x509.RevocationList) { l.NextUpdate = time.Now().Add(-time.Minute) }
	f := func(step string, now func() time.Time, want ClientCertProblem, lapsed bool) {
		t.Helper()
		for _, a := range b.store.auths {
			a.now = now
		}
		if got, ok := b.store.Lapsed(id, "example.com"); ok != lapsed || ok && got != want {
			t.Errorf("%s: %v, %t; want %v, %t", step, got, ok, want, lapsed)
		}
	}
	lists := func(all ...[]byte) {
		t.Helper()
		b.write(b.opts.ClientAuth.CRLFiles[0], slices.Concat(append(all, b.ca.InterPEM)...))
		b.refresh(true)
	}
	f("at first", time.Now, 0, false)
	if err := b.store.Stands(id, "example.com"); err != nil {
		t.Error(err)
	}
	f("when it has run out", late, ClientCertExpired, true)
	if err := b.store.Stands(id, "example.com"); err != nil {
		t.Errorf("what has not changed is judged again: %s", err)
	}
	f("with a clock that was set back", func() time.Time { return time.Now().Add(-48 * time.Hour) }, 0, false)
	lists(b.ca.RevocationList(t, nil, pair))
	f("revoked", time.Now, ClientCertRevoked, true)
	f("revoked, and run out", late, ClientCertRevoked, true)
	lists(b.ca.RevocationList(t, overdue))
	f("with an overdue list", time.Now, 0, false)
	f("with an overdue list, and run out", late, ClientCertExpired, true)
	if b.store.Stands(id, "example.com") == nil {
		t.Error("an overdue list lets clients in")
	}
	lists(b.ca.RevocationList(t, overdue), b.ca.RootRevocationList(t, true))
	f("with an overdue list, and its issuer revoked by another", time.Now, ClientCertRevoked, true)
	lists(b.ca.RevocationList(t, overdue, pair))
	f("revoked by an overdue list", time.Now, ClientCertRevoked, true)
	lists(b.ca.RevocationList(t, nil))
	if allocs := testing.AllocsPerRun(100, func() { _, _ = b.store.Lapsed(id, "example.com") }); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}

	// Of several chains one is enough, and the one that has only run out says more than one that nobody vouches for.
	own := id.chains[0]
	foreign := own
	foreign.root[0]++
	id.chains = []provenChain{foreign, own}
	f("with one good chain of two", time.Now, 0, false)
	f("with one of two run out", late, ClientCertExpired, true)
	id.chains = []provenChain{own, foreign}
	f("with the first of two run out", late, ClientCertExpired, true)
	id.chains = []provenChain{own}

	strict := b.opts.clone()
	strict.ClientAuth.Depth = 0
	b.store = mustLoad(t, &strict, b.store)
	f("under stricter options", time.Now, ClientCertTooDeep, true)
	off := b.opts.clone()
	off.ClientAuth = ClientAuthOptions{Mode: clientAuthOff}
	b.store = mustLoad(t, &off, b.store)
	if p, lapsed := b.store.Lapsed(id, "example.com"); lapsed {
		t.Errorf("where nobody is asked any more: %v", p)
	}
	b.store = mustLoad(t, &b.opts, b.store)
	b.write(b.opts.ClientAuth.CAFile, testcert.NewCA(t).RootPEM)
	b.write(b.opts.ClientAuth.CRLFiles[0], nil)
	strict = b.opts.clone()
	strict.ClientAuth.CRLFiles = nil
	b.store = mustLoad(t, &strict, b.store)
	f("without its authority", time.Now, ClientCertUntrusted, true)
}
