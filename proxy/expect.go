package proxy

import (
	"errors"
	"os"
	"time"

	"tickgate/internal/sock"
)

// expectWait is how long a backend may take to answer an Expect: 100-continue
// before the body is sent all the same (RFC 9110 section 10.1.1: a client "should
// not wait for an indefinite period", and a backend may not know the expectation).
const expectWait = time.Second

// expectContinue sends the head alone and waits for the backend's word. The body
// follows on a 100 (readResponseHead starts the pump), or when the backend stays
// silent; a final response means that it is not wanted.
func (x *Exchange) expectContinue(be backendConn, fresh bool) error {
	be.sk.ArmRead(x.readLimit(expectWait))
	err := x.roundtrip(be, fresh)
	if err == nil {
		be.sk.ArmRead(x.readLimit(x.limits().ResponseHeader))
		be.sk.Resume(sock.ReadExpired) // the answer may have come as the wait ended
		return nil
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) || !be.sk.Interrupted().Has(sock.ReadExpired) {
		return err
	}
	if _, ok := x.remaining(time.Now()); !ok {
		return err
	}
	be.sk.Resume(sock.ReadExpired)
	if err := x.send(continueHead); err != nil {
		x.att.failed = x.clientFailure(err)
		return errClient
	}
	x.startPump(be)
	return x.readMore(be)
}

// errClient says that the client failed, with the reason in att.failed.
var errClient = errors.New("proxy: the client failed")

var continueHead = []byte("HTTP/1.1 100 Continue\r\n\r\n")
