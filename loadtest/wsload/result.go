package wsload

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/sheet"
)

// Result is what a run showed.
type Result struct {
	// Opened tunnels, and Failed ones; Refused is the failed ones that were answered
	// with another status than 101, by status, and RetryAfter the same by the value
	// of that field ("" for none).
	Opened     int64            `json:"opened"`
	Failed     int64            `json:"failed"`
	Refused    map[int]int64    `json:"refused,omitempty"`
	RetryAfter map[string]int64 `json:"retry_after,omitempty"`
	// OpenTime is what opening took, connect, TLS and upgrade: from the time that it was due
	// if there is a rate.
	OpenTime latency.Summary `json:"open_time"`
	// Handshakes of TLS, and those of them that resumed a session. Protocols counts the tunnels
	// by the subprotocol that the server chose, "" for none. Both count those that came back.
	Handshakes int64            `json:"handshakes,omitempty"`
	Resumed    int64            `json:"resumed,omitempty"`
	Protocols  map[string]int64 `json:"protocols,omitempty"`
	// Sent and Received messages, and Seconds of traffic, waiting for the last echoes
	// included. MessageTime counts from the time a message was due to its arrival.
	Sent        int64           `json:"sent"`
	Received    int64           `json:"received"`
	Seconds     float64         `json:"seconds"`
	MessageTime latency.Summary `json:"message_time"`
	order
	// Corrupt messages were not what was sent. Unanswered ones never came back on a
	// tunnel that stayed open; CutOff ones were under way when the server ended the
	// tunnel. SendFailed counts tunnels on which sending failed.
	Corrupt    int64 `json:"corrupt"`
	Unanswered int64 `json:"unanswered"`
	CutOff     int64 `json:"cut_off"`
	SendFailed int64 `json:"send_failed"`
	// Skipped deliveries of a fan-out are those that the backend left out, since a
	// subscriber's connection took no bytes. They take no number, so they make no gap.
	Skipped int64 `json:"skipped"`
	// Pings that were received and answered.
	Pings int64 `json:"pings"`
	// Ended counts the tunnels that the server ended, by close code, or "eof",
	// "eof_in_frame", "reset", "no_close_answer" or "error" where there was no Close
	// frame. EndedPerSecond counts them by second, from the first such end on, and
	// BusiestSecond is the largest share in any window of one second.
	Ended          map[string]int64 `json:"ended,omitempty"`
	EndedPerSecond []int            `json:"ended_per_second,omitempty"`
	BusiestSecond  float64          `json:"busiest_second,omitempty"`
	// Reconnects says how tunnels came back; nil without Options.Reconnect.
	Reconnects *Reconnects `json:"reconnects,omitempty"`
	// PerSecond is the traffic by the second. Curve and HDR are all of MessageTime, for a
	// plot and as latency.Histogram.Encoded.
	PerSecond []Second        `json:"per_second"`
	Curve     []latency.Point `json:"curve"`
	HDR       string          `json:"hdr,omitempty"`
	// SendLag is how late messages were sent. A long lag says that the tool was the
	// bottleneck: TooSlow. CPUSeconds is what this process took, TrafficCPUSeconds the
	// part of it during the traffic, and CPUMicros that by message, sent or received.
	SendLag           latency.Summary `json:"send_lag"`
	TooSlow           bool            `json:"too_slow"`
	CPUSeconds        float64         `json:"cpu_seconds"`
	TrafficCPUSeconds float64         `json:"traffic_cpu_seconds"`
	CPUMicros         float64         `json:"cpu_us_per_message"`
	// Bottleneck says why the tool itself, and not the target, may have set the result; ""
	// if it did not.
	Bottleneck string `json:"bottleneck,omitempty"`
	// FirstError is the text of the first failure to open.
	FirstError string `json:"first_error,omitempty"`
}

// Lost says how many tunnels the server ended.
func (r *Result) Lost() (n int64) {
	for _, count := range r.Ended {
		n += count
	}
	return n
}

// Flawless says that every tunnel opened and stayed open, and every message came
// back once, in order and as it was sent. Tunnels that reconnect may have ended if they are
// back, and what was under way then may be lost.
func (r *Result) Flawless() bool {
	if r.Reconnects != nil {
		return r.Failed == 0 && r.Reconnects.StillAway == 0 && r.order == order{} && r.Corrupt == 0 && r.Unanswered == 0
	}
	return r.Failed == 0 && r.Lost() == 0 && r.order == order{} && r.Corrupt == 0 && r.Unanswered == 0 && r.CutOff == 0 && r.SendFailed == 0
}

