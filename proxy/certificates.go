package proxy

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/tlsterm"
)

// tlsStore is the certificate store of one listener, while it follows its files.
type tlsStore struct {
	listen string
	*tlsterm.Store
}

// followStoresLocked starts the stores of the listeners in use and ends those that no listener has any more.
func (g *Gateway) followStoresLocked() {
	next := []tlsStore{}
	used := map[*tlsterm.Store]bool{}
	for _, name := range sortedKeys(g.listeners) {
		store := g.listeners[name].store
		if store == nil {
			continue
		}
		next, used[store] = append(next, tlsStore{name, store}), true
		store.Start(func(r tlsterm.FileReport) { g.reportFiles(name, r) })
	}
	for _, s := range *g.stores.Swap(&next) {
		if !used[s.Store] {
			s.Close()
		}
	}
}

// reportFiles logs that the TLS files of a listener have changed, and has tunnels judged by what they hold now.
func (g *Gateway) reportFiles(listen string, r tlsterm.FileReport) {
	if l := r.Overdue; l != nil {
		g.log.Warn().Str("listen", listen).Str("file", l.File).Str("issuer", l.Issuer).Time("next_update", l.NextUpdate).Msg("a revocation list is overdue")
		return
	}
	if r.Err == nil {
		g.wantReview()
		g.log.Info().Str("listen", listen).Msg("TLS files have changed and are in use")
		for _, f := range r.Findings {
			level := warnLevel
			if f.Urgent {
				level = errorLevel // as watchExpiries has it
			}
			if e := g.log.Event(level, "tls_findings"); e != nil {
				e.Str("listen", listen).Str("problem", f.Problem.String()).Err(f).Msg("a certificate that changed is in use, but not as it should be")
			}
		}
		return
	}
	if e := g.log.Event(warnLevel, "tls_files"); e != nil {
		e.Str("listen", listen).Err(r.Err).Msg("TLS files have changed and cannot be used, what they held before stays in use")
	}
}

// expiryRound is the time between looks at the ends of certificates.
const expiryRound = time.Minute

// expiryWatch is what Gateway.tend keeps about the ends of certificates.
type expiryWatch struct {
	tlsterm.Expiries
	looked time.Time
}

// watchExpiries logs which certificates expire soon, or have expired, and has tunnels reviewed for those of clients.
func (g *Gateway) watchExpiries(w *expiryWatch, now time.Time) {
	if now.Sub(w.looked) < expiryRound {
		return
	}
	w.looked = now
	g.wantReview() // clients' certificates end, too
	var all []tlsterm.CertInfo
	for _, s := range *g.stores.Load() {
		all = append(all, s.Certificates()...)
	}
	for _, n := range w.Look(now, all) {
		g.reportExpiry(&n)
	}
}

func (g *Gateway) reportExpiry(n *tlsterm.ExpiryNotice) {
	e := g.log.Warn()
	if n.Stage >= tlsterm.ExpiryDay {
		e = g.log.Error()
	}
	e = e.Str("cert_file", n.Cert.CertFile).Str("subject", n.Cert.Subject).Str("stage", n.Stage.String()).
		Time("not_after", n.Cert.ChainNotAfter.UTC()).Int("days_left", int(max(0, n.Left)/(24*time.Hour))).Bool("intermediate", n.Intermediate())
	if n.Stage == tlsterm.Expired {
		e.Msg("TLS certificate has expired, clients do not accept it")
		return
	}
	e.Msg("TLS certificate expires soon")
}

func (g *Gateway) writeCertificateMetrics(w io.Writer) {
	for _, s := range *g.stores.Load() {
		listener := "listener=" + strconv.Quote(s.listen)
		for _, c := range s.Certificates() {
			metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_tls_certificate_expiry_timestamp_seconds{%s,cert_file=%q}", listener, c.CertFile), uint64(c.ChainNotAfter.Unix()))
		}
		for _, l := range s.RevocationLists() {
			if !l.NextUpdate.IsZero() {
				metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_tls_client_crl_next_update_timestamp_seconds{%s,crl_file=%q,issuer=%q}", listener, l.File, l.Issuer), uint64(l.NextUpdate.Unix()))
			}
		}
		st := s.FileStats()
		metrics.WriteCounterUint64(w, "tickgate_tls_files_reloads_total{"+listener+"}", st.Reloads)
		metrics.WriteCounterUint64(w, "tickgate_tls_files_errors_total{"+listener+"}", st.Errors)
		metrics.WriteGaugeUint64(w, "tickgate_tls_files_stale{"+listener+"}", one(st.Stale))
	}
}
