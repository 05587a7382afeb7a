// Package watchdog notices descriptors and goroutines that grow without traffic: leaks. It
// names what grows and the oldest holders, says so once for each episode, and keeps
// the episode for a gauge until it ends.
//
// # What is a leak
//
// What is open explains descriptors, and work in progress explains goroutines; the caller
// counts both (Sample). The rest should not move. It is a leak when over the last
// `looks` looks it grew by at least `min_growth`, in at least half of the looks and without
// falling back by more than an eighth, so that one step (a pool that fills, log files after a reload) is
// none. Traffic excuses growth only when it rose meanwhile, and by as many accepts and requests
// as there are more descriptors or goroutines: under steady traffic nothing has to
// grow that is not explained, and a leak of one descriptor for each request is the most common one.
//
// An episode ends when half of the growth is gone, or when there was no new high for
// `looks` looks. Growth after that is another episode.
//
// # Names
//
// Nothing is listed while nothing grows. When half of the looks show growth, the watchdog
// remembers who is there (/proc/self/fd, or the goroutine profile), and when it is a leak, it names
// what came since: not what is most frequent, which in a gateway is workers and sockets.
//
//   - Descriptors of no known kind are grouped by what the system calls them (socket, pipe, anon_inode:eventpoll,
//     a path). The oldest are those with the lowest inode numbers, since the times of the links in /proc
//     say when somebody first looked at them, not when they were opened.
//   - Goroutines are grouped by the function they were started with, which for a function literal includes
//     the name of who started it. A full trace would tell creators and ages, but stops the world
//     for as long as it takes to print every stack.
//
// Measured with 1,000 descriptors (BenchmarkLook): counting them takes 3 µs, listing them 5 ms; the profile
// of a few goroutines takes 0.2 ms. Descriptors are not counted on other systems than Linux.
package watchdog
