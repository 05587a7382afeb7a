package tlsterm

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"testing"

	"tickgate/internal/selfsigned"
	"tickgate/internal/testcert"
)

// told writes what matters of a negotiation on one line.
func told(n *Negotiation) string {
	if n.Failure != "" {
		return n.Failure
	}
	words := []string{n.Version, n.Group, n.KeyType}
	for _, w := range []struct {
		word string
		says bool
	}{
		{n.Protocol, n.Protocol != ""},
		{"retried", n.Retried},
		{"full", !n.Resumes},
		{"stapled", n.Stapled},
		{"client certificate " + string(n.ClientCertificate), n.ClientCertificate != ClientCertificateNone},
		{"large", !n.FitsWindow},
	} {
		if w.says {
			words = append(words, w.word)
		}
	}
	return strings.Join(words, ", ")
}

// wants checks what becomes of the clients, in the order of their kinds, for the names written as Simulated has them.
func wants(t *testing.T, what string, s *Store, names string, want ...string) {
	t.Helper()
	all, _ := s.Simulate(t.Context())
	for i := range all {
		if strings.Join(all[i].Names, " ") != names {
			continue
		}
		for k, n := range all[i].Clients {
			if got := told(&n); got != want[k] || n.Client != ClientKind(k) {
				t.Errorf("%s: %s: %s gets %q (%s), want %q", what, names, n.Client, got, n.Reason, want[k])
			}
		}
		return
	}
	for _, sim := range all {
		t.Errorf("%s: no result for %q alone, there is one for %q", what, names, sim.Names)
	}
}

func TestSimulate(t *testing.T) {
	ec, rsa := files(t, selfsigned.ECDSA, "a.example", "*.b.example"), files(t, selfsigned.RSA, "a.example", "*.b.example")
	ed, c := files(t, selfsigned.Ed25519, "ed.example"), files(t, selfsigned.RSA, "c.example")
	f := func(what string, o Options, names string, want ...string) {
		t.Helper()
		wants(t, what, mustLoad(t, &o, nil), names, want...)
	}
	const all = "*.b.example a.example *"
	f("both keys", Options{Certificates: []Certificate{ec, rsa}}, all,
		"TLS 1.3, X25519MLKEM768, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256", "TLS 1.2, P-256, RSA 2048")
	f("ECDSA only", Options{Certificates: []Certificate{ec}}, all,
		"TLS 1.3, X25519MLKEM768, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256", "no_shared_cipher")
	f("Ed25519 only", Options{Certificates: []Certificate{ed}}, "ed.example *",
		"no_shared_cipher", "no_shared_cipher", "no_shared_cipher", "no_shared_cipher")
	f("modern", Options{Certificates: []Certificate{ec, rsa}, Preset: "modern"}, all,
		"TLS 1.3, X25519MLKEM768, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256", "no_shared_version")
	f("TLS 1.2", Options{Certificates: []Certificate{ec}, MaxVersion: "1.2"}, all,
		"TLS 1.2, X25519, ECDSA P-256, http/1.1", "TLS 1.2, X25519, ECDSA P-256, http/1.1", "TLS 1.2, X25519, ECDSA P-256", "no_shared_cipher")
	f("groups", Options{Certificates: []Certificate{rsa}, Groups: []string{"P-256"}}, all,
		"TLS 1.3, P-256, RSA 2048, http/1.1, retried", "TLS 1.3, P-256, RSA 2048, http/1.1, retried", "TLS 1.3, P-256, RSA 2048, retried", "TLS 1.2, P-256, RSA 2048")
	f("no group for some", Options{Certificates: []Certificate{rsa}, Groups: []string{"P-521"}}, all,
		"no_shared_cipher", "no_shared_cipher", "TLS 1.3, P-521, RSA 2048, retried", "no_shared_cipher")
	f("no tickets", Options{Certificates: []Certificate{rsa}, Tickets: TicketOptions{Source: "off"}}, all,
		"TLS 1.3, X25519MLKEM768, RSA 2048, http/1.1, full", "TLS 1.3, X25519, RSA 2048, http/1.1, full", "TLS 1.3, X25519, RSA 2048, full", "TLS 1.2, P-256, RSA 2048, full")
	reject := Options{Certificates: []Certificate{ec, rsa}, UnknownName: "reject"}
	f("unknown names", reject, "*", "unknown_name", "unknown_name", "unknown_name", "TLS 1.2, P-256, RSA 2048")
	f("known names beside them", reject, "*.b.example a.example",
		"TLS 1.3, X25519MLKEM768, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256, http/1.1", "TLS 1.3, X25519, ECDSA P-256", "TLS 1.2, P-256, RSA 2048")
	policies := Options{Certificates: []Certificate{rsa, c}, Policies: []Policy{{Names: []string{"a.example", "d.example"}, MaxVersion: "1.2", ALPN: []string{"http/1.0"}}}}
	const nameless = "TLS 1.2, P-256, RSA 2048"
	f("a policy", policies, "a.example d.example", "no_shared_protocol", "no_shared_protocol", "TLS 1.2, X25519, RSA 2048", nameless)
	f("another certificate", policies, "c.example", "TLS 1.3, X25519MLKEM768, RSA 2048, http/1.1", "TLS 1.3, X25519, RSA 2048, http/1.1", "TLS 1.3, X25519, RSA 2048", nameless)
	f("ALPN off", Options{Certificates: []Certificate{rsa}, ALPN: []string{"off"}}, all,
		"TLS 1.3, X25519MLKEM768, RSA 2048", "TLS 1.3, X25519, RSA 2048", "TLS 1.3, X25519, RSA 2048", nameless)
}

