//go:build !race

package limiter

// raceEnabled says that the race detector is on, whose instrumentation allocates.
const raceEnabled = false
