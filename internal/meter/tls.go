package meter

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// TLSFailure says why a client's TLS handshake failed.
type TLSFailure uint8

// Kinds of failed handshakes.
const (
	TLSTimeout    TLSFailure = iota // not finished within timeouts.handshake
	TLSClientGone                   // closed or reset by the client
	TLSNotTLS                       // the first bytes are no TLS record
	TLSAlert                        // the client sent an alert, for instance as it does not trust the certificate
	TLSRefused                      // no common version, cipher or name, or a bad message
	numTLSFailures
)

var tlsFailureWords = [numTLSFailures]string{"timeout", "client_gone", "not_tls", "alert", "refused"}

// String returns the word used as the metric label.
func (f TLSFailure) String() string {
	if f >= numTLSFailures {
		return "unknown"
	}
	return tlsFailureWords[f]
}

// ClassifyTLS tells why a server-side handshake of crypto/tls failed.
func ClassifyTLS(err error) TLSFailure {
	var record tls.RecordHeaderError
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &record):
		return TLSNotTLS
	case errors.As(err, &op) && op.Op == "remote error":
		// crypto/tls has no exported type for an alert of the peer but this Op.
		return TLSAlert
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return TLSTimeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return TLSClientGone
	}
	return TLSRefused
}

// tlsVersions are the versions that have a series of their own; the last takes the rest.
var tlsVersions = [...]struct {
	version uint16
	word    string
}{
	{tls.VersionTLS12, "1.2"},
	{tls.VersionTLS13, "1.3"},
	{0, "other"},
}

// tlsCounters counts the handshakes with clients.
type tlsCounters struct {
	full     [len(tlsVersions)]atomic.Uint64
	resumed  [len(tlsVersions)]atomic.Uint64
	failures [numTLSFailures]atomic.Uint64
}

// Handshake counts a finished handshake with a client. The version is crypto/tls's number.
func (m *Meter) Handshake(version uint16, resumed bool) {
	i := 0
	for i < len(tlsVersions)-1 && tlsVersions[i].version != version {
		i++
	}
	if resumed {
		m.tls.resumed[i].Add(1)
	} else {
		m.tls.full[i].Add(1)
	}
}

// HandshakeFailed counts a failed handshake with a client; see ClassifyTLS.
func (m *Meter) HandshakeFailed(f TLSFailure) {
	if f < numTLSFailures {
		m.tls.failures[f].Add(1)
	}
}
