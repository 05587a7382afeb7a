package preface

// Failure says why a connection got no further than its PROXY header. As an error it is what
// Parse returns.
type Failure uint8

// Failures. The first four are Parse's.
const (
	Missing      Failure = iota // the first bytes are no header
	Malformed                   // a header that breaks the specification
	BadChecksum                 // the CRC32c of a v2 header is wrong
	TooLong                     // a line without an end within 107 bytes, or more than MaxLen of v2
	TimedOut                    // not whole within proxy_protocol.timeout
	CutShort                    // the proxy closed or reset the connection within it
	TooManyConns                // whole, but a cap on connections is reached for the client in it
	Unexpected                  // from a peer who is not in proxy_protocol.from, or a second one
	numFailures
)

var failureWords = [numFailures]string{
	Missing:      "missing",
	Malformed:    "malformed",
	BadChecksum:  "bad_checksum",
	TooLong:      "too_long",
	TimedOut:     "timeout",
	CutShort:     "cut_short",
	TooManyConns: "too_many_conns",
	Unexpected:   "unexpected",
}

// String returns the snake_case word used in metrics, logs and tests.
func (f Failure) String() string {
	if f >= numFailures {
		return "unknown"
	}
	return failureWords[f]
}

// Error makes a Failure usable as an error; callers compare it with errors.Is.
func (f Failure) Error() string { return f.String() }

// Failures returns every failure in order, for registering metric series at 0.
func Failures() []Failure {
	all := make([]Failure, numFailures)
	for i := range all {
		all[i] = Failure(i)
	}
	return all
}
