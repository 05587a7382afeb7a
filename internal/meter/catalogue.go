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

	{"tickgate_connections", "gauge", "listener, state (accepted, handshaking, active, idle, parked, relayed, draining)", "Open client connections by what they do: no byte yet, TLS handshake, a request, between requests with or without a goroutine, one side of a tunnel, told to close."},
	{"tickgate_connections_total", "counter", "listener", "Client connections accepted."},
	{"tickgate_connection_ends_total", "counter", "reason", "Client connections by how they ended."},
	{"tickgate_tls_handshakes_total", "counter", "version (1.2, 1.3, other), resumed (false, true)", "TLS handshakes with clients that succeeded."},
	{"tickgate_tls_handshake_duration_seconds", "histogram", "version, group (of the key exchange; none in TLS 1.2 sessions that resume), key_type (of the certificate sent: ecdsa, rsa, ed25519; none in resumed sessions), resumed", "TLS handshakes with clients that succeeded, from the whole ClientHello to the end."},
	{"tickgate_tls_handshake_phase_seconds", "histogram", "phase (gate, client, compute)", "What the time of these handshakes was spent on: waiting for a turn, waiting for the client, computing."},

	{"tickgate_tunnels", "gauge", "route, mode (opaque, frames)", "Open tunnels: upgraded connections joined with their backend's."},
	{"tickgate_tunnels_opened_total", "counter", "route, mode (opaque, frames)", "Tunnels opened."},
	{"tickgate_tunnels_closed_total", "counter", "route, reason", "Tunnels by how they ended; a series appears with the first end of its kind."},
	{"tickgate_tunnel_ends_total", "counter", "reason", "Tunnels of all routes by how they ended."},
	{"tickgate_tunnels_refused_total", "counter", "route, limit (tunnels.max, tunnels.max_per_client, tunnel.max, tunnel.max_per_client)", "Upgrades answered with 503 because a limit was reached, by the key of the limit."},
	{"tickgate_tunnel_lifetime_seconds", "histogram", "route", "How long the tunnels that have ended were open, in buckets from a second to a week."},
	{"tickgate_tunnel_bytes_total", "counter", "route, direction (to_client, to_backend)", "Bytes that went through tunnels, open ones included."},
	{"tickgate_tunnel_messages_total", "counter", "route, direction (to_client, to_backend), kind (text, binary, control)", "WebSocket messages and control frames that went through tunnels of mode frames, open ones included."},
	{"tickgate_tunnel_queued_bytes", "gauge", "", "Bytes that wait for one side of a tunnel to take them."},
	{"tickgate_tunnels_paused", "gauge", "cause (queue, rate)", "Tunnels of which one side is not read, because the other does not take its bytes or because it sends more than its rate."},
	{"tickgate_tunnel_pauses_total", "counter", "", "Times that a full queue stopped the reading of one side of a tunnel."},
	{"tickgate_tunnel_pings_total", "counter", "", "Pings that the gateway sent to silent clients."},
	{"tickgate_tunnel_pongs_total", "counter", "", "Answers to the gateway's pings."},

	{"tickgate_loop_lag_seconds", "histogram", "loop", "Turns of an event loop by duration: how long an event may have to wait for those before it."},
	{"tickgate_loop_lag_max_seconds", "gauge", "loop", "Longest turn of an event loop since the metrics were last read."},
	{"tickgate_loop_wakes_total", "counter", "loop", "Times that an event loop woke."},
	{"tickgate_loop_events_total", "counter", "loop", "Socket events that an event loop handled."},
	{"tickgate_loop_posts_total", "counter", "loop", "Functions that others gave an event loop to run."},
	{"tickgate_loop_agains_total", "counter", "loop", "Times that a connection of an event loop had more to do and let others go first."},
	{"tickgate_loop_panics_total", "counter", "loop", "Bugs caught on an event loop; the error log tells about each."},

	{"tickgate_snapshot_generation", "gauge", "", "Number of the configuration in use, counted from the start of the process."},
	{"tickgate_reload_last_success", "gauge", "", "1 if the last reload was taken, 0 if it was refused and the old configuration stays."},
	{"tickgate_reload_last_success_timestamp_seconds", "gauge", "", "When the configuration in use was loaded, in Unix time."},
	{"tickgate_reloads_total", "counter", "result (ok, failed)", "Reloads by result; the load at start is not one."},

	{"tickgate_process_open_fds", "gauge", "kind (client, backend, listener, other)", "Open file descriptors by what they are for."},
	{"tickgate_process_max_fds", "gauge", "", "Most file descriptors the process may open (RLIMIT_NOFILE)."},
	{"tickgate_build_info", "gauge", "version, go", "Always 1; the labels tell the version of tickgate and of Go."},
}
