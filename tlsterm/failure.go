package tlsterm

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// Failure says why a handshake with a client failed.
type Failure uint8

// Failures. The first five are about what the client offers, the others about the
// connection.
const (
	NoSharedVersion      Failure = iota // the client offers no version between min_version and max_version
	NoSharedCipher                      // no cipher suite, key exchange or signature scheme in common
	NoSharedProtocol                    // the client insists on an application protocol other than http/1.1 (ALPN)
	UnknownName                         // no certificate covers the server name, and unknown_name is reject
	BadClientCertificate                // the client's certificate is missing or not good; ClientCertProblemOf says why
	ClientRejected                      // the client sent an alert: most often it does not trust the certificate
	ClientGone                          // the client closed or reset the connection in the middle
	TimedOut                            // the handshake took longer than timeouts.handshake
	PlainText                           // plain HTTP on a TLS port
	BadRecord                           // bytes that are no TLS record or no handshake message, or do not decrypt
	GateFull                            // refused unseen: more handshakes than handshakes.queue waited for their turn
	GateTimeout                         // refused unseen: no turn came within handshakes.queue_timeout
	GaveWay                             // more than handshakes.max were under way, and this one came in too many pieces or had waited longest for its client
	RateLimited                         // more handshakes from its address than handshakes.rate_per_client
	RateLimitedJA4                      // more handshakes with its fingerprint than handshakes.rate_per_ja4
	Other                               // a handshake that is well-formed but not acceptable
	numFailures
)

var failureWords = [numFailures]string{
	NoSharedVersion:      "no_shared_version",
	NoSharedCipher:       "no_shared_cipher",
	NoSharedProtocol:     "no_shared_protocol",
	UnknownName:          "unknown_name",
	BadClientCertificate: "bad_client_certificate",
	ClientRejected:       "client_rejected",
	ClientGone:           "client_gone",
	TimedOut:             "timeout",
	PlainText:            "plain_http",
	BadRecord:            "bad_record",
	GateFull:             "gate_full",
	GateTimeout:          "gate_timeout",
	GaveWay:              "gave_way",
	RateLimited:          "rate_limited",
	RateLimitedJA4:       "rate_limited_ja4",
	Other:                "other",
}

// String returns the snake_case word used in metrics, logs and tests.
func (f Failure) String() string {
	if f >= numFailures {
		return "unknown"
	}
	return failureWords[f]
}

// Failures returns every failure in order, for registering metric series at 0.
func Failures() []Failure {
	all := make([]Failure, numFailures)
	for i := range all {
		all[i] = Failure(i)
	}
	return all
}

// texts are the errors for which crypto/tls exports neither a type nor a variable,
// so that their text is all there is to go by. This is the only place that does so, and the tests
// make each of them in a real handshake: a Go release that words them differently fails there.
var texts = []struct {
	prefix  string
	failure Failure
}{
	{"tls: client offered only unsupported versions", NoSharedVersion},
	{"tls: no cipher suite supported by both", NoSharedCipher},
	{"tls: no key exchanges supported by both", NoSharedCipher},
	{"tls: peer doesn't support any of the certificate's signature algorithms", NoSharedCipher},
	{"tls: client requested unsupported application protocols", NoSharedProtocol},
	// A Store always has certificates, so this can only be one that refused the name.
	{"tls: no certificates configured", UnknownName},
}

// What refuses a handshake for its rate.
var (
	ErrRateLimited    = errors.New("tls: more handshakes from this address than handshakes.rate_per_client")
	ErrRateLimitedJA4 = errors.New("tls: more handshakes with this fingerprint than handshakes.rate_per_ja4")
)

// FailureReason classifies the error of a server's Handshake.
func FailureReason(err error) Failure {
	switch {
	case errors.Is(err, ErrRateLimited):
		return RateLimited
	case errors.Is(err, ErrRateLimitedJA4):
		return RateLimitedJA4
	case isTimeout(err):
		return TimedOut
	}
	if PlainHTTP(err) {
		return PlainText
	}
	if f, ok := recordFailure(err); ok {
		return f
	}
	if _, ok := ClientCertProblemOf(err); ok {
		return BadClientCertificate
	}
	if isGone(err) {
		return ClientGone
	}
	text := err.Error()
	for _, t := range texts {
		if strings.HasPrefix(text, t.prefix) {
			return t.failure
		}
	}
	return Other
}

// recordFailure tells errors of the record layer: headers that are none, and alerts.
// crypto/tls wraps alerts in a net.OpError that says who sent them; its own ones it returns only
// for bytes that it cannot make sense of.
func recordFailure(err error) (Failure, bool) {
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		return BadRecord, true
	}
	var op *net.OpError
	if !errors.As(err, &op) {
		return 0, false
	}
	switch op.Op {
	case "remote error":
		return ClientRejected, true
	case "local error":
		return BadRecord, true
	}
	return 0, false
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func isGone(err error) bool {
	for _, gone := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, io.ErrClosedPipe, context.Canceled,
		syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED, syscall.ENOTCONN,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// plainStarts are the first five bytes of plain HTTP requests, as far as they go.
var plainStarts = []string{
	"GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO", "CONNE", "TRACE",
	"GET h", "PUT h", // absolute-form
	"PRI *", // HTTP/2 with prior knowledge
}

// PlainHTTP reports whether a handshake failed because the client spoke plain HTTP.
// Nothing has been written to the connection then: the Conn of the tls.RecordHeaderError
// in err can be answered with a plain 400.
func PlainHTTP(err error) bool {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || header.Conn == nil {
		return false
	}
	for _, start := range plainStarts {
		if string(header.RecordHeader[:]) == start {
			return true
		}
	}
	return false
}
