package main

import (
	"context"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"tickgate/loadtest/tlsload"
)

// runTLS performs TLS handshakes.
func runTLS(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o tlsload.Options
	fs := flags("tls", "-url URL | -addr HOST:PORT [flags]", errOut)
	fs.StringVar(&o.URL, "url", "", "https:// or wss:// URL")
	fs.StringVar(&o.Addr, "addr", "", "host:port instead of a URL, for servers of something else than HTTP")
	targetFlags(fs, &o.Target)
	fs.StringVar(&o.ServerName, "name", "", "server name to ask for and to verify; the host's by default")
	roots := fs.String("ca", "", "PEM file with the certificates to trust; the system's by default")
	fs.IntVar(&o.Conns, "conns", 16, "connections under way at a time; with -rate: at most")
	fs.Float64Var(&o.Rate, "rate", 0, "connections a second, whatever the server does (open loop); 0 keeps -conns under way (closed loop)")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the run, warm-up included; 0 is until a signal")
	fs.DurationVar(&o.Warmup, "warmup", 0, "time at the start that is not counted")
	fs.IntVar(&o.ResumePercent, "resume", 0, "share of the connections that offer an earlier session, in per cent")
	returns := fs.String("return-after", "", "time after which a client comes back with its session, or a range of which it is drawn: 10s, 0s-18s; at once by default")
	groups := fs.String("groups", "", "groups to offer, of X25519MLKEM768, X25519, P-256, P-384, P-521 (comma-separated); Go's choice by default")
	versions := fs.String("versions", "", "TLS version, or a range: 1.2, 1.3, 1.2-1.3 (the default)")
	alpn := fs.String("alpn", "http/1.1", "protocols to offer (comma-separated); empty offers none")
	fs.BoolVar(&o.Request, "request", false, "send one GET on each connection, and count until the response is there")
	fs.Uint64Var(&o.Seed, "seed", 1, "makes the choice repeatable which connections resume")
	hdr := fs.String("hdr", "", "write the latencies to this file, in HdrHistogram's V2 compressed encoding as base64")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	strict := fs.Bool("strict", true, "fail if a connection did, or if the tool itself was the bottleneck")
	quiet := fs.Bool("quiet", false, "write no progress")
	examples(fs,
		"tickload tls -url https://127.0.0.1:8443 -insecure -rate 200",
		"tickload tls -url https://127.0.0.1:8443 -insecure -conns 4 -duration 30s -warmup 5s -resume 80",
		"tickload tls -url https://127.0.0.1:8443 -insecure -rate 100 -duration 1m -resume 100 -return-after 0s-18s",
		"tickload tls -url https://127.0.0.1:8443/health -insecure -versions 1.3 -groups X25519 -request -json")
	if err := parse(fs, args); err != nil {
		return err
	}
	if (o.URL == "") == (o.Addr == "") {
		return misused(fs, "-url or -addr is required")
	}
	var err error
	if o.Groups, err = tlsload.ParseGroups(*groups); err != nil {
		return misused(fs, err.Error())
	}
	if o.MinVersion, o.MaxVersion, err = tlsload.ParseVersions(*versions); err != nil {
		return misused(fs, err.Error())
	}
	if o.ReturnAfter, o.ReturnWithin, err = tlsload.ParseReturn(*returns); err != nil {
		return misused(fs, err.Error())
	}
	o.ALPN = tlsload.ParseALPN(*alpn)
	if o.Roots, err = readRoots(*roots); err != nil {
		return err
	}
	var wipe func()
	o.Progress, wipe = onTerminal[tlsload.Progress](errOut, *quiet)
	result, err := tlsload.Run(ctx, o)
	wipe()
	if err != nil {
		return err
	}
	if err := writeResult(out, result, *asJSON, *hdr, result.HDR); err != nil {
		return err
	}
	switch {
	case *strict && result.Failed() > 0:
		return fmt.Errorf("%w: %d of %d connections failed", errFlaws, result.Failed(), result.Due)
	case *strict && result.Bottleneck != "":
		return fmt.Errorf("%w: %s", errBottleneck, result.Bottleneck)
	}
	return nil
}

// examples adds command lines to the help of a command.
func examples(fs *flag.FlagSet, lines ...string) {
	usage := fs.Usage
	fs.Usage = func() {
		usage()
		fmt.Fprint(fs.Output(), "\nexamples:\n")
		for _, line := range lines {
			fmt.Fprintf(fs.Output(), "  %s\n", line)
		}
	}
}

// misused says what is wrong with a command line, and how it should be.
func misused(fs *flag.FlagSet, text string) error {
	fmt.Fprintln(fs.Output(), text)
	fs.Usage()
	return errUsage
}

// readRoots reads certificates to trust; no file is the system's.
func readRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", file)
	}
	return pool, nil
}

// onTerminal returns what writes each progress over the one before on a terminal, nil
// elsewhere, and what wipes the last one away.
func onTerminal[P fmt.Stringer](w io.Writer, quiet bool) (write func(P), wipe func()) {
	file, ok := w.(*os.File)
	if quiet || !ok || !isatty.IsTerminal(file.Fd()) {
		return nil, func() {}
	}
	return func(p P) { fmt.Fprintf(w, "\r%s\x1b[K", p) }, func() { fmt.Fprint(w, "\r\x1b[K") }
}

// writeResult writes a result for people or for machines, and its histogram to a file if
// one is named.
func writeResult(out io.Writer, result io.WriterTo, asJSON bool, hdrFile, hdr string) error {
	if hdrFile != "" {
		if err := os.WriteFile(hdrFile, []byte(hdr+"\n"), 0o644); err != nil {
			return err
		}
	}
	if asJSON {
		return writeJSON(out, result)
	}
	_, err := result.WriteTo(out)
	return err
}
