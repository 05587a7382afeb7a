package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"io"
	"runtime"
	"sync"
	"weak"
)

// sharedNotes has the connections of one client share their note, which with an identity takes more than a kilobyte. It keeps none in
// memory: a note goes with the last of its connections.
type sharedNotes struct {
	mu    sync.Mutex
	notes map[noteKey]weak.Pointer[tlsNote] // guarded by mu
}

// noteKey is a SHA-256 of all that is in a note: a client cannot make another's.
type noteKey [sha256.Size]byte

// noteKeyOf also tells listeners apart, as each judges its clients by rules of its own (tlsterm.Identity).
func noteKeyOf(st *tls.ConnectionState, listener, ja4, by string) (key noteKey) {
	h := sha256.New()
	for _, text := range [...]string{listener, ja4, by, st.ServerName} {
		_, _ = h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
		_, _ = io.WriteString(h, text)
	}
	for _, chain := range st.VerifiedChains {
		for _, c := range chain {
			_, _ = h.Write(c.Raw) // DER says how long it is
		}
		_, _ = h.Write([]byte{0}) // begins no certificate
	}
	h.Sum(key[:0])
	return key
}

// take returns the note for a key, made by create if there is none; nil if that returns nil.
func (s *sharedNotes) take(key noteKey, create func() *tlsNote) *tlsNote {
	if note := s.find(key); note != nil {
		return note
	}
	made := create() // outside of the lock: others shake hands meanwhile
	if made == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if note := s.notes[key].Value(); note != nil {
		return note
	}
	if s.notes == nil {
		s.notes = map[noteKey]weak.Pointer[tlsNote]{}
	}
	s.notes[key] = weak.Make(made)
	runtime.AddCleanup(made, s.forget, key)
	return made
}

func (s *sharedNotes) find(key noteKey) *tlsNote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.notes[key].Value()
}

// forget lets go of the place of a note that is gone, unless there is a new one.
func (s *sharedNotes) forget(key noteKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.notes[key].Value() == nil {
		delete(s.notes, key)
	}
}
