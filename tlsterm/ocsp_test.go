package tlsterm

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// desk is a responder in the test, and a store that asks it.
type desk struct {
	t *testing.T
	*office
	s       *Store
	reports []StapleReport // since the last check
	shares  *Inquiries     // nil shares with nobody
	spread  float64

	mu    sync.Mutex
	asked int
	reply func(ctx context.Context, leaf *x509.Certificate) ([]byte, error)
	byURL map[string]*x509.Certificate // which certificate a URL is asked about
}

func newDesk(t *testing.T) *desk {
	d := &desk{t: t, office: newOffice(t), byURL: map[string]*x509.Certificate{}}
	d.says(reply{})
	return d
}

// says has answers be that from now on.
func (d *desk) says(r reply) {
	d.replies(func(_ context.Context, leaf *x509.Certificate) ([]byte, error) { return d.answer(leaf, r), nil })
}

// fails has no answer come from now on.
func (d *desk) fails(r OCSPResult) {
	d.replies(func(context.Context, *x509.Certificate) ([]byte, error) { return nil, ocspErrorf(r, "made to fail") })
}

// hangs has askers wait.
func (d *desk) hangs() {
	d.replies(func(ctx context.Context, _ *x509.Certificate) ([]byte, error) {
		<-ctx.Done()
		return nil, failedCall("it", ctx.Err())
	})
}

func (d *desk) replies(f func(ctx context.Context, leaf *x509.Certificate) ([]byte, error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reply = f
}

func (d *desk) ask(ctx context.Context, responder string, _ []byte) ([]byte, error) {
	d.mu.Lock()
	d.asked++
	reply, leaf := d.reply, d.byURL[responder]
	d.mu.Unlock()
	return reply(ctx, leaf)
}

// cert files a certificate whose responder is the desk.
func (d *desk) cert(issue func(...string) *testcert.Pair) Certificate {
	d.t.Helper()
	url := fmt.Sprintf("http://desk.test/%d", len(d.byURL))
	p := issue(url)
	d.mu.Lock()
	d.byURL[url] = p.Leaf(d.t)
	d.mu.Unlock()
	certFile, keyFile := p.Files(d.t)
	return Certificate{CertFile: certFile, KeyFile: keyFile}
}

// load loads a store, over the one so far, as a listener does.
func (d *desk) load(o Options) {
	d.t.Helper()
	prev := d.s
	d.s = mustLoad(d.t, &o, prev)
	if d.s == prev {
		return
	}
	d.s.stapler.ask = d.ask
	d.s.stapler.spread = func() float64 { return d.spread }
	if d.shares != nil {
		d.s.stapler.Share(d.shares)
	}
	d.s.stapler.Prime()
	if prev != nil {
		prev.stapler.Close()
	}
	d.s.stapler.Start(func(r StapleReport) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.reports = append(d.reports, r)
	})
	d.t.Cleanup(d.s.stapler.Close)
}

// anyNumber is for a number of requests that depends on chance.
const anyNumber = -1

// is checks the state of the first certificate after some time, how often the desk was asked since the last check, and what was reported.
func (d *desk) is(step string, after time.Duration, state StapleState, asked int, events ...StapleEvent) {
	d.t.Helper()
	<-time.After(after) // by the simulated clock
	synctest.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	st := d.s.stapler.Stats()[0]
	if st.State != state || d.asked != asked && asked != anyNumber {
		d.t.Errorf("%s: %s, asked %d times; want %s, %d", step, st.State, d.asked, state, asked)
	}
	var got []StapleEvent
	for _, r := range d.reports {
		got = append(got, r.Event)
		if r.CertFile != st.CertFile || r.Event == StapleFailed && r.Result < OCSPUnknown || r.Event == StapleRevoking && r.RevokedAt.IsZero() {
			d.t.Errorf("%s: report %+v", step, r)
		}
	}
	if !slices.Equal(got, events) {
		d.t.Errorf("%s: events %v, want %v", step, got, events)
	}
	if stapled := d.served("a.test").OCSPStaple != nil; stapled != (state == StapleGood) {
		d.t.Errorf("%s: stapled is %t in state %s", step, stapled, state)
	}
	d.asked, d.reports = 0, nil
}

