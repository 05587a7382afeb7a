package baseline

import (
	"bytes"
	"context"
	"net"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// ServeBackend answers every request on ln with 200 and size bytes of text until
// ctx ends. It is as cheap as a backend in Go gets, so that a comparison on few
// processors measures the gateways. /status/{code} answers with that status, and
// request bodies are taken and ignored.
func ServeBackend(ctx context.Context, ln net.Listener, size int) error {
	body := bytes.Repeat([]byte("x"), size)
	server := &fasthttp.Server{
		Handler: func(rc *fasthttp.RequestCtx) {
			if code, ok := bytes.CutPrefix(rc.Path(), []byte("/status/")); ok {
				if n, err := strconv.Atoi(string(code)); err == nil && n >= 200 && n <= 599 {
					rc.SetStatusCode(n)
				}
			}
			rc.SetContentType("text/plain")
			rc.Response.SetBodyRaw(body)
		},
		Name:               "backend",
		IdleTimeout:        5 * time.Minute,
		CloseOnShutdown:    true,
		MaxRequestBodySize: 64 << 20,
	}
	return serve(ctx, ln, server.Serve, server.ShutdownWithContext)
}
