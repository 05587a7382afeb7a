// Package tcpinfo asks the kernel how a TCP connection does: round trip, losses, and
// what is queued on both sides. Linux only; elsewhere it knows nothing.
package tcpinfo

import "time"

// Info is the state of one TCP connection at one moment, as the kernel sees it.
type Info struct {
	// RTT is the smoothed round-trip time and RTTVar its mean deviation (RFC 6298). They are 0 before the
	// first measurement.
	RTT, RTTVar time.Duration
	// MinRTT is the shortest round trip seen lately (tcp_min_rtt_wlen, 5 minutes), 0 if unknown.
	MinRTT time.Duration
	// Retransmits is the segments sent again since the connection began.
	Retransmits uint32
	// Unacked is the segments in flight.
	Unacked uint32
	// CongestionWindow is in segments of SegmentSize bytes.
	CongestionWindow, SegmentSize uint32
	// SendQueue is the bytes not acknowledged yet, sent or not; NotSent the part of it that was not
	// sent; RecvQueue the bytes received that nobody has read.
	SendQueue, NotSent, RecvQueue int
	// DeliveryRate is the bytes a second that the peer took at the last measurement, 0 if
	// unknown.
	DeliveryRate uint64
	// LastReceived is how long ago data came in, as far as the kernel's clock tells (milliseconds). For a
	// connection on which none ever came it counts from the start.
	LastReceived time.Duration
}
