package httpload

import (
	"errors"
	"syscall"

	"tickgate/loadtest/target"
	"tickgate/proxy/reactor"
)

// open begins to make a connection. It is never ready at once, so that nothing calls
// itself over a server that ends connections as fast as they are made.
func (w *worker) open(c *conn) {
	w.opening++
	if w.run.target.Secure {
		c.state = shaking
		w.shake(c)
		return
	}
	c.state = connecting
	c.deadline = w.now + w.run.target.Timeout()
	source, _ := w.run.target.Source(w.run.number())
	fd, err := target.Connect(w.run.address, source, noDelay)
	if err != nil {
		w.unconnected(c, connectFailure(err), err)
		return
	}
	c.fd = int32(fd)
	if err := w.reactor.Add(fd, token(c), reactor.EdgeBoth); err != nil {
		w.unconnected(c, ConnectFailed, err)
	}
}

// connected handles the end of a connect.
func (w *worker) connected(c *conn) {
	if err := connectError(c.fd); err != nil {
		w.unconnected(c, connectFailure(err), err)
		return
	}
	w.ready(c)
}

// ready gives a new connection its first request.
func (w *worker) ready(c *conn) {
	w.opening--
	w.record.opened += w.record.one(w.now)
	c.state = idle
	if m := c.message; m != nil {
		w.begin(c, m, c.due)
		return
	}
	c.state = thinking // in no list
	w.available(c)
}

func connectFailure(err error) Failure {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return ConnectRefused
	case errors.Is(err, syscall.ETIMEDOUT):
		return ConnectTimeout
	}
	return ConnectFailed
}
