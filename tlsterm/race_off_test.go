//go:build !race

package tlsterm

// raceEnabled says that the race detector is on, whose instrumentation allocates.
const raceEnabled = false
