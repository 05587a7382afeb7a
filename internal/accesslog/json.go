package accesslog

import (
	"strconv"
	"unsafe"
)

// appendJSON writes the record as one JSON object. The keys are the variables' names, in
// this order. What is text and empty is left out, apart from method, host, path and route.
// Durations are in seconds.
func (f *Format) appendJSON(dst []byte, r *Record) []byte {
	dst = append(dst, `{"time":"`...)
	dst = f.clock.appendISO(dst, r.Time)
	dst = append(dst, `","client_addr":"`...)
	dst = appendAddr(dst, r.ClientAddr.Addr())
	dst = append(dst, `","client_port":`...)
	dst = strconv.AppendUint(dst, uint64(r.ClientAddr.Port()), 10)
	dst = appendText(dst, `,"listener":`, stringBytes(r.Listener))
	dst = appendText(dst, `,"scheme":`, stringBytes(r.Scheme))
	dst = append(dst, `,"method":`...)
	dst = appendJSON(dst, r.Method)
	dst = append(dst, `,"host":`...)
	dst = appendJSON(dst, r.Host)
	dst = append(dst, `,"path":`...)
	dst = appendJSON(dst, r.Path)
	dst = appendText(dst, `,"query":`, r.Query)
	dst = appendText(dst, `,"proto":`, r.Proto)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, `,"reason":"`...)
	dst = append(dst, r.Reason.String()...)
	dst = append(dst, `","bytes_sent":`...)
	dst = strconv.AppendInt(dst, r.BytesSent, 10)
	dst = append(dst, `,"bytes_received":`...)
	dst = strconv.AppendInt(dst, r.BytesReceived, 10)
	dst = append(dst, `,"duration":`...)
	dst = appendSeconds(dst, r.Duration)
	dst = append(dst, `,"upstream_duration":`...)
	dst = appendSeconds(dst, r.UpstreamDuration)
	dst = append(dst, `,"attempts":`...)
	dst = strconv.AppendInt(dst, int64(r.Attempts), 10)
	dst = append(dst, `,"route":`...)
	dst = appendJSON(dst, stringBytes(r.Route))
	dst = appendText(dst, `,"upstream":`, stringBytes(r.Upstream))
	dst = appendText(dst, `,"backend":`, stringBytes(r.Backend))
	dst = appendText(dst, `,"request_id":`, r.RequestID)
	dst = appendText(dst, `,"referer":`, r.Referer)
	dst = appendText(dst, `,"user_agent":`, r.UserAgent)
	dst = appendText(dst, `,"tls_version":`, stringBytes(r.TLSVersion))
	dst = appendText(dst, `,"tls_cipher":`, stringBytes(r.TLSCipher))
	dst = appendText(dst, `,"tls_server_name":`, stringBytes(r.TLSServerName))
	dst = appendText(dst, `,"tls_ja4":`, stringBytes(r.TLSJA4))
	if c := r.TLSClient; c != nil {
		dst = append(dst, `,"tls_client_verified":"yes"`...)
		dst = appendText(dst, `,"tls_client_subject":`, stringBytes(c.Subject))
		dst = appendText(dst, `,"tls_client_issuer":`, stringBytes(c.Issuer))
		dst = appendText(dst, `,"tls_client_san":`, stringBytes(c.SAN))
		dst = appendText(dst, `,"tls_client_spiffe":`, stringBytes(c.SPIFFE))
		dst = appendText(dst, `,"tls_client_fingerprint":`, stringBytes(c.Fingerprint))
		dst = appendText(dst, `,"tls_client_serial":`, stringBytes(c.Serial))
	}
	return append(dst, '}')
}

// appendText appends a key and its value, or nothing if the value is empty.
func appendText(dst []byte, key string, value []byte) []byte {
	if len(value) == 0 {
		return dst
	}
	return appendJSON(append(dst, key...), value)
}

// stringBytes returns the bytes of s without a copy. They must not be changed.
func stringBytes(s string) []byte {
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
