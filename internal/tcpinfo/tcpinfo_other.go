//go:build !linux

package tcpinfo

// Of knows nothing on this system.
func Of(int) (Info, bool) { return Info{}, false }
