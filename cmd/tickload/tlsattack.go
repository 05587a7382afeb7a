package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"tickgate/loadtest/tlsattack"
	"tickgate/loadtest/tlsload"
)

// runTLSAttack attacks a TLS server.
func runTLSAttack(ctx context.Context, args []string, out, errOut io.Writer) error {
	var o tlsattack.Options
	fs := flags("tls-attack", "-addr HOST:PORT -kind KIND [flags]", errOut)
	fs.StringVar(&o.Addr, "addr", "", "host:port to attack (required)")
	kind := fs.String("kind", "", "one of "+strings.Join(tlsattack.Kinds(), ", ")+" (required)")
	fs.IntVar(&o.Target.Sources, "sources", 0, "loopback addresses to connect from, from 127.0.0.2 on; 0 leaves it to the system")
	fs.DurationVar(&o.Target.Timeout, "timeout", 10*time.Second, "longest wait for a connection, and for an answer (mutate, flood)")
	fs.StringVar(&o.ServerName, "name", "localhost", "server name that ClientHellos ask for")
	groups := fs.String("groups", "", "groups that ClientHellos offer, as of tickload tls; Go's choice by default")
	fs.IntVar(&o.Conns, "conns", 1000, "connections kept open; mutate, flood: under way at a time, at most")
	fs.Float64Var(&o.Rate, "rate", 0, "connections begun a second; 0 is as fast as it goes, which a flood cannot do")
	fs.DurationVar(&o.Duration, "duration", 10*time.Second, "length of the run; 0 is until a signal, or until all mutants are sent")
	fs.DurationVar(&o.Every, "every", 250*time.Millisecond, "dribble: pause before each byte")
	fs.DurationVar(&o.Linger, "linger", 20*time.Millisecond, "flood: wait before the first look for an answer; the second is after ten times as long")
	fs.IntVar(&o.First, "first", 0, "mutate: number of the first ClientHello")
	fs.IntVar(&o.Count, "count", 1000, "mutate: how many ClientHellos; 0 is endless")
	fs.Uint64Var(&o.Seed, "seed", 1, "makes random choices repeatable")
	asJSON := fs.Bool("json", false, "write the result as JSON")
	strict := fs.Bool("strict", true, "fail if the attack was weaker than asked for, or a mutant was neither answered nor ended")
	quiet := fs.Bool("quiet", false, "write no progress")
	examples(fs,
		"tickload tls-attack -addr 127.0.0.1:8443 -kind stall -conns 500 -sources 50",
		"tickload tls-attack -addr 127.0.0.1:8443 -kind mutate -count 1000 -conns 16",
		"tickload tls-attack -addr 127.0.0.1:8443 -kind flood -rate 5000 -conns 2000 -sources 100 -groups X25519")
	if err := parse(fs, args); err != nil {
		return err
	}
	if o.Addr == "" || *kind == "" {
		return misused(fs, "-addr and -kind are required")
	}
	var err error
	if o.Kind, err = tlsattack.ParseKind(*kind); err != nil {
		return misused(fs, err.Error())
	}
	if o.Groups, err = tlsload.ParseGroups(*groups); err != nil {
		return misused(fs, err.Error())
	}
	var wipe func()
	o.Progress, wipe = onTerminal[tlsattack.Progress](errOut, *quiet)
	result, err := tlsattack.Run(ctx, o)
	wipe()
	if err != nil {
		return err
	}
	if err := writeResult(out, result, *asJSON, "", ""); err != nil {
		return err
	}
	switch unanswered := result.Ends[tlsattack.Unanswered.String()]; {
	case *strict && result.Bottleneck != "":
		return fmt.Errorf("%w: %s", errBottleneck, result.Bottleneck)
	case *strict && o.Kind == tlsattack.Mutate && unanswered > 0:
		return fmt.Errorf("%w: %d of %d mutants were neither answered nor ended", errFlaws, unanswered, result.Begun)
	}
	return nil
}
