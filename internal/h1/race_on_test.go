//go:build race

package h1

// raceEnabled tells allocation tests to stand aside: the race detector allocates.
const raceEnabled = true
