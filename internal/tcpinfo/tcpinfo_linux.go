package tcpinfo

import (
	"time"

	"golang.org/x/sys/unix"
)

// Of describes the TCP connection of a descriptor. It is false for any other
// descriptor, such as a Unix socket or a closed one. It takes three system calls
// that do not block, and some microseconds: it is for a list of connections that somebody
// asked for, not for the path of a request.
func Of(fd int) (Info, bool) {
	raw, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return Info{}, false
	}
	info := Info{
		RTT:              time.Duration(raw.Rtt) * time.Microsecond,
		RTTVar:           time.Duration(raw.Rttvar) * time.Microsecond,
		Retransmits:      raw.Total_retrans,
		Unacked:          raw.Unacked,
		CongestionWindow: raw.Snd_cwnd,
		SegmentSize:      raw.Snd_mss,
		NotSent:          int(raw.Notsent_bytes),
		DeliveryRate:     raw.Delivery_rate,
		LastReceived:     time.Duration(raw.Last_data_recv) * time.Millisecond,
	}
	// The kernel says "never measured" with the largest value.
	if raw.Min_rtt != ^uint32(0) {
		info.MinRTT = time.Duration(raw.Min_rtt) * time.Microsecond
	}
	// The queues are not part of TCP_INFO. These fail on a listening socket only, which has none.
	info.SendQueue, _ = unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	info.RecvQueue, _ = unix.IoctlGetInt(fd, unix.SIOCINQ)
	return info, true
}
