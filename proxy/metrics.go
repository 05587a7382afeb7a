package proxy

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/proxy/upstream"
	"tickgate/tlsterm"
)

// Metrics describes the series that this package adds to those of package meter.
var Metrics = []meter.Desc{
	{Name: "tickgate_workers", Type: "gauge", Labels: "state (busy, waiting)", Help: "Requests being served, and requests waiting for a free worker."},
	{Name: "tickgate_workers_max", Type: "gauge", Help: "Most requests served at once (workers.max)."},
	{Name: "tickgate_workers_queued_total", Type: "counter", Help: "Requests that had to wait for a free worker."},
	{Name: "tickgate_workers_rejected_total", Type: "counter", Help: "Requests that found no free worker within workers.queue_timeout."},
	{Name: "tickgate_accesslog_dropped_total", Type: "counter", Help: "Access log lines lost because the output was too slow or failed."},
	{Name: "tickgate_tls_failures_total", Type: "counter", Labels: "reason (as in tlsterm.Failure)", Help: "TLS handshakes with clients that failed."},
	{Name: "tickgate_tls_certificate_expiry_timestamp_seconds", Type: "gauge", Labels: "listener, cert_file", Help: "When a certificate in use expires, in Unix time."},
}

// registerMetrics adds them; their values are read when someone asks.
func (g *Gateway) registerMetrics() {
	g.meter.Describe(Metrics...)
	g.meter.Describe(admin.Metrics...)
	g.meter.Describe(upstream.Metrics...)
	g.meter.Set().RegisterMetricsWriter(g.writeOwnMetrics)
	g.meter.Set().RegisterMetricsWriter(g.registry.WriteMetrics)
}

func (g *Gateway) writeOwnMetrics(w io.Writer) {
	st := g.workers.Stats()
	metrics.WriteGaugeUint64(w, `tickgate_workers{state="busy"}`, uint64(st.InUse))
	metrics.WriteGaugeUint64(w, `tickgate_workers{state="waiting"}`, uint64(st.Waiting))
	metrics.WriteGaugeUint64(w, "tickgate_workers_max", uint64(st.Max))
	metrics.WriteCounterUint64(w, "tickgate_workers_queued_total", st.Waited)
	metrics.WriteCounterUint64(w, "tickgate_workers_rejected_total", st.Rejected)
	metrics.WriteCounterUint64(w, "tickgate_accesslog_dropped_total", g.droppedBefore.Load()+g.access.Load().Dropped())
	for _, f := range tlsterm.Failures() {
		metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_failures_total{reason=%q}", f), g.tlsFailures[f].Load())
	}
	for _, e := range *g.expiries.Load() {
		metrics.WriteGaugeUint64(w, e.series, uint64(e.at.Unix()))
	}
}

// expiry is the end of a certificate's validity.
type expiry struct {
	series string
	at     time.Time
}

// noteExpiriesLocked collects the certificates in use after a reload.
func (g *Gateway) noteExpiriesLocked() {
	all := []expiry{}
	for _, name := range sortedKeys(g.listeners) {
		ln := g.listeners[name]
		if ln.store == nil {
			continue
		}
		for _, c := range ln.store.Certificates() {
			all = append(all, expiry{
				series: fmt.Sprintf("tickgate_tls_certificate_expiry_timestamp_seconds{listener=%s,cert_file=%s}", strconv.Quote(name), strconv.Quote(c.CertFile)),
				at:     c.NotAfter,
			})
		}
	}
	g.expiries.Store(&all)
}
