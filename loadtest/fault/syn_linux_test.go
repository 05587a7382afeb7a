package fault

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"tickgate/internal/testkit"
)

// A SYN that nobody answers is sent again by the kernel, so that the connection opens once
// there is room.
func TestUnansweredSYN(t *testing.T) {
	p := proxied(t, echo(t), Options{})
	c := testkit.Dial(t, p.Addr())
	ask(t, c, "warm")
	set(t, p, Fault{Hole: HoleSYN})
	ctx, cancel := context.WithTimeout(t.Context(), quiet)
	defer cancel()
	var d net.Dialer
	if _, err := d.DialContext(ctx, "tcp", p.Addr()); !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v, want no answer", err)
	}
	ask(t, c, "open ones go on")
	accepted := p.Counts().Accepted
	opened := make(chan *testkit.Client)
	go func() {
		conn, err := net.DialTimeout("tcp", p.Addr(), testkit.Patience)
		if err != nil {
			t.Error(err)
			close(opened)
			return
		}
		opened <- testkit.NewClient(t, conn)
	}()
	set(t, p, Fault{})
	late, ok := <-opened
	if !ok {
		return
	}
	ask(t, late, "late")
	if n := p.Counts().Accepted - accepted; n != 1 {
		t.Errorf("%d connections were taken, want 1 without those that filled the backlog", n)
	}
	set(t, p, Fault{Hole: HoleSYN})
	set(t, p, Fault{Hole: HoleRefuse})
	set(t, p, Fault{Hole: HoleSYN})
	p.Close() // while it is jammed
}
