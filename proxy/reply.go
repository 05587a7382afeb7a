package proxy

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"tickgate/internal/h1"
	"tickgate/internal/reason"
)

// replyError answers a request that ended without a response from elsewhere. The
// body is for people: status, reason and request id.
func (x *Exchange) replyError() {
	status := x.ended.Status()
	if x.ended == reason.BadUpgrade && x.req.UpgradeRequired {
		status = http.StatusUpgradeRequired
	}
	if status == 0 || x.ended == reason.ClientGone {
		x.status = status
		x.keepAlive = false
		return
	}
	s := x.scratch[:0]
	if status == http.StatusServiceUnavailable {
		s = append(s, "Retry-After: "...)
		s = strconv.AppendInt(s, int64(max(1, x.retryIn/time.Second)), 10)
		s = append(s, "\r\n"...)
	}
	if status == http.StatusUpgradeRequired {
		// RFC 6455 section 4.4, RFC 9110 section 15.5.22.
		s = append(s, "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"...)
	}
	if status == http.StatusMethodNotAllowed {
		s = append(s, "Allow: "...)
		s = append(s, strings.Join(x.allow, ", ")...)
		s = append(s, "\r\n"...)
	}
	fields := len(s)
	s = strconv.AppendInt(s, int64(status), 10)
	s = append(append(s, ' '), http.StatusText(status)...)
	s = append(append(s, "\nreason: "...), x.ended.String()...)
	s = append(append(s, "\nrequest id: "...), x.id()...)
	s = append(s, '\n')
	x.scratch = s
	x.reply(status, "text/plain; charset=utf-8", s[:fields], s[fields:])
}

// reply sends an answer of the gateway's own. fields are complete lines, or nil.
func (x *Exchange) reply(status int, contentType string, fields, body []byte) {
	x.status = status
	if !x.c.mayPersist(x.snap) || !x.body.complete {
		x.keepAlive = false
	}
	dst := appendStatusLine(x.out[:0], status, []byte(http.StatusText(status)))
	if x.answers(h1.Date) {
		dst = appendDate(dst, time.Now())
	}
	if hasBody(status) {
		dst = strconv.AppendInt(append(dst, "Content-Length: "...), int64(len(body)), 10)
		dst = append(dst, "\r\n"...)
	}
	if contentType != "" && len(body) > 0 && x.answers(h1.ContentType) {
		dst = append(append(append(dst, "Content-Type: "...), contentType...), "\r\n"...)
	}
	dst = append(dst, fields...)
	if x.rt.resOps != nil {
		dst = x.rt.resOps.append(dst, x)
	}
	dst = append(x.appendConnection(dst), "\r\n"...)
	if hasBody(status) && x.req.MethodID != h1.MethodHead {
		dst = append(dst, body...)
		x.bodyBytes = int64(len(body))
	}
	x.out = dst
	x.flushLast()
}

// hasBody reports whether a response with this status has a body (RFC 9110 section
// 6.4.1).
func hasBody(status int) bool { return status >= 200 && status != 204 && status != 304 }
