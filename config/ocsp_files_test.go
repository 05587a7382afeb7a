package config

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// writeStaples makes the certificates and OCSP answers that testdata/ocsp.yaml names.
func writeStaples(t *testing.T, dir string) {
	t.Helper()
	dir = filepath.Join(dir, "ocsp")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ca := testcert.NewCA(t)
	issuer, key := ca.Issuer()
	write("ca.pem", selfsigned.EncodeCert(issuer.Raw))
	issue := func(name string, responders []string, must bool) *testcert.Pair {
		p := ca.Issue(t, testcert.Request{Names: []string{"a.test"}, NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.AddDate(1, 0, 0), Alter: func(c *x509.Certificate) {
			c.OCSPServer = responders
			if must {
				c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
			}
		}})
		write(name+".pem", p.CertPEM)
		write(name+".key", p.KeyPEM)
		return p
	}
	asks := []string{"http://ocsp.internal"}
	plain := issue("plain", nil, false)
	issue("must", nil, true)
	issue("must-asks", asks, true)
	alone := issue("alone", asks, false)
	write("alone.pem", selfsigned.EncodeCert(alone.Leaf(t).Raw))
	for name, r := range map[string]ocsp.Response{
		"good":    {ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)},
		"old":     {ThisUpdate: testNow.Add(-2 * time.Hour), NextUpdate: testNow.Add(-time.Hour)},
		"revoked": {Status: ocsp.Revoked, RevokedAt: testNow, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)},
		"unknown": {Status: ocsp.Unknown, ThisUpdate: testNow, NextUpdate: testNow.Add(time.Hour)},
	} {
		r.SerialNumber = plain.Leaf(t).SerialNumber
		der, err := ocsp.CreateResponse(issuer, issuer, r, key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".der", der)
	}
	write("garbage.der", []byte("garbage"))
	if err := os.Mkdir(filepath.Join(dir, "read-only"), 0o700); err != nil { // for the machine of testLoader
		t.Fatal(err)
	}
}
