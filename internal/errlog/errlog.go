package errlog

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"tickgate/config"
)

// timeLayout is RFC 3339 with milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// Logger is the error log. A nil Logger is valid and logs nothing. It is safe for
// concurrent use.
type Logger struct {
	out  *Output // nil when New was given a plain writer
	now  func() time.Time
	live atomic.Pointer[settings]
}

// settings is what Reconfigure replaces.
type settings struct {
	log      zerolog.Logger
	level    zerolog.Level
	throttle *Throttle
}

// Open opens the error log that o describes. With format "auto" it is coloured text
// when the output is a terminal, and JSON otherwise.
func Open(o config.ErrorLog) (*Logger, error) {
	out, err := OpenOutput(o.Output)
	if err != nil {
		return nil, err
	}
	l := &Logger{out: out, now: time.Now}
	if err := l.apply(o, out, out.IsTerminal()); err != nil {
		_ = out.Close() // the first error is the one to tell
		return nil, err
	}
	return l, nil
}

// New returns a logger that writes to w, whatever o.Output says; w is not taken for a
// terminal. It is for tests and for logging before there is a configuration.
func New(w io.Writer, o config.ErrorLog) (*Logger, error) {
	l := &Logger{now: time.Now}
	if err := l.apply(o, zerolog.SyncWriter(w), false); err != nil {
		return nil, err
	}
	return l, nil
}

// Reconfigure goes over to the settings of o after a reload. On error everything stays
// as it was. Loggers handed out by Zerolog keep their old level and form.
func (l *Logger) Reconfigure(o config.ErrorLog) error {
	if l == nil || l.out == nil {
		return nil
	}
	if _, err := parseLevel(o.Level); err != nil {
		return err
	}
	if err := l.out.Switch(o.Output); err != nil {
		return err
	}
	return l.apply(o, l.out, l.out.IsTerminal())
}

func (l *Logger) apply(o config.ErrorLog, w io.Writer, terminal bool) error {
	level, err := parseLevel(o.Level)
	if err != nil {
		return err
	}
	if o.Format == "console" || (o.Format == "auto" && terminal) {
		w = newConsole(w, terminal)
	}
	log := zerolog.New(w).Level(level).Hook(zerolog.HookFunc(l.stamp))
	l.live.Store(&settings{log: log, level: level, throttle: NewThrottle(o.Throttle)})
	return nil
}

func parseLevel(name string) (zerolog.Level, error) {
	switch name {
	case "debug":
		return zerolog.DebugLevel, nil
	case "info", "":
		return zerolog.InfoLevel, nil
	case "warn":
		return zerolog.WarnLevel, nil
	case "error":
		return zerolog.ErrorLevel, nil
	}
	return zerolog.NoLevel, fmt.Errorf("unknown log level %q (want debug, info, warn or error)", name)
}

// stamp adds the time to every line. It stands in for zerolog's own timestamps, whose
// layout is a global variable.
func (l *Logger) stamp(e *zerolog.Event, _ zerolog.Level, _ string) {
	var buf [len(timeLayout)]byte
	e.Bytes(zerolog.TimestampFieldName, l.now().AppendFormat(buf[:0], timeLayout))
}

// Zerolog returns the logger without throttle, for what only the operator can cause.
func (l *Logger) Zerolog() zerolog.Logger {
	if l == nil {
		return zerolog.Nop()
	}
	return l.live.Load().log
}

// Debug starts a line of level debug; nil, which swallows everything, if that is off.
func (l *Logger) Debug() *zerolog.Event { return l.start(zerolog.DebugLevel) }

// Info starts a line of level info.
func (l *Logger) Info() *zerolog.Event { return l.start(zerolog.InfoLevel) }

// Warn starts a line of level warn.
func (l *Logger) Warn() *zerolog.Event { return l.start(zerolog.WarnLevel) }

// Error starts a line of level error.
func (l *Logger) Error() *zerolog.Event { return l.start(zerolog.ErrorLevel) }

func (l *Logger) start(level zerolog.Level) *zerolog.Event {
	if l == nil {
		return nil
	}
	return l.live.Load().log.WithLevel(level)
}

// Event starts a line about an event that a peer can cause. The event is a constant
// word such as "bad_request"; it becomes the field "event", and its lines are throttled
// together. The line also says how many were suppressed since the last one, if any. A
// suppressed line is a nil event: every method of it does nothing, and nothing is
// allocated. Values that cost something to make should wait for e.Enabled().
func (l *Logger) Event(level zerolog.Level, event string) *zerolog.Event {
	if l == nil {
		return nil
	}
	s := l.live.Load()
	// The level comes first: a line that is not wanted must not use up the allowance.
	if level < s.level {
		return nil
	}
	ok, suppressed := s.throttle.Allow(event, l.now())
	if !ok {
		return nil
	}
	e := s.log.WithLevel(level).Str("event", event)
	if suppressed > 0 {
		e = e.Uint64("suppressed", suppressed)
	}
	return e
}

// Printer adapts the log to libraries that print their own lines, such as
// fasthttp.Server. Each line is throttled as the given event, at level warn.
type Printer struct {
	log   *Logger
	event string
}

// Printer returns a Printer whose lines are throttled as event.
func (l *Logger) Printer(event string) Printer { return Printer{l, event} }

// Printf writes a line with the formatted text in the field "text".
func (p Printer) Printf(format string, args ...any) {
	if e := p.log.Event(zerolog.WarnLevel, p.event); e != nil {
		e.Str("text", fmt.Sprintf(format, args...)).Msg("a library reports")
	}
}

// Reopen opens the file again by its name (SIGUSR1, after a log rotation). No line is
// lost or split. On error the old file stays in use.
func (l *Logger) Reopen() error {
	if l == nil || l.out == nil {
		return nil
	}
	return l.out.Reopen()
}

// Close writes one line for each kind of event that still has suppressed lines, and
// closes the file. It may be called more than once.
func (l *Logger) Close() error {
	if l == nil {
		return nil
	}
	s := l.live.Load()
	s.throttle.Drain(func(event string, suppressed uint64) {
		s.log.Warn().Str("event", event).Uint64("suppressed", suppressed).Msg("log lines were suppressed")
	})
	if l.out == nil {
		return nil
	}
	return l.out.Close()
}
