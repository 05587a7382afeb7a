package listen

import (
	"io"
	"net"
	"testing"
	"time"

	"tickgate/config"
)

// BenchmarkAccept compares a socket of this package with one of package net that
// sets the same options on each connection. Count the system calls with strace -f -c.
func BenchmarkAccept(b *testing.B) {
	run := func(b *testing.B, ln net.Listener, tune func(net.Conn)) {
		b.ReportAllocs()
		for b.Loop() {
			client, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			conn, err := ln.Accept()
			if err != nil {
				b.Fatal(err)
			}
			tune(conn)
			_ = conn.Close()
			if n, err := io.Copy(io.Discard, client); n != 0 || err != nil {
				b.Fatalf("client read %d bytes, %v", n, err)
			}
			_ = client.Close()
		}
	}
	b.Run("inherited", func(b *testing.B) {
		lns, err := Open(&config.Listener{
			Listen: "127.0.0.1:0", Acceptors: 1, Backlog: 128, KeepAlive: time.Minute, UserTimeout: 30 * time.Second,
		})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = lns[0].Close() }()
		run(b, lns[0], func(net.Conn) {})
	})
	b.Run("per_connection", func(b *testing.B) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		run(b, ln, func(c net.Conn) {
			err := c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Minute})
			if err != nil {
				b.Fatal(err)
			}
		})
	})
}
