// Package wsload loads a gateway with WebSocket tunnels: a client that opens them by
// the thousand, sends messages by a schedule and checks everything that comes back,
// and a cheap backend behind the gateway that echoes, pushes or fans out.
//
// # Latency
//
// A message carries the time that it was due, from which its latency counts when it arrives: the
// open loop, which charges a stall for all that came due meanwhile. Both ends of a push or a
// fan-out must share a clock. Opening a tunnel likewise counts from its due time if there is a rate.
//
// # Fan-out
//
// One tunnel more than the others publishes; the backend sends each message to all the
// others, and leaves those out whose connection takes no bytes. It numbers the copies by connection, so
// a gap is what was lost on the way, and says in each copy how many it has left out there; what it has
// left out since the last that went through counts as unanswered.
//
// # Reconnects
//
// A tunnel that the server ends comes back after a pause of full jitter, as clients should,
// on a new connection whose messages are numbered from 0. What it was away for is counted from the
// server's Close frame, or the end of the connection, to the answer 101. What was under way at the end
// counts as cut off, and what came due while it was away as missed.
//
// # Its own cost
//
// Both are a goroutine for each connection, whose memory is the tool's and not what
// is measured; one goroutine for a thousand tunnels does the sending. Result.CPUMicros is
// what a message costs the tool; most of that are system calls, a read and a write for
// each message.
package wsload
