//go:build !race

package errlog

// raceOn says that allocation counts mean nothing, as the race detector allocates too.
const raceOn = false