// result sums a run up; every reader has ended.
func (r *run) result(cpu time.Duration) *Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	perSecond, busiest := spread(r.ends)
	all := r.messageTime.sum()
	hdr, _ := all.Encoded() // cannot fail for a record of its own
	result := &Result{
		Opened: r.opened.Load(), Failed: r.failed, Refused: r.refusals, RetryAfter: r.retryAfter, OpenTime: r.openTime.Summary(),
		Sent: r.sent.Load(), Received: r.received.Load(), Seconds: r.trafficFor.Seconds(), MessageTime: all.Summary(), Curve: all.Curve(), HDR: hdr, PerSecond: r.seconds,
		order: r.order, Corrupt: r.corrupt.Load(), Unanswered: r.unanswered, CutOff: r.cutOff, SendFailed: r.sendFailed.Load(), Skipped: r.skipped,
		Handshakes: r.handshakes, Resumed: r.resumed, Protocols: r.protocols,
		Pings: r.pings.Load(), Ended: r.closes, EndedPerSecond: perSecond, BusiestSecond: busiest,
		SendLag: r.lag.Summary(), CPUSeconds: cpu.Seconds(), TrafficCPUSeconds: r.traffic.CPU.Seconds(), TooSlow: r.lag.Quantile(0.99) > lagTooLong,
		Bottleneck: r.bottleneck(), FirstError: r.firstError,
	}
	result.CPUMicros = r.traffic.Micros(result.Sent + result.Received)
	if r.Reconnect {
		result.Reconnects = &r.reconnects
		result.Reconnects.Away = r.away.Summary()
		result.Reconnects.HDR, _ = r.away.Encoded()
	}
	return result
}

// bottleneck judges the tool itself.
func (r *run) bottleneck() string {
	if late := r.lag.Quantile(0.99); late > lagTooLong {
		return fmt.Sprintf("1 %% of the messages were sent more than %v late (want at most %v)", late.Round(time.Microsecond), lagTooLong)
	}
	return r.traffic.Bottleneck()
}

// spread counts ends by second, and finds the largest share within any one second.
func spread(ends []time.Time) (perSecond []int, busiest float64) {
	if len(ends) == 0 {
		return nil, 0
	}
	slices.SortFunc(ends, time.Time.Compare)
	most, from := 0, 0
	for i, at := range ends {
		second := int(at.Sub(ends[0]) / time.Second)
		for len(perSecond) <= second {
			perSecond = append(perSecond, 0)
		}
		perSecond[second]++
		for at.Sub(ends[from]) >= time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	return perSecond, float64(most) / float64(len(ends))
}

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(14)
	s.Line("tunnels", "%d opened, %d failed%s, %d ended by the server", r.Opened, r.Failed, list(r.Refused), r.Lost())
	s.Line("opening", "%v", r.OpenTime)
	if r.Received > 0 || r.Sent > 0 {
		s.Line("messages", "%d sent, %d received in %.1f s; %d gaps, %d duplicates, %d reordered, %d corrupt, %d unanswered, %d cut off",
			r.Sent, r.Received, r.Seconds, r.Gaps, r.Duplicates, r.Reordered, r.Corrupt, r.Unanswered, r.CutOff)
		s.Line("latency", "%v", r.MessageTime)
	}
	if len(r.Ended) > 0 {
		s.Line("ends", "%s, by second %v, at most %.1f %% within one", list(r.Ended), r.EndedPerSecond, r.BusiestSecond*100)
	}
	if r.Skipped > 0 {
		s.Line("skipped", "%d deliveries, by the backend, for subscribers that took no bytes", r.Skipped)
	}
	if c := r.Reconnects; c != nil {
		s.Line("reconnects", "%d back, %d still away, %d attempts%s, %d of them without an answer; %d messages missed", c.Back, c.StillAway, c.Attempts, list(c.Refused), c.Failed, c.Missed)
		s.Line("away", "%v", c.Away)
	}
	if r.Handshakes > 0 {
		s.Line("TLS", "%d handshakes, %d resumed", r.Handshakes, r.Resumed)
	}
	s.Line("this tool", "%.2f s CPU, %.1f µs a message; sent late by: %v", r.CPUSeconds, r.CPUMicros, r.SendLag)
	s.End(r.FirstError, sheet.Limited, r.Bottleneck)
	return s.WriteTo(w)
}

// list writes counts, if there are some.
func list[K cmp.Ordered](counts map[K]int64) string {
	if len(counts) == 0 {
		return ""
	}
	return " (" + sheet.Counts(counts) + ")"
}
