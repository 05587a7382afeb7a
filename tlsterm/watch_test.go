package tlsterm

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"testing"
	"time"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// watched is a store whose files are looked at when the test says so.
type watched struct {
	t       *testing.T
	s       *Store
	reports []FileReport
}

func newWatched(t *testing.T, o *Options) *watched { return &watched{t: t, s: mustLoad(t, o, nil)} }

// look looks twice, as files have to be the same in two looks.
func (w *watched) look() {
	for range 2 {
		w.s.look(func(r FileReport) { w.reports = append(w.reports, r) })
	}
}

// serial is that of the certificate that a client gets.
func (w *watched) serial() string {
	w.t.Helper()
	st, serverErr, clientErr := connect(w.t, w.s, anyCert(""))
	if serverErr != nil || clientErr != nil {
		w.t.Fatalf("%v, %v", serverErr, clientErr)
	}
	return st.PeerCertificates[0].SerialNumber.Text(16)
}

// is checks the state after a change: which certificate is served, and what was reported since the last check.
func (w *watched) is(what, serial string, want FileStats, reports int, bad bool) {
	w.t.Helper()
	w.look()
	if got := w.serial(); got != serial {
		w.t.Errorf("%s: certificate %s is served, want %s", what, got, serial)
	}
	if got := w.s.FileStats(); got != want {
		w.t.Errorf("%s: %+v, want %+v", what, got, want)
	}
	if len(w.reports) != reports || reports > 0 && (w.reports[0].Err != nil) != bad {
		w.t.Errorf("%s: reports %v, want %d, bad is %t", what, w.reports, reports, bad)
	}
	w.reports = nil
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key")
	renew := func() string {
		return replace(t, Certificate{CertFile: certFile, KeyFile: keyFile})
	}
	first := renew()
	w := newWatched(t, &Options{Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile}}})
	config := w.s.Config()
	w.is("nothing", first, FileStats{}, 0, false)
	second := renew()
	w.is("renewed", second, FileStats{Reloads: 1}, 1, false)
	if got := w.s.Certificates()[0].Serial; got != second {
		t.Errorf("described is %s, want %s", got, second)
	}
	good, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, certFile, []byte("garbage"))
	w.is("garbage", second, FileStats{Reloads: 1, Errors: 1, Stale: true}, 1, true)
	w.is("still garbage", second, FileStats{Reloads: 1, Errors: 1, Stale: true}, 0, false)
	write(t, certFile, good)
	w.is("as before", second, FileStats{Reloads: 1, Errors: 1}, 1, false)
	write(t, certFile, append(good, '\n'))
	w.is("another comment", second, FileStats{Reloads: 2, Errors: 1}, 1, false)
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	w.is("no key", second, FileStats{Reloads: 2, Errors: 2, Stale: true}, 1, true)
	third := renew()
	w.is("renewed again", third, FileStats{Reloads: 3, Errors: 2}, 1, false)
	if w.s.Config() != config {
		t.Error("the tls.Config has changed, which open connections keep")
	}
	// A reload takes over what is known, and counts go on.
	if next := mustLoad(t, &w.s.opts, w.s); next != w.s {
		t.Error("a reload without a change builds another store")
	}
	next := mustLoad(t, &Options{Certificates: w.s.opts.Certificates, Preset: "modern"}, w.s)
	if got := next.FileStats(); got.Reloads != 3 || got.Errors != 2 {
		t.Errorf("after a reload: %+v", got)
	}
}

