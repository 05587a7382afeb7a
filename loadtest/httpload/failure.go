package httpload

// Failure is a way in which a request fails. Its String is the key in Result.Errors.
type Failure uint8

// The ways.
const (
	ConnectRefused Failure = iota // the target answered the connect with RST
	ConnectTimeout                // no answer to the connect in time
	ConnectFailed                 // another error of connect, of this machine perhaps: no port, no descriptor, no route
	TLSFailed                     // the TLS handshake failed, or was not over in time
	Reset                         // the connection was reset while a request was under way
	ClosedEarly                   // the connection ended before the response did
	Timeout                       // no whole response in time
	Malformed                     // what came is no HTTP response, or goes on behind its end
	Backlog                       // no connection was free for so long that the request was given up unsent
	WrongStatus                   // a whole response with another status than wanted
	Unsendable                    // a request of a replay that cannot be put on the wire
	numFailures
)

var failureNames = [numFailures]string{
	ConnectRefused: "connect_refused",
	ConnectTimeout: "connect_timeout",
	ConnectFailed:  "connect_failed",
	TLSFailed:      "tls_failed",
	Reset:          "reset",
	ClosedEarly:    "closed_early",
	Timeout:        "timeout",
	Malformed:      "malformed",
	Backlog:        "backlog",
	WrongStatus:    "wrong_status",
	Unsendable:     "unsendable",
}

func (f Failure) String() string { return failureNames[f] }
