// Package wsload loads a gateway with WebSocket tunnels: a client that opens them by
// the thousand, sends messages by a schedule and checks everything that comes back,
// and a cheap backend behind the gateway that echoes or pushes.
//
// Both are a goroutine for each connection, whose memory is the tool's and not what
// is measured; one goroutine for a thousand tunnels does the sending.
package wsload
