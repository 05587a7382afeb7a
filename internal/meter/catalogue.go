package meter

// Desc describes a metric, for the HELP and TYPE lines and for docs/metrics.md.
type Desc struct {
	Name   string
	Type   string // "counter", "gauge" or "histogram"
	Labels string // comma-separated, with the possible values where they are few
	Help   string // one sentence
}

// Metrics describes every metric that this package writes.
var Metrics = []Desc{
	{"tickgate_requests_total", "counter", "route, code (1xx…5xx, none), reason", "Requests by route, status class and how they ended; code is none where no response was sent."},
	{"tickgate_request_ends_total", "counter", "reason", "Requests of all routes by how they ended."},
	{"tickgate_request_duration_seconds", "histogram", "route", "Time from a request's first byte to the end of its response; upgraded connections are left out."},
	{"tickgate_request_phase_seconds", "histogram", "phase (queue, pool, dns, dial, tls, first_byte, transfer)", "Time in each phase of those requests that went through it: wait for a worker, wait for a backend connection, lookup (0 as yet: names are looked up in the background), connect and handshake of a new one, wait for the response, the response itself."},
	{"tickgate_request_body_bytes_total", "counter", "route", "Body bytes received from clients."},
	{"tickgate_response_body_bytes_total", "counter", "route", "Body bytes sent to clients."},

	{"tickgate_connections", "gauge", "listener, state (handshaking, active, idle, upgraded)", "Open client connections by what they do; idle ones are parked."},
	{"tickgate_connections_total", "counter", "listener", "Client connections accepted."},
	{"tickgate_connection_ends_total", "counter", "reason", "Client connections by how they ended."},
	{"tickgate_tls_handshakes_total", "counter", "version (1.2, 1.3, other), resumed (false, true)", "TLS handshakes with clients that succeeded."},

	{"tickgate_snapshot_generation", "gauge", "", "Number of the configuration in use, counted from the start of the process."},
	{"tickgate_reload_last_success", "gauge", "", "1 if the last reload was taken, 0 if it was refused and the old configuration stays."},
	{"tickgate_reload_last_success_timestamp_seconds", "gauge", "", "When the configuration in use was loaded, in Unix time."},
	{"tickgate_reloads_total", "counter", "result (ok, failed)", "Reloads by result; the load at start is not one."},

	{"tickgate_process_open_fds", "gauge", "kind (client, backend, listener, other)", "Open file descriptors by what they are for."},
	{"tickgate_process_max_fds", "gauge", "", "Most file descriptors the process may open (RLIMIT_NOFILE)."},
	{"tickgate_build_info", "gauge", "version, go", "Always 1; the labels tell the version of tickgate and of Go."},
}
