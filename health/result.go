package health

// Result says how a probe ended.
type Result uint8

// Results, in the order in which a probe can meet them.
const (
	OK       Result = iota // the answer matched everything asked for
	Connect                // refused, unreachable, or reset before it was established
	Timeout                // the timeout passed, in whatever phase
	TLS                    // the handshake failed, or the certificate was not accepted
	Protocol               // no whole HTTP response: closed early, malformed or too large
	Status                 // a status that is not wanted
	Body                   // a body that does not match
	numResults
)

var resultWords = [numResults]string{
	OK:       "ok",
	Connect:  "connect",
	Timeout:  "timeout",
	TLS:      "tls",
	Protocol: "protocol",
	Status:   "status",
	Body:     "body",
}

// String returns the word used in metrics, logs and tests.
func (r Result) String() string {
	if r >= numResults {
		return "unknown"
	}
	return resultWords[r]
}

// Results returns every result in order, for registering metric series at 0.
func Results() []Result {
	all := make([]Result, numResults)
	for i := range all {
		all[i] = Result(i)
	}
	return all
}
