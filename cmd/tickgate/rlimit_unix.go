//go:build unix

package main

import (
	"golang.org/x/sys/unix"

	"tickgate/internal/errlog"
)

// raiseFileLimit raises the soft limit on descriptors to the hard one. The Go
// runtime does so at start; it is repeated here to log what is left.
func raiseFileLimit(log *errlog.Logger) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		log.Warn().Err(err).Msg("cannot read the limit on open files")
		return
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			log.Warn().Err(err).Msg("cannot raise the limit on open files")
		}
	}
	log.Debug().Uint64("max_open_files", uint64(l.Cur)).Msg("file limit")
}
