//go:build !linux

package reactor

import "time"

// poller, on systems without epoll, cannot be opened, so nothing else of it is ever
// called: the gateway keeps a goroutine for each connection there.
type poller struct{}

type controlOp int

const (
	opAdd controlOp = iota
	opModify
	opRemove
)

func (*poller) open() error                               { return ErrUnsupported }
func (*poller) close()                                    {}
func (*poller) control(controlOp, int, Token, Mode) error { return ErrUnsupported }
func (*poller) wake()                                     {}
func (*poller) poll() int                                 { return 0 }
func (*poller) wait(time.Time, time.Duration) (int, bool) { return 0, false }
func (*poller) event(int) (t Token, ev Event)             { return 0, 0 }