// served is what handshakes get for a name.
func (d *desk) served(name string) *tls.Certificate { return d.s.live.Load().lookup(name).certs[0] }

// TestStaplerSchedule goes through the life of a certificate by a simulated clock.
func TestStaplerSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o := Options{Certificates: []Certificate{d.cert(d.leaf)}}
		// 1. It is asked at once, and again after half of the hour that an answer is valid.
		d.load(o)
		d.is("1", 0, StapleGood, 1)
		first := d.served("a.test").OCSPStaple
		d.is("1", 30*time.Minute-1, StapleGood, 0)
		d.is("1", 8*time.Minute, StapleGood, 1)
		if bytes.Equal(first, d.served("a.test").OCSPStaple) {
			t.Error("1: the first answer is still served")
		}
		// 2. From minute 60 on it fails: asked in minutes 60, 61, 63, 67, 75, then each half of what is left until minute 90, when nothing is stapled any more.
		d.fails(OCSPUnreachable)
		d.is("2", 38*time.Minute, StapleGood, 5, StapleFailed)
		d.fails(OCSPMalformed)
		d.is("2", 13*time.Minute, StapleGood, 3, StapleFailed)
		d.is("2", time.Minute+1, StapleExpired, 1, StapleEnded)
		// 3. Without an answer, it is tried every four minutes.
		d.is("3", 40*time.Minute, StapleExpired, 10)
		d.says(reply{})
		d.is("3", 4*time.Minute, StapleGood, 1, StapleRecovered)
		// 4. The certificate is revoked, which ends what is stapled though that were valid for longer.
		d.says(reply{status: ocsp.Revoked})
		d.is("4", 38*time.Minute, StapleRevoked, 1, StapleRevoking)
		d.fails(OCSPTimedOut)
		d.is("4", 10*time.Hour, StapleRevoked, anyNumber, StapleFailed)
		d.says(reply{})
		d.is("4", 5*time.Minute, StapleGood, 1, StapleRecovered)
		// 5. The responder does not know it any more.
		d.says(reply{status: ocsp.Unknown})
		d.is("5", 38*time.Minute, StapleGood, anyNumber, StapleFailed)
		d.is("5", 30*time.Minute, StapleUnknown, anyNumber, StapleEnded)
		// 6. An answer that ends soon is stapled for no longer.
		d.says(reply{to: time.Now().Add(5*time.Minute + 10*time.Second)})
		d.is("6", 5*time.Minute, StapleGood, 2, StapleRecovered)
		d.is("6", 10*time.Second, StapleExpired, 0, StapleEnded)
		// 7. Closed, nobody is asked.
		d.s.stapler.Close()
		d.s.stapler.Close()
		d.s.stapler.Start(nil)
		d.is("7", 100*time.Hour, StapleExpired, 0)
		if n := d.s.stapler.Results(); n[OCSPGood] < 5 || n[OCSPUnreachable] == 0 || n[OCSPRevoked] != 1 || n[OCSPBadSignature] != 0 {
			t.Errorf("results %v", n)
		}
	})
}

