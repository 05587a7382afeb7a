package config

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// variable is one name that templates know, with its line in the reference.
type variable struct {
	name string
	doc  string
}

// requestVariables are known wherever templates are: header operations, redirects,
// rewrites and static bodies. docs/config.md prints this table.
var requestVariables = []variable{
	{"client_addr", "Address of the client, or what a trusted proxy said it is."},
	{"client_port", "Port of the client."},
	{"host", "Host of the request, in lower case, without port."},
	{"scheme", "http or https."},
	{"method", "Request method."},
	{"path", "Path as the client sent it."},
	{"query", "Query as the client sent it, without the question mark."},
	{"uri", "Path and query as the client sent them."},
	{"request_id", "Request id (see forwarding.request_id_header)."},
	{"route", "Name of the route."},
	{"upstream", "Name of the upstream; empty if the route has none."},
	{"backend", "Address of the backend of the last attempt; empty before one is picked."},
	{"listener", "Address of the listener."},
	{"tls_version", "TLS version, such as TLSv1.3; empty without TLS."},
	{"tls_cipher", "Cipher suite; empty without TLS."},
	{"tls_server_name", "Server name that the client asked for (SNI); empty without TLS."},
	{"tls_ja4", "JA4 fingerprint of the client; empty without TLS, and unless the listener has `tls.ja4`."},
	{"tls_client_verified", "yes if the client proved an identity by its certificate, no otherwise."},
	{"tls_client_subject", "Subject of the client's verified certificate (RFC 4514), such as CN=feed,O=Acme; empty without one, like all that follow. What is not printable ASCII is written as \\XX."},
	{"tls_client_issuer", "Its issuer, in the same form."},
	{"tls_client_san", "Its alternative names: DNS:a.example,URI:spiffe://example.org/a,IP:192.0.2.1,email:a@example."},
	{"tls_client_spiffe", "Its SPIFFE ID, if it is an X.509-SVID."},
	{"tls_client_fingerprint", "SHA-256 of the certificate, in hexadecimal."},
	{"tls_client_serial", "Its serial number, in hexadecimal."},
}

// logVariables are known to log.access.format as well.
var logVariables = []variable{
	{"status", "Status code of the response."},
	{"bytes_sent", "Bytes sent to the client."},
	{"bytes_received", "Bytes received from the client."},
	{"duration", "Seconds from the first byte of the request to the end of the response."},
	{"upstream_duration", "Seconds spent on backends, over all attempts."},
	{"reason", "How the request ended."},
	{"attempts", "Number of attempts."},
	{"time_iso8601", "Local time: 2006-01-02T15:04:05+00:00."},
	{"time_local", "Local time as nginx writes it: 02/Jan/2006:15:04:05 +0000."},
	{"proto", "Protocol of the request: HTTP/1.1."},
	{"request", "Request line: method, target and protocol."},
	{"remote_user", "User name of HTTP Basic authentication, as the client claims it."},
	{"referer", "The Referer field."},
	{"user_agent", "The User-Agent field."},
}

// KnownVariables lists the ${names} that every template knows, in the order of
// the reference. ${header:NAME}, ${cookie:NAME} and captures come on top.
var KnownVariables = names(requestVariables)

// KnownLogVariables lists the ${names} that log.access.format knows on top of
// KnownVariables.
var KnownLogVariables = names(logVariables)

func names(vars []variable) []string {
	out := make([]string, len(vars))
	for i, v := range vars {
		out[i] = v.name
	}
	return out
}

// PartKind says what one part of a template stands for.
type PartKind uint8

const (
	// Literal is text that stands for itself.
	Literal PartKind = iota
	// Variable is one of KnownVariables or KnownLogVariables.
	Variable
	// RequestHeader is ${header:NAME}, the request's field of that name.
	RequestHeader
	// RequestCookie is ${cookie:NAME}.
	RequestCookie
	// Capture is $1 … $9 or ${10} … (Index is set), or ${name} of a named group of path_regex (Index is 0).
	Capture
)

// TemplatePart is one piece of a parsed template.
type TemplatePart struct {
	Kind PartKind
	// Text is the literal text, or the name of the variable, header, cookie or group.
	Text string
	// Index is the number of a capture written $1 … $9 or ${10}.
	Index int
}

