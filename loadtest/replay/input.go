package replay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// maxLine is the longest line that is read; one longer is counted, and passed over.
const maxLine = 64 << 10

// maxFiles bounds the files that are open at once.
const maxFiles = 1000

// file is one log that is being read.
type file struct {
	name  string
	in    io.ReadCloser
	lines *bufio.Reader // nil before the first line
	line  int           // number of the last line read, from 1
}

// Stdin is the name of the standard input.
const Stdin = "-"

// openFile opens a log.
func openFile(name string, stdin io.Reader) (*file, error) {
	f := &file{name: name}
	if name == Stdin {
		f.in = interruptible(stdin)
		return f, nil
	}
	in, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f.in = in
	return f, nil
}

// begin reads the first bytes: they tell that a log is compressed, whatever its name is.
func (f *file) begin() error {
	f.lines = bufio.NewReaderSize(f.in, maxLine)
	if magic, _ := f.lines.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return nil
	}
	unzipped, err := gzip.NewReader(f.lines)
	if err != nil {
		return f.wrap(err)
	}
	f.lines = bufio.NewReaderSize(unzipped, maxLine)
	return nil
}

// interruptible makes a reader whose Close ends a Read, which that of a terminal or of a pipe
// does not. What reads from r ends with r, or at its next byte.
func interruptible(r io.Reader) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, r)
		_ = pw.CloseWithError(err)
	}()
	return pr
}

// next returns the next line that is not empty, without its end, valid until the next call; tooLong
// says that it is only the beginning of one. The error is io.EOF at the end.
func (f *file) next() (line []byte, tooLong bool, err error) {
	if f.lines == nil {
		if err := f.begin(); err != nil {
			return nil, false, err
		}
	}
	for {
		line, err = f.lines.ReadSlice('\n')
		if len(line) == 0 && err != nil {
			return nil, false, f.wrap(err)
		}
		f.line++
		if errors.Is(err, bufio.ErrBufferFull) {
			// The buffer is read on into: keep the beginning for the message.
			line = bytes.Clone(line[:shown])
			return line, true, f.skip()
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, false, f.wrap(err)
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) > 0 {
			return line, false, nil
		}
	}
}

// skip reads up to the end of a line.
func (f *file) skip() error {
	for {
		_, err := f.lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return nil
		default:
			return f.wrap(err)
		}
	}
}

// wrap says where reading failed.
func (f *file) wrap(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return fmt.Errorf("read %s behind line %d: %w", f.name, f.line, err)
}
