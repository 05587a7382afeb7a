package errlog

import (
	"fmt"
	"io"
	"strconv"

	"github.com/rs/zerolog"
)

// consoleTime is short, as whoever reads a terminal knows the day.
const consoleTime = "15:04:05.000"

// messageWidth aligns the fields of short messages below each other.
const messageWidth = 32

// newConsole returns a writer that turns zerolog's JSON into text for people:
//
//	15:04:05.123 WRN backend is down                  backend=10.0.0.1:80 upstream=be
//
// It is coloured if colour is set and NO_COLOR is not in the environment.
func newConsole(w io.Writer, colour bool) io.Writer {
	return zerolog.NewConsoleWriter(func(c *zerolog.ConsoleWriter) {
		c.Out = w
		c.NoColor = !colour
		c.TimeFormat = consoleTime
		c.FormatMessage = formatMessage
	})
}

// formatMessage pads the message, and escapes what could start a new line or reach the
// terminal as a command. zerolog itself only does that for fields.
func formatMessage(v any) string {
	text, _ := v.(string)
	for _, r := range text {
		if !strconv.IsPrint(r) {
			text = strconv.Quote(text)
			break
		}
	}
	return fmt.Sprintf("%-*s", messageWidth, text)
}
