package sock

import (
	"net"
	"os"
	"time"
)

// Seat is the net.Conn below a tls.Conn whose socket changes owners: hot it is a *Conn,
// parked nothing, relayed what the relay reads and writes with. A tls.Conn keeps its
// net.Conn for life, and this is all of it that an idle connection has to keep.
//
// Whoever owns the connection owns its seat; the occupant changes only between
// calls on the tls.Conn.
type Seat struct {
	net.Conn
	// Note is what the caller keeps of the connection over parking and tunnels. It does not change once
	// the handshake is over.
	Note any
}

// vacant is the occupant of a seat whose connection is parked.
type vacant struct{}

// Vacate takes the occupant off the seat. Calls fail until Take.
func (s *Seat) Vacate() { s.Conn = vacant{} }

// Take puts c on the seat.
func (s *Seat) Take(c net.Conn) { s.Conn = c }

func (vacant) Read([]byte) (int, error)         { return 0, os.ErrClosed }
func (vacant) Write([]byte) (int, error)        { return 0, os.ErrClosed }
func (vacant) Close() error                     { return nil }
func (vacant) LocalAddr() net.Addr              { return noAddr{} }
func (vacant) RemoteAddr() net.Addr             { return noAddr{} }
func (vacant) SetDeadline(time.Time) error      { return nil }
func (vacant) SetReadDeadline(time.Time) error  { return nil }
func (vacant) SetWriteDeadline(time.Time) error { return nil }

// noAddr is the address of nothing.
type noAddr struct{}

func (noAddr) Network() string { return "" }
func (noAddr) String() string  { return "" }