// TestStaplerWaits has certificates that must be stapled wait for their first answer, and no others.
func TestStaplerWaits(t *testing.T) {
	f := func(name string, issue func(d *desk) func(...string) *testcert.Pair, hangs bool, wait time.Duration, state StapleState, events ...StapleEvent) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			if hangs {
				d.hangs()
			}
			began := time.Now()
			d.load(Options{Certificates: []Certificate{d.cert(issue(d))}})
			if took := time.Since(began); took != wait {
				t.Errorf("%s: waited %v, want %v", name, took, wait)
			}
			served := d.served("a.test").OCSPStaple != nil
			if d.s.stapler.Stats()[0].MustStaple && served == hangs {
				t.Errorf("%s: stapled from the start is %t", name, served)
			}
			d.is(name, 2*time.Second, state, 1, events...)
			d.says(reply{})
			if hangs {
				d.is(name, 2*time.Minute, StapleGood, 1, StapleRecovered)
			}
		})
	}
	must := func(d *desk) func(...string) *testcert.Pair { return d.mustLeaf }
	plain := func(d *desk) func(...string) *testcert.Pair { return d.leaf }
	f("must", must, false, 0, StapleGood)
	f("must, in vain", must, true, 1500*time.Millisecond, StapleWaiting, StapleFailed, StapleMissing)
	f("need not", plain, false, 0, StapleGood)
	f("need not, in vain", plain, true, 0, StapleWaiting, StapleFailed)
}

// A reload goes on with what is known, and asks again only where something else is to be asked.
func TestStaplerReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		o := Options{Certificates: []Certificate{d.cert(d.mustLeaf)}}
		d.load(o)
		d.is("loaded", 10*time.Minute, StapleGood, 1)
		first, staple := d.s, d.served("a.test").OCSPStaple
		d.hangs()
		d.load(o)
		if d.s != first {
			t.Error("the same options build another store")
		}
		o.Preset = "modern"
		d.load(o)
		if d.s == first || !bytes.Equal(d.served("a.test").OCSPStaple, staple) {
			t.Error("a reload loses the answer")
		}
		d.is("reloaded", time.Minute, StapleGood, 0)
		if n := d.s.stapler.Results()[OCSPGood]; n != 1 {
			t.Errorf("%d good results after a reload, want 1", n)
		}
		o.OCSP.Responder = "http://other.test"
		d.load(o)
		d.is("another responder", 2*time.Second, StapleGood, 1, StapleFailed)
		// Failures that are known are not told again.
		o.OCSP.RefreshMax = time.Hour
		d.load(o)
		d.is("reloaded again", 10*time.Minute, StapleGood, anyNumber)
		o.OCSP.Stapling = "off"
		d.load(o)
		d.is("off", time.Hour, StapleNone, 0, StapleMissing)
		o.OCSP = OCSPOptions{}
		d.says(reply{})
		d.load(o)
		d.is("on again", time.Second, StapleGood, 1, StapleRecovered)
		// One that is new in a reload waits.
		d.hangs()
		o.Certificates = []Certificate{d.cert(d.mustLeaf), o.Certificates[0]}
		began := time.Now()
		d.load(o)
		if took := time.Since(began); took != 1500*time.Millisecond {
			t.Errorf("waited %v for a new one", took)
		}
	})
}

// TestStaplerBound has many certificates and a responder that hangs: few requests are under way at once, and all get their turn.
func TestStaplerBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		var o Options
		for range 3*maxOCSPLooks + 1 {
			o.Certificates = append(o.Certificates, d.cert(d.leaf))
		}
		var now, most atomic.Int64
		d.replies(func(ctx context.Context, _ *x509.Certificate) ([]byte, error) {
			most.Store(max(most.Load(), now.Add(1)))
			defer now.Add(-1)
			<-ctx.Done()
			return nil, failedCall("it", ctx.Err())
		})
		d.load(o)
		time.Sleep(4 * 1500 * time.Millisecond)
		synctest.Wait()
		if n := d.s.stapler.Results()[OCSPTimedOut]; int(n) != len(o.Certificates) || most.Load() != maxOCSPLooks {
			t.Errorf("%d of %d had their turn, %d at once", n, len(o.Certificates), most.Load())
		}
		// Close lets go of those under way, and they count for nothing.
		time.Sleep(time.Minute)
		synctest.Wait()
		before := d.s.stapler.Results()
		if now.Load() == 0 {
			t.Error("nothing is under way")
		}
		d.s.stapler.Close()
		synctest.Wait()
		if now.Load() != 0 || d.s.stapler.Results() != before {
			t.Errorf("%d still under way", now.Load())
		}
	})
}

