// Package reactor is the gateway's epoll loops, for connections that own neither a
// goroutine nor a buffer. It knows descriptors and 64-bit tokens, nothing of what is
// on them: packages park, relay and feed are its handlers. It is the only place with
// epoll system calls.
//
// # How a loop waits
//
// A loop is a plain goroutine. Its epoll instance is itself registered in Go's poller,
// so that the loop blocks as any goroutine that reads a socket, and takes its events
// with an epoll_wait that does not block and skips the scheduler's entry and exit. A
// deadline of Go's poller ends the wait for the tick.
//
// It was measured against loops that block in epoll_wait through syscall.Syscall6, on a
// goroutine of their own, locked to its thread or not; the same with a look that does
// not block before ("poll"), and with a runtime.Gosched after each turn ("yield").
// Medians on a shared machine with two processors (Go 1.26, Linux 6.18), so compare
// within a column: CPU time of the process for each 200-byte echo over 1,000 loopback
// connections at 10,000 messages a second, with one loop and with two (n=5); the time
// from a loop readying a worker goroutine to that running, two loops, an otherwise idle
// machine, 1,000 a second (n=3); and the time from a peer's write to the loop's read
// with goroutines keeping all processors busy, two loops (n=3, noisy).
//
//	                             CPU us, 1 / 2 loops   hand-off p50 / p99   busy p50
//	nested in Go's poller             24.0 / 28.7          9 / 64 us         4.7 ms
//	blocking                          36.0 / 52.5         61 / 4332 us       0.2 ms
//	blocking, locked                  34.9 / 53.3         54 / 5161 us       0.2 ms
//	blocking, yield                   36.3 / 25.7          3 / 1618 us       0.2 ms
//	blocking, locked, yield           53.4 / 75.9 (n=1)   14 / 1325 us       0.2 ms
//	poll, blocking                    33.3 / 51.1         53 / 5945 us       0.2 ms
//	poll, yield, poll, blocking       36.9 / 49.7          4 / 1574 us       0.2 ms
//	goroutine and net.Conn each       41.0                 –                 –
//	floor: as a C program would       30.7 / 26.0      unusable: stops the collector
//
// Flat out, 64 messages under way, one run: nested 7.8 / 9.6 us, blocking 14.8 / 19.9,
// goroutines 12.8.
//
// A blocking system call keeps its processor until sysmon takes it back, 20 us to 10 ms
// later. With as many loops as processors nobody else can run in the meantime what the
// loop readied, and each taking back wakes a thread that finds nothing to do. Nested,
// the processor is free at once, and a stop of the world waits for nobody. Its CPU time
// is the floor's, within the noise. The table is of bare loops; with ticks, posts and
// counters this package took 21.8 / 26.8 us in a later, noisier run, beside 19.3 / 23.5
// of the bare nested loop and 25.8 / 23.6 of the floor (n=5).
//
// Its one weakness, the last column, is that of every net.Conn: Go's poller is looked
// after when a processor runs out of goroutines, else every 10 ms. So a loop looks once
// in a millisecond whether more are runnable than loops, and as long as there are, it
// yields and polls instead of blocking (Loop.crowded). That took the busy median of this
// package from 4.7 ms to 0.1 ms (n=5, nested in the same run: 4.7 ms). Yielding always
// would cost a quarter more CPU on the paced echo (29.5 us with one loop against 23.1), as
// each Gosched wakes a processor to look for work.
//
// Userland memory of a registered descriptor: none, against 6 KB of a net.Conn with a
// goroutine and its read buffer of 4 KB. A loop costs 86 KB, most of it Loop.Buffer.
//
// The commands stand at the top of echo_bench_linux_test.go.
package reactor
