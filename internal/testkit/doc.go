// Package testkit is what tests of sockets stand on: a strict HTTP/1.1 parser that
// shares no code with the gateway, backends that record or misbehave as told, raw
// clients that send any bytes, WebSocket and TLS ends, and the gateway itself as a
// process. Helpers that take a testing.TB end the test on failure and clean up
// after it. Everything waits on events with a deadline; nothing sleeps.
package testkit
