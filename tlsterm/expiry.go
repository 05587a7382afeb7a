package tlsterm

import (
	"fmt"
	"time"
)

// ExpiryStage says how close a certificate is to its end.
type ExpiryStage uint8

// Stages, each later than the one before.
const (
	ExpiryFar   ExpiryStage = iota // more than 30 days
	ExpiryMonth                    // at most 30 days
	ExpiryWeek                     // at most 7 days
	ExpiryDay                      // at most a day
	Expired
	numExpiryStages
)

var expiryWords = [numExpiryStages]string{ExpiryFar: "far", ExpiryMonth: "30d", ExpiryWeek: "7d", ExpiryDay: "1d", Expired: "expired"}

// String returns the word used in logs and tests.
func (s ExpiryStage) String() string {
	if s >= numExpiryStages {
		return "unknown"
	}
	return expiryWords[s]
}

// oneDay is also how often an expired certificate is told again.
const oneDay = 24 * time.Hour

func expiryStage(left time.Duration) ExpiryStage {
	switch {
	case left <= 0:
		return Expired
	case left <= oneDay:
		return ExpiryDay
	case left <= 7*oneDay:
		return ExpiryWeek
	case left <= expiryNotice:
		return ExpiryMonth
	}
	return ExpiryFar
}

// InText says how long it is until something: "in 12 days", on the last day "in 5 hours".
func InText(left time.Duration) string {
	n, unit := int(left/oneDay), "day"
	if n == 0 {
		n, unit = int(left/time.Hour), "hour"
	}
	switch n {
	case 0:
		return "in less than an hour"
	case 1:
		return "in 1 " + unit
	}
	return fmt.Sprintf("in %d %ss", n, unit)
}

// ExpiryNotice is to be told to people.
type ExpiryNotice struct {
	Stage ExpiryStage
	Cert  CertInfo
	// Left is the time until the first certificate of the chain expires; negative if that is over.
	Left time.Duration
}

// Intermediate reports whether it is not the leaf that expires first.
func (n *ExpiryNotice) Intermediate() bool { return n.Cert.ChainNotAfter.Before(n.Cert.NotAfter) }

// Expiries remembers what has been told about the ends of certificates. The zero value has told nothing. It is for one goroutine.
type Expiries struct {
	told map[expiryKey]toldExpiry
}

// expiryKey is a certificate in a chain that ends at a time: a renewed one is another, whichever of its files was renewed.
type expiryKey struct {
	file, fingerprint string
	end               int64 // Unix seconds
}

type toldExpiry struct {
	stage ExpiryStage
	at    time.Time
}

// Look returns what is to be told now about the certificates in use: each once for each stage that it enters, and daily
// after its end. One that is used by several listeners is told once. Certificates that are no longer in use are forgotten.
func (e *Expiries) Look(now time.Time, certs []CertInfo) []ExpiryNotice {
	var notices []ExpiryNotice
	next := make(map[expiryKey]toldExpiry, len(certs))
	for _, c := range certs {
		key := expiryKey{c.CertFile, c.Fingerprint, c.ChainNotAfter.Unix()}
		if _, again := next[key]; again {
			continue
		}
		left := c.ChainNotAfter.Sub(now)
		told, stage := e.told[key], expiryStage(left)
		if stage > told.stage || stage == Expired && now.Sub(told.at) >= oneDay {
			told = toldExpiry{stage, now}
			notices = append(notices, ExpiryNotice{stage, c, left})
		}
		next[key] = told
	}
	e.told = next
	return notices
}
