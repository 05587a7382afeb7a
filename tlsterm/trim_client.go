package tlsterm

import (
	"crypto/tls"
	"crypto/x509"
	"reflect"
	"unsafe"
)

// clientFields is where a tls.Conn keeps what its peer showed, as offsets of fields that are not exported.
type clientFields struct {
	isClient, certs, chains, staple, scts uintptr
	known                                 bool
}

var clientLayout = clientLayoutOf(reflect.TypeFor[tls.Conn]())

// clientLayoutOf is layoutOf for these fields.
func clientLayoutOf(conn reflect.Type) clientFields {
	known := true
	offset := func(name string, want reflect.Type) uintptr {
		f, ok := conn.FieldByName(name)
		known = known && ok && len(f.Index) == 1 && f.Type == want
		return f.Offset
	}
	return clientFields{
		isClient: offset("isClient", reflect.TypeFor[bool]()),
		certs:    offset("peerCertificates", reflect.TypeFor[[]*x509.Certificate]()),
		chains:   offset("verifiedChains", reflect.TypeFor[[][]*x509.Certificate]()),
		staple:   offset("ocspResponse", reflect.TypeFor[[]byte]()),
		scts:     offset("scts", reflect.TypeFor[[][]byte]()),
		known:    known,
	}
}

// TrimClient gives back what a server's connection keeps of its client's certificates: them, their chains, and what the client sent
// beside them. It is for connections whose handshake has succeeded and whose Identity has been taken, which has all that is asked
// for later; ConnectionState tells of no client certificate afterwards. Nobody may use the connection meanwhile. A client's connection,
// and one of a crypto/tls that is not known, stays as it is.
//
// It is sound, since crypto/tls (Go 1.26) reads these fields of a server after the handshake in ConnectionState alone. Its
// session tickets hold them, too, but are made within the handshake (TLS 1.2 before the server's Finished, TLS 1.3 after the client's), and
// later only for QUIC. A server does not renegotiate, and nil is what a connection without a client certificate has.
//
// Measured with Go 1.26, heap for each of 300 idle server connections with an Identity after Trim (TestTrimClientSaves): the chain is a leaf and an
// intermediate of ECDSA, in a full handshake with X25519.
//
//	          before  after  without a certificate
//	TLS 1.3   10,160  4,230                  3,020
//	TLS 1.2   10,410  4,370                  3,200
//
// Before is with an Identity that held the certificates as well.
func TrimClient(c *tls.Conn) { clientLayout.trim(c) }

func (l *clientFields) trim(c *tls.Conn) {
	if !l.known {
		return
	}
	p := unsafe.Pointer(c)
	if *(*bool)(unsafe.Add(p, l.isClient)) {
		return
	}
	*(*[]*x509.Certificate)(unsafe.Add(p, l.certs)) = nil
	*(*[][]*x509.Certificate)(unsafe.Add(p, l.chains)) = nil
	*(*[]byte)(unsafe.Add(p, l.staple)) = nil
	*(*[][]byte)(unsafe.Add(p, l.scts)) = nil
}
