package tlsterm

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ocsp"
)

// another is a desk of another process: it has the same certificates and shares nothing but files.
func (d *desk) another() *desk {
	return &desk{t: d.t, office: d.office, byURL: d.byURL, reply: d.reply}
}

// onlyFile is the one file in a directory.
func onlyFile(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%d files, %v; want 1", len(entries), err)
	}
	return filepath.Join(dir, entries[0].Name())
}

func fileText(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// date sets when a file was written, by the simulated clock.
func date(t *testing.T, name string, at time.Time) {
	t.Helper()
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

// TestAnswersOutliveProcess restarts beside a responder that is down.
func TestAnswersOutliveProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := newDesk(t), t.TempDir()
		o := Options{Certificates: []Certificate{d.cert(d.mustLeaf)}, OCSP: OCSPOptions{CacheDir: dir}}
		// 1. What is fetched is written.
		d.load(o)
		d.is("1", 0, StapleGood, 1)
		file := onlyFile(t, dir)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 || !isAnswerFile(info.Name()) {
			t.Errorf("1: %v, %v", info, err)
		}
		if !bytes.Equal(fileText(t, file), d.served("a.test").OCSPStaple) {
			t.Error("1: the file holds something else than is stapled")
		}
		if done, failed := d.s.stapler.Writes(); done != 1 || failed != 0 {
			t.Errorf("1: %d written, %d failed", done, failed)
		}
		date(t, file, time.Now())
		// 2. The next process has it from the first handshake on, without waiting, and asks when the one before would have.
		d.s.stapler.Close()
		d = d.another()
		d.hangs()
		began := time.Now()
		d.load(o)
		if took := time.Since(began); took != 0 || d.served("a.test").OCSPStaple == nil {
			t.Errorf("2: waited %v, stapled %d bytes", took, len(d.served("a.test").OCSPStaple))
		}
		if n := d.s.stapler.Reads()[OCSPGood]; n != 1 {
			t.Errorf("2: %d good files read, want 1", n)
		}
		d.is("2", 29*time.Minute, StapleGood, 0)
		d.is("2", 2*time.Minute, StapleGood, 1, StapleFailed)
		// 3. It is refreshed, and so is the file.
		d.says(reply{})
		d.is("3", 5*time.Minute, StapleGood, anyNumber, StapleRecovered)
		if !bytes.Equal(fileText(t, file), d.served("a.test").OCSPStaple) {
			t.Error("3: the file holds another answer than is stapled")
		}
		// 4. A revocation outlives the process as well, and takes the good answer out of the file.
		d.says(reply{status: ocsp.Revoked})
		d.is("4", 40*time.Minute, StapleRevoked, anyNumber, StapleRevoking, StapleMissing)
		date(t, file, time.Now())
		d.s.stapler.Close()
		d = d.another()
		d.hangs()
		d.load(o)
		d.is("4", time.Second, StapleRevoked, 0, StapleRevoking, StapleMissing)
		// 5. A file that was written long ago is used, and the responder asked at once.
		d.s.stapler.Close()
		d = d.another()
		d.says(reply{})
		date(t, file, time.Now().Add(-24*time.Hour))
		d.load(o)
		d.is("5", time.Second, StapleGood, 1, StapleRevoking, StapleMissing)
	})
}

