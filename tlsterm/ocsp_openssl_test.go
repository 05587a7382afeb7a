//go:build openssl

package tlsterm

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// counter stands before a real responder, so that the test can hold requests up and send them elsewhere.
type counter struct {
	t *testing.T

	mu     sync.Mutex
	to     http.Handler
	hold   chan struct{} // requests wait until it is closed; nil does not
	gotten chan struct{} // a request has come
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	to, hold := c.to, c.hold
	c.mu.Unlock()
	select {
	case c.gotten <- struct{}{}:
	default:
	}
	if hold != nil {
		<-hold
	}
	to.ServeHTTP(w, r)
}

func (c *counter) sends(to http.Handler) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.to = to
}

// relay leads to a real responder.
func relay(t *testing.T, r *testkit.Responder) http.Handler {
	t.Helper()
	to, err := url.Parse("http://" + r.Addr)
	if err != nil {
		t.Fatal(err)
	}
	return httputil.NewSingleHostReverseProxy(to)
}

// asksFor has the responder asked about another certificate than the one that it was asked about.
func asksFor(t *testing.T, r *testkit.Responder, query []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		der, err := askOnce(t, "http://"+r.Addr, query)
		if err != nil {
			t.Errorf("ask on the side: %v", err)
		}
		_, _ = w.Write(der)
	})
}

// answers is a real responder of an office, with a delegate's key.
func (o *office) answers(t *testing.T) *testkit.Responder {
	t.Helper()
	signer := o.Issue(t, testcert.Request{Names: []string{"responder.test"}, Alter: func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	}})
	return testkit.NewResponder(t, testkit.ResponderFiles{Issuer: selfsigned.EncodeCert(o.issuer.Raw), Signer: signer.CertPEM, Key: signer.KeyPEM})
}

// visited is a store with a certificate whose responder is real.
type visited struct {
	t *testing.T
	*office
	s    *Store
	leaf *x509.Certificate
}

// look has the responder asked now, and waits until something came of it.
func (v *visited) look() {
	v.t.Helper()
	s := v.s.Stapler()
	looks := func() (n uint64) {
		for _, c := range s.Results() {
			n += c
		}
		return n
	}
	before := looks()
	s.mu.Lock()
	s.certs[0].next = time.Time{}
	s.mu.Unlock()
	s.stir()
	v.until("a look", func() bool { return looks() > before })
}

func (v *visited) until(what string, ok func() bool) {
	v.t.Helper()
	for begun := time.Now(); !ok(); {
		if time.Since(begun) > time.Minute {
			v.t.Fatalf("no %s within a minute", what)
		}
		<-time.After(time.Millisecond)
	}
}

// is checks what came of the last look, and what handshakes get.
func (v *visited) is(step string, last OCSPResult, state StapleState) {
	v.t.Helper()
	s := v.s.Stapler()
	s.mu.Lock()
	got := s.certs[0].last
	s.mu.Unlock()
	if st := s.Stats()[0]; got != last || st.State != state {
		v.t.Errorf("%s: %s, %s; want %s, %s", step, got, st.State, last, state)
	}
	v.until("new answer to staple", func() bool { return (v.visit(step) != nil) == (state == StapleGood) })
}

// visit returns what is stapled.
func (v *visited) visit(step string) *ocsp.Response {
	v.t.Helper()
	st, serverErr, clientErr := connect(v.t, v.s, &tls.Config{RootCAs: v.Pool(), ServerName: "a.test"})
	if serverErr != nil || clientErr != nil {
		v.t.Fatalf("%s: %v, %v", step, serverErr, clientErr)
	}
	if st.OCSPResponse == nil {
		return nil
	}
	resp, err := ocsp.ParseResponseForCert(st.OCSPResponse, v.leaf, v.issuer)
	if err != nil || resp.Status != ocsp.Good {
		v.t.Errorf("%s: stapled %v, %v", step, resp, err)
	}
	return resp
}

