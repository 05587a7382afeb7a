// Package demo is what `tickgate run --demo` stands on: HTTP backends and a
// synthetic market-data WebSocket backend on random loopback ports, the gateway
// configuration that shows them off, and the commands to try. The backends are
// ordinary fasthttp servers with streamed bodies, so they double as an example
// of backends that behave: no answer of theirs depends on the gateway's leniency.
package demo
