package accesslog

import (
	"net/netip"
	"time"

	"tickgate/internal/reason"
)

// Record is what is known about a request at its end. Slices and strings need to be
// valid only during Log, which copies what it takes. Values come from the client
// unchecked; the formats escape them.
type Record struct {
	// Time is when the request ended: the time of the line.
	Time time.Time
	// Duration is the time from the first byte of the request to the end of the response.
	Duration time.Duration
	// UpstreamDuration is the part of it spent on attempts at backends.
	UpstreamDuration time.Duration

	// ClientAddr is the peer, or the client a trusted proxy named; the zero value is a
	// Unix socket.
	ClientAddr netip.AddrPort

	Method []byte
	Host   []byte
	Path   []byte // as sent, not decoded
	Query  []byte // as sent, without the question mark
	Proto  []byte // "HTTP/1.1"
	// Target is the request target as sent. Without it, Path and Query stand for it.
	Target    []byte
	Referer   []byte
	UserAgent []byte
	RequestID []byte
	// Header looks up a request header field, for ${header:NAME}, ${cookie:NAME} and the
	// user of "combined". It may be nil.
	Header func(name []byte) []byte

	// Status is the code sent to the client; 0 if there was no response.
	Status int
	// BytesSent and BytesReceived count body bytes, as they were on the wire within the
	// framing: compressed, without heads and chunk sizes.
	BytesSent     int64
	BytesReceived int64
	Reason        reason.Reason
	// Attempts is the number of tries at backends; 0 if the gateway answered itself.
	Attempts int

	Route    string
	Upstream string
	Backend  string
	Listener string
	Scheme   string // "http" or "https"

	TLSVersion    string
	TLSCipher     string
	TLSServerName string
	TLSJA4        string
	TLSClient     *TLSClient // nil if the client proved no identity
}

// TLSClient is what a client's verified certificate says, in printable ASCII.
type TLSClient struct {
	Subject, Issuer, SAN, SPIFFE, Fingerprint, Serial string
}

var noTLSClient TLSClient

// tlsClient returns what is known of the client, empty if that is nothing.
func (r *Record) tlsClient() *TLSClient {
	if r.TLSClient == nil {
		return &noTLSClient
	}
	return r.TLSClient
}

// verified is the value of ${tls_client_verified}.
func (r *Record) verified() string {
	if r.TLSClient == nil {
		return "no"
	}
	return "yes"
}
