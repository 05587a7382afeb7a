// Package compare runs the same work against tickgate, the net/http baseline, nginx and HAProxy, and
// makes a report of it that can be believed.
//
// # How it measures
//
// A scenario is a kind of work. Its rounds go A B C D A B C D …, so that a machine that changes its
// mind changes it for all; in each turn one gateway is started alone, warmed up, measured and stopped. Settings
// are pinned, equal for all and in the report, and so are the gateways' configurations (package peer).
//
// The load comes from this process, the gateway and the backends are processes of their own. So
// the CPU time of a gateway is that of its processes and threads alone (package proc, /proc/PID/stat), read
// just before and just after the measured window and divided by the requests or messages of that window. It is
// read a second time from /proc/PID/task/*/schedstat, which the kernel counts on its own in nanoseconds; both
// are in the report, and how far they are apart is in its notes. On a machine with few processors
// all of them share these, so requests a second are not the capacity of a gateway; CPU per request
// does not depend on that.
//
// What the load tool itself costs is a row of the report. Where it limited a run, speed and
// latency of that scenario are shown but not judged, and a note says why; CPU per request is judged all the
// same, as it is the price of what was done, not its pace.
//
// A run with errors has its figures and a note; one that could not be made leaves a gap. A gateway that is not
// installed or does not start is a note, and the comparison goes on.
//
// # Scenarios
//
//	http   closed loop over kept connections, 1 KiB responses: CPU per request, requests a second
//	https  the same with TLS 1.3 clients
//	open   open loop at a rate that all can hold: latency from the time a request was due
//	ws     messages over WebSocket tunnels, echoed by the backend: CPU per message, latency
//	wss    the same with TLS clients
//	tls    handshakes, full and resumed, of one group: CPU per handshake, handshakes a second, latency at half of that
//	idle   memory of idle connections and tunnels, plain and TLS: (PSS(N)-PSS(first)) / (N-first)
package compare
