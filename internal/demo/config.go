package demo

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/template"

	_ "embed" // the templates
)

//go:embed config.yaml.tmpl
var configText string

//go:embed hints.txt.tmpl
var hintsText string

var (
	configTemplate = template.Must(template.New("config").Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(configText))
	hintsTemplate  = template.Must(template.New("hints").Parse(hintsText))
)

// facts are what the templates are filled with.
type facts struct {
	*Demo
	Plain, TLS, Admin string
	CertFile, KeyFile string
	PID               int
}

// ConfigYAML returns the gateway configuration of the demonstration: plain HTTP on
// PlainAddr, TLS with the given PEM files on TLSAddr, admin on AdminAddr.
func (d *Demo) ConfigYAML(certFile, keyFile string) []byte {
	var b bytes.Buffer
	must(configTemplate.Execute(&b, d.facts(certFile, keyFile)))
	return b.Bytes()
}

// Hints returns what to try while the demonstration runs in this process: plain
// text for a terminal, one command a line, each of which works as it stands.
func (d *Demo) Hints() string {
	var b strings.Builder
	must(hintsTemplate.Execute(&b, d.facts("", "")))
	return b.String()
}

func (d *Demo) facts(certFile, keyFile string) facts {
	return facts{Demo: d, Plain: PlainAddr, TLS: TLSAddr, Admin: AdminAddr, CertFile: certFile, KeyFile: keyFile, PID: os.Getpid()}
}

// must is for templates, which are constant and covered by tests.
func must(err error) {
	if err != nil {
		panic(fmt.Sprintf("BUG: %v", err))
	}
}
