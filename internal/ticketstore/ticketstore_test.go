package ticketstore

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestOpenFails(t *testing.T) {
	f := func(url string) {
		t.Helper()
		if _, err := Open(url, "k", time.Second); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", url, err)
		}
	}
	f("http://:hunter2@127.0.0.1")
	f("redis://:hunter2@[::1")
	f("redis://:hunter2@127.0.0.1/hunter2")
}

// A server that accepts and says nothing costs no more than the context allows.
func TestSilentServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	r, err := Open("redis://:hunter2@"+ln.Addr().String(), "k", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := r.Load(ctx); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	if d := time.Since(begin); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
}
