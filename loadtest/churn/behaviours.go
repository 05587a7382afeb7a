package churn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/gobwas/ws"

	"tickgate/loadtest/pace"
	"tickgate/loadtest/target"
	"tickgate/loadtest/wsload"
)

// behaviour is one thing that clients do.
type behaviour struct {
	name                       string
	tunnel, tlsOnly, plainOnly bool
	vanishes                   bool
	do                         func(ctx context.Context, a *actor) error
}

// behaviours lists what clients do, each as likely as the others.
var behaviours = []behaviour{
	{name: "talk", do: talk},
	{name: "idle", do: idle},
	{name: "silent", do: silent},
	{name: "half_close", do: halfClose},
	{name: "reset", do: reset},
	{name: "reset_early", do: resetEarly},
	{name: "vanish", do: vanish, vanishes: true},
	{name: "dribble", do: dribble},
	{name: "tls_abort", do: tlsAbort, tlsOnly: true},
	{name: "tunnel", do: tunnel, tunnel: true},
	{name: "tunnel_drop", do: tunnelDrop, tunnel: true},
	{name: "tunnel_reset", do: tunnelReset, tunnel: true},
	{name: "tunnel_vanish", do: tunnelVanish, tunnel: true, vanishes: true},
	{name: "tunnel_half", do: tunnelHalf, tunnel: true, plainOnly: true},
	{name: "tunnel_abort", do: tunnelAbort, tunnel: true},
}

// patience bounds every wait for the gateway.
const patience = 20 * time.Second

var (
	errStatus = errors.New("churn: refused")
	errEcho   = errors.New("churn: the echo is not what was sent")
	errClosed = errors.New("churn: the connection was closed")
)

// actor is one client at one thing.
type actor struct {
	r   *run
	rng *rand.Rand
	i   int
}

// pause idles for a random time up to the longest.
func (a *actor) pause(ctx context.Context) {
	pace.Sleep(ctx, time.Duration(a.rng.Int64N(int64(a.r.Longest)+1)))
}

// visit is a connection for plain requests. A context that ends breaks it off.
type visit struct {
	net.Conn
	br *bufio.Reader
	a  *actor
}

func (a *actor) visit(ctx context.Context) (*visit, func(), error) {
	conn, err := a.r.plain.Dial(ctx, a.i)
	if err != nil {
		return nil, nil, err
	}
	return &visit{conn, bufio.NewReader(conn), a}, closer(ctx, conn), nil
}

// closer closes a connection when it is called, or when ctx ends.
func closer(ctx context.Context, conn net.Conn) func() {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	return func() {
		stop()
		_ = conn.Close()
	}
}

// ask sends a request and reads its response.
func (v *visit) ask() error {
	_ = v.SetDeadline(time.Now().Add(patience))
	if _, err := v.Write(v.a.r.plain.Request()); err != nil {
		return err
	}
	return v.answer()
}

func (v *visit) answer() error {
	resp, err := http.ReadResponse(v.br, nil)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%w with status %d", errStatus, resp.StatusCode)
	}
	return nil
}

// talk sends some requests and closes.
func talk(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	for range 1 + a.rng.IntN(5) {
		if err := v.ask(); err != nil {
			return err
		}
	}
	return nil
}

// idle lets a kept connection wait between its requests.
func idle(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	for range 1 + a.rng.IntN(3) {
		if err := v.ask(); err != nil {
			return err
		}
		a.pause(ctx)
	}
	return nil
}

// silent connects and says nothing.
func silent(ctx context.Context, a *actor) error {
	_, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	a.pause(ctx)
	return nil
}

// halfClose sends a request and no more, and still wants the response.
func halfClose(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	if a.rng.IntN(2) == 0 {
		if err := v.ask(); err != nil {
			return err
		}
	}
	closeWrite(v.Conn)
	_ = v.SetDeadline(time.Now().Add(patience))
	if _, err := v.br.ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after a half-close: %w", err)
	}
	return nil
}

// closeWrite sends the FIN, after a TLS close_notify if there is TLS.
func closeWrite(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// reset answers a response with RST.
func reset(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := v.ask(); err != nil {
		return err
	}
	a.pause(ctx)
	return resetConn(v.Conn)
}

// resetEarly sends RST while the request is under way.
func resetEarly(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	request := a.r.plain.Request()
	if _, err := v.Write(request[:1+a.rng.IntN(len(request))]); err != nil {
		return err
	}
	return resetConn(v.Conn)
}

func resetConn(conn net.Conn) error {
	tcp := target.TCP(conn)
	if err := tcp.SetLinger(0); err != nil {
		return err
	}
	return tcp.Close()
}

// vanish is gone without a FIN, while idle or in the middle of a request.
func vanish(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	if err := v.ask(); err != nil {
		return err
	}
	if a.rng.IntN(2) == 0 {
		request := a.r.plain.Request()
		if _, err := v.Write(request[:1+a.rng.IntN(len(request)-1)]); err != nil {
			return err
		}
	}
	return target.Vanish(target.TCP(v.Conn))
}

// dribble sends a head a few bytes at a time.
func dribble(ctx context.Context, a *actor) error {
	v, end, err := a.visit(ctx)
	if err != nil {
		return err
	}
	defer end()
	_ = v.SetDeadline(time.Now().Add(patience))
	for request := a.r.plain.Request(); len(request) > 0; {
		n := min(1+a.rng.IntN(4), len(request))
		if _, err := v.Write(request[:n]); err != nil {
			return err
		}
		request = request[n:]
		pace.Sleep(ctx, time.Duration(a.rng.IntN(30))*time.Millisecond)
	}
	return v.answer()
}

// tlsAbort leaves in the middle of the handshake, in order or with RST.
func tlsAbort(ctx context.Context, a *actor) error {
	tcp, err := a.r.plain.DialTCP(ctx, a.i)
	if err != nil {
		return err
	}
	end := closer(ctx, tcp)
	defer end()
	// The first bytes of a ClientHello of 512 bytes.
	hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, bytes.Repeat([]byte{7}, 40)...)
	if _, err := tcp.Write(hello[:1+a.rng.IntN(len(hello)-1)]); err != nil {
		return err
	}
	pace.Sleep(ctx, time.Duration(a.rng.IntN(500))*time.Millisecond)
	if a.rng.IntN(2) == 0 {
		return resetConn(tcp)
	}
	return nil
}

