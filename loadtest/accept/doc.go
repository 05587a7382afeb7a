// Package accept carries out the acceptance list of a financial gateway: each item starts
// tickgate, its backends and a load of its own, measures, and holds the figure against a
// bound. The result is a table with method, figure, bound and verdict of every demand.
//
// # Items
//
//   - sustained: an open loop for an hour without one error, at 2.5 times the rated load (half of
//     what the closed loop came to). A second row projects what the node would do if the
//     gateway had its processors alone: processors by CPU time for each request. The target is
//     80,000 requests/s.
//   - burst: three times the rated load for 8 s; p95 of what is admitted at most 15 ms. A 503 with
//     Retry-After is a refusal in order; every other failure is an error. What is admitted must be
//     the rated load at least.
//   - partition: one or both of two backends behind a black hole, or refusing connections.
//     From the end of the partition to the first of 50 OK responses in a row: within 30 s, with
//     3 s as target. What clients saw meanwhile is part of the figure.
//   - switch: two backends are replaced by two others, again and again, by an edit of the
//     configuration and SIGHUP under the rated load. No request may be lost, and each new set must
//     be seen to answer.
//   - tls: the rated load with TLS before and behind the gateway; at most 65 % of the machine's
//     processors for the gateway.
//   - handshake: full handshakes at half of the rate that a closed loop came to; p99 below 3 ms,
//     from the due time, TCP included.
//   - takeover: a second process on the same address (share: true), then SIGTERM to the first. No gap
//     of more than 200 ms between OK responses, neither with a new connection for each request
//     nor with kept ones, and nothing lost.
//   - mixed: quotes, orders and cancels 7:2:1 at the rated load; p99 of orders, which are on a critical
//     route, at most 5 ms.
//   - adaptive: eight times the rated load with upstreams.NAME.adaptive_limit; p95 of what is admitted
//     at most 50 ms. tickgate check is asked first whether there is such a key.
//
// The rated load is a fifth of what a closed loop comes to on this machine, so that a burst of
// three times that fits well below the whole; Options.Rate sets another. Scale shortens durations,
// never bounds.
//
// # Verdicts
//
// Load, backends and gateway share one machine here. Where a bound of time or speed is missed and
// others had more than a tenth of the machine, or the load tool says that it was the limit, or the
// machine was full, over 80 %, and the gateway had less than three quarters of that, the figure is
// not the gateway's: Inconclusive, with the reason. So is a projection below the target, unless
// the gateway had the machine to itself. Others are whatever is neither the gateway nor the load nor
// the backends, steal included; see Split. Options.IgnoreSpeed makes all missed bounds of speed
// inconclusive. What was lost is never excused. All verdicts but Passed count as not passed;
// Outcome tells them apart.
package accept
