package accesslog

import (
	"bytes"
	"encoding/base64"
	"net/netip"
	"strconv"
)

// variable is one ${name} of a template.
type variable uint8

const (
	varNone variable = iota // the end of a template, or $$
	varAttempts
	varBackend
	varBytesReceived
	varBytesSent
	varClientAddr
	varClientPort
	varCookie
	varDuration
	varHeader
	varHost
	varListener
	varMethod
	varPath
	varProto
	varQuery
	varReason
	varReferer
	varRemoteUser
	varRequest
	varRequestID
	varRoute
	varScheme
	varStatus
	varTimeISO8601
	varTimeLocal
	varTLSCipher
	varTLSClientFingerprint
	varTLSClientIssuer
	varTLSClientSAN
	varTLSClientSerial
	varTLSClientSPIFFE
	varTLSClientSubject
	varTLSClientVerified
	varTLSJA4
	varTLSServerName
	varTLSVersion
	varUpstream
	varUpstreamDuration
	varURI
	varUserAgent
)

// variables holds those without an argument.
var variables = map[string]variable{
	"attempts":               varAttempts,
	"backend":                varBackend,
	"bytes_received":         varBytesReceived,
	"bytes_sent":             varBytesSent,
	"client_addr":            varClientAddr,
	"client_port":            varClientPort,
	"duration":               varDuration,
	"host":                   varHost,
	"listener":               varListener,
	"method":                 varMethod,
	"path":                   varPath,
	"proto":                  varProto,
	"query":                  varQuery,
	"reason":                 varReason,
	"referer":                varReferer,
	"remote_user":            varRemoteUser,
	"request":                varRequest,
	"request_id":             varRequestID,
	"route":                  varRoute,
	"scheme":                 varScheme,
	"status":                 varStatus,
	"time_iso8601":           varTimeISO8601,
	"time_local":             varTimeLocal,
	"tls_cipher":             varTLSCipher,
	"tls_client_fingerprint": varTLSClientFingerprint,
	"tls_client_issuer":      varTLSClientIssuer,
	"tls_client_san":         varTLSClientSAN,
	"tls_client_serial":      varTLSClientSerial,
	"tls_client_spiffe":      varTLSClientSPIFFE,
	"tls_client_subject":     varTLSClientSubject,
	"tls_client_verified":    varTLSClientVerified,
	"tls_ja4":                varTLSJA4,
	"tls_server_name":        varTLSServerName,
	"tls_version":            varTLSVersion,
	"upstream":               varUpstream,
	"upstream_duration":      varUpstreamDuration,
	"uri":                    varURI,
	"user_agent":             varUserAgent,
}

func (f *Format) appendVariable(dst []byte, p *part, r *Record) []byte {
	switch p.variable {
	case varNone:
		return dst
	case varTimeISO8601:
		return f.clock.appendISO(dst, r.Time)
	case varTimeLocal:
		return f.clock.appendLocal(dst, r.Time)
	case varAttempts, varBytesReceived, varBytesSent, varClientPort, varDuration, varStatus, varUpstreamDuration:
		return appendNumber(dst, p.variable, r)
	case varBackend, varListener, varReason, varRoute, varScheme, varTLSCipher, varTLSJA4, varTLSServerName, varTLSVersion, varUpstream,
		varTLSClientFingerprint, varTLSClientIssuer, varTLSClientSAN, varTLSClientSerial, varTLSClientSPIFFE, varTLSClientSubject, varTLSClientVerified:
		return appendWord(dst, p.variable, r)
	case varClientAddr:
		return appendAddr(dst, r.ClientAddr.Addr())
	case varRemoteUser:
		return appendRemoteUser(dst, r)
	case varRequest:
		return appendRequest(dst, r)
	case varURI:
		return appendURI(dst, r)
	case varHeader:
		return appendNginx(dst, r.header(p.arg))
	case varCookie:
		return appendNginx(dst, cookie(r.header(cookieField), p.arg))
	}
	return appendNginx(dst, clientText(p.variable, r))
}

// clientText returns a value that the client sent.
func clientText(v variable, r *Record) []byte {
	switch v {
	case varHost:
		return r.Host
	case varMethod:
		return r.Method
	case varPath:
		return r.Path
	case varProto:
		return r.Proto
	case varQuery:
		return r.Query
	case varReferer:
		return r.Referer
	case varRequestID:
		return r.RequestID
	case varUserAgent:
		return r.UserAgent
	}
	return nil
}

