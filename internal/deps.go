package internal

import (
	_ "github.com/VictoriaMetrics/metrics"
	_ "github.com/andybalholm/brotli"
	_ "github.com/cespare/xxhash/v2"
	_ "github.com/fasthttp/router"
	_ "github.com/gobwas/ws"
	_ "github.com/goccy/go-yaml"
	_ "github.com/goccy/go-yaml/ast"
	_ "github.com/goccy/go-yaml/parser"
	_ "github.com/klauspost/compress/gzip"
	_ "github.com/klauspost/compress/zstd"
	_ "github.com/mattn/go-isatty"
	_ "github.com/rs/zerolog"
	_ "github.com/valyala/fasthttp"
	_ "golang.org/x/net/dns/dnsmessage"
	_ "golang.org/x/net/http/httpguts"
	_ "golang.org/x/sys/unix"
)