// Kubernetes swaps a symbolic link above the files.
func TestWatchSwappedFolder(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "..data")
	swap := func(version string) string {
		folder := filepath.Join(dir, version)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		c := testcert.SelfSigned(t, selfsigned.ECDSA, "a.test")
		c.Write(t, filepath.Join(folder, "tls.crt"), filepath.Join(folder, "tls.key"))
		link := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(version, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, data); err != nil {
			t.Fatal(err)
		}
		return c.Leaf(t).SerialNumber.Text(16)
	}
	first := swap("..1")
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	w := newWatched(t, &Options{Certificates: []Certificate{{CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key")}}})
	w.is("nothing", first, FileStats{}, 0, false)
	second := swap("..2")
	if err := os.RemoveAll(filepath.Join(dir, "..1")); err != nil {
		t.Fatal(err)
	}
	w.is("swapped", second, FileStats{Reloads: 1}, 1, false)
}

// replace renames new files over those of c, so that they are others even if the clock has not moved, and returns the
// serial number.
func replace(t *testing.T, c Certificate) string {
	t.Helper()
	pair := testcert.SelfSigned(t, selfsigned.ECDSA, "a.test")
	pair.Write(t, c.CertFile+".new", c.KeyFile+".new")
	for _, name := range []string{c.CertFile, c.KeyFile} {
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	return pair.Leaf(t).SerialNumber.Text(16)
}

func write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The goroutine of Start sees a change, and ends with Close.
func TestStartStore(t *testing.T) {
	c := files(t, selfsigned.ECDSA, "a.test")
	s := mustLoad(t, &Options{Certificates: []Certificate{c}, Watch: time.Millisecond}, nil)
	reports := make(chan FileReport, 16)
	s.Start(func(r FileReport) { reports <- r })
	replace(t, c)
	for r := range reports {
		if r.Err == nil {
			break // both files are there; one without the other may have been seen first
		}
	}
	s.Close()
	s.Close()
	s.Start(nil) // has no effect any more
}

// A key log holds the secrets of sessions, and is for its owner only.
func TestKeyLog(t *testing.T) {
	name := filepath.Join(t.TempDir(), "keys.log")
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "a.test")}, InsecureKeyLogFile: name}, nil)
	if _, serverErr, clientErr := connect(t, s, &tls.Config{InsecureSkipVerify: true}); serverErr != nil || clientErr != nil {
		t.Fatalf("%v, %v", serverErr, clientErr)
	}
	info, err := os.Stat(name)
	if err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := Load(&Options{Certificates: s.opts.Certificates, InsecureKeyLogFile: t.TempDir()}, nil); err == nil {
		t.Error("a folder is taken for the key log")
	}
}

// TestWatchOCSPIssuers has the file of ocsp.ca_file changed and spoilt while the certificate, which holds the leaf alone, is in use.
func TestWatchOCSPIssuers(t *testing.T) {
	o := newOffice(t)
	p := o.leaf()
	dir := t.TempDir()
	certFile, keyFile, caFile, answer := filepath.Join(dir, "a.pem"), filepath.Join(dir, "a.key"), filepath.Join(dir, "ca.pem"), filepath.Join(dir, "a.ocsp")
	write(t, certFile, selfsigned.EncodeCert(p.Leaf(t).Raw))
	write(t, keyFile, p.KeyPEM)
	write(t, answer, o.answer(p.Leaf(t), reply{}))
	stranger, own := selfsigned.EncodeCert(newOffice(t).issuer.Raw), selfsigned.EncodeCert(o.issuer.Raw)
	write(t, caFile, stranger)
	opts := Options{
		Certificates: []Certificate{{CertFile: certFile, KeyFile: keyFile, OCSPFile: answer}},
		OCSP:         OCSPOptions{CAFile: caFile},
	}
	w := newWatched(t, &opts)
	serial := p.Leaf(t).SerialNumber.Text(16)
	// asked has the stapler look, and says what came of it.
	asked := func() OCSPResult {
		t.Helper()
		s := w.s.Stapler()
		due := s.claim(func(c *stapled) bool { return c.next.IsZero() })
		if len(due) != 1 {
			t.Fatalf("%d certificates are due, want 1", len(due))
		}
		s.slots <- struct{}{}
		s.look(t.Context(), due[0])
		s.settle(time.Now())
		return due[0].last
	}
	if got := asked(); got != OCSPNoIssuer {
		t.Errorf("a stranger's file: %s", got)
	}
	write(t, caFile, own)
	w.is("its issuer", serial, FileStats{Reloads: 1}, 1, false)
	if got := asked(); got != OCSPGood {
		t.Errorf("its issuer: %s", got)
	}
	for i, bad := range []string{"garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		write(t, caFile, []byte(bad))
		w.is(bad, serial, FileStats{Reloads: 1, Errors: uint64(i + 1), Stale: true}, 1, true)
	}
	if st := w.s.Stapler().Stats()[0]; st.State != StapleGood {
		t.Errorf("with a bad file, the state is %s", st.State)
	}
	write(t, caFile, append(own, stranger...))
	w.is("both", serial, FileStats{Reloads: 2, Errors: 2}, 1, false)
	if _, err := Load(&opts, w.s); err != nil {
		t.Error(err)
	}
	// Off, the file is of no use, and not read.
	write(t, caFile, nil)
	opts.OCSP.Stapling = staplingOff
	w = newWatched(t, &opts)
	write(t, caFile, []byte("garbage"))
	w.is("off", serial, FileStats{}, 0, false)
}
