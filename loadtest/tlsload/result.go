package tlsload

import (
	"fmt"
	"io"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/sheet"
)

// Result is what a run showed. Connections of the warm-up are in none of it.
type Result struct {
	// Due connections came up, Sent ones were begun before the run was over, and OK ones
	// did all that was wanted. The closed loop begins all that are due.
	Due  int64 `json:"due"`
	Sent int64 `json:"sent"`
	OK   int64 `json:"ok"`
	// Full and Resumed handshakes among the OK ones. Offered sessions were refused Refused
	// times, by a full handshake; NoSession connections should have offered one, and there was
	// none at hand.
	Full      int64 `json:"full"`
	Resumed   int64 `json:"resumed"`
	Offered   int64 `json:"offered"`
	Refused   int64 `json:"refused"`
	NoSession int64 `json:"no_session"`
	// Ticketed connections brought a ticket or more; Ticketless ones waited for one in vain.
	Ticketed   int64 `json:"ticketed"`
	Ticketless int64 `json:"ticketless"`
	// Retried handshakes took a round trip more, as the server wanted another group than
	// the one that the client had sent a key for (HelloRetryRequest).
	Retried int64 `json:"hello_retry_requests"`
	// Unclosed connections got RST instead of FIN in answer to the client's close_notify and
	// FIN, or nothing within two seconds.
	Unclosed int64 `json:"unclosed"`
	// Errors counts the rest by Failure; Statuses counts responses.
	Errors   map[string]int64 `json:"errors"`
	Statuses map[int]int64    `json:"statuses,omitempty"`
	// ALPN counts by the protocol agreed on, "" for none.
	ALPN map[string]int64 `json:"alpn"`
	// Kinds of handshakes that were agreed on, the most frequent first.
	Kinds []Kind `json:"kinds"`

	// Seconds that were counted; HandshakesPerSecond are the OK ones in it.
	Seconds             float64 `json:"seconds"`
	HandshakesPerSecond float64 `json:"handshakes_per_second"`
	// BytesIn and BytesOut are TLS's, headers of TCP and IP not counted.
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`

	// Latency of OK connections until the client's part of the handshake was done, or the
	// response there: open loop from the due time, closed loop from the connect.
	Latency latency.Summary `json:"latency"`
	// Connect is TCP's alone, of all that came to be. Handshake is TLS's, of OK connections;
	// FullTime and ResumedTime are its two parts.
	Connect     latency.Summary `json:"connect"`
	Handshake   latency.Summary `json:"handshake"`
	FullTime    latency.Summary `json:"full_time"`
	ResumedTime latency.Summary `json:"resumed_time"`
	// SessionAge is how old the sessions were that were offered, RefusedAge how old those were that the server
	// refused.
	SessionAge latency.Summary `json:"session_age"`
	RefusedAge latency.Summary `json:"refused_age"`
	// SendLag is how late connections began although one was free (open loop).
	SendLag   latency.Summary `json:"send_lag"`
	PerSecond []Second        `json:"per_second"`
	// Curve and HDR are Latency as a whole: for a plot, and as latency.Histogram.Encoded.
	Curve []latency.Point `json:"curve"`
	HDR   string          `json:"hdr,omitempty"`

	// CPUSeconds of this process; CPUMicros is that by connection begun. MachineBusy is the
	// share of the machine's processors that was taken, by whomever, and ToolShare the
	// tool's part of that (0: not known).
	CPUSeconds  float64 `json:"cpu_seconds"`
	CPUMicros   float64 `json:"cpu_us_per_handshake"`
	MachineBusy float64 `json:"machine_busy"`
	ToolShare   float64 `json:"tool_share"`
	// Bottleneck says why the tool itself, and not the target, limited the run; "" if it did not.
	Bottleneck string `json:"bottleneck,omitempty"`
	// FirstError is the text of the first failure.
	FirstError string `json:"first_error,omitempty"`
}

// Kind is one kind of handshake. Names are crypto/tls's, those of NIST's curves P-256 and so on; Key
// is that of the server's certificate, which a resumed handshake has from the first one.
type Kind struct {
	Version   string          `json:"version"`
	Cipher    string          `json:"cipher"`
	Group     string          `json:"group"`
	Key       string          `json:"key"`
	Resumed   bool            `json:"resumed"`
	Count     int64           `json:"count"`
	Handshake latency.Summary `json:"handshake"`
}

// Second is one second of a run, from the end of the warm-up on; connections belong to the
// one in which they were done. P99 is that of Result.Latency, in microseconds.
type Second struct {
	Time   int     `json:"t"`
	OK     int64   `json:"ok"`
	Errors int64   `json:"errors"`
	P99    float64 `json:"p99_us"`
}

// Progress is what a run has come to.
type Progress struct {
	Elapsed             time.Duration
	OK, Resumed, Errors int64
	PerSecond           float64 // OK ones, since the last progress
	P99                 time.Duration
}

// String writes a line for people.
func (p Progress) String() string {
	return fmt.Sprintf("%3.0f s  %d handshakes (%d resumed), %.0f/s, p99 %.1f ms, %d errors",
		p.Elapsed.Seconds(), p.OK, p.Resumed, p.PerSecond, float64(p.P99)/1e6, p.Errors)
}

// Failed counts the connections that were not OK.
func (r *Result) Failed() int64 { return r.Due - r.OK }

// result sums a run up; all workers have ended.
func (r *run) result() *Result {
	t := r.tally
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now.OK+t.now.Errors > 0 {
		t.now.P99 = float64(t.nowTime.Quantile(0.99)) / 1e3
		t.seconds = append(t.seconds, t.now)
	}
	hdr, _ := t.latency.Encoded() // cannot fail for a histogram of its own
	n := &t.n
	result := &Result{
		Due: n.due, Sent: n.sent, OK: n.ok, Full: n.full, Resumed: n.resumed, Offered: n.offered, Refused: n.refused,
		NoSession: n.noSession, Ticketed: n.ticketed, Ticketless: n.ticketless, Retried: n.retried, Unclosed: n.unclosed,
		Errors: make(map[string]int64), Statuses: t.statuses, ALPN: t.alpn, Kinds: t.sortedKinds(),
		Seconds: max(r.took, 0).Seconds(), BytesIn: n.in, BytesOut: n.out,
		Latency: t.latency.Summary(), Connect: t.connect.Summary(), Handshake: t.handshake.Summary(),
		FullTime: t.full.Summary(), ResumedTime: t.resumed.Summary(), SendLag: r.lag.Summary(),
		SessionAge: t.age.Summary(), RefusedAge: t.refusedAge.Summary(),
		PerSecond: t.seconds, Curve: t.latency.Curve(), HDR: hdr,
		CPUSeconds: r.cost.CPU.Seconds(), CPUMicros: r.cost.Micros(n.sent), MachineBusy: r.cost.Busy, ToolShare: r.cost.OfBusy,
		Bottleneck: r.bottleneck(), FirstError: t.first,
	}
	for f, count := range t.failures {
		if count > 0 && Failure(f) != OK {
			result.Errors[Failure(f).String()] = count
		}
	}
	if result.Seconds > 0 {
		result.HandshakesPerSecond = float64(n.ok) / result.Seconds
	}
	return result
}

// bottleneck says why the tool was the limit, if it was.
func (r *run) bottleneck() string {
	if late := r.lag.Quantile(0.99); late > lagTooLong {
		return fmt.Sprintf("connections began late by %.0f ms (p99) although one was free", float64(late)/1e6)
	}
	return r.cost.Bottleneck()
}

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(12)
	s.Line("handshakes", "%d due, %d begun in %.1f s, %d full and %d resumed: %.0f/s", r.Due, r.Sent, r.Seconds, r.Full, r.Resumed, r.HandshakesPerSecond)
	if r.Offered+r.NoSession > 0 {
		s.Line("resumption", "%d sessions offered, %d refused; %d had none to offer", r.Offered, r.Refused, r.NoSession)
		s.Line("session age", "%v", r.SessionAge)
	}
	if len(r.Errors) > 0 {
		s.Line("errors", "%s", sheet.Counts(r.Errors))
	}
	if len(r.Statuses) > 0 {
		s.Line("statuses", "%s", sheet.Counts(r.Statuses))
	}
	s.Line("latency", "%v", r.Latency)
	s.Line("connect", "%v", r.Connect)
	for _, k := range r.Kinds {
		how := "full"
		if k.Resumed {
			how = "resumed"
		}
		s.Line(how, "%s, %s, %s, %s", k.Version, k.Cipher, k.Group, k.Key)
		s.Line("", "%v", k.Handshake)
	}
	if r.OK > 0 {
		s.Line("protocol", "%s", sheet.Counts(r.ALPN))
	}
	if r.Sent > 0 {
		s.Line("bytes", "%d in and %d out a connection", r.BytesIn/r.Sent, r.BytesOut/r.Sent)
	}
	if r.Retried+r.Unclosed > 0 {
		s.Line("odd", "%d HelloRetryRequests, %d not closed in order by the server", r.Retried, r.Unclosed)
	}
	s.Line("this tool", "%.2f s CPU, %.0f µs a handshake; began late by: %v", r.CPUSeconds, r.CPUMicros, r.SendLag)
	s.End(r.FirstError, sheet.Limited, r.Bottleneck)
	return s.WriteTo(w)
}
