// Package reason is the one list of ways in which a request or a connection can
// end. A Reason is at once the metric label, the word in the access log and what
// tests compare; nothing else in tickgate classifies an outcome.
package reason

// Reason says how a request or a connection ended. The zero value is OK.
type Reason uint8

// Reasons are grouped by who caused the end; ByClient relies on it. Add a new one to
// its group, with its row in table.
const (
	// OK: a response was delivered whole, whatever its status.
	OK Reason = iota

	// The client's request was refused before it was routed.

	BadRequestLine    // malformed method, target or spacing
	BadVersion        // a version other than HTTP/1.0 and HTTP/1.1
	BadTarget         // request target of no RFC 9112 form, or with bytes it may not hold
	BadHost           // no Host, several, userinfo or rubbish in it
	BadHeaderName     // a field name that is not a token, or white space before the colon
	BadHeaderValue    // NUL or another control character in a value
	BareLineFeed      // a line ended by LF alone, or a CR without LF
	ObsFold           // a folded header line (RFC 9112 section 5.2)
	LengthConflict    // repeated, malformed or contradictory Content-Length / Transfer-Encoding
	BadTransferCoding // a transfer coding other than a single final chunked
	BadChunk          // malformed chunk size, extension, data end or trailer
	TargetTooLong     // request line longer than limits.max_request_line
	HeadTooLarge      // head over its limit
	TooManyHeaders    // more fields than limits.max_headers
	BodyTooLarge      // more than limits.max_body
	BodyOnUpgrade     // an upgrade request that carries a body
	BadExpect         // an expectation other than 100-continue
	BadUpgrade        // an upgrade request that breaks RFC 6455
	HeadTimeout       // the head did not arrive within timeouts.head
	BodyTimeout       // the body stalled for longer than timeouts.body
	PlainOnTLS        // plain HTTP on a TLS port

	// The gateway refused or answered itself.

	NoRoute          // no route matched
	MethodNotAllowed // routes match host and path, none the method
	Overloaded       // no worker within workers.queue_timeout
	TooManyConns     // a connection cap was reached
	Draining         // the process or the backend drains
	LocalResponse    // a static response or a redirect
	ReloadedAway     // the listener was removed by a reload
	Internal         // a bug caught at the border
	TooManyTunnels   // a limit on tunnels was reached
	Misdirected      // the host asks for other client certificates than the server name that the connection was made for
	IdentityMissing  // the route demands an identity, and the client proved none
	IdentityDenied   // the route demands another identity than the client proved
	IdentityRevoked  // the client's certificate was revoked, or its authority removed, since it connected

	// The backend side.

	NoBackend           // no backend is up, or the upstream has none
	PoolFull            // no free connection within pool.wait_timeout
	DialFailed          // connection refused, unreachable, or dial timeout
	BackendTLSFailed    // TLS handshake with the backend failed
	BackendReset        // closed or reset before a whole response head
	BackendWriteFailed  // the request could not be written
	BackendTimeout      // no response head within timeouts.response_header
	BackendStalled      // the response body stalled for longer than timeouts.read
	BadBackendHead      // malformed response head
	BadBackendFraming   // conflicting lengths or broken chunks in a response
	BackendTruncated    // response body cut short
	UnaskedUpgrade      // a 101 that nobody asked for, or with the wrong accept key
	RequestTimeout      // the whole-request deadline passed
	BackendHeadTooLarge // response head over its limit

	// The client went away.

	ClientGone  // closed or reset before the response was whole
	ClientStall // did not read the response for longer than timeouts.write

	// Ends of connections.

	IdleTimeout  // keep-alive idle time passed
	ClientClosed // the client closed between requests
	MaxRequests  // the connection served its maximum
	MaxLifetime  // the connection reached its maximum age
	ShutDown     // the process stopped
	TLSFailed    // the TLS handshake with the client failed
	BadPreface   // a proxy that has to send a PROXY header sent none that is acceptable
	TunnelDone   // an upgraded connection was closed by its ends
	KilledByUser // closed through the admin API

	// Ends of tunnels, besides IdleTimeout, MaxLifetime, Draining, IdentityRevoked (1008) and the ones above.

	ClosedByClient  // the client ended it in order
	ClosedByBackend // the backend ended it in order
	ResetByClient   // the client reset the connection, vanished, or broke TLS
	ResetByBackend  // the backend did
	TunnelStalled   // one side took no bytes for longer than timeouts.write
	PingTimeout     // no answer to the gateway's pings
	BadFrame        // WebSocket framing broken (close code 1002)
	BadText         // a text message that is not UTF-8 (1007)
	MessageTooBig   // over tunnel.max_message (1009)
	TooFast         // over tunnel.message_rate or tunnel.byte_rate (1008)
	IdentityExpired // the client's certificate has run out since it connected (1008)
	numReasons
)

