package errlog

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/mattn/go-isatty"
)

// ErrClosed is returned by writes to an Output after Close.
var ErrClosed = errors.New("errlog: output is closed")

// Output is a log destination: a file, "stdout" or "stderr". Every Write reaches
// one file whole, whatever Reopen does meanwhile. It is safe for concurrent use.
type Output struct {
	mu   sync.Mutex
	name string
	file *os.File // nil once closed
}

// OpenOutput opens name: "stdout", "stderr", or the path of a file that is created
// with mode 0640 or appended to.
func OpenOutput(name string) (*Output, error) {
	f, err := OpenFile(name)
	if err != nil {
		return nil, err
	}
	return &Output{name: name, file: f}, nil
}

// OpenFile opens the file that an output name stands for. For a named pipe without
// a reader it fails instead of waiting for one.
func OpenFile(name string) (*os.File, error) {
	switch name {
	case "stdout":
		return os.Stdout, nil
	case "stderr":
		return os.Stderr, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open log file %q: %w", name, err)
	}
	return f, nil
}

// CloseFile closes a file that OpenFile returned, but never the process's own
// standard output and error.
func CloseFile(f *os.File) error {
	if f == os.Stdout || f == os.Stderr {
		return nil
	}
	return f.Close()
}

// Write writes p whole.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return 0, ErrClosed
	}
	return o.file.Write(p)
}

// Reopen opens the file again by its name, after a log rotation moved it away. If
// that fails, the old file stays in use.
func (o *Output) Reopen() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.switchLocked(o.name)
}

// Switch goes over to another output. If that cannot be opened, the old one stays.
func (o *Output) Switch(name string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if name == o.name {
		return nil
	}
	return o.switchLocked(name)
}

func (o *Output) switchLocked(name string) error {
	if o.file == nil {
		return ErrClosed
	}
	f, err := OpenFile(name)
	if err != nil {
		return err
	}
	old := o.file
	o.name, o.file = name, f
	if old == f {
		return nil
	}
	if err := CloseFile(old); err != nil {
		return fmt.Errorf("close the old log file: %w", err)
	}
	return nil
}

// IsTerminal reports whether the output is a terminal.
func (o *Output) IsTerminal() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.file != nil && isatty.IsTerminal(o.file.Fd())
}

// Close closes the file. It may be called more than once.
func (o *Output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil {
		return nil
	}
	f := o.file
	o.file = nil
	return CloseFile(f)
}
