//go:build race

package meter

// raceOn says that allocation counts mean nothing, as the race detector allocates too.
const raceOn = true
