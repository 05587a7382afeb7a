package testkit

import (
	"context"
	"io"
	"net"
	"os/exec"
	"testing"
	"time"
)

// Redis is a real redis-server without persistence, which a test may stop and start.
type Redis struct {
	t    testing.TB
	dir  string
	Addr string
	cmd  *exec.Cmd
}

// StartRedis starts redis-server on a free port; it is stopped when the test ends. Tests that use it
// have the build tag redis, as `make test-redis` installs the server.
func StartRedis(t testing.TB) *Redis {
	t.Helper()
	r := &Redis{t: t, dir: t.TempDir(), Addr: FreeAddr(t)}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// Start starts it, empty, on the address that it had, and waits until it answers.
func (r *Redis) Start() {
	r.t.Helper()
	host, port, _ := net.SplitHostPort(r.Addr)
	r.cmd = exec.Command("redis-server", "--bind", host, "--port", port, "--save", "", "--appendonly", "no", "--dir", r.dir)
	if err := r.cmd.Start(); err != nil {
		r.cmd = nil
		r.t.Fatalf("start redis-server (make test-redis installs it): %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for !r.answers(ctx) {
		if ctx.Err() != nil {
			r.t.Fatal("redis-server does not answer")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (r *Redis) answers(ctx context.Context) bool {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", r.Addr)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	_, _ = io.WriteString(c, "PING\r\n")
	answer := make([]byte, len("+PONG"))
	_, err = io.ReadFull(c, answer)
	return err == nil && string(answer) == "+PONG"
}

// Stop kills it; what it held is lost.
func (r *Redis) Stop() {
	if r.cmd != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		r.cmd = nil
	}
}
