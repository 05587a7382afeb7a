package fault

import (
	"errors"
	"fmt"
	"time"

	"tickgate/internal/unit"
)

// ErrFault is returned for a fault that cannot be.
var ErrFault = errors.New("fault: bad fault")

// Hole is how a proxy fails to take connections.
type Hole string

// The holes. None of them closes connections that are open.
const (
	// HoleNone takes connections.
	HoleNone Hole = "none"
	// HoleSilent takes connections and neither reads nor answers; open ones stand still, too. When
	// it ends, all go on where they were, as behind a partition that healed.
	HoleSilent Hole = "silent"
	// HoleRefuse has the kernel answer with RST: nobody listens.
	HoleRefuse Hole = "refuse"
	// HoleSYN has the kernel answer nothing: the backlog is full. Linux only.
	HoleSYN Hole = "syn"
)

// HalfOpen is how the other end of connections goes away without closing them.
type HalfOpen string

// The ways to be half open. They are for good: a connection does not come back with the
// end of the fault.
const (
	// HalfOpenNone keeps both ends.
	HalfOpenNone HalfOpen = "none"
	// HalfOpenStall reads no more and never closes; keep-alive probes are answered.
	HalfOpenStall HalfOpen = "stall"
	// HalfOpenVanish makes the kernel forget the connection without FIN or RST, as if the
	// machine had gone and another had its address: what is sent there is answered with RST.
	// Without CAP_NET_ADMIN it is HalfOpenStall, and Counts.VanishFailed says so.
	HalfOpenVanish HalfOpen = "vanish"
)

// Handshake is how a TLS handshake fails. New connections are treated so, once the whole
// first record of the client is there.
type Handshake string

// The failures of handshakes.
const (
	HandshakeFine    Handshake = "none"
	HandshakeGarbage Handshake = "garbage" // bytes that are no TLS, then FIN
	HandshakeClose   Handshake = "close"   // FIN behind the ClientHello
	HandshakeReset   Handshake = "reset"   // RST behind the ClientHello
	HandshakeAlert   Handshake = "alert"   // a fatal alert, handshake_failure
	HandshakeStall   Handshake = "stall"   // no answer
)

// Part is a part of HTTP messages.
type Part string

// The parts of messages that bytes can be flipped in.
const (
	PartAny  Part = "any"  // every byte of the connection
	PartHead Part = "head" // request or status line and fields
	PartBody Part = "body" // the rest, chunk sizes included
)

// Fault is what is wrong with a proxy's connections at a time. The zero value is nothing.
// Unless it says otherwise, a field is about open connections as well as new ones.
type Fault struct {
	// Black hole for connections.
	Hole Hole `yaml:"hole" default:"none" enum:"none|silent|refuse|syn"`
	// Other end gone.
	HalfOpen HalfOpen `yaml:"half_open" default:"none" enum:"none|stall|vanish"`
	Reset    Reset    `yaml:"reset"`
	// Failing TLS handshakes of new connections.
	Handshake Handshake `yaml:"handshake" default:"none" enum:"none|garbage|close|reset|alert|stall"`
	// Bytes a second, in each direction, for all connections together and for each; 0 is no
	// limit.
	Bandwidth     unit.Size `yaml:"bandwidth"`
	ConnBandwidth unit.Size `yaml:"conn_bandwidth"`
	// Shape of each direction: requests to the target, responses to the client.
	ToTarget Shape `yaml:"to_target"`
	ToClient Shape `yaml:"to_client"`
	// Bytes of a response after which both connections are closed with FIN, if the
	// connection is known to be HTTP (see Options.HTTP), else bytes to the client since
	// the fault was set; 0 truncates nothing.
	Truncate unit.Size `yaml:"truncate"`
	// Requests answered by the proxy, on connections that are HTTP.
	Answer Answer `yaml:"answer"`
	// Clock of the built-in backend behind the proxy, ahead of (or, negative, behind) the
	// true time. Connections that are open keep the certificate that they began with.
	Clock time.Duration `yaml:"clock"`
	// Seed of everything by chance.
	Seed int `yaml:"seed"`
}

