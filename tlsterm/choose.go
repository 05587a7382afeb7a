package tlsterm

import (
	"bytes"
	"crypto/tls"
	"iter"
	"slices"
	"strings"
)

// maxServerName is the longest DNS name in text form (RFC 1035 section 2.3.4).
const maxServerName = 253

// byName finds a value by server name: exact, or with a star for the first label. The zero value is empty.
type byName[T any] struct {
	exact    map[string]T
	wildcard map[string]T // by what follows the first dot
}

// part is the map that a name belongs to, and its key there.
func (b *byName[T]) part(name string) (*map[string]T, string) {
	if suffix, ok := strings.CutPrefix(name, "*."); ok {
		return &b.wildcard, suffix
	}
	return &b.exact, name
}

func (b *byName[T]) get(name string) (v T, ok bool) {
	m, key := b.part(name)
	v, ok = (*m)[key]
	return v, ok
}

// set gives a name, in lower case, its value.
func (b *byName[T]) set(name string, v T) {
	m, key := b.part(name)
	if *m == nil {
		*m = map[string]T{}
	}
	(*m)[key] = v
}

// add is set for a name that has no value yet.
func (b *byName[T]) add(name string, v T) {
	if _, ok := b.get(name); !ok {
		b.set(name, v)
	}
}

// all yields every value, in no order.
func (b *byName[T]) all() iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, m := range []map[string]T{b.exact, b.wildcard} {
			for _, v := range m {
				if !yield(v) {
					return
				}
			}
		}
	}
}

// find returns the value for a server name as the client wrote it. It does not allocate.
func (b *byName[T]) find(serverName string) (v T, ok bool) {
	if len(serverName) > maxServerName {
		return v, false
	}
	var buf [maxServerName]byte
	return b.findLower(lower(&buf, serverName))
}

// findLower is find for a name in lower case, of any length.
func (b *byName[T]) findLower(name []byte) (v T, ok bool) {
	// The conversions in the brackets do not allocate: the compiler knows them.
	if v, ok = b.exact[string(name)]; ok {
		return v, true
	}
	// A wildcard stands for one label (RFC 9525 section 6.3).
	if i := bytes.IndexByte(name, '.'); i > 0 {
		v, ok = b.wildcard[string(name[i+1:])]
	}
	return v, ok
}

// above returns the value of the nearest wildcard that a name in lower case is below, at any depth.
func (b *byName[T]) above(name []byte) (v T, ok bool) {
	for i := bytes.IndexByte(name, '.'); i >= 0; i = bytes.IndexByte(name, '.') {
		name = name[i+1:]
		if v, ok = b.wildcard[string(name)]; ok {
			return v, true
		}
	}
	return v, false
}

// certificate is tls.Config.GetCertificate.
func (l *live) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	ch := l.Load().lookup(hello.ServerName)
	if ch == nil {
		// Without an error crypto/tls finds no certificate at all and sends unrecognized_name
		// (RFC 6066 section 3); any error of ours would become internal_error.
		return nil, nil
	}
	cert := ch.pick(hello)
	factsOf(hello).noteCertificate(cert)
	return cert, nil
}

// configFor is tls.Config.GetConfigForClient, which crypto/tls calls before it judges anything that the client offers. For nil, it goes on with
// the listener's own.
func (l *live) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	f, n := factsOf(hello), l.Load()
	f.noteName(hello.ServerName)
	if ch := n.lookup(hello.ServerName); f != nil && ch != nil && slices.ContainsFunc(ch.certs, hasURI) {
		f.Leaf = ch.pick(hello).Leaf // a session that resumes asks for no certificate
	}
	if config, ok := n.rules.find(hello.ServerName); ok {
		return config, nil
	}
	return n.own, nil
}

func hasURI(cert *tls.Certificate) bool { return cert.Leaf != nil && len(cert.Leaf.URIs) > 0 }

// lookup returns the certificates for a server name as the client wrote it, or nil to
// refuse it. It does not allocate.
func (n *names) lookup(serverName string) *choice {
	if serverName == "" {
		return n.def // no name is not an unknown name
	}
	if ch, ok := n.certs.find(serverName); ok {
		return ch
	}
	if n.reject {
		return nil
	}
	return n.def
}

func lower(buf *[maxServerName]byte, name string) []byte {
	for i := range len(name) {
		c := name[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		buf[i] = c
	}
	return buf[:len(name)]
}

// pick returns the first certificate that the client can use. If it can use none, it
// gets the last one, RSA most often, and the handshake says what is missing.
func (ch *choice) pick(hello *tls.ClientHelloInfo) *tls.Certificate {
	last := len(ch.certs) - 1
	// SupportsCertificate allocates, so it is asked only where there is a choice.
	if last > 0 {
		// Nor is it asked whether they hold the name: that is settled, and by an unknown name it would always choose the last.
		nameless := *hello
		nameless.ServerName = ""
		hello = &nameless
	}
	for _, cert := range ch.certs[:last] {
		if hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return ch.certs[last]
}