// open opens a tunnel.
func (a *actor) open(ctx context.Context) (*wsload.Conn, func(), error) {
	c, err := wsload.Open(ctx, a.r.tunnel, a.i)
	if err != nil {
		return nil, nil, err
	}
	return c, closer(ctx, c.Net), nil
}

// echo sends a message and wants it back.
func (a *actor) echo(c *wsload.Conn) error {
	sent := bytes.Repeat([]byte{byte('a' + a.rng.IntN(26))}, 1+a.rng.IntN(2000))
	_ = c.Net.SetDeadline(time.Now().Add(patience))
	if err := c.Send(ws.OpText, sent); err != nil {
		return err
	}
	got, err := next(c)
	if err == nil && !bytes.Equal(got, sent) {
		err = errEcho
	}
	return err
}

// next reads the next message, answering pings on the way.
func next(c *wsload.Conn) ([]byte, error) {
	for {
		h, payload, err := c.Read()
		switch {
		case err != nil:
			return nil, err
		case h.OpCode == ws.OpPing:
			if err := c.Send(ws.OpPong, payload); err != nil {
				return nil, err
			}
		case h.OpCode == ws.OpClose:
			return nil, errClosed
		case h.OpCode.IsData():
			return payload, nil
		}
	}
}

// used is a tunnel that has talked and idled.
func (a *actor) used(ctx context.Context) (*wsload.Conn, func(), error) {
	c, end, err := a.open(ctx)
	if err != nil {
		return nil, nil, err
	}
	for range a.rng.IntN(4) {
		if err := a.echo(c); err != nil {
			end()
			return nil, nil, err
		}
		if a.rng.IntN(2) == 0 {
			a.pause(ctx)
		}
	}
	return c, end, nil
}

// tunnel talks and closes in order.
func tunnel(ctx context.Context, a *actor) error {
	c, end, err := a.used(ctx)
	if err != nil {
		return err
	}
	defer end()
	_ = c.Net.SetDeadline(time.Now().Add(patience))
	if err := c.Send(ws.OpClose, ws.NewCloseFrameBody(ws.StatusNormalClosure, "")); err != nil {
		return err
	}
	if _, err := next(c); !errors.Is(err, errClosed) {
		return fmt.Errorf("after a Close frame: %w", err)
	}
	return nil
}

// tunnelDrop closes the connection without a Close frame.
func tunnelDrop(ctx context.Context, a *actor) error {
	_, end, err := a.used(ctx)
	if err != nil {
		return err
	}
	end()
	return nil
}

// tunnelReset ends a tunnel with RST.
func tunnelReset(ctx context.Context, a *actor) error {
	c, end, err := a.used(ctx)
	if err != nil {
		return err
	}
	defer end()
	return resetConn(c.Net)
}

// tunnelVanish leaves a tunnel without a FIN.
func tunnelVanish(ctx context.Context, a *actor) error {
	c, end, err := a.used(ctx)
	if err != nil {
		return err
	}
	defer end()
	return target.Vanish(target.TCP(c.Net))
}

// tunnelHalf half-closes, and waits for the other half to end.
func tunnelHalf(ctx context.Context, a *actor) error {
	c, end, err := a.used(ctx)
	if err != nil {
		return err
	}
	defer end()
	_ = c.Net.SetDeadline(time.Now().Add(patience))
	closeWrite(c.Net)
	if _, err := next(c); !errors.Is(err, io.EOF) {
		return fmt.Errorf("after a half-close: %w", err)
	}
	return nil
}

// tunnelAbort asks for an upgrade and is gone before the answer.
func tunnelAbort(ctx context.Context, a *actor) error {
	conn, err := a.r.tunnel.Dial(ctx, a.i)
	if err != nil {
		return err
	}
	end := closer(ctx, conn)
	defer end()
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", a.r.tunnel.URL.RequestURI(), a.r.tunnel.URL.Host)
	if err == nil && a.rng.IntN(2) == 0 {
		err = resetConn(conn)
	}
	return err
}
