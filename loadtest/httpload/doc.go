// Package httpload sends HTTP/1.1 requests and measures how they are answered.
//
// In the open loop requests come due by a schedule, whatever the server does, and latency
// counts from the time a request was due: a server that stalls is charged for all that came
// due meanwhile. In the closed loop each connection sends its next request once the last is
// answered, so that a stall delays a single request of each connection and hides in the
// percentiles; it says how much a server can do, not how long its users wait.
//
// Connections live on the epoll loops of package reactor, as the gateway's tunnels do: a
// request costs one send and one receive, so that the tool takes less CPU than what it
// measures. scripts/bench-tickload.sh compares that with wrk. A system without epoll gets
// a goroutine for each connection.
//
// Only what came due (open loop) or was sent (closed loop) behind the warm-up counts. The
// tool watches itself: Result.SendLag is what it added to the latency by being late, and
// Result.Bottleneck says when the figures are its own rather than the target's, because
// that was more than 5 ms at the 99th percentile, or an event loop was busy for more than
// 97 % of the time.
package httpload
