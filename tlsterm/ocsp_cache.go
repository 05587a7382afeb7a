package tlsterm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The answers of ocsp.cache_dir are files of one answer each, as it came (DER). Files are only a start: what counts is in memory, and what comes
// out of a file is verified as if it came from the network. Several processes may share a directory: each file is replaced as a whole, by an
// answer that is not older.
//
// Disks may hang, those on the network above all. So nothing waits for them but Prime, for a time, and one goroutine of the stapler (keepAnswers); looks
// only tell it that there is something to do.

// Names in a directory of answers. Others are not touched.
const (
	answerSuffix = ".ocsp"
	answerPrefix = ".ocsp-" // of files that are being written
)

const (
	// answerSweep is the time between looks for files that nobody needs.
	answerSweep = 24 * time.Hour
	// answerGrace is how long after its end an answer is left alone.
	answerGrace = 24 * time.Hour
)

// answerFile is where the answer on a certificate is kept, "" if that is nowhere. The name is a sum of what an answer names its certificate by: name and
// key of the issuer, and the serial number.
func (c *stapled) answerFile(dir string) string {
	if dir == "" || c.issuer == nil || c.source() == "" || c.file != "" {
		return ""
	}
	name, key := sha256.Sum256(c.issuer.RawSubject), sha256.Sum256(c.issuer.RawSubjectPublicKeyInfo)
	sum := sha256.Sum256(slices.Concat(name[:], key[:], c.leaf.SerialNumber.Bytes()))
	return filepath.Join(dir, hex.EncodeToString(sum[:])+answerSuffix)
}

// isAnswerFile reports whether a name in the directory is of our making.
func isAnswerFile(name string) bool {
	sum, found := strings.CutSuffix(name, answerSuffix)
	raw, err := hex.DecodeString(sum)
	return found && err == nil && len(raw) == sha256.Size || strings.HasPrefix(name, answerPrefix)
}

// recall takes answers from the directory for certificates that have none yet.
func (s *Stapler) recall() {
	for _, c := range s.filed(func(c *stapled) bool { return !c.looked && c.latest() == nil }) {
		s.exchange(c)
	}
}

// keepAnswers is the goroutine that has the directory follow what is known.
func (s *Stapler) keepAnswers(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var swept time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.unfiled:
		case <-timer.C:
		}
		for _, c := range s.filed(func(c *stapled) bool { return c.consult || c.latest() != c.saved }) {
			if ctx.Err() != nil {
				return
			}
			s.exchange(c)
		}
		if now := time.Now(); now.Sub(swept) >= answerSweep {
			swept = now
			sweepAnswers(s.opts.CacheDir, now)
		}
		timer.Reset(s.fileAgain(swept))
	}
}

// fileAgain is the time until something is tried again that could not be written.
func (s *Stapler) fileAgain(swept time.Time) time.Duration {
	if len(s.filed(func(c *stapled) bool { return c.latest() != c.saved })) > 0 {
		return s.opts.RefreshMin
	}
	return max(time.Until(swept.Add(answerSweep)), time.Second)
}

// filed returns certificates that have a file.
func (s *Stapler) filed(wanted func(*stapled) bool) (list []*stapled) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.certs {
		if c.answers != "" && wanted(c) {
			list = append(list, c)
		}
	}
	return list
}

// exchange reads the file of a certificate, and takes what is in it or replaces it, whichever is the older.
func (s *Stapler) exchange(c *stapled) {
	s.mu.Lock()
	c.consult = false
	known, saved := c.latest(), c.saved
	s.mu.Unlock()
	filed, at, err := c.readAnswer(known, saved)
	if err != nil || filed != nil && filed != known {
		s.counts.reads[ocspOutcome(filed, err)].Add(1)
	}
	s.noteFile(c, StapleSpoilt, &c.spoilt, err)
	if filed != nil && s.adopt(c, filed, at) {
		s.stir()
		return
	}
	if known == nil || known == filed {
		return
	}
	if err = writeAnswer(c.answers, known.der); err != nil {
		err = fmt.Errorf("write %q: %s", c.answers, plain(err)) // the name of the other file is another each time
	}
	s.noteWritten(c, known, err)
	s.noteFile(c, StapleUnsaved, &c.unsaved, err)
}

