package replay

// Reason says why a line did not become a request.
type Reason uint8

// The reasons. Those up to BadHost are flaws of the log, which fail a strict replay; the
// others are lines that the options leave out.
const (
	OK             Reason = iota
	BadSyntax             // the line is not of the format
	TooLong               // it is longer than 64 KiB
	BadTime               // its time cannot be read
	BadNumber             // a status, length or duration cannot be read
	BadRequestLine        // the request is not method, target and version
	BadTarget             // the method or target is not one that HTTP allows
	BadHost               // neither is the host
	NoRequest             // the client sent no request, which servers log with status 400 or 408
	OtherMethod           // not among the methods to replay
	Tunnel                // the status is 101: what followed is not in the log
	NoLength              // a body is wanted, and its length is not in the log

	reasons int = iota
)

var reasonNames = [reasons]string{
	"ok", "bad_syntax", "too_long", "bad_time", "bad_number", "bad_request_line", "bad_target", "bad_host",
	"no_request", "method", "tunnel", "no_length",
}

// String is the word that results use.
func (r Reason) String() string { return reasonNames[r] }

// Flaw says that the line is at fault, and not left out by choice.
func (r Reason) Flaw() bool { return r >= BadSyntax && r <= BadHost }
