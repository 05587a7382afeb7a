// Package peer runs the gateways that are compared: tickgate, the net/http baseline, nginx and
// HAProxy. Each is started from one Setup, so that all do the same: "/" goes to an HTTP backend over kept
// connections and "/ws" to a WebSocket backend, X-Forwarded-For, -Proto and -Host are sent, nothing is
// logged, TLS is 1.2 or 1.3 with the same certificate, connections may idle for an hour, and each has as
// many worker processes, threads or Go processors. Everything else is as it comes: Debian's buffers and
// limits for nginx and HAProxy, the defaults for the other two.
//
// A peer is a process of its own with a process group of its own, which is what is ended with it.
package peer
