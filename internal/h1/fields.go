package h1

import (
	"encoding/binary"
	"math/bits"
)

// FieldID names a header field that the gateway knows; all others are Unknown.
type FieldID uint8

// Known fields. There are at most 64, so that a set of them is one word.
const (
	Unknown FieldID = iota
	Host
	Connection
	ContentLength
	TransferEncoding
	Expect
	Upgrade
	KeepAlive
	TE
	Trailer
	ProxyConnection
	ProxyAuthenticate
	ProxyAuthorization
	ProxyAuthenticationInfo
	HTTP2Settings
	XForwardedFor
	XForwardedProto
	XForwardedHost
	XForwardedPort
	Forwarded
	XRequestID
	XRealIP
	Traceparent
	Tracestate
	Accept
	AcceptEncoding
	AcceptLanguage
	AcceptRanges
	ContentEncoding
	ContentType
	ContentRange
	CacheControl
	Vary
	ETag
	LastModified
	IfNoneMatch
	IfModifiedSince
	Expires
	Age
	Location
	Date
	Server
	SetCookie
	Cookie
	UserAgent
	Referer
	Via
	Range
	Allow
	Authorization
	WWWAuthenticate
	Origin
	SecWebSocketKey
	SecWebSocketVersion
	SecWebSocketProtocol
	SecWebSocketExtensions
	SecWebSocketAccept
	SecFetchSite
	SecFetchMode
	SecFetchDest
	UpgradeInsecureRequests
	RetryAfter
	Priority
	// NumFieldIDs is the number of FieldIDs, Unknown included.
	NumFieldIDs
)

var fieldNames = [NumFieldIDs]string{
	Host:                    "Host",
	Connection:              "Connection",
	ContentLength:           "Content-Length",
	TransferEncoding:        "Transfer-Encoding",
	Expect:                  "Expect",
	Upgrade:                 "Upgrade",
	KeepAlive:               "Keep-Alive",
	TE:                      "TE",
	Trailer:                 "Trailer",
	ProxyConnection:         "Proxy-Connection",
	ProxyAuthenticate:       "Proxy-Authenticate",
	ProxyAuthorization:      "Proxy-Authorization",
	ProxyAuthenticationInfo: "Proxy-Authentication-Info",
	HTTP2Settings:           "HTTP2-Settings",
	XForwardedFor:           "X-Forwarded-For",
	XForwardedProto:         "X-Forwarded-Proto",
	XForwardedHost:          "X-Forwarded-Host",
	XForwardedPort:          "X-Forwarded-Port",
	Forwarded:               "Forwarded",
	XRequestID:              "X-Request-ID",
	XRealIP:                 "X-Real-IP",
	Traceparent:             "Traceparent",
	Tracestate:              "Tracestate",
	Accept:                  "Accept",
	AcceptEncoding:          "Accept-Encoding",
	AcceptLanguage:          "Accept-Language",
	AcceptRanges:            "Accept-Ranges",
	ContentEncoding:         "Content-Encoding",
	ContentType:             "Content-Type",
	ContentRange:            "Content-Range",
	CacheControl:            "Cache-Control",
	Vary:                    "Vary",
	ETag:                    "ETag",
	LastModified:            "Last-Modified",
	IfNoneMatch:             "If-None-Match",
	IfModifiedSince:         "If-Modified-Since",
	Expires:                 "Expires",
	Age:                     "Age",
	Location:                "Location",
	Date:                    "Date",
	Server:                  "Server",
	SetCookie:               "Set-Cookie",
	Cookie:                  "Cookie",
	UserAgent:               "User-Agent",
	Referer:                 "Referer",
	Via:                     "Via",
	Range:                   "Range",
	Allow:                   "Allow",
	Authorization:           "Authorization",
	WWWAuthenticate:         "WWW-Authenticate",
	Origin:                  "Origin",
	SecWebSocketKey:         "Sec-WebSocket-Key",
	SecWebSocketVersion:     "Sec-WebSocket-Version",
	SecWebSocketProtocol:    "Sec-WebSocket-Protocol",
	SecWebSocketExtensions:  "Sec-WebSocket-Extensions",
	SecWebSocketAccept:      "Sec-WebSocket-Accept",
	SecFetchSite:            "Sec-Fetch-Site",
	SecFetchMode:            "Sec-Fetch-Mode",
	SecFetchDest:            "Sec-Fetch-Dest",
	UpgradeInsecureRequests: "Upgrade-Insecure-Requests",
	RetryAfter:              "Retry-After",
	Priority:                "Priority",
}

// String returns the field's name in its usual spelling, "" for Unknown.
func (id FieldID) String() string {
	if id >= NumFieldIDs {
		return ""
	}
	return fieldNames[id]
}

// FieldSet is a set of known fields. The zero value is empty.
type FieldSet uint64

