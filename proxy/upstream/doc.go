// Package upstream holds the sets of backends that requests are forwarded to: which
// backend a request gets (balancing, health, drain, backup), over which connection
// (one fasthttp.HostClient for each backend and route tag), and how often it may be
// tried again (retry budget).
//
// # Life
//
// A Registry outlives configuration snapshots. Build makes the Sets of a new
// snapshot out of the old ones: an unchanged upstream stays the same *Set, and a
// backend whose connection settings did not change stays the same *Backend in a new
// Set, with its pools, in-flight count, latency average and health. What no Set
// uses any more is retired: its goroutines stop, its idle connections close, those
// in use close when their request ends, and its metric series go.
//
// What the TLS files of an upstream hold (identity) is apart from that: it changes by a reload or when the files
// do, under Sets and backends that stay. A handshake uses the identity of its moment and never reads a file, sessions are
// resumed only under the identity that they were made under, and pooled connections follow within renewalWindow.
//
// # fasthttp.HostClient, as used here
//
// Only its connection pool is used: AcquireConn, ReleaseConn, CloseConn. Do is never
// called, so its retries, its header rewriting and its whole-body buffering never
// happen. What has to be known about the rest:
//
//   - MaxConns defaults to 512 and then fails with ErrNoFreeConns. A gate in front
//     (gate.go) bounds the leases instead and makes requests wait.
//   - MaxConnWaitTimeout, the HostClient's own wait queue, stays 0. A connection that is
//     released between AcquireConn's look at the pool and its entry into the queue
//     is not handed over: with few connections the request then waits in vain, next to
//     an idle connection. Its dials for waiters also run without the request's deadline,
//     and "do not wait" (a remaining time of 0) means "wait as long as configured".
//   - Addr is split at commas, so a Unix socket's path must not be put there.
//   - IsTLS stays false: its handshake is bounded by WriteTimeout or not at all, and its time
//     cannot be told from the dial's. dial.go does the handshake.
//   - ConnPoolStrategy is LIFO (the zero value is FIFO): the idle cleaner takes the pool for sorted by
//     last use, and few warm connections serve better than many lukewarm ones.
//   - The cleaner looks once per MaxIdleConnDuration, so an idle connection may live
//     twice that long. Do checks the idle time again when it takes one. Its goroutine
//     cannot be stopped; it ends by itself within that time after the last connection went.
//   - MaxConnDuration is enforced by HostClient.Do only; here Pool.Do does, against CreatedTime.
package upstream
