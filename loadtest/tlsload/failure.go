package tlsload

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"syscall"

	"tickgate/loadtest/target"
)

// Failure is why a connection does not count as good.
type Failure uint8

// The failures, in the order of a connection.
const (
	OK             Failure = iota
	Backlog                // due, but no connection became free in time
	ConnectRefused         // RST in answer to SYN
	ConnectTimeout         // no answer to SYN
	NoLocalPort            // no port or descriptor left here; see target.Options.Sources
	ConnectFailed          // any other way
	NotTLS                 // the answer was no TLS record
	WrongVersion           // the server refused the versions offered: alert protocol_version (70)
	Alert                  // the server refused with any other alert
	BadCertificate         // its certificate did not verify
	TLSFailed              // the handshake broke the protocol, or nothing was agreed on
	Timeout                // no end of the handshake, or no response, in time
	ClosedEarly            // FIN before the end of the handshake or of the response
	Reset                  // RST before that
	Malformed              // the response was no HTTP
	WrongStatus            // the response's status was 400 or more
	failures               // how many there are
)

// failureNames are the words of results.
var failureNames = [failures]string{
	"ok", "backlog", "connect_refused", "connect_timeout", "no_local_port", "connect_failed", "not_tls", "wrong_version", "alert",
	"bad_certificate", "tls_failed", "timeout", "closed_early", "reset", "malformed", "wrong_status",
}

// String returns the word of results.
func (f Failure) String() string {
	if f >= failures {
		return fmt.Sprintf("failure_%d", uint8(f))
	}
	return failureNames[f]
}

// connectFailure tells errors of connecting apart.
func connectFailure(err error) Failure {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectRefused
	case target.IsTimeout(err):
		return ConnectTimeout
	case target.IsShortage(err):
		return NoLocalPort
	default:
		return ConnectFailed
	}
}

// alertProtocolVersion is RFC 8446 section 6.2.
const alertProtocolVersion = 70

// tlsFailure tells errors of a handshake and of reading behind it apart; what else it
// may be is given.
func tlsFailure(err error, otherwise Failure) Failure {
	var (
		notTLS tls.RecordHeaderError
		cert   *tls.CertificateVerificationError
	)
	number, alert := alertOf(err)
	switch {
	case alert && number == alertProtocolVersion:
		return WrongVersion
	case alert:
		return Alert
	case errors.As(err, &notTLS):
		return NotTLS
	case errors.As(err, &cert):
		return BadCertificate
	case target.IsTimeout(err):
		return Timeout
	case target.IsReset(err):
		return Reset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return ClosedEarly
	default:
		return otherwise
	}
}

// alertOf returns the number of the alert that a server sent. crypto/tls keeps the type
// of it to itself, which is a number of 8 bits.
func alertOf(err error) (number uint64, ok bool) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" {
		return 0, false
	}
	if v := reflect.ValueOf(op.Err); v.Kind() == reflect.Uint8 {
		return v.Uint(), true
	}
	return 0, true
}
