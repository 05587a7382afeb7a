package proxy

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/tlsterm"
)

// stapler keeps the stapled answers of one listener.
type stapler struct {
	listen string
	*tlsterm.Stapler
}

// openStapler notes a stapler that is new with this plan.
func (p *listenerPlan) openStapler(store, prev *tlsterm.Store) {
	if store != nil && store != prev {
		store.Stapler().Share(&p.g.inquiries)
		p.staplers = append(p.staplers, store.Stapler())
	}
}

// prime has what is new look at its sources, all at once, before the first connection is accepted.
func (p *listenerPlan) prime() {
	var wg sync.WaitGroup
	wg.Go(p.primeTickets)
	for _, s := range p.staplers {
		wg.Go(s.Prime)
	}
	wg.Wait()
}

// followStaplersLocked starts the staplers of the listeners in use and ends those that no listener has any more.
func (g *Gateway) followStaplersLocked() {
	next := []stapler{}
	used := map[*tlsterm.Stapler]bool{}
	for _, name := range sortedKeys(g.listeners) {
		store := g.listeners[name].store
		if store == nil {
			continue
		}
		s := stapler{name, store.Stapler()}
		next, used[s.Stapler] = append(next, s), true
		s.Start(func(r tlsterm.StapleReport) { g.reportStaple(name, r) })
	}
	for _, s := range *g.staplers.Swap(&next) {
		if !used[s.Stapler] {
			s.Close()
		}
	}
}

// reportStaple logs what has happened to the stapling of a certificate. The responder is a peer whose failures are throttled, a revocation is not.
func (g *Gateway) reportStaple(listen string, r tlsterm.StapleReport) {
	switch r.Event {
	case tlsterm.StapleRevoking:
		g.log.Error().Str("listen", listen).Str("cert_file", r.CertFile).Str("source", r.Source).Time("revoked_at", r.RevokedAt).
			Msg("TLS certificate IS REVOKED, replace it: clients that check will refuse it, and nothing is stapled to it")
	case tlsterm.StapleMissing:
		g.log.Error().Str("listen", listen).Str("cert_file", r.CertFile).Str("source", r.Source).Stringer("state", r.State).
			Msg("TLS certificate demands a stapled OCSP answer (must-staple) and has none: clients that check will refuse it")
	case tlsterm.StapleRecovered:
		g.log.Info().Str("listen", listen).Str("cert_file", r.CertFile).Str("source", r.Source).Stringer("state", r.State).
			Msg("OCSP answers come again")
	case tlsterm.StapleEnded:
		if e := g.log.Event(warnLevel, "ocsp_expired"); e != nil {
			e.Str("listen", listen).Str("cert_file", r.CertFile).Str("source", r.Source).
				Msg("OCSP answer has expired, nothing is stapled until another one comes")
		}
	case tlsterm.StapleSpoilt:
		if e := g.log.Event(warnLevel, "ocsp_cache"); e != nil {
			e.Str("listen", listen).Str("cert_file", r.CertFile).Stringer("reason", r.Result).Err(r.Err).
				Msg("kept OCSP answer cannot be used, the responder is asked")
		}
	case tlsterm.StapleUnsaved:
		if e := g.log.Event(warnLevel, "ocsp_cache"); e != nil {
			e.Str("listen", listen).Str("cert_file", r.CertFile).Str("file", r.Source).Err(r.Err).
				Msg("OCSP answer cannot be kept for the next start")
		}
	case tlsterm.StapleFailed:
		e := g.log.Event(warnLevel, "ocsp_failed")
		if e == nil {
			return
		}
		e = e.Str("listen", listen).Str("cert_file", r.CertFile).Str("source", r.Source).Stringer("reason", r.Result).Stringer("state", r.State)
		if r.State == tlsterm.StapleGood {
			e = e.Time("until", r.Until)
		}
		e.Err(r.Err).Msg("no OCSP answer that could be stapled, the last good one serves until it expires")
	}
}

func (g *Gateway) writeStapleMetrics(w io.Writer) {
	now := time.Now()
	for _, s := range *g.staplers.Load() {
		listener := "listener=" + strconv.Quote(s.listen)
		for i, n := range s.Results() {
			metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_ocsp_looks_total{%s,result=%q}", listener, tlsterm.OCSPResult(i)), n)
		}
		for i, n := range s.Reads() {
			metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_ocsp_cache_reads_total{%s,result=%q}", listener, tlsterm.OCSPResult(i)), n)
		}
		written, unwritten := s.Writes()
		metrics.WriteCounterUint64(w, "tickgate_tls_ocsp_cache_writes_total{"+listener+"}", written)
		metrics.WriteCounterUint64(w, "tickgate_tls_ocsp_cache_write_errors_total{"+listener+"}", unwritten)
		for _, c := range s.Stats() {
			labels := fmt.Sprintf("%s,cert_file=%q", listener, c.CertFile)
			for _, state := range tlsterm.StapleStates() {
				metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_tls_ocsp_state{%s,state=%q}", labels, state), one(c.State == state))
			}
			age, next := 0.0, uint64(0)
			if !c.ThisUpdate.IsZero() {
				age, next = now.Sub(c.ThisUpdate).Seconds(), uint64(c.NextUpdate.Unix())
			}
			metrics.WriteGaugeFloat64(w, "tickgate_tls_ocsp_answer_age_seconds{"+labels+"}", age)
			metrics.WriteGaugeUint64(w, "tickgate_tls_ocsp_next_update_timestamp_seconds{"+labels+"}", next)
			metrics.WriteGaugeUint64(w, "tickgate_tls_ocsp_must_staple_missing{"+labels+"}", one(c.MustStaple && c.State != tlsterm.StapleGood))
		}
	}
}
