// Package proxy is the life of a request, one file a phase. A client connection
// (conn.go) reads a head and hands an Exchange through the phases:
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
package proxy
