// Package fault breaks what lies between a gateway and its backends, by a plan, and says
// what a client saw of it.
//
// A [Proxy] relays TCP to a backend under a [Fault] that can be changed while connections
// are open: delay, jitter, bandwidth, dripping, resets, a black hole, connections whose
// other end has vanished, handshakes that fail, flipped bytes, truncated responses, answers
// of its own. Package dnsflip is the name server whose answers change, and built-in backends
// live at a clock of their own. [Run] plays a [Scenario]: it starts proxies, backends and
// the gateway, keeps requests and tunnels going (package probe), sets faults step by step,
// and holds what it saw against what the steps expect.
//
// Limits, which no tool without the rights of an administrator over the network gets around:
//
//   - A connection that goes through a proxy is two connections. The kernel acknowledges what
//     a black hole does not read, until its buffers are full; only [HoleSYN] leaves segments
//     unanswered, by a full backlog, and needs Linux.
//   - Vanishing without a word needs Linux and CAP_NET_ADMIN; without them the connection
//     stays open and is not read, which a keep-alive probe does not find out.
//   - A gateway's own clock cannot be moved: a binary of Go asks the kernel and not libc, so
//     that LD_PRELOAD (libfaketime) does nothing to it, and Linux's time namespaces leave
//     the time of day alone. What can be moved is the other side: a built-in backend whose
//     clock is ahead or behind presents a certificate of its day, not valid yet or expired
//     for everybody else, and says so in Date.
package fault
