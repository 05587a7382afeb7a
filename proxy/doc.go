// Package proxy is the life of a request, one file a phase, and of the connections that
// requests come on. A client connection with a worker (conn.go) reads a head and hands an
// Exchange through the phases:
//
//	serve.go    the road: route, admit, act, finish
//	route.go    which route takes the request
//	admit.go    may it run now: drain, body limit, free worker
//	forward.go  the action that forwards: pick a backend, attempt, retry
//	attempt.go  one try at one backend: send the request, read the response head
//	body.go     request bodies, framed anew
//	head.go     the head sent to the backend
//	respond.go  the response on its way to the client
//	upgrade.go  101 and what follows
//	reply.go    answers of the gateway's own
//	finish.go   metrics and access log, once
//
// A further action is a file with an action and its row in actionKinds (action.go).
//
// Where connections are when no worker has them:
//
//	listener.go           accept, caps
//	waiting.go            into the lot (package park) and out of it
//	crew.go               the workers
//	loops.go              the event loops and what is on them
//	tunnels.go            from an upgrade to the relay (package relay), and the end
//	tunnel_goroutines.go  tunnels of systems without event loops
//	drain.go              the end of the process, or of a backend's tunnels
//	connections.go        all of them, for the admin API
//	tend.go               leaks, memory, idle workers
//
// docs/life-of-a-request.md and docs/connections.md follow both by function.
package proxy
