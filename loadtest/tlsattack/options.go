package tlsattack

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"tickgate/internal/hello"
	"tickgate/loadtest/target"
)

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("tlsattack: bad options")

// ErrUnsupported is returned for a flood on a system that is not Linux.
var ErrUnsupported = errors.New("tlsattack: a flood needs Linux")

// Kind is what the clients do.
type Kind uint8

// The kinds, as the package comment has them.
const (
	Silent Kind = iota
	Dribble
	Stall
	Mutate
	Flood
	numKinds
)

var kindNames = [numKinds]string{"silent", "dribble", "stall", "mutate", "flood"}

// String returns the word by which a kind is chosen.
func (k Kind) String() string {
	if k >= numKinds {
		return fmt.Sprintf("kind_%d", uint8(k))
	}
	return kindNames[k]
}

// Kinds lists the words of all.
func Kinds() []string { return kindNames[:] }

// ParseKind returns the kind of a word.
func ParseKind(word string) (Kind, error) {
	i := slices.Index(kindNames[:], word)
	if i < 0 {
		return 0, fmt.Errorf("%w: kind %q (want one of %v)", ErrOptions, word, kindNames)
	}
	return Kind(i), nil //nolint:gosec // a handful
}

// Options configures a run.
type Options struct {
	// Addr is the server's host:port; Target says how to get there, and how long an answer may take.
	Addr   string
	Target target.Options
	Kind   Kind
	// ServerName that hellos ask for; "" is localhost. Groups that they offer; nil is Go's choice.
	ServerName string
	Groups     []tls.CurveID

	// Conns is how many connections are kept open, or at the most under way (mutate, flood).
	Conns int
	// Rate at which connections are begun, a second, those that replace others too. A flood needs one; 0 is as fast as it goes
	// for the others.
	Rate float64
	// Duration of the run; 0 goes on until ctx ends, a mutate until all are sent.
	Duration time.Duration
	// Every is the pause before each byte of a dribble; 0 is 250 ms.
	Every time.Duration
	// Linger is how long a connection of a flood waits before it looks for the answer the first time; 0 is 20 ms.
	// It looks again after ten times as long, and at last after Target.Timeout.
	Linger time.Duration
	// First and Count are the numbers of the mutants: Count from First on; a Count of 0 is endless.
	First, Count int
	// Seed of all that is random.
	Seed uint64
	// Progress is called once a second; nil is silent.
	Progress func(Progress)
}

// check fills in the defaults and tells what is wrong.
func (o *Options) check() error {
	if o.ServerName == "" {
		o.ServerName = "localhost"
	}
	if o.Every == 0 {
		o.Every = 250 * time.Millisecond
	}
	if o.Linger == 0 {
		o.Linger = 20 * time.Millisecond
	}
	if o.Target.Timeout == 0 {
		o.Target.Timeout = 10 * time.Second
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrOptions}, args...)...)
	}
	switch {
	case o.Kind >= numKinds:
		return wrong("%v", o.Kind)
	case o.Conns < 1 || o.Rate < 0:
		return wrong("%d connections, %v a second (want at least 1, and no negative rate)", o.Conns, o.Rate)
	case o.Kind == Flood && o.Rate == 0:
		return wrong("a flood without a rate")
	case min(o.Duration, o.Every, o.Linger, o.Target.Timeout) < 0 || o.First < 0 || o.Count < 0:
		return wrong("a negative time or number")
	}
	if _, _, err := net.SplitHostPort(o.Addr); err != nil {
		return fmt.Errorf("%w: %w", ErrOptions, err)
	}
	return nil
}

// prepare returns where to connect to and what to say.
func (o *Options) prepare() (*target.Target, *hello.Hello, error) {
	t, err := target.New((&url.URL{Scheme: "https", Host: o.Addr}).String(), o.Target, "https")
	if err != nil {
		return nil, nil, err
	}
	h, err := hello.New(&tls.Config{ServerName: o.ServerName, CurvePreferences: o.Groups, NextProtos: []string{"http/1.1"}})
	return t, h, err
}
