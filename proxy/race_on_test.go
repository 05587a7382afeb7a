//go:build race

package proxy

// raceEnabled says that the race detector instruments the test, which allocates.
const raceEnabled = true
