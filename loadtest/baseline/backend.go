package baseline

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// maxRest is the most of an unread request body that the backend takes before it
// closes the connection instead.
const maxRest = 1 << 20

// ServeBackend answers every request on ln with 200 and size bytes of text, after
// delay, until ctx ends. It is as cheap as a backend in Go gets, so that a comparison on few
// processors measures the gateways. Some paths answer otherwise, in bounded memory:
//
//	/status/{code}  with that status
//	/bytes/{n}      with n bytes, with ?chunked in chunks
//	/count          with the number of bytes in the request body
func ServeBackend(ctx context.Context, ln net.Listener, size int, delay time.Duration) error {
	b := &backend{body: bytes.Repeat([]byte("x"), size), delay: delay}
	server := &fasthttp.Server{
		Handler:            b.serve,
		Name:               "backend",
		IdleTimeout:        5 * time.Minute,
		CloseOnShutdown:    true,
		StreamRequestBody:  true,
		MaxRequestBodySize: 1 << 20, // what is read before the handler runs
	}
	return serve(ctx, ln, server.Serve, server.ShutdownWithContext)
}

// backend answers requests. Its fields do not change.
type backend struct {
	body  []byte
	delay time.Duration
}

func (b *backend) serve(rc *fasthttp.RequestCtx) {
	if b.delay > 0 {
		time.Sleep(b.delay)
	}
	rc.SetContentType("text/plain")
	path := rc.Path()
	switch {
	case string(path) == "/count":
		serveCount(rc)
		return
	case bytes.HasPrefix(path, []byte("/bytes/")):
		serveBytes(rc, string(path[len("/bytes/"):]))
	case bytes.HasPrefix(path, []byte("/status/")):
		if code, err := strconv.Atoi(string(path[len("/status/"):])); err == nil && code >= 200 && code <= 599 {
			rc.SetStatusCode(code)
		}
		rc.Response.SetBodyRaw(b.body)
	default:
		rc.Response.SetBodyRaw(b.body)
	}
	takeRest(rc)
}

// takeRest reads what is left of the request body, which fasthttp would take for
// the next request, or closes the connection if that is much.
func takeRest(rc *fasthttp.RequestCtx) {
	stream := rc.RequestBodyStream()
	if stream == nil {
		return
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(stream, maxRest+1)); err != nil || n > maxRest {
		rc.SetConnectionClose()
	}
}

func serveCount(rc *fasthttp.RequestCtx) {
	var n int64
	if stream := rc.RequestBodyStream(); stream != nil {
		var err error
		if n, err = io.Copy(io.Discard, stream); err != nil {
			rc.SetConnectionClose()
			rc.SetStatusCode(fasthttp.StatusBadRequest)
		}
	}
	fmt.Fprintf(rc, "%d\n", n)
}

func serveBytes(rc *fasthttp.RequestCtx, digits string) {
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		rc.SetStatusCode(fasthttp.StatusBadRequest)
		return
	}
	size := int(n)
	if rc.QueryArgs().Has("chunked") {
		size = -1
	}
	rc.SetBodyStream(io.LimitReader(zeros{}, n), size)
}

// zeros is an endless stream of zero bytes.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
