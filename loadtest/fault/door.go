package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"tickgate/loadtest/pace"
)

const (
	// reopenWithin is how long a listener tries to get its address back.
	reopenWithin = 5 * time.Second
	// mostFillers is how many connections a full backlog may take.
	mostFillers = 64
)

// door is a proxy's listener: open, shut (nobody listens) or jammed (its backlog is full).
type door struct {
	addr string

	mu      sync.Mutex
	changed *sync.Cond          // of mu
	ln      *net.TCPListener    // guarded by mu; nil while shut
	hole    Hole                // guarded by mu
	idle    bool                // guarded by mu; the accept loop waits in next
	closed  bool                // guarded by mu
	fillers map[string]net.Conn // guarded by mu; what jams it, by local address
	dropped map[string]struct{} // guarded by mu; addresses of former fillers, not accepted yet
}

// newDoor listens on an address.
func newDoor(addr string) (*door, error) {
	d := &door{addr: addr, hole: HoleNone}
	d.changed = sync.NewCond(&d.mu)
	if err := d.listenLocked(); err != nil {
		return nil, err
	}
	d.addr = d.ln.Addr().String()
	return d, nil
}

// listenLocked opens the listener; mu is held, or the door is new.
func (d *door) listenLocked() error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // its sockets know neither repair mode nor a backlog of their own
	ln, err := lc.Listen(context.Background(), "tcp", d.addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.ln = ln.(*net.TCPListener)
	return nil
}

// next waits until the door is open and returns a connection. Errors of one connection
// are passed over; net.ErrClosed is the end.
func (d *door) next(ctx context.Context) (*net.TCPConn, error) {
	for {
		ln, ok := d.opened()
		if !ok {
			return nil, net.ErrClosed
		}
		conn, err := ln.AcceptTCP()
		if err == nil {
			if !d.isFiller(conn) {
				return conn, nil
			}
			_ = conn.Close()
			continue
		}
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			pace.Sleep(ctx, 50*time.Millisecond)
		}
	}
}

// opened waits until connections are taken.
func (d *door) opened() (*net.TCPListener, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !d.closed && (d.hole == HoleRefuse || d.hole == HoleSYN) {
		d.idle = true
		d.changed.Broadcast()
		d.changed.Wait()
	}
	d.idle = false
	return d.ln, !d.closed
}

// isFiller recognises the door's own connections.
func (d *door) isFiller(conn *net.TCPConn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	addr := conn.RemoteAddr().String()
	_, is := d.dropped[addr]
	delete(d.dropped, addr)
	return is
}

// set makes the door what a hole wants.
func (d *door) set(ctx context.Context, hole Hole) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if hole == "" || hole == HoleSilent { // the connections see to the rest
		hole = HoleNone
	}
	if d.hole == hole || d.closed {
		return nil
	}
	if err := d.openLocked(ctx); err != nil {
		return err
	}
	d.hole = hole
	var err error
	switch hole {
	case HoleRefuse:
		_ = d.ln.Close()
		d.ln = nil
	case HoleSYN:
		if err = d.jamLocked(ctx); err != nil {
			d.hole = HoleNone
			d.freeLocked()
		}
	}
	d.changed.Broadcast()
	return err
}

// openLocked undoes what the hole before did. The address may be taken for a moment by a
// connection that the kernel gave the same port.
func (d *door) openLocked(ctx context.Context) error {
	if d.hole == HoleSYN {
		d.freeLocked()
	}
	deadline := time.Now().Add(reopenWithin)
	for d.ln == nil {
		err := d.listenLocked()
		switch {
		case err == nil:
		case time.Now().After(deadline), !pace.Sleep(ctx, 20*time.Millisecond):
			return err
		}
	}
	return nil
}

// jamLocked fills the backlog, so that the kernel drops further SYN segments.
func (d *door) jamLocked(ctx context.Context) error {
	_ = d.ln.SetDeadline(time.Unix(1, 0))
	for !d.idle && !d.closed {
		d.changed.Wait()
	}
	if err := setBacklog(d.ln, 0); err != nil {
		return fmt.Errorf("hole %s: %w", HoleSYN, err)
	}
	d.fillers = make(map[string]net.Conn)
	for range mostFillers {
		full, err := backlogFull(d.ln)
		if err != nil || full {
			return err
		}
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", d.addr)
		if err != nil {
			continue // the kernel was quicker to be full than to say so
		}
		d.fillers[conn.LocalAddr().String()] = conn
	}
	return fmt.Errorf("hole %s: %d connections do not fill the backlog", HoleSYN, mostFillers)
}

// freeLocked takes what jams the door away.
func (d *door) freeLocked() {
	if d.dropped == nil {
		d.dropped = make(map[string]struct{})
	}
	for addr, conn := range d.fillers {
		d.dropped[addr] = struct{}{}
		_ = conn.Close()
	}
	d.fillers = nil
	_ = setBacklog(d.ln, backlog)
	_ = d.ln.SetDeadline(time.Time{})
}

// backlog is that of an open door; the kernel bounds it with net.core.somaxconn.
const backlog = 4096

// close ends the door for good.
func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.ln != nil {
		_ = d.ln.Close()
	}
	for _, conn := range d.fillers {
		_ = conn.Close()
	}
	d.changed.Broadcast()
}
