package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"tickgate/internal/testcert"
	"tickgate/internal/testkit"
)

func TestRun(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	echo := testkit.NewEchoWS(t)
	failing := testkit.NewScript(t, testkit.Respond("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")...)
	secure := tlsServer(t)
	hdr := filepath.Join(t.TempDir(), "hdr")
	// f compares the exit code and looks for a text in both outputs together.
	f := func(args string, wantCode int, want string) {
		t.Helper()
		var out strings.Builder
		if code := run(t.Context(), strings.Fields(args), &out, &out); code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d %q, want %d with %q", args, code, out.String(), wantCode, want)
		}
	}
	f("", exitUsage, "usage:")
	f("help", exitOK, "baseline")
	f("version", exitOK, "tickload dev go")
	f("nonsense", exitUsage, `no command "nonsense"`)
	f("baseline -h", exitOK, "-backend")
	f("baseline", exitUsage, "-c or -backend is required")
	f("baseline -c none.yaml", exitFailed, "none.yaml: cannot read")
	f("baseline -backend a:1 -tls-cert x", exitUsage, "go together")
	f("baseline -backend a:1 more", exitUsage, `unexpected argument "more"`)
	f("baseline -backend https://a:1 -listen 127.0.0.1:0", exitFailed, "no http:// URL")
	f("baseline -backend a:1 -listen 256.0.0.1:1", exitFailed, "listen")
	f("backend -size -1", exitUsage, "-size is -1")
	f("backend -tls-cert x", exitUsage, "go together")
	f("backend -listen 127.0.0.1:0 -tls-cert x -tls-key y", exitFailed, "certificate: open x")
	f("backend -nonsense", exitUsage, "not defined")
	f("hold", exitUsage, "-url is required")
	f("hold -conns 0 -url http://a", exitFailed, "0 connections")
	f("hold -conns 3 -hold 1ms -again -url http://"+backend.Addr(), exitOK, `"answered_again": 3`)
	f("hold -conns 1 -hold 1ms -quiet -url http://"+failing.Addr(), exitFailed, "status 503")
	f("ws", exitUsage, "-url is required")
	f("ws -url ws://a -mode talk", exitFailed, `mode "talk"`)
	f("ws -quiet -tunnels 2 -duration 50ms -json -url ws://"+echo.Addr(), exitOK, `"unanswered": 0`)
	f("ws -tunnels 2 -duration 50ms -url ws://"+echo.Addr(), exitOK, "traffic ended: 2 tunnels are open")
	f("ws -tunnels 1 -duration 50ms -url ws://"+failing.Addr(), exitFailed, "503: 1")
	f("ws -tunnels 1 -duration 50ms -strict=false -url ws://"+failing.Addr(), exitOK, "503: 1")
	f("ws -h", exitOK, "examples:")
	f("ws -header a -url ws://a", exitUsage, "Name: value")
	f("ws -url ws://a -backoff-min 2s -backoff-max 1s", exitFailed, "pauses from 2s to 1s")
	f("ws -quiet -tunnels 2 -duration 50ms -reconnect -header X-A:b -subprotocols v1,v2 -hdr "+hdr+" -url ws://"+echo.Addr(), exitOK, "0 still away")
	f("ws-backend -fan-out -mode ticks", exitUsage, "exclude each other")
	f("ws-backend -mode talk", exitUsage, `-mode is "talk"`)
	f("ws-backend -mode ticks -messages 0", exitUsage, "more than 0")
	f("ws-backend -mode ticks -size 1", exitFailed, "messages of 1 bytes")
	f("churn", exitUsage, "-url or -ws-url is required")
	f("churn -url http://a -clients 0", exitFailed, "0 clients")
	f("churn -clients 10 -longest 1ms -duration 1500ms -quiet -json -ws-url ws://"+echo.Addr(), exitOK, `"tunnel_drop"`)
	f("tls", exitUsage, "-url or -addr is required")
	f("tls -h", exitOK, "examples:")
	f("tls -addr a:1 -groups x448", exitUsage, `group "x448"`)
	f("tls -addr a:1 -versions 1.4", exitUsage, `versions "1.4"`)
	f("tls -addr a:1 -ca /nonexistent", exitFailed, "no such file")
	f("tls -addr a:1 -conns 0", exitFailed, "0 connections")
	f("tls -quiet -duration 50ms -addr "+failing.Addr(), exitFailed, "connections failed")
	f("tls -strict=false -duration 50ms -json -addr "+failing.Addr(), exitOK, `"closed_early": `)
	f("tls -strict=false -conns 1 -duration 1s -insecure -resume 100 -hdr "+hdr+" -url https://"+secure, exitOK, "resumed      TLS 1.3")
	if text, err := os.ReadFile(hdr); err != nil || !strings.HasPrefix(string(text), "HIST") {
		t.Errorf("%q, %v", text, err)
	}
	f("http", exitUsage, "-url is required")
	f("http -conns 0 -url http://a", exitFailed, "0 connections")
	f("http -strict=false -rate 100 -duration 50ms -url http://"+backend.Addr(), exitOK, "5 ok, 0 failed")
	f("http -strict=false -rate 20 -duration 50ms -json -url http://"+failing.Addr(), exitOK, `"503": 1`)
	f("http -h", exitOK, "examples:")
	f("http -rate 5 -ramp 1-2 -url http://a", exitUsage, "excludes -ramp")
	f("http -ramp 1 -url http://a", exitUsage, `-ramp is "1"`)
	f("http -rate 5 -duration 0 -url http://a", exitUsage, "need a -duration")
	f("http -body-size 1GiB -url http://a", exitUsage, `-body-size is "1GiB"`)
	f("http -header a -url http://a", exitUsage, "Name: value")
	f("http -scenario nothing.yaml", exitUsage, "nothing.yaml")
	f("http -scenario testdata/mix.yaml -path /x", exitUsage, "does not go with -scenario")
	f("http -scenario testdata/mix.yaml", exitUsage, "-url is required")
	f("http -strict=false -scenario testdata/mix.yaml -url http://"+backend.Addr(), exitOK, "20 ok, 0 failed")
	f("http -strict=false -ramp 0-800 -duration 50ms -method PUT -body-size 1KiB -url http://"+backend.Addr(), exitOK, "20 ok, 0 failed")
	f("http -strict=false -conns 1 -duration 50ms -hdr "+filepath.Join(t.TempDir(), "a.hdr")+" -url http://"+backend.Addr(), exitOK, "ok/s")
	f("steady", exitUsage, "-url is required")
	f("steady -url ftp://a", exitFailed, "no http:// or https:// URL")
	f("steady -conns 2 -duration 20ms -url http://"+backend.Addr(), exitOK, `"unanswered": 0`)
	f("steady -conns 1 -duration 20ms -url http://"+failing.Addr(), exitFailed, "requests failed: status 503")
}

