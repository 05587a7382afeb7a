package tlsterm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// TicketFile is one key file.
type TicketFile struct {
	Name    string
	Mode    fs.FileMode
	Written time.Time
	secret  [secretSize]byte
}

// maxTicketFiles bounds the keys that a handshake looks through.
const maxTicketFiles = 64

// The lengths of nginx's ssl_session_ticket_key: name, AES-128 and HMAC keys of 16 bytes each; name of 16, HMAC and AES-256 keys of 32.
const (
	shortTicketFile = 48
	longTicketFile  = 80
)

// ReadTicketFiles reads a key file, or those in a folder, the one that seals first. What is wrong is in the error, with the
// names of the files.
func ReadTicketFiles(path string) ([]TicketFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read ticket key: %w", err)
	}
	if !info.IsDir() {
		f, err := readTicketFile(path)
		return []TicketFile{f}, err
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("read ticket keys: %w", err)
	}
	slices.Reverse(entries)
	var files []TicketFile
	var errs []error
	for _, e := range entries {
		// Names with a dot are what editors and Kubernetes ("..data") put beside, or files that are not complete yet.
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		f, err := readTicketFile(filepath.Join(path, e.Name()))
		files, errs = append(files, f), append(errs, err)
	}
	if len(files) == 0 {
		errs = append(errs, fmt.Errorf("read ticket keys %q: no file in this folder", path))
	}
	return files, errors.Join(errs...)
}

func readTicketFile(name string) (f TicketFile, err error) {
	file, err := os.Open(name)
	if err != nil {
		return f, fmt.Errorf("read ticket key: %w", err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return f, fmt.Errorf("read ticket key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return f, fmt.Errorf("read ticket key %q: it is not a plain file", name)
	}
	data, err := io.ReadAll(io.LimitReader(file, longTicketFile+1))
	if err != nil {
		return f, fmt.Errorf("read ticket key: %w", err)
	}
	if len(data) != shortTicketFile && len(data) != longTicketFile {
		return f, fmt.Errorf("read ticket key %q: it has %d bytes (want 48 or 80 random ones, as of \"openssl rand 80\")", name, info.Size())
	}
	// The whole file is the secret. Its parts are not used as nginx does, since the tickets of both cannot be alike anyway: what
	// is in them is the library's.
	f = TicketFile{Name: name, Mode: info.Mode(), Written: info.ModTime()}
	f.secret = sha256.Sum256(append([]byte("tickgate ticket key file 1\x00"), data...))
	return f, nil
}

// readTicketFiles reads the files of all paths. The first key seals.
func readTicketFiles(paths []string) ([]*ticketKey, error) {
	var keys []*ticketKey
	var errs []error
	for _, path := range paths {
		files, err := ReadTicketFiles(path)
		errs = append(errs, err)
		for _, f := range files {
			k := newTicketKey(f.secret, time.Time{}, time.Time{})
			k.made = f.Written
			if !slices.ContainsFunc(keys, func(o *ticketKey) bool { return o.name == k.name }) {
				keys = append(keys, k)
			}
		}
	}
	if len(keys) > maxTicketFiles {
		errs = append(errs, fmt.Errorf("read ticket keys: %d files (want at most %d)", len(keys), maxTicketFiles))
	}
	if len(keys) == 0 && len(paths) == 0 {
		errs = append(errs, errors.New("tls: tickets.files is empty (want at least one, with source: file)"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return keys, nil
}

// readFiles goes over to what the files hold now. If any of them is bad, all keys stay as they were: half of a
// change would make the wrong one seal.
func (t *Tickets) readFiles(now time.Time) error {
	keys, err := readTicketFiles(t.opts.Files)
	if err != nil {
		return err
	}
	if !sameKeys(keys, t.set.Load().keys) {
		t.publish(keys, now)
	}
	return nil
}

func sameKeys(a, b []*ticketKey) bool {
	return slices.EqualFunc(a, b, func(x, y *ticketKey) bool { return x.name == y.name && x.made.Equal(y.made) })
}
