package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tickgate/config"
)

// staleCheck bounds the attempt to reach the owner of a socket file.
const staleCheck = time.Second

// errNotSocket is returned for a path that exists and must not be removed.
var errNotSocket = errors.New("the path exists and is not a socket")

func openUnix(l *config.Listener, path string) ([]net.Listener, error) {
	mode, err := parseMode(l.SocketMode)
	if err != nil {
		return nil, err
	}
	// Linux has sockets with a name of their own instead of a file.
	abstract := strings.HasPrefix(path, "@")
	if !abstract {
		if err := removeStale(path); err != nil {
			return nil, err
		}
	}
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		// The file is to be born with its final mode at most; a chmod afterwards would leave a moment in which anyone gets in.
		return control(rc, func(fd uintptr) error { return limitMode(fd, uint32(mode.Perm())) })
	}}
	in, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	ln, err := newListener(in, l.Backlog)
	if err == nil && !abstract {
		err = ln.ownFile(path, mode)
	}
	if err != nil {
		_ = in.Close() // the first error says what is wrong
		return nil, err
	}
	return []net.Listener{ln}, nil
}

// ownFile sets the mode of a socket's file and has Close remove it, unless someone
// else has put another one in its place meanwhile: a successor, say.
func (l *Listener) ownFile(path string, mode fs.FileMode) error {
	// The umask may have taken bits that are wanted.
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	mine, err := os.Lstat(path)
	if err != nil {
		return err
	}
	l.inner.(*net.UnixListener).SetUnlinkOnClose(false)
	l.onClose = func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(mine, now) {
			_ = os.Remove(path) // what is left is stale, and removed by the next Open
		}
	}
	return nil
}

// removeStale removes a socket file that nobody listens on any more, as a killed
// process leaves it.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%q: %w", path, errNotSocket)
	}
	conn, err := net.DialTimeout("unix", path, staleCheck)
	switch {
	case err == nil:
		_ = conn.Close() // it has said that someone is there
		return syscall.EADDRINUSE
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, syscall.EAGAIN):
		return syscall.EADDRINUSE // its queue is full, so someone owns it
	}
	return err
}

// parseMode reads octal permissions such as "0660"; "" is that, too.
func parseMode(text string) (fs.FileMode, error) {
	if text == "" {
		text = "0660"
	}
	n, err := strconv.ParseUint(text, 8, 32)
	if err != nil || n > 0o777 {
		return 0, fmt.Errorf("socket_mode: not an octal mode: %q (want 0000 to 0777, such as 0660)", text)
	}
	return fs.FileMode(n), nil
}