// TestSpoiltAnswers has files that must not be believed: nothing is stapled, and each is told once and counted for what it is.
func TestSpoiltAnswers(t *testing.T) {
	f := func(name string, want OCSPResult, make func(d *desk, leaf *x509.Certificate) []byte) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			d, dir := newDesk(t), t.TempDir()
			o := Options{Certificates: []Certificate{d.cert(d.leaf)}, OCSP: OCSPOptions{CacheDir: dir}}
			d.load(o)
			d.is(name, 0, StapleGood, 1)
			file := onlyFile(t, dir)
			d.s.stapler.Close()
			d = d.another()
			write(t, file, make(d, d.byURL["http://desk.test/0"]))
			d.fails(OCSPUnreachable)
			d.load(o)
			d.is(name, time.Second, StapleWaiting, 1, StapleSpoilt, StapleFailed)
			d.is(name, 20*time.Minute, StapleWaiting, anyNumber) // each failure has it read again
			reads := d.s.stapler.Reads()
			if n := reads[want]; n < 2 || n != sum(reads) {
				t.Errorf("%s: reads %v", name, reads)
			}
			// A good answer takes the place of it.
			d.says(reply{})
			d.is(name, 5*time.Minute, StapleGood, 1, StapleRecovered)
			if !bytes.Equal(fileText(t, file), d.served("a.test").OCSPStaple) {
				t.Errorf("%s: the file is as it was", name)
			}
		})
	}
	f("empty", OCSPMalformed, func(*desk, *x509.Certificate) []byte { return nil })
	f("truncated", OCSPMalformed, func(d *desk, leaf *x509.Certificate) []byte {
		der := d.answer(leaf, reply{})
		return der[:len(der)/2]
	})
	f("large", OCSPTooLarge, func(*desk, *x509.Certificate) []byte { return make([]byte, maxOCSPAnswer+1) })
	f("expired", OCSPExpired, func(d *desk, leaf *x509.Certificate) []byte {
		return d.answer(leaf, reply{from: time.Now().Add(-2 * time.Hour)})
	})
	f("of the future", OCSPNotYetValid, func(d *desk, leaf *x509.Certificate) []byte {
		return d.answer(leaf, reply{from: time.Now().Add(2 * time.Hour)})
	})
	f("of another certificate", OCSPWrongCertificate, func(d *desk, _ *x509.Certificate) []byte {
		return d.answer(d.leaf().Leaf(d.t), reply{})
	})
	f("of another authority", OCSPWrongCertificate, func(d *desk, leaf *x509.Certificate) []byte { return newOffice(d.t).answer(leaf, reply{}) })
	f("forged", OCSPBadSignature, func(d *desk, leaf *x509.Certificate) []byte {
		return d.answer(leaf, reply{key: newOffice(d.t).key})
	})
	f("unknown", OCSPUnknown, func(d *desk, leaf *x509.Certificate) []byte { return d.answer(leaf, reply{status: ocsp.Unknown}) })
}

func sum(counts [numOCSPResults]uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// TestAnswersOfSeveralProcesses has two processes with one directory: the newer answer stays, and helps who cannot reach the responder.
func TestAnswersOfSeveralProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, dir := newDesk(t), t.TempDir()
		o := Options{Certificates: []Certificate{a.cert(a.leaf)}, OCSP: OCSPOptions{CacheDir: dir}}
		a.load(o)
		a.is("a", time.Second, StapleGood, 1)
		file := onlyFile(t, dir)
		date(t, file, time.Now())
		b := a.another()
		b.load(o)
		b.is("b takes a's", time.Second, StapleGood, 0)
		// b is cut off, a is not.
		b.fails(OCSPUnreachable)
		b.is("b fails", 40*time.Minute, StapleGood, anyNumber, StapleFailed)
		a.is("a goes on", 0, StapleGood, 1)
		b.is("b has a's next", 40*time.Minute, StapleGood, anyNumber)
		if n := b.s.stapler.Reads()[OCSPGood]; n < 2 {
			t.Errorf("%d good reads, want 2 at least", n)
		}
		// An older answer does not replace the newer one in the file.
		newest := fileText(t, file)
		b.says(reply{from: time.Now().Add(-50 * time.Minute)})
		c := b.another()
		o.OCSP.CacheDir = ""
		c.load(o)
		c.is("c has an old one", time.Second, StapleGood, 1)
		o.OCSP.CacheDir = dir
		c.load(o)
		c.is("c meets the directory", time.Second, StapleGood, 0)
		if !bytes.Equal(fileText(t, file), newest) || !bytes.Equal(c.served("a.test").OCSPStaple, newest) {
			t.Error("an older answer has replaced a newer one")
		}
	})
}

// TestUnwritableAnswers has a directory that is missing: nothing suffers, it is told once, and written when it is there.
func TestUnwritableAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, dir := newDesk(t), filepath.Join(t.TempDir(), "answers")
		o := Options{Certificates: []Certificate{d.cert(d.mustLeaf)}, OCSP: OCSPOptions{CacheDir: dir}}
		d.load(o)
		d.is("missing", time.Second, StapleGood, 1, StapleUnsaved)
		d.is("still missing", 10*time.Minute, StapleGood, 0)
		if done, failed := d.s.stapler.Writes(); done != 0 || failed < 10 {
			t.Errorf("%d written, %d failed; want 0 and 10 at least", done, failed)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		d.is("there", time.Minute, StapleGood, 0)
		if !bytes.Equal(fileText(t, onlyFile(t, dir)), d.served("a.test").OCSPStaple) {
			t.Error("it is not written")
		}
		// Something in its place cannot be read, nor replaced, and leaves nothing half written.
		file := onlyFile(t, dir)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(file, "folder"), 0o700); err != nil {
			t.Fatal(err)
		}
		d.is("a folder", 40*time.Minute, StapleGood, 1, StapleSpoilt, StapleUnsaved)
		if onlyFile(t, dir) != file || d.s.stapler.Reads()[OCSPUnreadable] == 0 {
			t.Error("it is not unreadable, or something was left behind")
		}
	})
}