// A certificate that is renewed while the store is in use waits for its answer, and the one so far keeps its own.
func TestStaplerRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		cert := d.cert(d.mustLeaf)
		d.load(Options{Certificates: []Certificate{cert}})
		d.is("loaded", time.Minute, StapleGood, 1)
		old := d.served("a.test")
		d.replies(func(_ context.Context, leaf *x509.Certificate) ([]byte, error) {
			time.Sleep(time.Second)
			return d.answer(leaf, reply{}), nil
		})
		next := d.cert(d.mustLeaf)
		for _, names := range [][2]string{{next.CertFile, cert.CertFile}, {next.KeyFile, cert.KeyFile}} {
			if err := os.Rename(names[0], names[1]); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		go func() {
			if changed, err := d.s.Refresh(); !changed || err != nil {
				t.Errorf("%t, %v", changed, err)
			}
			if took := time.Since(began); took != time.Second {
				t.Errorf("took %v", took)
			}
		}()
		time.Sleep(500 * time.Millisecond)
		if now := d.served("a.test"); !bytes.Equal(now.OCSPStaple, old.OCSPStaple) || now.Leaf != old.Leaf {
			t.Error("while it waits, something else is served")
		}
		time.Sleep(501 * time.Millisecond)
		if now := d.served("a.test"); now.OCSPStaple == nil || now.Leaf == old.Leaf {
			t.Errorf("the next one is not served with its answer (%d bytes)", len(now.OCSPStaple))
		}
		d.is("renewed", time.Minute, StapleGood, 1)
		if n := len(d.s.stapler.Stats()); n != 1 {
			t.Errorf("%d certificates are followed", n)
		}
	})
}

// Of several certificates of a name, one that clients may refuse goes last.
func TestStaplerPrefers(t *testing.T) {
	rsa := func(d *desk) Certificate {
		return d.cert(func(urls ...string) *testcert.Pair {
			return d.Issue(d.t, testcert.Request{Names: []string{"a.test"}, KeyType: selfsigned.RSA, Alter: func(c *x509.Certificate) { c.OCSPServer = urls }})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		must, other := d.cert(d.mustLeaf), rsa(d)
		d.hangs()
		d.load(Options{Certificates: []Certificate{must, other}})
		first := func(step, want string) {
			t.Helper()
			time.Sleep(time.Hour)
			synctest.Wait()
			for _, name := range []string{"a.test", ""} {
				if got := keyType(d.served(name).Leaf); got != want {
					t.Errorf("%s: %s goes first, want %s", step, got, want)
				}
			}
			if n := len(d.s.live.Load().lookup("a.test").certs); n != 2 {
				t.Errorf("%s: %d certificates", step, n)
			}
		}
		first("the answer is missing", "RSA 2048")
		d.says(reply{})
		first("it is there", "ECDSA P-256")
		d.replies(func(_ context.Context, leaf *x509.Certificate) ([]byte, error) {
			r := reply{}
			if keyType(leaf) == "ECDSA P-256" {
				r.status = ocsp.Revoked
			}
			return d.answer(leaf, r), nil
		})
		first("revoked", "RSA 2048")
	})
}

// TestStaplerFile goes through what happens to a file that something else keeps.
func TestStaplerFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		p := d.leaf("http://desk.test/never")
		certFile, keyFile := p.Files(t)
		file := filepath.Join(t.TempDir(), "answer")
		put := func(data []byte) {
			t.Helper()
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		// 1. It is not there yet.
		d.load(Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile, OCSPFile: file}}})
		d.is("1", 0, StapleWaiting, 0, StapleFailed)
		// 2. It comes, and is seen within a minute, or at once when the files are looked at.
		put(d.answer(p.Leaf(t), reply{}))
		d.is("2", time.Minute, StapleGood, 0, StapleRecovered)
		put(pem.EncodeToMemory(&pem.Block{Type: "OCSP RESPONSE", Bytes: d.answer(p.Leaf(t), reply{from: time.Now().Add(time.Second)})}))
		before := d.served("a.test").OCSPStaple
		if changed, err := d.s.Refresh(); changed || err != nil {
			t.Errorf("2: %t, %v", changed, err)
		}
		d.is("2", time.Millisecond, StapleGood, 0)
		if bytes.Equal(before, d.served("a.test").OCSPStaple) {
			t.Error("2: the answer before is still served")
		}
		// 3. It is verified: garbage, another's, one of the past.
		put([]byte("garbage"))
		d.is("3", time.Minute, StapleGood, 0, StapleFailed)
		put(d.answer(d.leaf().Leaf(t), reply{}))
		d.is("3", time.Minute, StapleGood, 0, StapleFailed)
		put(d.answer(p.Leaf(t), reply{from: time.Now().Add(-2 * time.Hour)}))
		d.is("3", time.Minute, StapleGood, 0, StapleFailed)
		// 4. It goes away.
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		d.is("4", time.Minute, StapleGood, 0, StapleFailed)
		d.is("4", time.Hour, StapleExpired, 0, StapleEnded)
		// 5. Revoked: told once for each answer, though it is looked at every minute.
		put(d.answer(p.Leaf(t), reply{status: ocsp.Revoked}))
		d.is("5", time.Minute, StapleRevoked, 0, StapleRevoking)
		d.is("5", 10*time.Minute, StapleRevoked, 0)
	})
}