// What is told about a failure is in words of the options, whatever crypto/tls says.
func TestSimulateReasons(t *testing.T) {
	rsa := files(t, selfsigned.RSA, "a.example")
	f := func(o Options, want string) {
		t.Helper()
		o.Certificates = []Certificate{rsa}
		all, _ := mustLoad(t, &o, nil).Simulate(t.Context())
		n := all[0].Clients[OlderBrowser]
		if n.Reason != want {
			t.Errorf("%s: %q, want %q", n.Failure, n.Reason, want)
		}
		if !all[0].Unreachable() {
			t.Error("a client could reach it")
		}
	}
	f(Options{MaxVersion: "1.2", CipherSuites: []string{"ECDHE-ECDSA-AES128-GCM-SHA256"}}, "the client and the listener share no cipher suite that goes with the certificate")
	f(Options{MaxVersion: "1.2", Groups: []string{"X25519MLKEM768", "SecP384r1MLKEM1024"}},
		"the client offers the groups X25519, P-256, P-384, the listener X25519MLKEM768, SecP384r1MLKEM1024")
	for failure, text := range reasons {
		sim := &simulation{}
		if got := sim.reason(failure, io.EOF); got != text || strings.ContainsAny(text, "[]0123456789") {
			t.Errorf("%s: %q, want %q, without numbers", failure, got, text)
		}
	}
	if got := (&simulation{}).reason(Other, io.EOF); got != "the handshake fails: EOF" {
		t.Errorf("%s: %q", Other, got)
	}
}

// What a client with a certificate would get is told where one is required, and that it is.
func TestSimulateClientCertificate(t *testing.T) {
	for mode, want := range map[tls.ClientAuthType]string{
		tls.RequestClientCert: "optional", tls.VerifyClientCertIfGiven: "optional", tls.RequireAnyClientCert: "required", tls.RequireAndVerifyClientCert: "required",
	} {
		s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.RSA, "a.example")}}, nil)
		s.config.ClientAuth = mode
		wants(t, mode.String(), s, "a.example *",
			"TLS 1.3, X25519MLKEM768, RSA 2048, http/1.1, client certificate "+want, "TLS 1.3, X25519, RSA 2048, http/1.1, client certificate "+want,
			"TLS 1.3, X25519, RSA 2048, client certificate "+want, "TLS 1.2, P-256, RSA 2048, client certificate "+want)
	}
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.RSA, "a.example")}}, nil)
	s.config.ClientAuth = tls.RequestClientCert
	s.config.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return io.ErrUnexpectedEOF
		}
		return nil
	}
	all, _ := s.Simulate(t.Context())
	for _, n := range all[0].Clients {
		if n.Failure != "" || n.ClientCertificate != ClientCertificateRequired {
			t.Errorf("%s, where a callback wants a certificate: %+v", n.Client, n)
		}
	}
}

// A staple is seen, and so is a flight that takes another round trip.
func TestSimulateFlight(t *testing.T) {
	var names []string
	for i := range 600 {
		names = append(names, fmt.Sprintf("name-%03d.with-a-long-name.example", i))
	}
	root := testcert.Root(t, "root")
	leaf := root.Leaf(t, names[0], nil)
	large := root.Sign(t, leaf.Cert, leaf.Key, func(c *x509.Certificate) { c.DNSNames = names })
	o := &Options{Certificates: []Certificate{writeChain(t, large, large)}}
	s := mustLoad(t, o, nil)
	s.content.Load().loaded[0].cert.OCSPStaple = []byte("an answer")
	all, leftOff := s.Simulate(t.Context())
	if want := len(names) - maxSimulated; leftOff != want || len(all) != 1 || len(all[0].Names) != maxSimulated+1 {
		t.Errorf("%d names left off, want %d; %d results", leftOff, want, len(all))
	}
	n := all[0].Clients[CurrentBrowser]
	if !n.Stapled || n.FitsWindow || n.FirstFlight < len(large.Cert.Raw) {
		t.Errorf("%+v; the certificate has %d bytes", n, len(large.Cert.Raw))
	}
	small := mustLoad(t, &Options{Certificates: []Certificate{writeChain(t, leaf, leaf)}}, nil)
	all, _ = small.Simulate(t.Context())
	n = all[0].Clients[CurrentBrowser]
	// ServerHello with a key share of 1,120 bytes, the certificate, its signature and the rest.
	if least := 1120 + len(leaf.Cert.Raw); n.Stapled || !n.FitsWindow || n.FirstFlight < least || n.FirstFlight > least+600 {
		t.Errorf("%+v; want a flight of a little over %d bytes", n, least)
	}
	if n.CertFile != small.Certificates()[0].CertFile {
		t.Errorf("certificate of %q, want %q", n.CertFile, small.Certificates()[0].CertFile)
	}
}

// A simulation ends with its context.
func TestSimulateEnds(t *testing.T) {
	s := mustLoad(t, &Options{Certificates: []Certificate{files(t, selfsigned.ECDSA, "a.example")}}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	all, _ := s.Simulate(ctx)
	for _, n := range all[0].Clients {
		if n.Failure == "" {
			t.Errorf("%s agreed on something though the context was over", n.Client)
		}
	}
}

func TestClientWords(t *testing.T) {
	seen := map[string]bool{}
	for k := range numClientKinds {
		if w := k.String(); w == "" || seen[w] {
			t.Errorf("client %d has the word %q", k, w)
		} else {
			seen[w] = true
		}
	}
	if got := numClientKinds.String(); got != "unknown" {
		t.Errorf("a client that is none: %q", got)
	}
}
