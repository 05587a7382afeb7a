//go:build redis

package ticketstore

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tickgate/internal/testkit"
)

func open(t *testing.T, addr string) *Redis {
	t.Helper()
	r, err := Open("redis://"+addr+"/1", "keys", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestSwap(t *testing.T) {
	server := testkit.StartRedis(t)
	a, b := open(t, server.Addr), open(t, server.Addr)
	ctx := context.Background()
	holds := func(step, want string) {
		t.Helper()
		if got, err := b.Load(ctx); err != nil || string(got) != want || (got == nil) != (want == "") {
			t.Errorf("%s: %q, %v, want %q", step, got, err, want)
		}
	}
	swaps := func(step, old, next string, want bool) {
		t.Helper()
		var before []byte
		if old != "" {
			before = []byte(old)
		}
		if got, err := a.Swap(ctx, before, []byte(next), time.Minute); got != want || err != nil {
			t.Errorf("%s: %t, %v, want %t", step, got, err, want)
		}
	}
	holds("1", "")
	swaps("2", "x", "one", false)
	swaps("3", "", "one", true)
	holds("3", "one")
	swaps("4", "", "two", false)
	swaps("5", "two", "three", false)
	swaps("6", "one", "two", true)
	holds("6", "two")
	if ttl, err := a.client.PTTL(ctx, "keys").Result(); err != nil || ttl <= 0 || ttl > time.Minute {
		t.Errorf("forgotten after %v, %v", ttl, err)
	}

	// Many at once: one wins.
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := a
			if i%2 == 0 {
				r = b
			}
			ok, err := r.Swap(ctx, []byte("two"), fmt.Appendf(nil, "of %d", i), time.Minute)
			if err != nil {
				t.Error(err)
			}
			if ok {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != 1 {
		t.Errorf("%d of 20 won, want 1", n)
	}
}

// TestAway bounds every call while the server is gone, and goes on when it is back.
func TestAway(t *testing.T) {
	server := testkit.StartRedis(t)
	r := open(t, server.Addr)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := r.Swap(ctx, nil, []byte("secret"), time.Minute); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	if _, err := r.Load(ctx); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("Load without a server: %v", err)
	}
	if ok, err := r.Swap(ctx, []byte("secret"), []byte("next"), time.Minute); ok || err == nil {
		t.Errorf("Swap without a server: %t, %v", ok, err)
	}
	server.Start()
	// The library tries again once a second after dials that failed.
	for _, err := r.Load(ctx); err != nil; _, err = r.Load(ctx) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("Load from the new server: %v", err)
		}
	}
	ended, end := context.WithCancel(ctx)
	end()
	if _, err := r.Load(ended); err == nil {
		t.Error("Load did not heed its context")
	}
}