// ParseTemplate splits a template into literals, variables and captures. A ${name}
// that is no known variable is a Capture; whether such a group exists is for
// CheckTemplate. Syntax: ${name}, ${header:NAME}, ${cookie:NAME}, $1 … $9, ${10}, and $$
// for a dollar sign. A dollar sign before anything but a letter, "_" or one of
// these stands for itself.
func ParseTemplate(s string) ([]TemplatePart, error) {
	var parts []TemplatePart
	var lit strings.Builder
	flush := func() {
		if lit.Len() > 0 {
			parts = append(parts, TemplatePart{Kind: Literal, Text: lit.String()})
			lit.Reset()
		}
	}
	for s != "" {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			lit.WriteString(s)
			break
		}
		lit.WriteString(s[:i])
		s = s[i:]
		switch c := s[1]; {
		case c == '$':
			lit.WriteByte('$')
			s = s[2:]
		case c >= '1' && c <= '9':
			flush()
			parts = append(parts, TemplatePart{Kind: Capture, Index: int(c - '0')})
			s = s[2:]
		case c == '{':
			inside, rest, closed := strings.Cut(s[2:], "}")
			if !closed {
				return nil, fmt.Errorf("%q is not closed with }", clip(s))
			}
			part, err := parseVariable(inside)
			if err != nil {
				return nil, err
			}
			flush()
			parts = append(parts, part)
			s = rest
		case isNameByte(c):
			// Do not take this for text: who comes from nginx writes $host.
			name := s[1:]
			name = name[:len(name)-len(strings.TrimLeftFunc(name, isNameRune))]
			return nil, fmt.Errorf("$%s is not a variable (write ${%s}, or $$ for a dollar sign)", name, name)
		default:
			lit.WriteByte('$')
			s = s[1:]
		}
	}
	flush()
	return parts, nil
}

// parseVariable reads what stands between ${ and }.
func parseVariable(inside string) (TemplatePart, error) {
	if scheme, name, ok := strings.Cut(inside, ":"); ok {
		switch {
		case scheme == "header" && isToken(name):
			return TemplatePart{Kind: RequestHeader, Text: name}, nil
		case scheme == "cookie" && isToken(name):
			return TemplatePart{Kind: RequestCookie, Text: name}, nil
		case scheme == "header" || scheme == "cookie":
			return TemplatePart{}, fmt.Errorf("${%s}: %q is not a %s name", inside, name, scheme)
		}
		return TemplatePart{}, fmt.Errorf("unknown variable ${%s} (want ${header:NAME} or ${cookie:NAME})", inside)
	}
	if n, err := strconv.Atoi(inside); err == nil && n > 0 && inside[0] != '+' {
		return TemplatePart{Kind: Capture, Index: n}, nil
	}
	if inside == "" || inside == "0" || strings.TrimLeftFunc(inside, isNameRune) != "" {
		return TemplatePart{}, fmt.Errorf("${%s} is not a variable name", clip(inside))
	}
	if slices.Contains(KnownVariables, inside) || slices.Contains(KnownLogVariables, inside) {
		return TemplatePart{Kind: Variable, Text: inside}, nil
	}
	return TemplatePart{Kind: Capture, Text: inside}, nil
}

// CheckTemplate returns an error if s is malformed, or names a variable that is
// unknown or a capture that groups does not hold. groups is what SubexpNames of
// the route's path_regex returns, and empty for a route without one.
func CheckTemplate(s string, groups ...string) error {
	return checkTemplate(s, KnownVariables, groups)
}

// CheckLogFormat is CheckTemplate for log.access.format: it knows the variables of
// KnownLogVariables too, but no captures, and wants every dollar sign of its own
// doubled. A line must stay a line, so control characters are errors.
func CheckLogFormat(s string) error {
	if i := strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }); i >= 0 {
		return fmt.Errorf("holds the control character %q", s[i])
	}
	if strings.Count(strings.ReplaceAll(s, "$$", ""), "$") > strings.Count(strings.ReplaceAll(s, "$$", ""), "${") {
		return fmt.Errorf("holds a $ without a name (write ${name}, or $$ for a dollar sign)")
	}
	return checkTemplate(s, append(slices.Clone(KnownVariables), KnownLogVariables...), nil)
}

func checkTemplate(s string, known, groups []string) error {
	parts, err := ParseTemplate(s)
	if err != nil {
		return err
	}
	for _, p := range parts {
		switch {
		case p.Kind == Variable && !slices.Contains(known, p.Text):
			return fmt.Errorf("${%s} is known to log.access.format only", p.Text)
		case p.Kind == Capture && p.Index > 0 && p.Index >= len(groups):
			return fmt.Errorf("$%d: %s", p.Index, countGroups(len(groups)-1))
		case p.Kind == Capture && p.Index == 0 && !slices.Contains(groups, p.Text):
			return fmt.Errorf("unknown variable ${%s}%s", p.Text, didYouMean(p.Text, append(slices.Clone(known), groups...)))
		}
	}
	return nil
}

func countGroups(n int) string {
	switch {
	case n < 0:
		return "there is no path_regex to capture from"
	case n == 0:
		return "path_regex has no group"
	case n == 1:
		return "path_regex has only 1 group"
	}
	return "path_regex has only " + strconv.Itoa(n) + " groups"
}

func isNameByte(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func isNameRune(r rune) bool { return r < 0x80 && isNameByte(byte(r)) }

// isToken reports whether s is a token (RFC 9110 section 5.6.2): what methods,
// field names and cookie names are made of.
func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isNameByte(c) && strings.IndexByte("!#$%&'*+-.^`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}
