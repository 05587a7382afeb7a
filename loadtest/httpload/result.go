package httpload

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"tickgate/loadtest/latency"
	"tickgate/loadtest/sheet"
)

// Result is what a run showed, the warm-up aside.
type Result struct {
	// Due requests came up, and Sent ones went over a connection, resent ones counted
	// again. OK ones were answered with a status that was wanted.
	Due  int64 `json:"due"`
	Sent int64 `json:"sent"`
	OK   int64 `json:"ok"`
	// Statuses counts whole responses. Errors counts requests that failed by what failed
	// them: see Failure.
	Statuses map[int]int64    `json:"statuses"`
	Errors   map[string]int64 `json:"errors"`
	// Refused are the responses of 503 with Retry-After: how a server in order says that it
	// has more than it can do. They are errors too, unless 503 is the status wanted.
	Refused int64 `json:"refused"`
	// Opened connections; Reconnects of them because a kept one turned out to have ended,
	// before a byte of the response to an idempotent request, which went again.
	Opened     int64 `json:"opened"`
	Reconnects int64 `json:"reconnects"`
	// TLS handshakes, and those of them that resumed a session.
	Handshakes int64 `json:"handshakes"`
	Resumed    int64 `json:"resumed"`
	// Seconds of sending. Responses that came later count all the same.
	Seconds float64 `json:"seconds"`
	// OKPerSecond is the throughput: OK responses that came within those seconds. Where a
	// server does not keep up with the open loop, it is less than OK in Seconds.
	OKPerSecond float64 `json:"ok_per_second"`
	// Bytes of requests and responses, without TLS.
	BytesIn  int64 `json:"bytes_in"`
	BytesOut int64 `json:"bytes_out"`
	// Latency of OK responses: from the due time in the open loop, from the sending in the
	// closed loop.
	Latency latency.Summary `json:"latency"`
	// Service is the same from the sending in both.
	Service latency.Summary `json:"service"`
	// SendLag is how late requests of the open loop were sent although a connection was
	// free: it is the tool's own, and part of Latency.
	SendLag latency.Summary `json:"send_lag"`
	// ByName tells the kinds of a mix apart.
	ByName    map[string]Kind `json:"by_name"`
	PerSecond []Second        `json:"per_second"`
	Curve     []latency.Point `json:"curve"`
	// HDR is the whole record of Latency: see latency.Histogram.Encoded.
	HDR string `json:"hdr"`
	// CPUSeconds is the processor time of this process during the sending.
	CPUSeconds float64 `json:"cpu_seconds"`
	// Busy is the share of its time that the busiest event loop worked.
	Busy float64 `json:"busy"`
	// Bottleneck says why the tool itself, and not the target, may have set the result; ""
	// if it did not.
	Bottleneck string `json:"bottleneck,omitempty"`
	FirstError string `json:"first_error,omitempty"`
}

// Kind is the result of one kind of request.
type Kind struct {
	Count int64 `json:"count"`
	OK    int64 `json:"ok"`
	// Statuses of its whole responses.
	Statuses map[int]int64   `json:"statuses"`
	Latency  latency.Summary `json:"latency"`
}

// Failed counts the requests that failed.
func (r *Result) Failed() (n int64) {
	for _, count := range r.Errors {
		n += count
	}
	return n
}

// result adds up the loops' records.
func (r *run) result(s spent) (*Result, error) {
	out := &Result{
		Statuses: make(map[int]int64), Errors: make(map[string]int64), ByName: make(map[string]Kind),
		Seconds: s.wall.Seconds(), CPUSeconds: s.cpu.Seconds(), PerSecond: r.timeline.all(),
	}
	if s.wall > 0 {
		out.Busy = s.busy.Seconds() / s.wall.Seconds()
	}
	var all, service, lag latency.Histogram
	var timely int64
	for _, one := range r.records {
		out.add(one)
		timely += one.timely
		service.Merge(&one.service)
		lag.Merge(&one.lag)
	}
	for i, name := range r.kinds.list() {
		out.ByName[name] = r.kind(i, &all)
	}
	out.Latency, out.Service, out.SendLag, out.Curve = all.Summary(), service.Summary(), lag.Summary(), all.Curve()
	if !r.open {
		out.Service = out.Latency
	}
	out.OKPerSecond = out.perSecond(timely)
	out.Bottleneck = out.bottleneck(r.open)
	var err error
	out.HDR, err = all.Encoded()
	return out, err
}

