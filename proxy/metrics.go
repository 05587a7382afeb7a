package proxy

import (
	"fmt"
	"io"

	"github.com/VictoriaMetrics/metrics"

	"tickgate/internal/admin"
	"tickgate/internal/meter"
	"tickgate/limiter"
	"tickgate/proxy/upstream"
	"tickgate/tlsterm"
)

// Metrics describes the series that this package adds to those of package meter.
var Metrics = []meter.Desc{
	{Name: "tickgate_workers", Type: "gauge", Labels: "state (busy, waiting, aside)", Help: "Requests being served, requests waiting for a free worker, and requests that have given their worker back while the client pauses in a body that streams."},
	{Name: "tickgate_workers_max", Type: "gauge", Help: "Most requests served at once (workers.max)."},
	{Name: "tickgate_workers_queued_total", Type: "counter", Help: "Requests that had to wait for a free worker."},
	{Name: "tickgate_workers_rejected_total", Type: "counter", Help: "Requests that found no free worker within workers.queue_timeout."},
	{Name: "tickgate_workers_class_waiting", Type: "gauge", Labels: "priority", Help: "Requests that wait for a worker."},
	{Name: "tickgate_workers_class_rejected_total", Type: "counter", Labels: "priority", Help: "Requests refused for want of a worker."},
	{Name: "tickgate_worker_goroutines", Type: "gauge", Labels: "state (busy, idle)", Help: "Goroutines that serve connections. Busy ones include those that hold a connection between two requests."},
	{Name: "tickgate_connections_ready", Type: "gauge", Help: "Connections that have sent something and wait for a goroutine."},
	{Name: "tickgate_snapshots_alive", Type: "gauge", Help: "Configuration snapshots in memory; more than one for longer than a garbage collection takes means that something holds an old one."},
	{Name: "tickgate_gc_live_bytes", Type: "gauge", Help: "Heap that the last garbage collection found alive."},
	{Name: "tickgate_gc_gogc_percent", Type: "gauge", Help: "GOGC in force (memory.adaptive_gc); -1 is off."},
	{Name: "tickgate_gc_limit_bytes", Type: "gauge", Help: "Soft memory limit in force (memory.limit); 0 is none."},
	{Name: "tickgate_gc_cycles_total", Type: "counter", Help: "Garbage collections."},
	{Name: "tickgate_gc_cpu_seconds_total", Type: "counter", Help: "CPU time of garbage collections, as the runtime estimates it."},
	{Name: "tickgate_leak_suspected", Type: "gauge", Labels: "kind (descriptors, goroutines)", Help: "1 while the watchdog sees descriptors or goroutines grow without traffic that explains it."},
	{Name: "tickgate_goroutines", Type: "gauge", Help: "Goroutines."},
	{Name: "tickgate_accesslog_dropped_total", Type: "counter", Help: "Access log lines lost because the output was too slow or failed."},
	{Name: "tickgate_tls_failures_total", Type: "counter", Labels: "reason (as in tlsterm.Failure)", Help: "TLS handshakes with clients that failed."},
	{Name: "tickgate_tls_handshakes_under_way", Type: "gauge", Labels: "state (queued, computing, ready, waiting)", Help: "TLS handshakes with clients: not begun, with a turn to compute, back from their client without one, waiting for their client."},
	{Name: "tickgate_tls_handshake_turns", Type: "gauge", Help: "TLS handshakes that may compute at once (handshakes.concurrency)."},
	{Name: "tickgate_tls_handshakes_queued_total", Type: "counter", Help: "TLS handshakes that had to wait for their first turn."},
	{Name: "tickgate_tls_rate_displaced_total", Type: "counter", Labels: "key (client, ja4)", Help: "Clients and fingerprints that took over the account of another in the tables of handshakes.rate_per_client and rate_per_ja4, since there are more of them than the tables hold; they may get less than their rate."},
	{Name: "tickgate_proxy_headers_total", Type: "counter", Labels: "kind (v1, v2, own, absent)", Help: "Connections from addresses in proxy_protocol.from whose client is known: by a PROXY header of either version, by one that names no client (LOCAL, UNKNOWN), or without one where it is not required."},
	{Name: "tickgate_proxy_header_failures_total", Type: "counter", Labels: "reason (as in preface.Failure: missing, malformed, bad_checksum, too_long, timeout, cut_short, too_many_conns, unexpected)", Help: "Connections that ended at their PROXY header. Unexpected is one from an address that is not in proxy_protocol.from, or a second one; such a connection also counts as a failed handshake or a bad request."},
	{Name: "tickgate_tls_certificate_expiry_timestamp_seconds", Type: "gauge", Labels: "listener, cert_file", Help: "When a certificate in use expires, or an intermediate of its chain if that is earlier, in Unix time."},
	{Name: "tickgate_tls_client_certificates_total", Type: "counter", Labels: "result (verified, or as in tlsterm.ClientCertProblem)", Help: "Handshakes by what the client's certificate was worth, where one was asked for; handshakes without one that is not required are not counted."},
	{Name: "tickgate_tls_client_chains_omitted_total", Type: "counter", Help: "Requests to backends without the chain of their client's certificate, as it is longer than forwarding.client_cert_chain."},
	{Name: "tickgate_tls_client_crl_next_update_timestamp_seconds", Type: "gauge", Labels: "listener, crl_file, issuer", Help: "When the next edition of a revocation list is due, in Unix time."},
	{Name: "tickgate_tls_files_reloads_total", Type: "counter", Labels: "listener", Help: "Changes of certificates, keys and lists that were taken over between two reloads."},
	{Name: "tickgate_tls_files_errors_total", Type: "counter", Labels: "listener", Help: "Changes of certificates, keys and lists that could not be taken over."},
	{Name: "tickgate_tls_files_stale", Type: "gauge", Labels: "listener", Help: "1 while the files of a listener hold something that cannot be used, so that what they held before is in use."},
	{Name: "tickgate_tls_tickets_presented_total", Type: "counter", Labels: "listener, result (as in tlsterm.TicketResult: accepted, unknown_key, expired, malformed, other_policy, revoked)", Help: "Session tickets that clients presented, by what became of them. All but accepted lead to a full handshake; a few of the accepted do, too, as sessions older than seven days."},
	{Name: "tickgate_tls_tickets_issued_total", Type: "counter", Labels: "listener", Help: "Session tickets issued."},
	{Name: "tickgate_tls_ticket_keys", Type: "gauge", Labels: "listener", Help: "Keys that open session tickets, the one that seals included; 0 with `tickets.source: off`."},
	{Name: "tickgate_tls_ticket_key_age_seconds", Type: "gauge", Labels: "listener", Help: "Age of the key that seals session tickets; of a file, since it was written. Not there with `tickets.source: off`."},
	{Name: "tickgate_tls_ticket_key_rotations_total", Type: "counter", Labels: "listener", Help: "Changes of the key that seals session tickets."},
	{Name: "tickgate_tls_ticket_source_up", Type: "gauge", Labels: "listener, source (memory, file, redis, off)", Help: "0 while the key files are bad or Redis is away; the keys so far stay in use."},
	{Name: "tickgate_tls_ticket_source_errors_total", Type: "counter", Labels: "listener, source", Help: "Looks at the key files or at Redis that failed."},
	{Name: "tickgate_tls_ticket_fallback", Type: "gauge", Labels: "listener, source", Help: "1 while tickets are sealed with a key that Redis does not have, so that other processes cannot resume these sessions."},
	{Name: "tickgate_tls_ocsp_state", Type: "gauge", Labels: "listener, cert_file, state (as in tlsterm.StapleState: none, waiting, good, revoked, unknown, expired)", Help: "1 for the state that the stapling of a certificate is in, 0 for the others. Only while it is good, an answer is stapled; none is a certificate that there is nobody to ask about."},
	{Name: "tickgate_tls_ocsp_answer_age_seconds", Type: "gauge", Labels: "listener, cert_file", Help: "Age of the last OCSP answer, good or revoked; 0 without one."},
	{Name: "tickgate_tls_ocsp_next_update_timestamp_seconds", Type: "gauge", Labels: "listener, cert_file", Help: "When the last OCSP answer expires, in Unix time; 0 without one."},
	{Name: "tickgate_tls_ocsp_must_staple_missing", Type: "gauge", Labels: "listener, cert_file", Help: "1 while a certificate demands a stapled answer (must-staple) and has none, so that clients that check refuse it."},
	{Name: "tickgate_tls_ocsp_looks_total", Type: "counter", Labels: "listener, result (as in tlsterm.OCSPResult)", Help: "Answers that responders were asked for or files looked at for, by what came of it. What a listener with the same certificate has asked for counts for each."},
	{Name: "tickgate_tls_ocsp_cache_reads_total", Type: "counter", Labels: "listener, result (as in tlsterm.OCSPResult)", Help: "Answers of ocsp.cache_dir that were read and verified, by what came of it: only good and revoked ones are used."},
	{Name: "tickgate_tls_ocsp_cache_writes_total", Type: "counter", Labels: "listener", Help: "Answers that were written to ocsp.cache_dir."},
	{Name: "tickgate_tls_ocsp_cache_write_errors_total", Type: "counter", Labels: "listener", Help: "Answers that could not be written to ocsp.cache_dir; they are tried again."},
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
	st := g.gate.Stats()
	metrics.WriteGaugeUint64(w, `tickgate_workers{state="busy"}`, uint64(st.InUse))
	metrics.WriteGaugeUint64(w, `tickgate_workers{state="waiting"}`, uint64(st.Waiting))
	metrics.WriteGaugeUint64(w, `tickgate_workers{state="aside"}`, uint64(max(0, g.aside.Load())))
	metrics.WriteGaugeUint64(w, "tickgate_workers_max", uint64(st.Max))
	metrics.WriteCounterUint64(w, "tickgate_workers_queued_total", st.Waited)
	metrics.WriteCounterUint64(w, "tickgate_workers_rejected_total", st.Rejected+g.late.Load())
	for class, c := range st.Classes {
		label := fmt.Sprintf("{priority=%q}", limiter.Class(class))
		metrics.WriteGaugeUint64(w, "tickgate_workers_class_waiting"+label, uint64(c.Waiting))
		metrics.WriteCounterUint64(w, "tickgate_workers_class_rejected_total"+label, c.Rejected)
	}
	running, idle := g.workers.size()
	shaking, resting := g.handshakes.crew.size()
	metrics.WriteGaugeUint64(w, `tickgate_worker_goroutines{state="busy"}`, uint64(running+shaking-idle-resting))
	metrics.WriteGaugeUint64(w, `tickgate_worker_goroutines{state="idle"}`, uint64(idle+resting))
	metrics.WriteGaugeUint64(w, "tickgate_connections_ready", uint64(g.workers.waiting.Load()+g.handshakes.crew.waiting.Load()))
	metrics.WriteGaugeUint64(w, "tickgate_snapshots_alive", uint64(g.snaps.Load()))
	g.writeRuntime(w)
	metrics.WriteCounterUint64(w, "tickgate_accesslog_dropped_total", g.droppedBefore.Load()+g.access.Load().Dropped())
	for _, f := range tlsterm.Failures() {
		metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_failures_total{reason=%q}", f), g.tlsFailures[f].Load())
	}
	g.writeGateMetrics(w)
	metrics.WriteCounterUint64(w, `tickgate_tls_client_certificates_total{result="verified"}`, g.clientsVerified.Load())
	for i, p := range tlsterm.ClientCertProblems() {
		metrics.WriteCounterUint64(w, fmt.Sprintf("tickgate_tls_client_certificates_total{result=%q}", p), g.certProblems[i].Load())
	}
	metrics.WriteCounterUint64(w, "tickgate_tls_client_chains_omitted_total", g.chainsOmitted.Load())
	metrics.WriteCounterUint64(w, `tickgate_tls_rate_displaced_total{key="client"}`, g.rates.client.Displaced())
	metrics.WriteCounterUint64(w, `tickgate_tls_rate_displaced_total{key="ja4"}`, g.rates.ja4.Displaced())
	g.writeTicketMetrics(w)
	g.writeStapleMetrics(w)
	g.writeCertificateMetrics(w)
	g.writePrefaceMetrics(w)
}

func (g *Gateway) writeGateMetrics(w io.Writer) {
	st := g.handshakes.gate.Stats()
	for state, n := range map[string]int{"queued": st.Queued, "computing": st.Computing, "ready": st.Ready, "waiting": st.Waiting} {
		metrics.WriteGaugeUint64(w, fmt.Sprintf("tickgate_tls_handshakes_under_way{state=%q}", state), uint64(n))
	}
	metrics.WriteGaugeUint64(w, "tickgate_tls_handshake_turns", uint64(st.Turns))
	metrics.WriteCounterUint64(w, "tickgate_tls_handshakes_queued_total", st.Waited)
}