// FieldsOf returns the set of ids.
func FieldsOf(ids ...FieldID) (s FieldSet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

// Has reports whether id is in the set.
func (s FieldSet) Has(id FieldID) bool { return s>>id&1 != 0 }

var (
	// hopByHop fields concern one connection and are never passed on (RFC 9110 section
	// 7.6.1). Trailer and the Proxy-Auth… fields are not among them: the caller decides.
	hopByHop = FieldsOf(Connection, KeepAlive, ProxyConnection, TE, TransferEncoding, Upgrade, HTTP2Settings)
	// framing fields may have no lookalike: reading one differently is request smuggling.
	framing = FieldsOf(ContentLength, TransferEncoding, Host)
	// forwarding fields are believed by backends because the gateway sets them.
	forwarding = FieldsOf(XForwardedFor, XForwardedProto, XForwardedHost, XForwardedPort, Forwarded, XRequestID, XRealIP)
	// readEarly are looked into as soon as their line is whole.
	readEarly = FieldsOf(ContentLength, TransferEncoding, Connection, Upgrade, TE, Trailer)
)

// fieldKey is a name as two overlapping words: the first and the last eight
// bytes in lower case. Names of up to 16 bytes are told apart by it alone.
type fieldKey struct {
	first, last uint64
	length      int
}

const (
	hashBits = 9
	hashMul  = 0xA7A83EE0761EBFD3
)

func (k fieldKey) hash() uint64 {
	return (k.first + bits.RotateLeft64(k.last, 13) + uint64(k.length)) * hashMul >> (64 - hashBits)
}

var (
	fieldKeys [NumFieldIDs]fieldKey
	fieldHash = buildFieldHash()
	// keepBytes[n] keeps the first n bytes of a little-endian word.
	keepBytes = [8]uint64{0, 1<<8 - 1, 1<<16 - 1, 1<<24 - 1, 1<<32 - 1, 1<<40 - 1, 1<<48 - 1, 1<<56 - 1}
)

// buildFieldHash fills the perfect hash table; hashMul was chosen so that no two
// names share a slot, and a new name that does stops the process at its first start.
func buildFieldHash() (table [1 << hashBits]FieldID) {
	for id := Unknown + 1; id < NumFieldIDs; id++ {
		name := []byte(fieldNames[id])
		key := keyOf(name, 0, len(name))
		fieldKeys[id] = key
		slot := &table[key.hash()]
		if *slot != Unknown {
			panic("BUG: h1: " + fieldNames[id] + " and " + fieldNames[*slot] + " share a hash slot; choose another hashMul")
		}
		*slot = id
	}
	return table
}

// keyOf makes the key of the name buf[start:end].
func keyOf(buf []byte, start, end int) fieldKey {
	if end-start < 8 {
		x := shortWord(buf, start, end)
		return fieldKey{x, x, end - start}
	}
	first := binary.LittleEndian.Uint64(buf[start:]) | foldBits
	last := binary.LittleEndian.Uint64(buf[end-8:]) | foldBits
	return fieldKey{first, last, end - start}
}

// shortWord returns the fewer than eight bytes buf[start:end] as a word, in lower case.
func shortWord(buf []byte, start, end int) uint64 {
	if start+8 <= len(buf) {
		return binary.LittleEndian.Uint64(buf[start:])&keepBytes[end-start] | foldBits
	}
	var x uint64
	for i := end - 1; i >= start; i-- {
		x = x<<8 | uint64(buf[i])
	}
	return x | foldBits
}

// lookup finds the known field that buf[start:end] names. The match is exact, in any case,
// if the name has no control characters: among other bytes only letters fold
// onto the letters, digits and '-' that known names are made of.
func lookup(buf []byte, start, end int) FieldID {
	var key fieldKey
	if end-start >= 8 { // keyOf by hand, as it is too large to be inlined
		key.first = binary.LittleEndian.Uint64(buf[start:]) | foldBits
		key.last = binary.LittleEndian.Uint64(buf[end-8:]) | foldBits
	} else {
		key.first = shortWord(buf, start, end)
		key.last = key.first
	}
	key.length = end - start
	id := fieldHash[key.hash()]
	if known := &fieldKeys[id]; known.first != key.first || known.last != key.last || known.length != key.length {
		return Unknown
	}
	if key.length > 16 && !equalMiddle(buf[start+8:end-8], fieldNames[id][8:]) {
		return Unknown
	}
	return id
}

// equalMiddle compares the bytes that a fieldKey does not hold.
func equalMiddle(middle []byte, name string) bool {
	for i, c := range middle {
		if c|0x20 != name[i]|0x20 {
			return false
		}
	}
	return true
}

// LookupField returns the known field called name, in any case, or Unknown.
func LookupField(name []byte) FieldID {
	if nextControl(name, 0) != len(name) {
		return Unknown
	}
	return lookup(name, 0, len(name))
}