// A certificate that there is nobody to ask about, or whose issuer is not known.
func TestStaplerNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		d.load(Options{Certificates: []Certificate{d.cert(func(...string) *testcert.Pair { return d.leaf() })}})
		d.is("no responder", 24*time.Hour, StapleNone, 0)
		d.load(Options{Certificates: []Certificate{d.cert(func(...string) *testcert.Pair { return d.leaf("ldap://desk.test", "file:///etc/passwd") })}})
		d.is("none over HTTP", 24*time.Hour, StapleNone, 0)
		d.load(Options{Certificates: []Certificate{d.cert(func(...string) *testcert.Pair { return d.mustLeaf() })}})
		d.is("no responder, but must", 24*time.Hour, StapleNone, 0, StapleMissing)
		if got := d.s.stapler.Results(); got != ([numOCSPResults]uint64{}) {
			t.Errorf("results %v", got)
		}
		alone := d.cert(func(urls ...string) *testcert.Pair {
			p := d.leaf(urls...)
			p.CertPEM = selfsigned.EncodeCert(p.Leaf(t).Raw)
			return p
		})
		d.load(Options{Certificates: []Certificate{alone}})
		d.is("no issuer", time.Minute, StapleWaiting, 0, StapleFailed)
		if n := d.s.stapler.Results()[OCSPNoIssuer]; n == 0 {
			t.Error("no issuer: not counted")
		}
		caFile := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(caFile, selfsigned.EncodeCert(d.issuer.Raw), 0o600); err != nil {
			t.Fatal(err)
		}
		o := Options{Certificates: []Certificate{alone}, OCSP: OCSPOptions{CAFile: caFile}}
		d.load(o)
		d.is("issuer in ca_file", time.Second, StapleGood, 1, StapleRecovered)
		// Another issuer in the file takes effect by a reload.
		if err := os.WriteFile(caFile, selfsigned.EncodeCert(newOffice(t).issuer.Raw), 0o600); err != nil {
			t.Fatal(err)
		}
		before := d.s
		d.load(o)
		d.is("another issuer in ca_file", time.Second, StapleGood, 0, StapleFailed)
		if d.s == before {
			t.Error("a changed ca_file is not read by a reload")
		}
		for _, text := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
			if err := os.WriteFile(caFile, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(&o, nil); err == nil {
				t.Errorf("%q is taken", text)
			}
		}
	})
}

