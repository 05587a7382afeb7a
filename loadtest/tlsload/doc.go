// Package tlsload measures TLS handshakes: connections are opened, perform a full or a
// resumed handshake, send one request if wanted, and are closed in order.
//
// The closed loop keeps a number of handshakes under way; the open loop begins them by
// a schedule, whatever the server does, and counts latency from the time that one was
// due, so that a server that stalls is charged for all that came due meanwhile.
//
// # What is timed
//
// A handshake counts from the established TCP connection until the client has verified the
// server's Finished and sent its own: what a client waits for. With TLS 1.3 the
// server has the client's Finished and its tickets still before it at that time, and a
// client hears of a refusal of its own certificate only then; so each connection is read
// to its end before it counts, but the time of that is not part of any latency. It is
// part of the closed loop, whose next handshake waits for it.
//
// # Resumption
//
// Tickets of TLS 1.3 arrive behind the handshake: a connection is read until one has
// come, for at most two seconds, so that a later one can resume. Each is offered once, as
// RFC 8446 appendix C.4 wants, unless the connection that it opened brings no other. The first
// handshakes of a run have nothing to resume, which Result.NoSession counts; a warm-up
// takes them out of the figures. With Options.ReturnWithin clients stay away for a while before
// they come back, in which a server may have changed its keys; Result.SessionAge and Result.RefusedAge
// say how old the sessions were that were offered, and those that were refused.
//
// # Its own cost
//
// A client's handshake costs about as much as a server's: it verifies a signature where
// the server makes one. With both on the same processors the throughput says little
// without Result.CPUMicros; Result.Bottleneck says when this tool was the limit.
package tlsload