func appendNumber(dst []byte, v variable, r *Record) []byte {
	switch v {
	case varAttempts:
		return strconv.AppendInt(dst, int64(r.Attempts), 10)
	case varBytesReceived:
		return strconv.AppendInt(dst, r.BytesReceived, 10)
	case varBytesSent:
		return strconv.AppendInt(dst, r.BytesSent, 10)
	case varClientPort:
		return strconv.AppendUint(dst, uint64(r.ClientAddr.Port()), 10)
	case varDuration:
		return appendSeconds(dst, r.Duration)
	case varStatus:
		return appendStatus(dst, r.Status)
	case varUpstreamDuration:
		return appendSeconds(dst, r.UpstreamDuration)
	}
	return dst
}

// appendStatus writes three digits, as nginx does: 000 is a request without a response.
func appendStatus(dst []byte, status int) []byte {
	return appendPadded(dst, uint64(max(status, 0)), 3)
}

func appendWord(dst []byte, v variable, r *Record) []byte {
	word := ""
	switch v {
	case varBackend:
		word = r.Backend
	case varListener:
		word = r.Listener
	case varReason:
		word = r.Reason.String()
	case varRoute:
		word = r.Route
	case varScheme:
		word = r.Scheme
	case varTLSCipher:
		word = r.TLSCipher
	case varTLSClientFingerprint:
		word = r.tlsClient().Fingerprint
	case varTLSClientIssuer:
		word = r.tlsClient().Issuer
	case varTLSClientSAN:
		word = r.tlsClient().SAN
	case varTLSClientSerial:
		word = r.tlsClient().Serial
	case varTLSClientSPIFFE:
		word = r.tlsClient().SPIFFE
	case varTLSClientSubject:
		word = r.tlsClient().Subject
	case varTLSClientVerified:
		word = r.verified()
	case varTLSJA4:
		word = r.TLSJA4
	case varTLSServerName:
		word = r.TLSServerName
	case varTLSVersion:
		word = r.TLSVersion
	case varUpstream:
		word = r.Upstream
	}
	return appendNginx(dst, stringBytes(word))
}

// appendAddr appends an address; IPv4 in IPv6 is written as IPv4, and no address is a
// Unix socket.
func appendAddr(dst []byte, a netip.Addr) []byte {
	if !a.IsValid() {
		return append(dst, "unix"...)
	}
	return a.Unmap().AppendTo(dst)
}

// appendRequest appends the request line, or "-" if none was understood.
func appendRequest(dst []byte, r *Record) []byte {
	if len(r.Method) == 0 {
		return append(dst, '-')
	}
	dst = append(appendNginx(dst, r.Method), ' ')
	dst = append(appendURI(dst, r), ' ')
	return appendNginx(dst, r.Proto)
}

// appendURI appends the target as sent, or what stands for it.
func appendURI(dst []byte, r *Record) []byte {
	if len(r.Target) > 0 {
		return appendNginx(dst, r.Target)
	}
	dst = appendNginx(dst, r.Path)
	if len(r.Query) > 0 {
		dst = appendNginx(append(dst, '?'), r.Query)
	}
	return dst
}

var (
	cookieField        = []byte("Cookie")
	authorizationField = []byte("Authorization")
	basicScheme        = []byte("Basic ")
)

func (r *Record) header(name []byte) []byte {
	if r.Header == nil {
		return nil
	}
	return r.Header(name)
}

// cookie returns the value of the first cookie called name in a Cookie field (RFC 6265
// section 5.4), or nil.
func cookie(field, name []byte) []byte {
	for len(field) > 0 {
		pair, rest, _ := bytes.Cut(field, []byte(";"))
		key, value, ok := bytes.Cut(bytes.TrimSpace(pair), []byte("="))
		if ok && bytes.Equal(key, name) {
			return value
		}
		field = rest
	}
	return nil
}

// maxCredentials is as many characters of Basic credentials as are looked at for the
// user's name. It is a multiple of 4.
const maxCredentials = 512

// appendRemoteUser appends the user of Basic credentials (RFC 7617), whether they are
// right or not, or "-". The password is never written.
func appendRemoteUser(dst []byte, r *Record) []byte {
	field := r.header(authorizationField)
	if len(field) <= len(basicScheme) || !bytes.EqualFold(field[:len(basicScheme)], basicScheme) {
		return append(dst, '-')
	}
	coded := bytes.TrimRight(bytes.TrimLeft(field[len(basicScheme):], " "), "=")
	coded = coded[:min(len(coded), maxCredentials)]
	var plain [maxCredentials]byte
	n, err := base64.RawStdEncoding.Decode(plain[:], coded)
	if err != nil {
		return append(dst, '-')
	}
	colon := bytes.IndexByte(plain[:n], ':')
	if colon < 0 {
		// Do not write it all, since it may be a password.
		return append(dst, '-')
	}
	return appendNginx(dst, plain[:colon])
}
