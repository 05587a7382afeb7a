package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

// xfccPair is a part of an element of X-Forwarded-Client-Cert, read as Envoy's documentation defines it: pairs of key and value, and values
// that hold a separator in quotes.
var xfccPair = regexp.MustCompile(`^(By|Hash|Chain|Subject|URI|DNS)=("[^"]*"|[^",;=]*)(;|$)`)

func parseXFCC(t *testing.T, text string) (keys []string, values map[string][]string) {
	t.Helper()
	values = map[string][]string{}
	for text != "" {
		m := xfccPair.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no pair of XFCC: %q", text)
		}
		text = text[len(m[0]):]
		if len(keys) == 0 || keys[len(keys)-1] != m[1] {
			keys = append(keys, m[1])
		}
		values[m[1]] = append(values[m[1]], strings.Trim(m[2], `"`))
	}
	return keys, values
}

// parseChainPEM reads a value of Chain, and holds it to be written as Envoy does.
func parseChainPEM(t *testing.T, text string) (certs []*x509.Certificate) {
	t.Helper()
	plain, err := url.PathUnescape(text)
	if err != nil {
		t.Fatal(err)
	}
	var again []byte
	for rest := []byte(plain); len(rest) > 0; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("no PEM: %q", plain)
		}
		certs = append(certs, parseCertificate(t, block.Bytes))
		again = append(again, pem.EncodeToMemory(block)...)
	}
	escaped := strings.NewReplacer("\n", "%0A", " ", "%20", "+", "%2B", "/", "%2F", "=", "%3D").Replace(string(again))
	if escaped != text {
		t.Errorf("Chain is %q, Envoy would write %q", text, escaped)
	}
	return certs
}

// parseByteSequences reads a list of byte sequences strictly (RFC 8941 sections 3.1 and 3.3.5).
func parseByteSequences(t *testing.T, text string) (certs []*x509.Certificate) {
	t.Helper()
	for item := range strings.SplitSeq(text, ", ") {
		if len(item) < 2 || item[0] != ':' || item[len(item)-1] != ':' {
			t.Fatalf("no byte sequence: %q", item)
		}
		der, err := base64.StdEncoding.Strict().DecodeString(item[1 : len(item)-1])
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, parseCertificate(t, der))
	}
	return certs
}