func (s *Stapler) noteWritten(c *stapled, a *ocspAnswer, err error) {
	if err != nil {
		s.counts.unwritten.Add(1)
		return
	}
	s.counts.written.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.saved = a
}

// readAnswer returns the answer in the file and when it was written, or neither if there is no file, or one known to be spoilt. It returns
// known itself if it is that, verified already.
func (c *stapled) readAnswer(known, saved *ocspAnswer) (*ocspAnswer, time.Time, error) {
	info, err := os.Stat(c.answers)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, nil
	}
	var der []byte
	if err == nil {
		der, err = readSmallFile(c.answers)
	}
	if err != nil {
		return nil, time.Time{}, ocspErrorf(OCSPUnreadable, "read OCSP answer: %w", err)
	}
	switch {
	case known != nil && bytes.Equal(der, known.der):
		return known, time.Time{}, nil
	case saved != nil && bytes.Equal(der, saved.der):
		return nil, time.Time{}, nil // about to be replaced, expired or not
	}
	a, err := readOCSP(der, c.leaf, c.issuer, time.Now())
	if err == nil && a.status > OCSPRevoked {
		err = ocspErrorf(OCSPUnknown, "the responder did not know the certificate")
	}
	if err != nil {
		return nil, time.Time{}, ocspErrorf(ocspResult(err), "answer in %q: %w", c.answers, err)
	}
	return a, info.ModTime(), nil
}

// adopt takes the answer of a file if none so recent is known, and reports whether the file may stay as it is. at is when it was asked for.
func (s *Stapler) adopt(c *stapled, filed *ocspAnswer, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	known := c.latest()
	switch {
	case known == filed:
		c.saved = known
		return true
	case known != nil && !filed.thisUpdate.After(known.thisUpdate):
		return false
	}
	c.keep(filed)
	c.saved = filed
	if !c.looked && !at.After(now) {
		// The next look comes when it would have come without a restart.
		c.next = at.Add(ocspWait(&s.opts, filed.nextUpdate.Sub(at), 0, s.spread()))
	}
	if filed.status == OCSPRevoked {
		r := c.reportOf(StapleRevoking, c.answers, now)
		r.RevokedAt = filed.revokedAt
		s.pending = append(s.pending, r)
	}
	return true
}

// noteFile reports what is wrong with a file, once for each reason. told is where the last one is noted.
func (s *Stapler) noteFile(c *stapled, event StapleEvent, told *string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := *told
	*told = ""
	if err != nil {
		*told = err.Error()
	}
	if err == nil || *told == before {
		return
	}
	r := c.reportOf(event, c.answers, time.Now())
	r.Err, r.Result = err, ocspResult(err)
	s.pending = append(s.pending, r)
	s.stir()
}

// latest is the last verified answer, good or revoked, expired or not; nil if there is none.
func (s *stapling) latest() *ocspAnswer {
	if s.revoked != nil {
		return s.revoked
	}
	return s.good
}

// writeAnswer replaces a file as a whole. The answer is no secret.
func writeAnswer(name string, der []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), answerPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(der)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync() // else the name may lead to an empty file after a power failure
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// sweepAnswers removes files that are of use to no process: answers that have ended, and what was left half written. What
// cannot be read or removed is left, and harms nobody.
func sweepAnswers(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !e.Type().IsRegular() || !isAnswerFile(e.Name()) {
			continue
		}
		name := filepath.Join(dir, e.Name())
		if ends, known := endOfFile(name); known && now.After(ends.Add(answerGrace)) {
			_ = os.Remove(name)
		}
	}
}

// endOfFile is when a file has lost its use: with the answer in it, or when it was written if there is none in it.
func endOfFile(name string) (ends time.Time, known bool) {
	info, err := os.Stat(name)
	if err != nil {
		return time.Time{}, false
	}
	der, err := readSmallFile(name)
	if err != nil {
		return time.Time{}, false
	}
	if ends, known = ocspEnd(der); known {
		return ends, true
	}
	return info.ModTime(), true
}