// tlsServer performs handshakes until the test ends.
func tlsServer(t *testing.T) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", testcert.New(t).ServerTLS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, conn); _ = conn.Close() }()
		}
	}()
	return ln.Addr().String()
}

func TestServersUntilSignal(t *testing.T) {
	backend := testkit.NewRecorder(t, nil)
	pair := testcert.New(t, "localhost")
	certFile, keyFile := pair.Files(t)
	f := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, w := io.Pipe()
		code := make(chan int, 1)
		go func() { code <- run(ctx, args, w, io.Discard) }()
		line, err := bufio.NewReader(r).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		addr := line[strings.LastIndexByte(line, ' ')+1 : len(line)-1]
		dial := testkit.Dial
		if slices.Contains(args, "-tls-cert") {
			dial = func(t testing.TB, addr string) *testkit.Client {
				return testkit.DialTLS(t, addr, pair.ClientTLS("localhost"))
			}
		}
		if resp := dial(t, addr).Do("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); resp.Status != 200 {
			t.Errorf("%q: status %d", args, resp.Status)
		}
		cancel()
		if got := <-code; got != exitOK {
			t.Errorf("%q: exit code %d", args, got)
		}
	}
	f("baseline", "-listen", "127.0.0.1:0", "-backend", backend.Addr())
	f("backend", "-listen", "127.0.0.1:0", "-size", "10", "-delay", "1ms")
	f("backend", "-listen", "127.0.0.1:0", "-tls-cert", certFile, "-tls-key", keyFile)
}