// TestStapledHandshake shakes hands while the responder answers, hangs, and answers are swapped all the time.
func TestStapledHandshake(t *testing.T) {
	o := newOffice(t)
	var leaf *x509.Certificate
	var hang atomic.Bool
	done := make(chan struct{})
	defer close(done)
	url := serveOCSP(t, func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-done
		}
		_, _ = w.Write(o.answer(leaf, reply{}))
	})
	p := o.mustLeaf(url)
	leaf = p.Leaf(t)
	certFile, keyFile := p.Files(t)
	s := mustLoad(t, &Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}}, OCSP: OCSPOptions{Timeout: 30 * time.Second}}, nil)
	visit := func(version uint16) []byte {
		t.Helper()
		conf := &tls.Config{RootCAs: o.Pool(), ServerName: "a.test", MinVersion: version, MaxVersion: version}
		st, serverErr, clientErr := connect(t, s, conf)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("%v, %v", serverErr, clientErr)
		}
		return st.OCSPResponse
	}
	both := []uint16{tls.VersionTLS12, tls.VersionTLS13}
	for _, v := range both {
		if got := visit(v); got != nil {
			t.Errorf("stapled %x before there was an answer", got)
		}
	}
	s.Stapler().Prime()
	for _, v := range both {
		if _, err := ocsp.ParseResponseForCert(visit(v), leaf, o.issuer); err != nil {
			t.Errorf("stapled: %v", err)
		}
	}
	// A look that hangs for as long as the test: handshakes go on.
	hang.Store(true)
	s.stapler.mu.Lock()
	s.stapler.certs[0].next = time.Time{}
	s.stapler.mu.Unlock()
	s.Stapler().Start(nil)
	defer s.Stapler().Close()
	var swaps sync.WaitGroup
	stop := make(chan struct{})
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.restaple()
			}
		}
	})
	for range 20 {
		for _, v := range both {
			if visit(v) == nil {
				t.Error("the answer is gone")
			}
		}
	}
	close(stop)
	swaps.Wait()
	if n := s.Stapler().Results(); n[OCSPGood] != 1 || n[OCSPTimedOut] != 0 {
		t.Errorf("results %v", n)
	}
}

// TestStapledBelowRoot has a leaf directly below a root, which is in its file or in intermediates_file and not sent: answers are verified all
// the same.
func TestStapledBelowRoot(t *testing.T) {
	root := testcert.Root(t, "Root")
	leaf := root.Leaf(t, "a.test", func(c *x509.Certificate) { // Prime looks at those that must be stapled
		c.ExtraExtensions = []pkix.Extension{{Id: oidTLSFeature, Value: []byte{0x30, 3, 2, 1, statusRequest}}}
	})
	o := &office{t: t, issuer: root.Cert, key: root.Key}
	dir := t.TempDir()
	file := func(name string, text ...[]byte) string {
		name = filepath.Join(dir, name)
		write(t, name, slices.Concat(text...))
		return name
	}
	keyFile, answer := file("a.key", leaf.KeyPEM(t)), file("a.der", o.answer(leaf.Cert, reply{}))
	f := func(name string, opts Options) {
		t.Helper()
		s := mustLoad(t, &opts, nil)
		s.Stapler().Prime()
		if n := s.Stapler().Results(); n[OCSPGood] != 1 {
			t.Errorf("%s: results %v", name, n)
		}
		st, serverErr, clientErr := connect(t, s, anyCert("a.test"))
		if serverErr != nil || clientErr != nil || st.OCSPResponse == nil || len(st.PeerCertificates) != 1 {
			t.Errorf("%s: stapled %d bytes to %d certificates, %v, %v", name, len(st.OCSPResponse), len(st.PeerCertificates), serverErr, clientErr)
		}
	}
	with := file("with.pem", leaf.PEM(), root.PEM())
	f("in its file", Options{Certificates: []Certificate{{CertFile: with, KeyFile: keyFile, OCSPFile: answer}}})
	alone := file("alone.pem", leaf.PEM())
	f("in intermediates_file", Options{
		Certificates:      []Certificate{{CertFile: alone, KeyFile: keyFile, OCSPFile: answer}},
		IntermediatesFile: file("root.pem", root.PEM()),
	})
}
