//go:build !race

package upstream

// raceEnabled is whether the race detector runs, under which everything allocates.
const raceEnabled = false
