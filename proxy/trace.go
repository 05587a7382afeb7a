package proxy

import (
	"math/rand/v2"

	"tickgate/internal/h1"
)

// traceMode is what becomes of the W3C trace context.
type traceMode uint8

const (
	tracePass traceMode = iota
	traceExtend
	traceOff
)

func traceModeOf(s string) traceMode {
	switch s {
	case "extend":
		return traceExtend
	case "off":
		return traceOff
	}
	return tracePass
}

const traceparentLen = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")

// appendTrace appends a traceparent in which this hop is the parent: the client's
// trace goes on if it sent a valid one, a new one begins otherwise (W3C Trace
// Context, section 3.2 and 4.3). tracestate is passed only with its trace (copyFields).
func (x *Exchange) appendTrace(dst []byte) []byte {
	dst = append(dst, "traceparent: 00-"...)
	if x.hasTrace() {
		p := x.req.Get(h1.Traceparent)
		dst = append(dst, p[3:36]...)
		dst = appendHex64(dst, nonZero())
		dst = append(append(dst, '-'), p[53:55]...)
	} else {
		dst = appendHex128(dst, rand.Uint64(), nonZero())
		dst = appendHex64(append(dst, '-'), nonZero())
		dst = append(dst, "-00"...)
	}
	return append(dst, "\r\n"...)
}

// hasTrace reports whether the client sent one valid traceparent; of several, none
// can be preferred.
func (x *Exchange) hasTrace() bool {
	return !x.req.Repeated(h1.Traceparent) && validTraceparent(x.req.Get(h1.Traceparent))
}

var traceState = h1.FieldsOf(h1.Tracestate)

// nonZero returns random bits: an all-zero id is invalid.
func nonZero() uint64 { return rand.Uint64() | 1 }

// validTraceparent checks version 00's form; a higher version may have more behind it.
func validTraceparent(p []byte) bool {
	if len(p) < traceparentLen || len(p) > traceparentLen && (p[traceparentLen] != '-' || string(p[:2]) == "00") {
		return false
	}
	trace, span := false, false
	for i, c := range p[:traceparentLen] {
		switch {
		case i == 2 || i == 35 || i == 52:
			if c != '-' {
				return false
			}
		case c >= '0' && c <= '9' || c >= 'a' && c <= 'f':
			trace = trace || i > 2 && i < 35 && c != '0'
			span = span || i > 35 && i < 52 && c != '0'
		default:
			return false
		}
	}
	return trace && span && string(p[:2]) != "ff"
}
