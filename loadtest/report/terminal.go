package report

import (
	"io"
	"os"

	"github.com/mattn/go-isatty"
)

// WriteTerminal writes the report as text the way w shows it best: in colour and in the terminal's
// width if w is one, plain and as wide as it needs if not. NO_COLOR in the environment
// switches colour off (https://no-color.org).
func (r *Report) WriteTerminal(w io.Writer) error {
	f, ok := w.(*os.File)
	if !ok || !isatty.IsTerminal(f.Fd()) {
		return r.WriteText(w, false, 0)
	}
	return r.WriteText(w, os.Getenv("NO_COLOR") == "", columns(f))
}
