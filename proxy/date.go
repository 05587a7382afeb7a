package proxy

import (
	"net/http"
	"sync/atomic"
	"time"
)

// dateLine is a Date field for one second. It is replaced when another second is
// asked for, so making it costs an allocation a second.
type dateLine struct {
	second int64
	text   string
}

var currentDate atomic.Pointer[dateLine]

// appendDate appends "Date: …" with its line end. Answers of the gateway's own carry
// it, and responses whose backend left it out (RFC 9110 section 6.6.1).
func appendDate(dst []byte, now time.Time) []byte {
	d := currentDate.Load()
	if s := now.Unix(); d == nil || d.second != s {
		d = &dateLine{s, "Date: " + now.UTC().Format(http.TimeFormat) + "\r\n"}
		currentDate.Store(d)
	}
	return append(dst, d.text...)
}
