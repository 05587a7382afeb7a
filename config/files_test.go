package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"tickgate/internal/testcert"
)

var update = flag.Bool("update", false, "rewrite the .want files of testdata")

// testNow is the time at which the tests take place.
var testNow = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// testLoader returns a loader on a machine with a fixed clock, a fixed limit of
// open files and nothing but env as its environment.
func testLoader(env map[string]string) *loader {
	l := newLoader()
	l.machine.now = func() time.Time { return testNow }
	l.machine.openFiles = func() (uint64, bool) { return 8192, true }
	l.machine.writable = func(dir string) error { // the rights themselves would not stop root
		if filepath.Base(dir) == "read-only" {
			return fs.ErrPermission
		}
		return writable(dir)
	}
	l.machine.lookupEnv = func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
	return l
}

// TestFiles loads every testdata/*.yaml and compares the report with the .want
// file next to it. Run with -update to rewrite those, and read the difference.
func TestFiles(t *testing.T) {
	certs := writeCertificates(t)
	env := map[string]string{
		"CERTS": certs, "PORT": "8080", "WORDS": "many words", "EMPTY": "",
		"SECRET": "hunter2", "INJECT": ":8082, tls: {}}",
	}
	names, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			cfg, report := testLoader(env).load(name)
			if (cfg == nil) != (report.Err() != nil) {
				t.Errorf("Config is nil: %t, but Err is %v", cfg == nil, report.Err())
			}
			var out bytes.Buffer
			if err := report.WriteText(&out, false); err != nil {
				t.Fatal(err)
			}
			got := strings.ReplaceAll(out.String(), certs, "CERTS")
			if strings.Contains(got, "hunter2") {
				t.Errorf("the report shows a secret:\n%s", got)
			}
			compare(t, strings.TrimSuffix(name, ".yaml")+".want", got)
		})
	}
}

func compare(t *testing.T, wantFile, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(wantFile)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test -update rewrites it)\ngot:\n%s\nwant:\n%s", wantFile, got, want)
	}
}

// writeCertificates makes the certificates that the test files name.
func writeCertificates(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	const day = 24 * time.Hour
	writeCertificate(t, dir, "good", -day, 365*day, "good.example", "*.good.example")
	writeCertificate(t, dir, "soon", -day, 10*day, "soon.example")
	writeCertificate(t, dir, "old", -20*day, -10*day, "old.example")
	writeCertificate(t, dir, "future", 10*day, 365*day, "future.example")
	writeCertificate(t, dir, "nameless", -day, 365*day)
	writeChains(t, dir)
	writeStaples(t, dir)
	for name, f := range map[string]struct {
		size int
		mode os.FileMode
	}{"t48": {48, 0o600}, "t80": {80, 0o600}, "t47": {47, 0o600}, "open": {48, 0o644}, "keys/1": {48, 0o640}, "keys/2": {80, 0o600}, "bad/1": {1, 0o600}, "bad/2": {2, 0o600}} {
		name = filepath.Join(dir, "tickets", name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, bytes.Repeat([]byte(filepath.Base(name)[:1]), f.size), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	writeRevocationList(t, dir, "late", -10*day, -day)
	writeRevocationList(t, dir, "list", -day, day)
	garbage := "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"
	if err := os.WriteFile(filepath.Join(dir, "garbage.pem"), []byte(garbage), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// writeRevocationList writes an authority to name.pem and its empty list to name.crl, with these times from testNow.
func writeRevocationList(t *testing.T, dir, name string, this, next time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: testNow.AddDate(-1, 0, 0), NotAfter: testNow.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	cert, err := x509.CreateCertificate(rand.Reader, ca, ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: testNow.Add(this), NextUpdate: testNow.Add(next)}
	crl, err := x509.CreateRevocationList(rand.Reader, list, ca, key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: cert}, name + ".crl": {Type: "X509 CRL", Bytes: crl}} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// writeChains makes certificates below two authorities, and files that hold them as they should not.
func writeChains(t *testing.T, dir string) {
	t.Helper()
	root := testcert.Root(t, "chain root")
	mid := root.Authority(t, "chain mid", nil)
	leaf := mid.Leaf(t, "chain.example", func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(1, 0, 0) })
	oldMid := root.Authority(t, "old mid", func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(0, 0, 5) })
	oldLeaf := oldMid.Leaf(t, "old-chain.example", func(c *x509.Certificate) { c.NotAfter = testNow.AddDate(1, 0, 0) })
	clientOnly := mid.Leaf(t, "client.example", func(c *x509.Certificate) {
		c.NotAfter, c.ExtKeyUsage = testNow.AddDate(1, 0, 0), []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	for name, nodes := range map[string][]*testcert.Node{
		"chain.pem": {leaf, mid}, "chain-reversed.pem": {root, mid, leaf, oldLeaf}, "chain-leaf.pem": {leaf}, "chain-roots.pem": {root, mid},
		"chain-old.pem": {oldLeaf, oldMid}, "chain-client.pem": {clientOnly, mid},
	} {
		var text []byte
		for _, n := range nodes {
			text = append(text, n.PEM()...)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, n := range map[string]*testcert.Node{"chain.key": leaf, "chain-old.key": oldLeaf, "chain-client.key": clientOnly} {
		if err := os.WriteFile(filepath.Join(dir, name), n.KeyPEM(t), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// writeCertificate writes name.pem and name.key, valid from and to these times
// from testNow.
func writeCertificate(t *testing.T, dir, name string, from, to time.Duration, dnsNames ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    testNow.Add(from),
		NotAfter:     testNow.Add(to),
		DNSNames:     dnsNames,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyBytes, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{
		name + ".pem": {Type: "CERTIFICATE", Bytes: cert},
		name + ".key": {Type: "PRIVATE KEY", Bytes: keyBytes},
	} {
		if err := os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExamples loads every example of the documentation: no errors, and no
// warnings but the one on this machine's limit of open files, which is not asked.
func TestExamples(t *testing.T) {
	certs := t.TempDir()
	const year = 365 * 24 * time.Hour
	for name, dns := range map[string][]string{
		"example.com":      {"example.com", "*.example.com"},
		"shop.example.net": {"shop.example.net"},
		"internal-ca":      {"ca.internal"},
		"client":           {"client.internal"},
	} {
		writeCertificate(t, certs, name, -time.Hour, year, dns...)
	}
	if err := os.MkdirAll(filepath.Join(certs, "tickets"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "tickets", "2026-11-29.key"), make([]byte, 80), 0o600); err != nil {
		t.Fatal(err)
	}
	const dir = "../docs/examples"
	for _, name := range []string{
		"minimal.yaml", "tls.yaml", "routing.yaml", "upstreams.yaml", "headers-compression.yaml",
		"market-data.yaml", "production.yaml", "proxy-protocol.yaml", "tunnels.yaml", "include/main.yaml",
	} {
		t.Run(name, func(t *testing.T) {
			l := testLoader(map[string]string{"CERT_DIR": certs})
			l.machine.openFiles = func() (uint64, bool) { return 0, false }
			_, report := l.load(filepath.Join(dir, name))
			for _, p := range report.Problems {
				t.Errorf("%s", p)
			}
		})
	}
	// An example that is added is added to the list above.
	found, err := filepath.Glob(dir + "/*.yaml")
	if err != nil || len(found) != 9 {
		t.Errorf("got %d files in %s (%v), want 9 and each in the list of this test", len(found), dir, err)
	}
}
