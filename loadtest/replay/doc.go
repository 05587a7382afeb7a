// Package replay turns access logs into requests with the timing of the log, for
// [tickgate/loadtest/httpload]: nginx's "combined", Apache's "common", any log_format of
// nginx or template of tickgate, and logs with a JSON object a line, tickgate's own among them.
//
// The road of a line: input (files merged by time, gzip or plain) -> Format (its fields) ->
// builder (a request that the gateway's own strict parser has read, or a [Reason]) -> window
// (lines slightly out of order are put in order) -> [Source] (speed and bursts) -> httpload.
// Memory is bounded however long the log is: a line has at most 64 KiB, the window at most
// 256 MiB, and what waits for its time behind it a few thousand requests.
//
// # Time
//
// A log whose times are whole seconds ($time_local, nginx's $time_iso8601) does not say when
// within its second a request came: the n requests of one second are sent at 0, 1/n, 2/n … of
// it, in the order of the log. Times with a fraction ($msec, tickgate's) are kept. Both gateways
// log at the end of a request; with [Options.FromStart] the duration is taken off. A line that is older
// than one before it by more than [Options.Window] is late: it is counted, and sent with what
// is due at that moment.
//
// A burst of factor f sends each request of its time f times: the first copy when it is due, the others at even
// distances until the next request of the log is due, so a burst has the shape of the log and not its
// own. Of a factor that is not whole, the fraction is carried from request to request.
//
// # What is sent
//
// Method, target, Host, Referer and User-Agent, as far as logged, and nothing else: no cookie, no
// credentials. Bodies are not in logs: see [Options.Bodies]. What is logged comes from whoever sent requests to the
// logging server, attacks included. So each request is written out and read by internal/h1: only what it reads as one request
// without a body is sent.
package replay
