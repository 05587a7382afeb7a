package upstream

import "tickgate/internal/meter"

// Metrics describes the series of this package.
var Metrics = []meter.Desc{
	{Name: "tickgate_upstream_backend_up", Type: "gauge", Labels: "upstream, backend", Help: "1 if the backend's health lets it have requests."},
	{Name: "tickgate_upstream_inflight", Type: "gauge", Labels: "upstream, backend", Help: "Requests in flight."},
	{Name: "tickgate_upstream_tunnels", Type: "gauge", Labels: "upstream, backend", Help: "Open tunnels."},
	{Name: "tickgate_upstream_pool_connections", Type: "gauge", Labels: "upstream, backend, tag, state (idle, in_use, waiting)", Help: "Connections of a pool, and requests waiting for one."},
	{Name: "tickgate_upstream_pool_wait_seconds", Type: "histogram", Labels: "upstream", Help: "Time that requests waited for a free connection, of those that had to."},
	{Name: "tickgate_upstream_pool_rejected_total", Type: "counter", Labels: "upstream, backend, tag", Help: "Requests that got no connection within pool.wait_timeout."},
	{Name: "tickgate_upstream_pool_stale_total", Type: "counter", Labels: "upstream, backend, tag", Help: "Pooled connections that turned out to be closed, too old, made under TLS files that have changed since, or to hold bytes that nobody asked for."},
	{Name: "tickgate_upstream_dials_total", Type: "counter", Labels: "upstream, backend, result (ok, failed)", Help: "Connections opened to backends."},
	{Name: "tickgate_upstream_tls_handshakes_total", Type: "counter", Labels: "upstream, backend, resumed (false, true)", Help: "TLS handshakes with backends that succeeded, without those of health probes."},
	{Name: "tickgate_upstream_tls_certificate_expiry_timestamp_seconds", Type: "gauge", Labels: "upstream, cert_file", Help: "When the client certificate in use expires, in Unix time."},
	{Name: "tickgate_upstream_tls_files_reloads_total", Type: "counter", Labels: "upstream", Help: "Changes of the TLS files of an upstream that were taken over between two reloads."},
	{Name: "tickgate_upstream_tls_files_errors_total", Type: "counter", Labels: "upstream", Help: "Times that changed TLS files of an upstream were read and could not be used; until they can, every look counts."},
	{Name: "tickgate_upstream_tls_files_stale", Type: "gauge", Labels: "upstream", Help: "1 while the TLS files of an upstream hold something that cannot be used, so that what they held before is in use."},
	{Name: "tickgate_upstream_retry_budget_total", Type: "counter", Labels: "upstream, result (allowed, denied)", Help: "Decisions of the retry budget."},
	{Name: "tickgate_upstream_dns_lookup_seconds", Type: "histogram", Help: "Time of lookups of backend names, which happen in the background."},
	{Name: "tickgate_upstream_dns_lookups_total", Type: "counter", Labels: "result", Help: "Lookups of backend names."},
}
