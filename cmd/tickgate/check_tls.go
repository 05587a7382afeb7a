package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"tickgate/config"
	"tickgate/tlsterm"
)

// checkedTLS is what a listener with TLS offers, and what clients make of it.
type checkedTLS struct {
	Listen       string             `json:"listen"`
	Certificates []tlsterm.CertInfo `json:"certificates"`
	// Names are the server names that lead to the same, with the clients that ask for them.
	Names []tlsterm.Simulated `json:"names"`
	// NamesLeftOff counts names beyond those that were tried.
	NamesLeftOff int `json:"names_left_off"`
	// Error is set if the files changed under the check, so that nothing could be tried.
	Error string `json:"error,omitempty"`

	path string // of its key in the configuration
}

// simulateLimit ends the handshakes of a check, which take some milliseconds each.
const simulateLimit = time.Minute

// simulateTLS has clients shake hands with each listener of a valid configuration; nil stands for one that is not valid.
func simulateTLS(cfg *config.Config) []checkedTLS {
	if cfg == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), simulateLimit)
	defer cancel()
	all := []checkedTLS{}
	for i := range cfg.Listeners {
		if l := &cfg.Listeners[i]; l.TLS != nil {
			c := simulateListener(ctx, l)
			c.path = fmt.Sprintf("listeners[%d].tls", i)
			all = append(all, c)
		}
	}
	return all
}

func simulateListener(ctx context.Context, l *config.Listener) checkedTLS {
	c := checkedTLS{Listen: l.Listen, Certificates: []tlsterm.CertInfo{}, Names: []tlsterm.Simulated{}}
	o := *l.TLS
	o.InsecureKeyLogFile = "" // a check writes nothing
	store, err := tlsterm.Load(&o, nil)
	if err != nil {
		c.Error = err.Error()
		return c
	}
	c.Certificates = store.Certificates()
	c.Names, c.NamesLeftOff = store.Simulate(ctx)
	return c
}

// warnUnreachable warns about names by which nobody gets a connection.
func warnUnreachable(report *config.Report, listeners []checkedTLS) {
	for _, c := range listeners {
		for i := range c.Names {
			if s := &c.Names[i]; s.Unreachable() {
				// Each may fail for a reason of its own: that of the first is shown.
				report.Warn(c.path, "no client, whatever its kind, gets a connection by asking for %s: %s", namesText(s.Names), s.Clients[0].Reason)
			}
		}
	}
}

// writeTLS writes a table for each listener and group of names.
func writeTLS(w io.Writer, listeners []checkedTLS) error {
	var b strings.Builder
	for _, c := range listeners {
		c.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *checkedTLS) write(b *strings.Builder) {
	fmt.Fprintf(b, "TLS on %s\n", c.Listen)
	if c.Error != "" {
		fmt.Fprintf(b, "  cannot be tried: %s\n\n", c.Error)
		return
	}
	for i := range c.Certificates {
		info := &c.Certificates[i]
		fmt.Fprintf(b, "  certificate #%d  %s, %s, sends %s, good until %s", i+1, info.CertFile, info.KeyType,
			counted(info.ChainLength, "certificate"), info.ChainNotAfter.UTC().Format(time.DateOnly))
		if info.Default {
			b.WriteString(", default")
		}
		b.WriteString("\n")
	}
	for i := range c.Names {
		c.writeNames(b, &c.Names[i])
	}
	if c.NamesLeftOff > 0 {
		fmt.Fprintf(b, "\n  %s were not tried\n", counted(c.NamesLeftOff, "more name"))
	}
	b.WriteString("\n")
}

// namesShown is how many names stand above a table, or in a warning.
const namesShown = 6

func namesText(all []string) string {
	names := slices.Clone(all)
	if i := slices.Index(names, tlsterm.AnyOtherName); i >= 0 {
		names[i] = "any other name"
	}
	if len(names) > namesShown {
		// What is last tells how far it reaches: it may be "any other name".
		names = append(names[:namesShown-1], fmt.Sprintf("%d more", len(all)-namesShown), names[len(names)-1])
	}
	return strings.Join(names, ", ")
}

func (c *checkedTLS) writeNames(b *strings.Builder, s *tlsterm.Simulated) {
	fmt.Fprintf(b, "\n  %s\n", namesText(s.Names))
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "    client\tversion\tkey exchange\tcipher suite\tcertificate\tALPN\tresumes\tOCSP\tclient cert\tfirst flight")
	var failed []tlsterm.Negotiation
	for _, n := range s.Clients {
		if n.Failure != "" {
			failed = append(failed, n)
			continue
		}
		fmt.Fprintf(t, "    %s\t%s\n", clientText(n.Client), strings.Join(c.cells(&n), "\t"))
	}
	if len(failed) < len(s.Clients) {
		_ = t.Flush() // to memory
	}
	for _, n := range failed {
		fmt.Fprintf(b, "    %s: no connection, %s: %s\n", clientText(n.Client), n.Failure, n.Reason)
	}
}

func (c *checkedTLS) cells(n *tlsterm.Negotiation) []string {
	group := n.Group
	if n.Retried {
		group += " (2nd try)"
	}
	which := 1 + slices.IndexFunc(c.Certificates, func(info tlsterm.CertInfo) bool { return info.CertFile == n.CertFile })
	flight := fmt.Sprintf("%.1f KB", float64(n.FirstFlight)/1000)
	if !n.FitsWindow {
		flight += ", too large"
	}
	return []string{
		n.Version, group, n.CipherSuite, fmt.Sprintf("#%d, %s", which, n.KeyType), orDash(n.Protocol),
		yesNo(n.Resumes), yesNo(n.Stapled), string(n.ClientCertificate), flight,
	}
}

func clientText(k tlsterm.ClientKind) string {
	text := strings.ReplaceAll(k.String(), "_", " ")
	if k == tlsterm.LegacyClient {
		text += " (no SNI)"
	}
	return text
}

func counted(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