// Reset says which connections are closed with RST, on both sides.
type Reset struct {
	// All that are open, once.
	Now bool `yaml:"now"`
	// All that are open, again and again; 0 does not.
	Every time.Duration `yaml:"every" min:"0s"`
	// Share of new connections that are reset at once.
	AcceptPercent int `yaml:"accept_percent" min:"0" max:"100"`
	// Each connection when it has passed this many bytes to the client, counted from its
	// opening or from when the fault was set; 0 does not.
	After unit.Size `yaml:"after"`
}

// Shape is what happens to the bytes of one direction. Their order is kept.
type Shape struct {
	// Delay of every byte, and the most that chance adds to it. It does not limit how much
	// is under way, up to Options.Queue.
	Delay  time.Duration `yaml:"delay" min:"0s"`
	Jitter time.Duration `yaml:"jitter" min:"0s"`
	// Pause behind each single byte; 0 does not drip.
	Drip    time.Duration `yaml:"drip" min:"0s"`
	Corrupt Corrupt       `yaml:"corrupt"`
}

// Corrupt flips bits: each byte that it is about has one of its bits flipped with the same
// chance. Which bytes and bits is decided by Fault.Seed, the connection's number, the
// direction and the byte's offset.
type Corrupt struct {
	// Bytes of a million that are hit; 0 flips nothing.
	PerMillion int `yaml:"per_million" min:"0" max:"1000000"`
	// Part that is hit. Parts are known on connections that are HTTP, else all bytes count
	// as head.
	Part Part `yaml:"part" default:"any" enum:"any|head|body"`
	// Offsets that are hit, From up to but not To, in the connection or in the part of each
	// message; To 0 is no end.
	From unit.Size `yaml:"from"`
	To   unit.Size `yaml:"to"`
}

// Answer is a storm of statuses.
type Answer struct {
	// Status that the proxy answers with, in the target's place; 0 answers nothing.
	Status int `yaml:"status" min:"0" max:"599"`
	// Share of the requests.
	Percent int `yaml:"percent" default:"100" min:"0" max:"100"`
	// Retry-After of the answers, in whole seconds; 0 sends none.
	RetryAfter time.Duration `yaml:"retry_after" min:"0s"`
}

// check returns ErrFault for values that no fault has; the tags say the same to the decoder.
func (f *Fault) check() error {
	share := func(name string, v, most int) error {
		if v < 0 || v > most {
			return fmt.Errorf("%w: %s is %d (want 0 to %d)", ErrFault, name, v, most)
		}
		return nil
	}
	if s := f.Answer.Status; s != 0 && (s < 200 || s > 599) {
		return fmt.Errorf("%w: answer.status is %d (want 200 to 599)", ErrFault, s)
	}
	return errors.Join(
		share("reset.accept_percent", f.Reset.AcceptPercent, 100), share("answer.percent", f.Answer.Percent, 100),
		share("to_target.corrupt.per_million", f.ToTarget.Corrupt.PerMillion, 1e6), share("to_client.corrupt.per_million", f.ToClient.Corrupt.PerMillion, 1e6),
		oneOf("hole", f.Hole, HoleNone, HoleSilent, HoleRefuse, HoleSYN),
		oneOf("half_open", f.HalfOpen, HalfOpenNone, HalfOpenStall, HalfOpenVanish),
		oneOf("handshake", f.Handshake, HandshakeFine, HandshakeGarbage, HandshakeClose, HandshakeReset, HandshakeAlert, HandshakeStall),
		oneOf("to_target.corrupt.part", f.ToTarget.Corrupt.Part, PartAny, PartHead, PartBody),
		oneOf("to_client.corrupt.part", f.ToClient.Corrupt.Part, PartAny, PartHead, PartBody),
	)
}

// oneOf checks a word; the empty one stands for the first.
func oneOf[W ~string](name string, got W, words ...W) error {
	for _, w := range words {
		if got == w || got == "" {
			return nil
		}
	}
	return fmt.Errorf("%w: %s is %q (want one of %q)", ErrFault, name, got, words)
}

// halfOpen says whether connections lose their other end.
func (f *Fault) halfOpen() bool { return f.HalfOpen == HalfOpenStall || f.HalfOpen == HalfOpenVanish }

// handshake says whether handshakes fail.
func (f *Fault) handshake() bool { return f.Handshake != "" && f.Handshake != HandshakeFine }