// TestOpenSSL goes through what may become of a real responder.
func TestOpenSSL(t *testing.T) {
	o, stranger := newOffice(t), newOffice(t)
	real, liar := o.answers(t), stranger.answers(t)
	front := &counter{t: t, to: relay(t, real), gotten: make(chan struct{}, 1)}
	pair := o.leaf(serveOCSP(t, front.ServeHTTP))
	leaf, other := pair.Leaf(t), o.leaf().Leaf(t)
	certFile, keyFile := pair.Files(t)
	opts := Options{
		Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}},
		OCSP:         OCSPOptions{Timeout: 30 * time.Second, RefreshMin: time.Hour},
	}
	v := &visited{t: t, office: o, s: mustLoad(t, &opts, nil), leaf: leaf}
	// 1. It does not know the certificate, then does.
	real.Start()
	v.s.Stapler().Start(nil)
	defer v.s.Stapler().Close()
	v.look()
	v.is("1", OCSPUnknown, StapleUnknown)
	real.Stop()
	real.Know(leaf.SerialNumber, false)
	real.Start()
	v.look()
	v.is("1", OCSPGood, StapleGood)
	answer := v.visit("1")
	// 2. It is slow: handshakes do not wait, which they must be through with before the answer may come.
	front.mu.Lock()
	front.hold, front.gotten = make(chan struct{}), make(chan struct{}, 1)
	front.mu.Unlock()
	v.s.Stapler().mu.Lock()
	v.s.Stapler().certs[0].next = time.Time{}
	v.s.Stapler().mu.Unlock()
	v.s.Stapler().stir()
	<-front.gotten
	for range 10 {
		if v.visit("2") == nil {
			t.Error("2: nothing is stapled")
		}
	}
	close(front.hold)
	front.mu.Lock()
	front.hold = nil
	front.mu.Unlock()
	v.until("end of the slow look", func() bool { return v.s.Stapler().Results()[OCSPGood] == 2 })
	// 3. It is killed, and comes back.
	front.sends(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	v.look()
	v.is("3", OCSPUnreachable, StapleGood)
	real.Stop()
	front.sends(relay(t, real)) // which answers 502
	v.look()
	v.is("3", OCSPHTTPStatus, StapleGood)
	real.Know(leaf.SerialNumber, false)
	real.Start()
	v.look()
	v.is("3", OCSPGood, StapleGood)
	// 4. It lies: about another certificate, garbage, or it is somebody else.
	query, err := ocspQuery(other, o.issuer)
	if err != nil {
		t.Fatal(err)
	}
	front.sends(asksFor(t, real, query))
	v.look()
	v.is("4", OCSPWrongCertificate, StapleGood)
	front.sends(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	v.look()
	v.is("4", OCSPMalformed, StapleGood)
	liar.Know(leaf.SerialNumber, false)
	liar.Start()
	if query, err = ocspQuery(leaf, stranger.issuer); err != nil {
		t.Fatal(err)
	}
	front.sends(asksFor(t, liar, query))
	v.look()
	v.is("4", OCSPWrongCertificate, StapleGood)
	// 5. What it said expires.
	a, err := readOCSP(answer.Raw, leaf, o.issuer, answer.NextUpdate)
	wantResult(t, "5", a, err, OCSPExpired)
	// 6. The certificate is revoked.
	real.Stop()
	real.Know(leaf.SerialNumber, true)
	real.Start()
	front.sends(relay(t, real))
	v.look()
	v.is("6", OCSPRevoked, StapleRevoked)
}

// TestOpenSSLRestart goes over restarts with answers that a real responder gave before it died.
func TestOpenSSLRestart(t *testing.T) {
	o := newOffice(t)
	real, dir := o.answers(t), t.TempDir()
	pair := o.mustLeaf("http://" + real.Addr)
	leaf := pair.Leaf(t)
	certFile, keyFile := pair.Files(t)
	opts := Options{
		Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}},
		OCSP:         OCSPOptions{Timeout: 30 * time.Second, RefreshMin: time.Hour, CacheDir: dir},
	}
	// start is what a process does before its first handshake.
	start := func() *visited {
		t.Helper()
		v := &visited{t: t, office: o, s: mustLoad(t, &opts, nil), leaf: leaf}
		v.s.Stapler().Prime()
		return v
	}
	real.Know(leaf.SerialNumber, false)
	real.Start()
	v := start()
	fetched := v.visit("fetched")
	v.s.Stapler().Start(nil)
	v.until("file", func() bool {
		done, _ := v.s.Stapler().Writes()
		return done == 1
	})
	v.s.Stapler().Close()
	real.Stop()
	// The responder is dead, and nothing is left but the directory.
	v = start()
	if kept := v.visit("kept"); fetched == nil || kept == nil || !bytes.Equal(kept.Raw, fetched.Raw) {
		t.Errorf("stapled before the restart %v, after it %v", fetched, kept)
	}
	v.s.Stapler().Start(nil)
	defer v.s.Stapler().Close()
	v.look()
	v.is("dead", OCSPUnreachable, StapleGood)
	// Another process cannot be made to believe half of the file.
	file := onlyFile(t, dir)
	write(t, file, fetched.Raw[:len(fetched.Raw)-1])
	v = start()
	if v.visit("truncated") != nil {
		t.Error("half an answer is stapled")
	}
	if n := v.s.Stapler().Reads()[OCSPMalformed]; n != 1 {
		t.Errorf("%d malformed files, want 1", n)
	}
}