func parseCertificate(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestClientCertChain has backends told of the chain, and of the certificate that the client was shown.
func TestClientCertChain(t *testing.T) {
	t.Parallel()
	be := echoTarget(t)
	config := func(forwarding string) string {
		return "upstreams: {be: {servers: [{address: \"" + be.Addr() + "\"}]}}\nforwarding: {" + forwarding +
			"}\nroutes: [{path: /bare, upstream: be, request_headers: {remove: [Client-Cert-Chain]}}, {path: /, upstream: be}]\n"
	}
	m := newMutual(t, config(""))
	const ours = "spiffe://example.org/gate;way"
	m.server = m.ca.Issue(t, testcert.Request{Names: []string{"localhost", "private.example", "open.example"}, Alter: func(c *x509.Certificate) {
		c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/gate;way"}, {Scheme: "urn", Opaque: "gate:1"}}
	}})
	reload := func(forwarding string) {
		t.Helper()
		if err := m.Reload(parseConfig(t, m.config(config(forwarding)))); err != nil {
			t.Fatal(err)
		}
	}
	pair := m.client("feed", "")
	leaf := pair.Leaf(t)
	inter, _ := m.ca.Issuer()
	told := func(c *testkit.Client, path string, fields ...string) func(name string) string {
		t.Helper()
		be.Forget()
		expectStatus(t, path, c.Do(get(path, fields...)), 200)
		r := be.WaitRequests(t, 1)[0]
		return func(name string) string {
			var all []string
			for _, f := range r.Fields {
				if strings.EqualFold(f.Name, name) {
					all = append(all, f.Value)
				}
			}
			return strings.Join(all, " and ")
		}
	}
	same := func(what string, got []*x509.Certificate, want ...*x509.Certificate) {
		t.Helper()
		if !slices.EqualFunc(got, want, (*x509.Certificate).Equal) {
			t.Errorf("%s: got %d certificates, want %d others", what, len(got), len(want))
		}
	}

	reload("client_cert: rfc9440")
	conf := &tls.Config{RootCAs: m.ca.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{pair.TLS(t)}, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	c := testkit.DialTLS(t, m.addr, conf)
	if got := told(c, "/", "Client-Cert-Chain: :AAAA:")(fieldClientCertChain); got != "" {
		t.Errorf("without the option: %s", got)
	}

	reload("client_cert: rfc9440, client_cert_chain: 8KiB") // for connections that are there as well
	field := told(c, "/", "Client-Cert-Chain: :AAAA:", "Client.Cert_Chain: :AAAA:")
	same("Client-Cert", parseByteSequences(t, field(fieldClientCert)), leaf)
	same("Client-Cert-Chain", parseByteSequences(t, field(fieldClientCertChain)), inter)
	if got := told(c, "/bare")(fieldClientCertChain); got != "" {
		t.Errorf("removed by the route: %s", got)
	}
	exact := len(field(fieldClientCertChain))
	reload(fmt.Sprintf("client_cert: rfc9440, client_cert_chain: %dB", exact))
	same("exactly as long as it may be", parseByteSequences(t, told(c, "/")(fieldClientCertChain)), inter)
	reload(fmt.Sprintf("client_cert: rfc9440, client_cert_chain: %dB", exact-1))
	if got := told(c, "/"); got(fieldClientCertChain) != "" || got(fieldClientCert) == "" {
		t.Error("a chain that is too long is sent, or nothing is")
	}
	if n := m.metric("tickgate_tls_client_chains_omitted_total"); n != 1 {
		t.Errorf("%v chains omitted, want 1", n)
	}

	// A proxy that is believed has the last word, but its chain does not go with our certificate.
	reload("client_cert: rfc9440, client_cert_chain: 8KiB, trusted_proxies: [127.0.0.1], client_cert_from_proxies: true")
	same("a chain alone", parseByteSequences(t, told(c, "/", "Client-Cert-Chain: :AAAA:")(fieldClientCertChain)), inter)
	if got := told(c, "/", "Client-Cert: :AAAA:", "Client-Cert-Chain: :BBBB:"); got(fieldClientCert) != ":AAAA:" || got(fieldClientCertChain) != ":BBBB:" {
		t.Errorf("a proxy's word became %q, %q", got(fieldClientCert), got(fieldClientCertChain))
	}

	reload("client_cert: xfcc, client_cert_chain: 8KiB")
	conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		c = testkit.DialTLS(t, m.addr, conf)
		text := told(c, "/")(fieldXFCC)
		keys, values := parseXFCC(t, text)
		if resumed := c.Conn.(*tls.Conn).ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("connection %d: resumed %t", i, resumed)
		}
		if want := []string{"By", "Hash", "Chain", "Subject", "DNS"}; !slices.Equal(keys, want) {
			t.Errorf("connection %d: keys %v, want %v", i, keys, want)
		}
		if want := []string{ours, "urn:gate:1"}; !slices.Equal(values["By"], want) {
			t.Errorf("connection %d: By %v, want %v", i, values["By"], want)
		}
		same("Chain", parseChainPEM(t, strings.Join(values["Chain"], "")), leaf, inter)
		exact = len(values["Chain"][0])
	}
	reload(fmt.Sprintf("client_cert: xfcc, client_cert_chain: %dB", exact))
	if _, values := parseXFCC(t, told(c, "/")(fieldXFCC)); values["Chain"] == nil {
		t.Error("a chain exactly as long as it may be is left out")
	}
	for i, limit := range []int{exact - 1, 100} {
		reload(fmt.Sprintf("client_cert: xfcc, client_cert_chain: %dB", limit))
		if keys, _ := parseXFCC(t, told(c, "/")(fieldXFCC)); !slices.Equal(keys, []string{"By", "Hash", "Subject", "DNS"}) {
			t.Errorf("a chain longer than %d: keys %v", limit, keys)
		}
		if n := m.metric("tickgate_tls_client_chains_omitted_total"); int(n) != i+2 {
			t.Errorf("%v chains omitted, want %d", n, i+2)
		}
	}
}

// FuzzAppendBase64 compares with what encoding/base64 makes of the whole.
func FuzzAppendBase64(f *testing.F) {
	for _, n := range []int{0, 1, 2, 3, derLine - 1, derLine, derLine + 1, 3*derLine + 2} {
		f.Add(strings.Repeat("\xfb\xef", n)[:n])
	}
	f.Fuzz(func(t *testing.T, der string) {
		if got, want := string(appendBase64([]byte("x"), der, false)), "x"+base64.StdEncoding.EncodeToString([]byte(der)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		plain, err := url.PathUnescape(string(appendPEM(nil, []byte(der))))
		want := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)})
		if err != nil || plain != string(want) {
			t.Errorf("got %q, %v, want %q", plain, err, want)
		}
	})
}