// table holds each reason's word and the status a client is answered with; 0
// means that no answer is possible or none fits.
var table = [numReasons]struct {
	word   string
	status int
}{
	OK:                  {"ok", 0},
	BadRequestLine:      {"bad_request_line", 400},
	BadVersion:          {"bad_version", 505},
	BadTarget:           {"bad_target", 400},
	BadHost:             {"bad_host", 400},
	BadHeaderName:       {"bad_header_name", 400},
	BadHeaderValue:      {"bad_header_value", 400},
	BareLineFeed:        {"bare_line_feed", 400},
	ObsFold:             {"obs_fold", 400},
	LengthConflict:      {"length_conflict", 400},
	BadTransferCoding:   {"bad_transfer_coding", 501},
	BadChunk:            {"bad_chunk", 400},
	TargetTooLong:       {"target_too_long", 414},
	HeadTooLarge:        {"head_too_large", 431},
	TooManyHeaders:      {"too_many_headers", 431},
	BodyTooLarge:        {"body_too_large", 413},
	BodyOnUpgrade:       {"body_on_upgrade", 400},
	BadExpect:           {"bad_expect", 417},
	BadUpgrade:          {"bad_upgrade", 400},
	HeadTimeout:         {"head_timeout", 408},
	BodyTimeout:         {"body_timeout", 408},
	PlainOnTLS:          {"plain_on_tls", 400},
	NoRoute:             {"no_route", 404},
	MethodNotAllowed:    {"method_not_allowed", 405},
	Overloaded:          {"overloaded", 503},
	TooManyConns:        {"too_many_conns", 503},
	Draining:            {"draining", 503},
	LocalResponse:       {"local_response", 0},
	ReloadedAway:        {"reloaded_away", 0},
	Internal:            {"internal", 500},
	TooManyTunnels:      {"too_many_tunnels", 503},
	Misdirected:         {"misdirected", 421},
	IdentityMissing:     {"identity_missing", 403},
	IdentityDenied:      {"identity_denied", 403},
	IdentityRevoked:     {"identity_revoked", 403},
	NoBackend:           {"no_backend", 503},
	PoolFull:            {"pool_full", 503},
	DialFailed:          {"dial_failed", 502},
	BackendTLSFailed:    {"backend_tls_failed", 502},
	BackendReset:        {"backend_reset", 502},
	BackendWriteFailed:  {"backend_write_failed", 502},
	BackendTimeout:      {"backend_timeout", 504},
	BackendStalled:      {"backend_stalled", 504},
	BadBackendHead:      {"bad_backend_head", 502},
	BadBackendFraming:   {"bad_backend_framing", 502},
	BackendTruncated:    {"backend_truncated", 502},
	UnaskedUpgrade:      {"unasked_upgrade", 502},
	RequestTimeout:      {"request_timeout", 504},
	BackendHeadTooLarge: {"backend_head_too_large", 502},
	ClientGone:          {"client_gone", 499},
	ClientStall:         {"client_stall", 0},
	IdleTimeout:         {"idle_timeout", 0},
	ClientClosed:        {"client_closed", 0},
	MaxRequests:         {"max_requests", 0},
	MaxLifetime:         {"max_lifetime", 0},
	ShutDown:            {"shut_down", 0},
	TLSFailed:           {"tls_failed", 0},
	BadPreface:          {"bad_proxy_header", 0},
	TunnelDone:          {"tunnel_done", 0},
	KilledByUser:        {"killed_by_user", 0},
	ClosedByClient:      {"closed_by_client", 0},
	ClosedByBackend:     {"closed_by_backend", 0},
	ResetByClient:       {"reset_by_client", 0},
	ResetByBackend:      {"reset_by_backend", 0},
	TunnelStalled:       {"tunnel_stalled", 0},
	PingTimeout:         {"ping_timeout", 0},
	BadFrame:            {"bad_frame", 0},
	BadText:             {"bad_text", 0},
	MessageTooBig:       {"message_too_big", 0},
	TooFast:             {"too_fast", 0},
	IdentityExpired:     {"identity_expired", 0},
}

// String returns the snake_case word used in metrics, logs and tests.
func (r Reason) String() string {
	if r >= numReasons {
		return "unknown"
	}
	return table[r].word
}

// Status returns the HTTP status that answers a request which ended for this
// reason, or 0 where nothing can or should be answered. 499 is only ever logged.
func (r Reason) Status() int {
	if r >= numReasons {
		return 500
	}
	return table[r].status
}

// ByClient reports whether the client caused this end of a request: it says nothing
// about the backend that was serving it.
func (r Reason) ByClient() bool {
	return r >= BadRequestLine && r <= PlainOnTLS || r == ClientGone || r == ClientStall
}

// Error makes a Reason usable as an error, so that a parser returns it directly
// and callers compare it with errors.Is.
func (r Reason) Error() string { return r.String() }

// All returns every reason in order, for registering metric series at 0.
func All() []Reason {
	all := make([]Reason, numReasons)
	for i := range all {
		all[i] = Reason(i)
	}
	return all
}