// TestAnswerNames has different names for different certificates, none for those that have no answer to keep.
func TestAnswerNames(t *testing.T) {
	o, other := newOffice(t), newOffice(t)
	seen := map[string]bool{}
	leaf := o.leaf("http://desk.test").Leaf(t)
	c := stapled{leaf: leaf, issuer: o.issuer, responders: leaf.OCSPServer}
	for _, change := range []func(c *stapled){
		func(*stapled) {},
		func(c *stapled) { c.issuer = other.issuer },
		func(c *stapled) { c.leaf = o.leaf().Leaf(t) },
	} {
		changed := c
		change(&changed)
		name := changed.answerFile("dir")
		if filepath.Dir(name) != "dir" || !isAnswerFile(filepath.Base(name)) || seen[name] || name != changed.answerFile("dir") {
			t.Errorf("name %q", name)
		}
		seen[name] = true
	}
	for what, none := range map[string]stapled{
		"no issuer":    {leaf: leaf, responders: leaf.OCSPServer},
		"no responder": {leaf: leaf, issuer: o.issuer},
		"ocsp_file":    {leaf: leaf, issuer: o.issuer, file: "answer"},
	} {
		if name := none.answerFile("dir"); name != "" {
			t.Errorf("%s: %q", what, name)
		}
	}
	if name := c.answerFile(""); name != "" {
		t.Errorf("no directory: %q", name)
	}
}

// TestSweepAnswers removes what serves nobody, and nothing else.
func TestSweepAnswers(t *testing.T) {
	o, dir, now := newOffice(t), t.TempDir(), time.Now()
	leaf := o.leaf().Leaf(t)
	ours := func(digit string) string { return strings.Repeat(digit, 64) + answerSuffix }
	ended := o.answer(leaf, reply{from: now.Add(-answerGrace - 2*time.Hour)})
	files := []struct {
		name string
		data []byte
		age  time.Duration
		stay bool
	}{
		{ours("0"), o.answer(leaf, reply{}), 1000 * time.Hour, true},
		{ours("1"), ended, 0, false},
		{ours("2"), o.answer(leaf, reply{from: now.Add(-2 * time.Hour)}), 0, true}, // only just ended
		{ours("3"), o.several(leaf, reply{from: now.Add(-100 * time.Hour)}, reply{}), 0, true},
		{ours("4"), []byte("garbage"), 2 * answerGrace, false},
		{ours("5"), []byte("garbage"), time.Minute, true},
		{ours("6"), o.answer(leaf, reply{from: now.Add(-40 * time.Hour), noTo: true}), 0, true}, // counts for a day
		{ours("7"), o.answer(leaf, reply{from: now.Add(-50 * time.Hour), noTo: true}), 0, false},
		{answerPrefix + "1", nil, 2 * answerGrace, false},
		{answerPrefix + "2", nil, time.Minute, true},
		{"site.ocsp", ended, 2 * answerGrace, true},
		{strings.Repeat("0", 62) + answerSuffix, ended, 2 * answerGrace, true},
		{"readme", []byte("text"), 2 * answerGrace, true},
	}
	for _, f := range files {
		write(t, filepath.Join(dir, f.name), f.data)
		date(t, filepath.Join(dir, f.name), now.Add(-f.age))
	}
	if err := os.Mkdir(filepath.Join(dir, ours("8")), 0o700); err != nil {
		t.Fatal(err)
	}
	sweepAnswers(dir, now)
	sweepAnswers(filepath.Join(dir, "none"), now)
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f.name)); (err == nil) != f.stay {
			t.Errorf("%s: %v, want it to stay: %t", f.name, err, f.stay)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, ours("8"))); err != nil {
		t.Errorf("a folder is removed: %v", err)
	}
}
