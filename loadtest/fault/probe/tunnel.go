package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/wsload"
)

// reopenAfter is the pause before a tunnel that failed to open is tried again.
const reopenAfter = 50 * time.Millisecond

// Tunnels opens Conns tunnels to a backend that echoes, sends messages on them in turn until
// ctx ends, and wants each back. A tunnel that fails is opened again by the next message
// that is due on it; a failure to open is that message's.
func Tunnels(ctx context.Context, o Options) error {
	r, err := newRun(o, "ws", "wss")
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	to := make([]chan time.Time, r.Conns)
	for i := range to {
		to[i] = make(chan time.Time, r.room()/r.Conns+1)
		wg.Go(func() { r.tunnel(ctx, to[i], i) })
	}
	r.spread(ctx, to)
	wg.Wait()
	return nil
}

// tunnel is tunnel number i.
func (r *run) tunnel(ctx context.Context, due <-chan time.Time, i int) {
	t := tunnel{r: r, i: i}
	defer t.close()
	for at := range due {
		if r.tooLate(at) {
			continue
		}
		status, err := t.message()
		r.observe(at, status, err)
		if err != nil {
			t.close()
			pace.Sleep(ctx, reopenAfter)
		}
	}
}

// tunnel is owned by one goroutine.
type tunnel struct {
	r    *run
	i    int
	conn *wsload.Conn // nil while it is not open
	next uint64
}

// message sends one message and waits for its echo.
func (t *tunnel) message() (status int, err error) {
	if t.conn == nil {
		if status, err = t.open(); err != nil {
			return status, err
		}
	}
	_ = t.conn.Net.SetDeadline(time.Now().Add(t.r.Timeout))
	t.next++
	payload := binary.BigEndian.AppendUint64(nil, t.next)
	if err := t.conn.Send(ws.OpBinary, payload); err != nil {
		return 0, fmt.Errorf("send: %w", err)
	}
	return 0, t.echo(payload)
}

// open opens the tunnel.
func (t *tunnel) open() (status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.r.Timeout)
	defer cancel()
	conn, err := t.r.dial(ctx, t.i)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	t.conn, err = wsload.Upgrade(conn, t.r.target)
	if err == nil {
		return 0, nil
	}
	t.conn = nil
	_ = conn.Close()
	var refused *wsload.RefusedError
	if errors.As(err, &refused) {
		return refused.Status, fmt.Errorf("%w: %w", errStatus, err)
	}
	return 0, err
}

// echo reads until a message, which must be the payload.
func (t *tunnel) echo(payload []byte) error {
	for {
		h, got, err := t.conn.Read()
		switch {
		case err != nil:
			return fmt.Errorf("receive: %w", err)
		case h.OpCode == ws.OpPing:
			if err := t.conn.Send(ws.OpPong, got); err != nil {
				return fmt.Errorf("send: %w", err)
			}
		case h.OpCode == ws.OpPong:
		case h.OpCode == ws.OpClose:
			return fmt.Errorf("%w with code %d", errClosed, closeCode(got))
		case string(got) != string(payload):
			return errCorrupt
		default:
			return nil
		}
	}
}

// errClosed is an end in order, which came too early all the same.
var errClosed = fmt.Errorf("probe: close frame: %w", io.ErrUnexpectedEOF)

func closeCode(payload []byte) ws.StatusCode {
	code, _ := ws.ParseCloseFrameData(payload)
	return code
}

func (t *tunnel) close() {
	if t.conn != nil {
		_ = t.conn.Net.Close()
		t.conn = nil
	}
}
