package tlsterm

import "crypto/tls"

// maxServerName is the longest DNS name in text form (RFC 1035 section 2.3.4).
const maxServerName = 253

// certificate is tls.Config.GetCertificate.
func (s *names) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	ch := s.lookup(hello.ServerName)
	if ch == nil {
		// Without an error crypto/tls finds no certificate at all and sends unrecognized_name
		// (RFC 6066 section 3); any error of ours would become internal_error.
		return nil, nil
	}
	return ch.pick(hello), nil
}

// lookup returns the certificates for a server name as the client wrote it, or nil to
// refuse it. It does not allocate.
func (s *names) lookup(serverName string) *choice {
	if serverName == "" {
		return s.def // no name is not an unknown name
	}
	if len(serverName) <= maxServerName {
		var buf [maxServerName]byte
		name := lower(&buf, serverName)
		// The conversions in the brackets do not allocate: the compiler knows them.
		if ch, ok := s.exact[string(name)]; ok {
			return ch
		}
		for i, c := range name {
			if c != '.' {
				continue
			}
			if ch, ok := s.wildcard[string(name[i+1:])]; ok && i > 0 {
				return ch
			}
			break // a wildcard stands for one label (RFC 9525 section 6.3)
		}
	}
	if s.reject {
		return nil
	}
	return s.def
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
// gets the last one, RSA where there is one, and the handshake says what is missing.
func (ch *choice) pick(hello *tls.ClientHelloInfo) *tls.Certificate {
	last := len(ch.certs) - 1
	// SupportsCertificate allocates, so it is asked only where there is a choice.
	for _, cert := range ch.certs[:last] {
		if hello.SupportsCertificate(cert) == nil {
			return cert
		}
	}
	return ch.certs[last]
}
