package tlsterm

import (
	"errors"
	"io"
	"net"
	"testing"
)

// Both ends may write before either reads; an end that closes is seen by the other once it has read what was written.
func TestMemPipe(t *testing.T) {
	a, b := memPipe()
	for _, c := range []*memConn{a, b} {
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	read := func(c *memConn, n int, want string, wantErr error) {
		t.Helper()
		p := make([]byte, n)
		got, err := io.ReadFull(c, p)
		if string(p[:got]) != want || !errors.Is(err, wantErr) {
			t.Errorf("read %q, %v; want %q, %v", p[:got], err, want, wantErr)
		}
	}
	read(a, 2, "he", nil)
	read(a, 3, "llo", nil)
	waiting := make(chan error, 1)
	go func() {
		_, err := a.Read(make([]byte, 1))
		waiting <- err
	}()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, io.EOF) {
		t.Errorf("a read that waits when the other end closes: %v", err)
	}
	if _, err := io.WriteString(a, "x"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after the other end closed: %v", err)
	}
	read(b, 5, "hello", nil)
	read(b, 1, "", io.EOF)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
}

// The most that was written between two reads is a flight.
func TestMemPipeFlight(t *testing.T) {
	a, b := memPipe()
	for _, n := range []int{3, 10, 5} {
		for range 2 {
			if _, err := b.Write(make([]byte, n)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	if b.most != 20 {
		t.Errorf("the largest flight has %d bytes, want 20", b.most)
	}
}