// kind adds up kind i, and adds its latency to all.
func (r *run) kind(i int, all *latency.Histogram) (k Kind) {
	var times latency.Histogram
	k.Statuses = make(map[int]int64)
	for _, record := range r.records {
		if i < len(record.kinds) {
			one := record.kinds[i]
			for status, n := range one.statuses {
				k.Statuses[status] += n
			}
			k.Count += one.count
			k.OK += one.ok
			times.Merge(&one.latency)
		}
	}
	all.Merge(&times)
	k.Latency = times.Summary()
	return k
}

// add adds the counts of one loop.
func (r *Result) add(w *record) {
	r.Due += w.due
	r.Sent += w.sent
	r.OK += w.ok
	r.Refused += w.refused
	r.Opened += w.opened
	r.Reconnects += w.reconnects
	r.Handshakes += w.handshakes
	r.Resumed += w.resumed
	r.BytesIn += w.bytesIn
	r.BytesOut += w.bytesOut
	for status, n := range w.statuses {
		if n > 0 {
			r.Statuses[status] += n
		}
	}
	for f, n := range w.failures {
		if n > 0 {
			r.Errors[Failure(f).String()] += n
		}
	}
	if r.FirstError == "" {
		r.FirstError = w.firstError
	}
}

const (
	// mostLag is the 99th percentile of SendLag beyond which latencies are the tool's.
	mostLag = 5 * time.Millisecond
	// mostBusy is the share of its time that a loop may work before it is what limits the
	// throughput.
	mostBusy = 0.97
)

// bottleneck judges the tool itself.
func (r *Result) bottleneck(open bool) string {
	behind := r.Due-r.Sent > r.Due/100
	switch late := time.Duration(r.SendLag.P99 * 1e3); {
	case open && late > mostLag:
		return fmt.Sprintf("1 %% of the requests were sent more than %v late although connections were free (want at most %v)", late.Round(time.Microsecond), mostLag)
	case r.Busy > mostBusy && (!open || behind):
		return fmt.Sprintf("an event loop was busy %.0f %% of the time (want at most %.0f %%): more -loops, or another machine", r.Busy*100, mostBusy*100)
	}
	return ""
}

// WriteTo writes the result for people.
func (r *Result) WriteTo(w io.Writer) (int64, error) {
	s := sheet.New(11)
	s.Line("requests", "%d due, %d sent, %d ok, %d failed in %.1f s", r.Due, r.Sent, r.OK, r.Failed(), r.Seconds)
	s.Line("throughput", "%.0f ok/s, %.1f MB/s in, %.1f MB/s out", r.OKPerSecond, r.perSecond(r.BytesIn)/1e6, r.perSecond(r.BytesOut)/1e6)
	s.Line("statuses", "%s", cmp.Or(sheet.Counts(r.Statuses), "none"))
	if len(r.Errors) > 0 {
		s.Line("errors", "%s", sheet.Counts(r.Errors))
		s.Line("", "first: %s", r.FirstError)
	}
	secure := ""
	if r.Handshakes > 0 {
		secure = fmt.Sprintf("; %d TLS handshakes, %d resumed", r.Handshakes, r.Resumed)
	}
	s.Line("connections", "%d opened, %d of them for requests that went again%s", r.Opened, r.Reconnects, secure)
	fmt.Fprintf(s, "\n%-24s %10s %9s %9s %9s %9s %9s %9s %9s\n", "ms", "count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max")
	row(s, "latency", r.Latency)
	if r.SendLag.Count > 0 {
		row(s, "from the sending", r.Service)
		row(s, "sent late by the tool", r.SendLag)
	}
	if len(r.ByName) > 1 {
		for _, name := range slices.Sorted(maps.Keys(r.ByName)) {
			row(s, name, r.ByName[name].Latency)
		}
	}
	s.WriteByte('\n')
	s.Line("the tool", "%.1f us of CPU a request, its busiest loop %.0f %% busy", r.CPUMicros(), r.Busy*100)
	s.End("", sheet.Limited, r.Bottleneck)
	return s.WriteTo(w)
}

// CPUMicros is the tool's own processor time for each request it sent, in microseconds.
func (r *Result) CPUMicros() float64 { return r.CPUSeconds * 1e6 / float64(max(r.Sent, 1)) }

func (r *Result) perSecond(n int64) float64 {
	if r.Seconds == 0 {
		return 0
	}
	return float64(n) / r.Seconds
}

// row writes a line of the table of latencies.
func row(s *sheet.Sheet, name string, times latency.Summary) {
	fmt.Fprintf(s, "%-24s %10d", name, times.Count)
	for _, us := range [...]float64{times.Mean, times.P50, times.P90, times.P99, times.P999, times.P9999, times.Max} {
		fmt.Fprintf(s, " %9.3f", us/1e3)
	}
	s.WriteByte('\n')
}
