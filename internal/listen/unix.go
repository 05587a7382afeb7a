package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
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

// openUnix opens the socket at path; one that begins with @ has, on Linux, a name
// of its own instead of a file.
func openUnix(l *config.Listener, path string, how sharing) ([]net.Listener, error) {
	mode, err := parseMode(l.SocketMode)
	if err != nil {
		return nil, err
	}
	var ln *Listener
	switch {
	case strings.HasPrefix(path, "@"):
		ln, err = bindUnix(path, mode, l.Backlog)
	case how == joining:
		ln, err = replaceFile(path, mode, l.Backlog)
	default:
		ln, err = createFile(path, mode, l.Backlog)
	}
	if err != nil {
		return nil, err
	}
	return []net.Listener{ln}, nil
}

// createFile binds to path, over a stale file at most.
func createFile(path string, mode fs.FileMode, backlog int) (*Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := bindUnix(path, mode, backlog)
	if err != nil {
		return nil, err
	}
	return ln.ownFile(path, path, mode)
}

// replaceFile binds beside path and moves the file there, so that at no moment a
// client finds no socket.
func replaceFile(path string, mode fs.FileMode, backlog int) (*Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket == 0 {
		return nil, fmt.Errorf("%q: %w", path, errNotSocket)
	}
	// Short, as the path of a socket may have no more than 107 bytes.
	beside := filepath.Join(filepath.Dir(path), "."+strconv.Itoa(os.Getpid()))
	if err := removeStale(beside); err != nil {
		return nil, err
	}
	ln, err := bindUnix(beside, mode, backlog)
	if err != nil {
		return nil, err
	}
	ln.addr = &net.UnixAddr{Name: path, Net: "unix"}
	return ln.ownFile(beside, path, mode)
}

func bindUnix(path string, mode fs.FileMode, backlog int) (*Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		// The file is to be born with its final mode at most; a chmod afterwards would leave a moment in which anyone gets in.
		return control(rc, func(fd uintptr) error { return limitMode(fd, uint32(mode.Perm())) })
	}}
	in, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	ln, err := newListener(in, backlog)
	if err != nil {
		_ = in.Close() // the first error says what is wrong
		return nil, err
	}
	return ln, nil
}

// ownFile gives the file that l is bound to its mode and its final path, and has Close remove
// it, unless someone else has put another one in its place meanwhile: a successor, say.
func (l *Listener) ownFile(bound, path string, mode fs.FileMode) (*Listener, error) {
	mine, err := settle(bound, path, mode)
	if err != nil {
		_ = l.inner.Close() // the first error says what is wrong; this removes the file
		return nil, err
	}
	l.inner.(*net.UnixListener).SetUnlinkOnClose(false)
	l.onClose = func() {
		if now, err := os.Lstat(path); err == nil && os.SameFile(mine, now) {
			_ = os.Remove(path) // what is left is stale, and removed by the next Open
		}
	}
	return l, nil
}

func settle(bound, path string, mode fs.FileMode) (fs.FileInfo, error) {
	// The umask may have taken bits that are wanted.
	if err := os.Chmod(bound, mode); err != nil {
		return nil, err
	}
	info, err := os.Lstat(bound)
	if err != nil || bound == path {
		return info, err
	}
	return info, os.Rename(bound, path)
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
