package config

import (
	"time"

	"tickgate/health"
	"tickgate/internal/gctune"
	"tickgate/internal/unit"
	"tickgate/internal/watchdog"
	"tickgate/limiter"
	"tickgate/tlsterm"
)

// Config is one whole configuration: the file, its includes and its defaults,
// decoded and validated. It is never changed after Load.
//
// Struct tags are the schema: `default` applies when the key is absent, `min`,
// `max` and `enum` bound the value, `required` demands the key, `secret` keeps the
// value out of reports and dumps, `file` marks a file name that is relative to the
// file it stands in (as every key that ends in _file is). The comments are the
// reference: docs/config.md is generated from them.
type Config struct {
	// Further files, read as if they stood here: lists are appended, maps are joined (a name in two files is an error), and any other
	// key may be set in one file only. Glob patterns; relative to the file that names them. A name without wildcards must exist.
	Include []string `yaml:"include"`
	// The admin endpoint: metrics, health, profiles and the API.
	Admin Admin `yaml:"admin"`
	// The workers that serve requests.
	Workers Workers `yaml:"workers"`
	// Addresses that clients connect to.
	Listeners []Listener `yaml:"listeners"`
	// Limits on upgraded connections, over all routes.
	Tunnels Tunnels `yaml:"tunnels"`
	// Bounds on TLS handshakes with clients, over all listeners.
	Handshakes tlsterm.HandshakeOptions `yaml:"handshakes"`
	// Caps on client connections.
	Connections limiter.Connections `yaml:"connections"`
	// Limits on what a client may send.
	Limits Limits `yaml:"limits"`
	// How long a client may take.
	Timeouts ClientTimeouts `yaml:"timeouts"`
	// What is told to backends about the client, and which clients are believed about themselves.
	Forwarding Forwarding `yaml:"forwarding"`
	// Named sets of backends.
	Upstreams map[string]*Upstream `yaml:"upstreams"`
	// Which requests go where. The host decides first (exact, then the longest *.suffix, then routes without a host), then the path
	// (path_exact, then path_regex in file order, then the longest path prefix), then file order among routes that also match scheme, method and headers.
	// Where none of a host's routes matches, the next wider host is asked.
	Routes []*Route `yaml:"routes"`
	// Access log, error log.
	Log Log `yaml:"log"`
	// How the process ends.
	Drain Drain `yaml:"drain"`
	// How backend host names are looked up.
	Resolver Resolver `yaml:"resolver"`
	// Memory and the garbage collector.
	Memory gctune.Options `yaml:"memory"`
	// Watches for descriptors and goroutines that leak.
	Watchdog watchdog.Options `yaml:"watchdog"`
}

// Admin configures the admin endpoint.
type Admin struct {
	// Address of the admin endpoint: loopback unless told otherwise. "off" disables it.
	Listen string `yaml:"listen" default:"127.0.0.1:9180"`
	// Token that every admin request except /healthz and /readyz must carry as "Authorization: Bearer TOKEN". Default: none.
	Token string `yaml:"token" secret:"true"`
}

// Workers bounds the requests served at once.
type Workers struct {
	// Most requests served at once, over all listeners.
	Max int `yaml:"max" default:"4096" min:"1"`
	// A connection that is idle for this long gives up its goroutine and buffers and waits parked, for some hundred bytes. One whose last two
	// requests were further apart than that, or that had only one as yet, does so after its response. Shorter saves
	// memory and costs CPU on clients that pause briefly; 0s parks after every response.
	ParkAfter time.Duration `yaml:"park_after" default:"2s" min:"0s"`
	// A request that finds no free worker waits at most this long, then gets 503 with Retry-After.
	QueueTimeout time.Duration `yaml:"queue_timeout" default:"200ms" min:"0s"`
	// Most requests that wait for a worker at once; more get 503 without a wait. 0 is as many as workers.max, and at least 1024.
	Queue int `yaml:"queue" default:"0" min:"0" max:"1000000"`
	// Share of workers.max, in percent, that only requests on routes of `priority: critical` may take. It is set aside only while there is such a route.
	Reserved int `yaml:"reserved_percent" default:"10" min:"0" max:"90"`
	// Event loops for parked connections and tunnels; 0 is one for every two processors. Fewer cost less for each message, as more of them
	// are found at each wake; more are needed where one loop is busy all the time (tickgate_loop_lag_seconds). Cannot be changed by a reload.
	Loops int `yaml:"loops" default:"0" min:"0" max:"256"`
}

// Tunnels bounds upgraded connections.
type Tunnels struct {
	// Most tunnels open at once; 0 is no limit. One over it is answered with 503 and Retry-After.
	Max int `yaml:"max" default:"0" min:"0"`
	// Most tunnels open at once from one client; 0 is no limit.
	MaxPerClient int `yaml:"max_per_client" default:"0" min:"0"`
	// What a client is, for this max_per_client and that of routes: its address (IPv6: one /64), or the identity that it proved by its certificate: the SPIFFE
	// ID, without one issuer and subject, without those the fingerprint. One without an identity counts by its address in either case.
	Client string `yaml:"client" default:"address" enum:"address|identity"`
	// What becomes of open tunnels whose client would not be let in any more: its certificate was revoked, its authority is gone, or client_auth was made stricter since. "close" ends
	// them, with close code 1008 and reason identity_revoked; "keep" leaves them alone.
	Revoked string `yaml:"revoked" default:"close" enum:"close|keep"`
	// The same for tunnels whose client's certificate, or one above it, has run out since; the reason is identity_expired, and it takes a minute at most. With "close", clients whose
	// certificates live for hours (SPIFFE) have to connect anew that often.
	Expired string `yaml:"expired" default:"keep" enum:"close|keep"`
	// Bytes that may wait for one side of a tunnel to take them; beyond, the other side is not read.
	Queue unit.Size `yaml:"queue" default:"64KiB" min:"4KiB" max:"16MiB"`
}

// Listener is one address accepted on.
type Listener struct {
	// host:port (":443" is every address, v4 and v6; "[::1]:443"), or "unix:/path" for a Unix socket.
	Listen string `yaml:"listen" required:"true"`
	// Terminate TLS here.
	TLS *tlsterm.Options `yaml:"tls"`
	// Take the client's address from a PROXY header, version 1 or 2, that a proxy in front sends before the first byte of TLS or HTTP.
	ProxyProtocol *ProxyProtocol `yaml:"proxy_protocol"`
	// Sockets that share the address with SO_REUSEPORT, each with its own accept loop; 0 is one for each processor. Unix sockets have one.
	Acceptors int `yaml:"acceptors" default:"0" min:"0" max:"256"`
	// Connections that the kernel completes before they are accepted; bounded by net.core.somaxconn.
	Backlog int `yaml:"backlog" default:"4096" min:"1"`
	// Time without traffic after which the kernel probes the peer; 0 switches TCP keep-alive off.
	KeepAlive time.Duration `yaml:"tcp_keepalive" default:"60s" min:"0s"`
	// Time that sent data may stay unacknowledged before the kernel gives the connection up (TCP_USER_TIMEOUT); 0 is the kernel's default.
	UserTimeout time.Duration `yaml:"tcp_user_timeout" default:"30s" min:"0s"`
	// Accept a connection only once it has sent bytes, waiting at most this long (TCP_DEFER_ACCEPT, whole seconds); 0 is off.
	DeferAccept time.Duration `yaml:"defer_accept" default:"0s" min:"0s"`
	// Most connections open at once on this listener; 0 is no limit of its own.
	MaxConnections int `yaml:"max_connections" default:"0" min:"0"`
	// Let another process of the same user listen on the address at the same time, so that a new process can take over before the old one
	// drains. Without it a second process is an error, as it would silently take a part of the connections.
	Share bool `yaml:"share" default:"false"`
	// Permissions of a Unix socket, octal.
	SocketMode string `yaml:"socket_mode" default:"0660"`
}

// ProxyProtocol says which proxies in front of a listener are believed about whose connection it is. For everything here, that client takes the
// proxy's place: limits, logs, ${client_addr}, X-Forwarded-For and forwarding.trusted_proxies, which judges the client of the header.
type ProxyProtocol struct {
	// Addresses (CIDR or single; "unix" for Unix sockets) of the proxies. The bytes of anyone else are never taken as a header.
	From []string `yaml:"from" required:"true"`
	// Longest wait for the whole header, from accept. timeouts.handshake (without TLS: timeouts.head) goes on meanwhile and bounds it too.
	Timeout time.Duration `yaml:"timeout" default:"5s" min:"1ms"`
	// Close a connection from these addresses that does not begin with a header. Without it, one is a client of its own.
	Required bool `yaml:"required" default:"true"`
}

// Limits bounds what a client may send.
type Limits struct {
	// Longest request line.
	MaxRequestLine unit.Size `yaml:"max_request_line" default:"8KiB" min:"64B" max:"64KiB"`
	// Largest request head: request line and all fields.
	MaxHead unit.Size `yaml:"max_head" default:"16KiB" min:"256B" max:"1MiB"`
	// Most header fields.
	MaxHeaders int `yaml:"max_headers" default:"100" min:"1" max:"1000"`
	// Largest request body; 0 is no limit. Large bodies are streamed, so this costs no memory.
	MaxBody unit.Size `yaml:"max_body" default:"0B"`
	// Largest request body, as it comes with its framing, that is awaited as a whole before the request takes a worker and a backend. Until then a
	// connection whose body comes slowly waits parked, with what has come; a larger body, or one that the client sends only after "100 Continue",
	// streams to the backend as it comes and takes both for as long. 0 streams every body. More takes slow clients of larger bodies off the
	// workers and makes their requests repeatable, and costs that much memory for each body under way; less suits backends that must see a body
	// while it comes. A chunked body is awaited until it ends or outgrows this, so clients that wait for an answer in the middle of one need 0.
	RequestBuffer unit.Size `yaml:"request_buffer" default:"16KiB" max:"1MiB"`
	// Largest response head from a backend.
	MaxResponseHead unit.Size `yaml:"max_response_head" default:"32KiB" min:"256B" max:"1MiB"`
	// Requests on one client connection before it is closed; 0 is no limit.
	MaxRequestsPerConn int `yaml:"max_requests_per_conn" default:"0" min:"0"`
	// Age at which a client connection is closed after its current request; 0 is no limit.
	MaxConnAge time.Duration `yaml:"max_conn_age" default:"0s" min:"0s"`
}

// ClientTimeouts bounds how long a client may take. Deadlines are checked by a coarse sweep: they end within 50 ms after their time.
type ClientTimeouts struct {
	// TLS handshake, from accept.
	Handshake time.Duration `yaml:"handshake" default:"10s" min:"1ms"`
	// From the first byte of a request (or the accept of the connection) to the end of its head, dribbling or not.
	Head time.Duration `yaml:"head" default:"10s" min:"1ms"`
	// Longest pause while a request body arrives. One that is awaited as a whole (limits.request_buffer) has to be so within four times this.
	Body time.Duration `yaml:"body" default:"30s" min:"1ms"`
	// Longest pause of a client in reading the response; in a tunnel, of either side in taking bytes.
	Write time.Duration `yaml:"write" default:"30s" min:"1ms"`
	// Keep-alive connection without a request.
	Idle time.Duration `yaml:"idle" default:"75s" min:"1ms"`
	// Upgraded connection (WebSocket) without a byte in either direction; 0 is no limit.
	Tunnel time.Duration `yaml:"tunnel_idle" default:"1h" min:"0s"`
}

// Forwarding says what backends are told about the client.
type Forwarding struct {
	// Addresses (CIDR or single; "unix" for Unix sockets) whose X-Forwarded-*, X-Real-IP, Forwarded and X-Request-Id are passed on and extended, and
	// whose X-Forwarded-For names the client (${client_addr}, hash_key, logs). From anyone else these fields are removed and set anew. Spellings that
	// a CGI-like backend could confuse with them ("_", "." or another sign for "-") are removed from all. ${scheme} and ${host} are always those of the
	// connection here.
	TrustedProxies []string `yaml:"trusted_proxies"`
	// Send X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host.
	XForwarded bool `yaml:"x_forwarded" default:"true"`
	// Send Forwarded (RFC 7239).
	Forwarded bool `yaml:"forwarded" default:"false"`
	// Field that carries the request id, made here unless a trusted proxy sent one; "" switches it off.
	RequestIDHeader string `yaml:"request_id_header" default:"X-Request-Id"`
	// W3C trace context: "pass" leaves traceparent alone, "extend" makes this hop a span (a new one if there is none), "off" removes it.
	TraceContext string `yaml:"trace_context" default:"pass" enum:"pass|extend|off"`
	// What backends are told of a client's verified certificate. "xfcc" is X-Forwarded-Client-Cert as Envoy writes it, with By, Hash, Subject, URI and DNS;
	// "rfc9440" is Client-Cert (RFC 9440), the whole certificate in base64. Other fields are made with request_headers and the variables ${tls_client_...}.
	ClientCert string `yaml:"client_cert" default:"off" enum:"off|xfcc|rfc9440"`
	// Send the chain as well, up to this length as it is written; 8KiB is enough for two or three intermediates. A longer one is left out. "rfc9440" sends
	// Client-Cert-Chain, the intermediates, "xfcc" Chain, with the client's certificate before them. 0 sends none.
	ClientCertChain unit.Size `yaml:"client_cert_chain" default:"0B" max:"64KiB"`
	// Further fields that clients must not send, as a backend believes them. They are removed from every request, as X-Forwarded-Client-Cert, Client-Cert,
	// Client-Cert-Chain and the fields that any route's request_headers make of a ${tls_client_...} variable always are (but for common ones such as Authorization).
	ClientCertFields []string `yaml:"client_cert_fields"`
	// Pass these fields on from trusted_proxies. They then take the place of what client_cert would say.
	ClientCertFromProxies bool `yaml:"client_cert_from_proxies" default:"false"`
	// Add "Via: 1.1 tickgate" to requests and responses (RFC 9110 section 7.6.3).
	Via bool `yaml:"via" default:"false"`
}

// Upstream is a named set of backends.
type Upstream struct {
	// How a backend is picked: round_robin (smooth, weighted), least_conn, p2c (better of two random ones by in-flight and latency),
	// hash (consistent, see hash_key), random.
	Balance string `yaml:"balance" default:"round_robin" enum:"round_robin|least_conn|p2c|hash|random"`
	// What `balance: hash` hashes: client_addr, path, uri (path and query), header:NAME or cookie:NAME. A request without it is hashed by client address.
	HashKey string `yaml:"hash_key" default:"client_addr"`
	// The backends.
	Servers []Server `yaml:"servers" required:"true"`
	// Connection pool, for each backend and route tag.
	Pool Pool `yaml:"pool"`
	// How long a backend may take.
	Timeouts BackendTimeouts `yaml:"timeouts"`
	// Talk TLS to the backends.
	TLS *BackendTLS `yaml:"tls"`
	// Retry failed attempts.
	Retry Retry `yaml:"retry"`
	// Probe the backends.
	HealthCheck *health.Options `yaml:"health_check"`
	// Host header sent to backends: "client" passes the client's, "backend" sends the backend's address, anything else is sent as it is.
	Host string `yaml:"host" default:"client"`
}

// Server is one backend of an upstream.
type Server struct {
	// host:port, "unix:/path", or "srv:_service._proto.name" for targets, ports and weights from DNS SRV records.
	// A host name is looked up again while running; each of its addresses is a backend.
	Address string `yaml:"address" required:"true"`
	// Share of the traffic, relative to the other backends.
	Weight int `yaml:"weight" default:"1" min:"1" max:"1000"`
	// Used only when no other backend is up.
	Backup bool `yaml:"backup" default:"false"`
	// Gets no new requests; its requests in flight finish, and its tunnels are closed, spread over drain.window.
	Drain bool `yaml:"drain" default:"false"`
	// Most requests in flight at once to this backend; 0 is no limit. Full backends are passed over.
	MaxInFlight int `yaml:"max_in_flight" default:"0" min:"0"`
}

// Pool bounds the connections to one backend.
type Pool struct {
	// Most connections to one backend for one route tag. At the limit, requests wait `wait_timeout` for a free one. A tunnel's connection leaves the
	// pool, so tunnels are bounded by tunnels.max and the route's tunnel.max instead (on other systems than Linux by this too).
	MaxConns int `yaml:"max_conns" default:"1024" min:"1"`
	// Longest wait for a free connection, then 503 `pool_full`; 0 does not wait.
	WaitTimeout time.Duration `yaml:"wait_timeout" default:"1s" min:"0s"`
	// An idle connection is closed after this time. Keep it below the backend's own keep-alive timeout.
	IdleTimeout time.Duration `yaml:"idle_timeout" default:"50s" min:"1ms"`
	// A connection older than this is closed after its current request, so that DNS changes and expiry of certificates reach everyone; 0 is no limit.
	MaxLifetime time.Duration `yaml:"max_lifetime" default:"1h" min:"0s"`
	// Time without traffic after which the kernel probes the backend; 0 switches TCP keep-alive off.
	KeepAlive time.Duration `yaml:"tcp_keepalive" default:"30s" min:"0s"`
}

// BackendTimeouts bounds how long a backend may take. All but dial and tls_handshake are checked by a coarse sweep: they end within 50 ms after their time.
type BackendTimeouts struct {
	// TCP connection.
	Dial time.Duration `yaml:"dial" default:"3s" min:"1ms"`
	// TLS handshake with the backend.
	TLSHandshake time.Duration `yaml:"tls_handshake" default:"5s" min:"1ms"`
	// From the end of the request to the end of the response head.
	ResponseHeader time.Duration `yaml:"response_header" default:"60s" min:"1ms"`
	// Longest pause in the response body.
	Read time.Duration `yaml:"read" default:"60s" min:"1ms"`
	// Longest pause in taking the request.
	Write time.Duration `yaml:"write" default:"30s" min:"1ms"`
	// The whole request with all attempts, from its head to the end of the response; 0 is no limit. Upgraded connections are exempt.
	Request time.Duration `yaml:"request" default:"0s" min:"0s"`
}

// BackendTLS configures TLS towards backends. Certificates are verified.
type BackendTLS struct {
	// Name sent as SNI and verified. Default: the host of the server's address.
	ServerName string `yaml:"server_name"`
	// PEM file of the CAs to trust instead of the system's.
	CAFile string `yaml:"ca_file"`
	// PEM file of the client certificate to present, followed by its intermediates.
	CertFile string `yaml:"cert_file"`
	// PEM file of its private key.
	KeyFile string `yaml:"key_file"`
	// Time between looks at these files: when they have changed, new connections use what they hold now, without a reload, and a bad one leaves
	// the last good ones in use. 0s looks at a reload only.
	Watch time.Duration `yaml:"watch" default:"1s" min:"0s"`
	// Lowest protocol version.
	MinVersion string `yaml:"min_version" default:"1.2" enum:"1.2|1.3"`
	// Sessions remembered for each backend, so that new connections to it resume and cost both sides less; 0 remembers none. One for each
	// server name in use is enough.
	SessionCache int `yaml:"session_cache" default:"16" min:"0" max:"1024"`
	// Do not verify the backend's certificate. Anyone on the path can read and change the traffic.
	InsecureSkipVerify bool `yaml:"insecure_skip_verify" default:"false"`
}

// Retry says when a failed attempt is followed by another, always on another backend if there is one.
// A request is sent again only if nothing of it can have taken effect: no byte of it was written to the failed connection, or its method is
// idempotent (RFC 9110 section 9.2.2), its body is not consumed, and no byte of the response has reached the client.
type Retry struct {
	// Most attempts for one request, the first included; 1 never retries.
	Attempts int `yaml:"attempts" default:"2" min:"1" max:"10"`
	// Conditions: connect (dial, TLS or pool failure), reset (closed before a response head), timeout (response_header), bad_response (malformed head), 502, 503, 504.
	On []string `yaml:"on" default:"connect,reset" enum:"connect|reset|timeout|bad_response|502|503|504"`
	// Retries allowed as a share of the upstream's requests over the last 10 seconds, in percent.
	BudgetPercent int `yaml:"budget_percent" default:"20" min:"0" max:"100"`
	// Retries allowed each second whatever the share, so that a quiet upstream can retry.
	BudgetMin int `yaml:"budget_min" default:"3" min:"0"`
}

// Route says which requests go where. At most one of path, path_exact and path_regex, and exactly one action.
type Route struct {
	// Name in logs and metrics, of one route only. Default: made of host and path.
	Name string `yaml:"name"`
	// Host: exact, or *.suffix for any name below. Default: any.
	Host string `yaml:"host"`
	// Path prefix. "/api/" matches what begins so; a prefix without final slash also ends at a slash or the end ("/api" does not match "/apix").
	Path string `yaml:"path"`
	// Whole path.
	PathExact string `yaml:"path_exact"`
	// Regular expression (RE2) searched in the path; its groups are $1 … $9 and ${name} in rewrites, redirects and headers.
	PathRegex string `yaml:"path_regex"`
	// Scheme of the client's connection to this gateway, as for a redirect from http to https.
	Scheme string `yaml:"scheme" default:"any" enum:"any|http|https"`
	// Methods. Default: any but TRACE, which only a route that lists it takes, as its answer shows the client all that the backend is told. If only the method fails, and no wider route takes the request, the answer is 405 with Allow.
	Methods []string `yaml:"methods"`
	// Header conditions; all must hold.
	Headers []HeaderMatch `yaml:"headers"`
	// Only clients with this identity, proved by a certificate (tls.client_auth); others go to the next route that matches. An empty one, {}, is any identity.
	Identity *tlsterm.IdentityMatch `yaml:"identity"`

	// Action: forward to this upstream.
	Upstream string `yaml:"upstream"`
	// Action: answer from here.
	StaticResponse *StaticResponse `yaml:"static_response"`
	// Action: redirect.
	Redirect *Redirect `yaml:"redirect"`

	// Answer 403 to clients without this identity. An empty one, {}, is any identity.
	RequireIdentity *tlsterm.IdentityMatch `yaml:"require_identity"`
	// Backends are connected to separately for each tag, so that routes of different tags never share a connection.
	Tag string `yaml:"tag" default:"default"`
	// Change the path sent to the backend.
	Rewrite *Rewrite `yaml:"rewrite"`
	// Change the request's header fields.
	RequestHeaders *HeaderOps `yaml:"request_headers"`
	// Change the response's header fields.
	ResponseHeaders *HeaderOps `yaml:"response_headers"`
	// Compress responses.
	Compression *Compression `yaml:"compression"`
	// Let WebSocket upgrades through.
	WebSocket bool `yaml:"websocket" default:"true"`
	// How upgraded connections of this route are treated.
	Tunnel Tunnel `yaml:"tunnel"`
	// Who goes first when workers are scarce: critical requests are picked first and have workers reserved (workers.reserved_percent), bulk ones are picked last.
	Priority string `yaml:"priority" default:"normal" enum:"critical|normal|bulk"`
	// Largest request body on this route, instead of limits.max_body; 0 keeps that.
	MaxBody unit.Size `yaml:"max_body" default:"0B"`
	// Largest request body on this route that is awaited as a whole, instead of limits.request_buffer; 0 keeps that. With 1B all bodies stream.
	RequestBuffer unit.Size `yaml:"request_buffer" default:"0B" max:"1MiB"`
	// The whole request, instead of the upstream's timeouts.request; 0 keeps that.
	Timeout time.Duration `yaml:"timeout" default:"0s" min:"0s"`
	// Write this route's requests to the access log.
	AccessLog bool `yaml:"access_log" default:"true"`
}

// Tunnel says how the upgraded connections of a route are treated.
type Tunnel struct {
	// "opaque" passes bytes on, at the least cost; "frames" follows the WebSocket framing, which the keys from ping_interval on need (with
	// "opaque" they are errors, unless they ask for nothing: a default, or no limit).
	Mode string `yaml:"mode" default:"opaque" enum:"opaque|frames"`
	// Most tunnels of this route open at once; 0 is no limit. One over it is answered with 503 and Retry-After.
	Max int `yaml:"max" default:"0" min:"0"`
	// Most tunnels of this route open at once from one client (see tunnels.client); 0 is no limit.
	MaxPerClient int `yaml:"max_per_client" default:"0" min:"0"`
	// Longest time without a byte in either direction, instead of timeouts.tunnel_idle; 0s keeps that.
	Idle time.Duration `yaml:"idle" default:"0s" min:"0s"`
	// Age at which a tunnel is closed; 0s is no limit.
	Lifetime time.Duration `yaml:"lifetime" default:"0s" min:"0s"`
	// Idle and lifetime limits are shortened at random by up to this much, in percent, so that tunnels opened together do not end together.
	Jitter int `yaml:"jitter_percent" default:"10" min:"0" max:"90"`
	// Ping a client that was silent for this long; 0s does not ping.
	PingInterval time.Duration `yaml:"ping_interval" default:"30s" min:"0s"`
	// A client that stays silent for this long after a ping is dead, and the tunnel is closed.
	PongTimeout time.Duration `yaml:"pong_timeout" default:"10s" min:"1ms"`
	// Largest message, in either direction, as sent (compressed or not); 0 is no limit. A larger one ends the tunnel: its
	// sender gets close code 1009, the other side 1001.
	MaxMessage unit.Size `yaml:"max_message" default:"0B"`
	// Check that text messages are UTF-8, unless they are compressed; one that is not ends the tunnel, with close code 1007 for its sender.
	CheckUTF8 bool `yaml:"check_utf8" default:"true"`
	// Messages a second that a client may send on one tunnel, pings and empty fragments included, with bursts of as many as one second's; 0 is no limit.
	MessageRate int `yaml:"message_rate" default:"0" min:"0"`
	// Bytes a second that a client may send on one tunnel, with bursts of as many as one second's; 0 is no limit.
	ByteRate unit.Size `yaml:"byte_rate" default:"0B"`
	// What happens beyond a rate: "close" ends the tunnel with close code 1008, "delay" reads no more until the rate allows; a few
	// small messages may overshoot it, which is made up for before the next read.
	OverRate string `yaml:"over_rate" default:"close" enum:"close|delay"`
	// How long a side may take to answer a Close frame of the gateway before its connection is closed.
	CloseTimeout time.Duration `yaml:"close_timeout" default:"5s" min:"1ms"`
}

// HeaderMatch is one condition on a request header. Without value and regex the field must be present.
type HeaderMatch struct {
	// Field name, in any case.
	Name string `yaml:"name" required:"true"`
	// The whole value.
	Value string `yaml:"value"`
	// Regular expression (RE2) searched in the value.
	Regex string `yaml:"regex"`
	// Turn the condition round.
	Not bool `yaml:"not" default:"false"`
}

// StaticResponse answers from the configuration.
type StaticResponse struct {
	// Status code.
	Status int `yaml:"status" default:"200" min:"200" max:"599"`
	// Body, with variables.
	Body string `yaml:"body"`
	// Content-Type of the body.
	ContentType string `yaml:"content_type" default:"text/plain; charset=utf-8"`
}

// Redirect answers with a Location.
type Redirect struct {
	// Status code.
	Status int `yaml:"status" default:"308" enum:"301|302|303|307|308"`
	// Target, with variables: "https://${host}${uri}".
	Location string `yaml:"location" required:"true"`
}

// Rewrite changes the path sent to the backend; the query is kept. At most one of its keys.
type Rewrite struct {
	// Remove this prefix; what is left begins with "/".
	StripPrefix string `yaml:"strip_prefix"`
	// Replace the route's matched prefix (path or path_exact) by this.
	ReplacePrefix string `yaml:"replace_prefix"`
	// Replace the whole path, with variables and the captures of path_regex: "/v2/$1". A query in it goes before the client's.
	Path string `yaml:"path"`
}

// HeaderOps changes header fields: remove, then set, then add. Values may hold variables: ${client_addr} ${client_port} ${host} ${scheme} ${method}
// ${path} ${query} ${uri} ${request_id} ${route} ${upstream} ${backend} ${listener} ${tls_version} ${tls_cipher} ${tls_server_name} ${tls_ja4} ${tls_client_verified}
// ${tls_client_subject} ${tls_client_issuer} ${tls_client_san} ${tls_client_spiffe} ${tls_client_fingerprint} ${tls_client_serial} ${header:NAME} ${cookie:NAME}
// and captures $1 … $9 and ${name}. A "$$" is a dollar sign.
type HeaderOps struct {
	// Remove every field of these names.
	Remove []string `yaml:"remove"`
	// Replace every field of the name by one of this value; an empty value removes it.
	Set map[string]string `yaml:"set"`
	// Add one more field.
	Add map[string]string `yaml:"add"`
}

// Compression compresses response bodies that the backend did not.
type Compression struct {
	// Codings to offer, best first.
	Encodings []string `yaml:"encodings" default:"zstd,br,gzip" enum:"zstd|br|gzip"`
	// Media types to compress: exact, or with a final "/*".
	Types []string `yaml:"types" default:"text/*,application/json,application/javascript,application/xml,image/svg+xml"`
	// A response known to be smaller than this is left alone.
	MinSize unit.Size `yaml:"min_size" default:"1KiB"`
	// Effort: fastest, default or best.
	Level string `yaml:"level" default:"fastest" enum:"fastest|default|best"`
}

// Log configures the logs.
type Log struct {
	// Access log.
	Access AccessLog `yaml:"access"`
	// Error log.
	Error ErrorLog `yaml:"error"`
}

// AccessLog configures the access log.
type AccessLog struct {
	// File, "stdout", "stderr" or "off".
	Output string `yaml:"output" default:"off" file:"true"`
	// "json", "combined" (as nginx), or a format string with the variables of header operations, but no captures, and
	// ${status} ${bytes_sent} ${bytes_received} ${duration} ${upstream_duration} ${reason} ${attempts} ${time_iso8601} ${time_local} ${proto}
	// ${request} ${remote_user} ${referer} ${user_agent}.
	Format string `yaml:"format" default:"json"`
	// Lines that may wait for the writer; more are dropped and counted, as a request never waits for its log line.
	Buffer int `yaml:"buffer" default:"16384" min:"16"`
	// Lines are written at least this often.
	Flush time.Duration `yaml:"flush" default:"500ms" min:"1ms"`
}

// ErrorLog configures the error log.
type ErrorLog struct {
	// File, "stdout" or "stderr".
	Output string `yaml:"output" default:"stderr" file:"true"`
	// "auto" is coloured text on a terminal and JSON elsewhere.
	Format string `yaml:"format" default:"auto" enum:"auto|json|console"`
	// Lowest level written.
	Level string `yaml:"level" default:"info" enum:"debug|info|warn|error"`
	// Lines a second for each kind of event that a peer can cause; the rest is counted and summed up in the next line.
	Throttle int `yaml:"throttle" default:"5" min:"1"`
}

// Drain configures the end of the process.
type Drain struct {
	// After SIGTERM, readiness fails this long before listeners close, so that load balancers notice.
	Grace time.Duration `yaml:"grace" default:"0s" min:"0s"`
	// Requests in flight may take this long; then connections are closed and the process exits.
	Timeout time.Duration `yaml:"timeout" default:"30s" min:"0s"`
	// Tunnels are closed evenly over this time, with jitter, so that their clients do not all come back at once. It ends with drain.timeout at the latest.
	Window time.Duration `yaml:"window" default:"20s" min:"0s"`
	// Close code that tunnels of mode "frames" get: 1012 is "service restart" (IANA WebSocket close codes), 1001 is "going away" (RFC 6455 section 7.4.1).
	// 1000, 1008, 1011, 1013, 1014 and 3000 to 4999 may be sent as well; other codes blame the client or are not for the wire.
	CloseCode int `yaml:"close_code" default:"1012" min:"1000" max:"4999"`
}

// Resolver configures the lookup of backend names.
type Resolver struct {
	// DNS servers as host:port. Default: those of /etc/resolv.conf.
	Servers []string `yaml:"servers"`
	// Time between lookups of a name: 0 follows the records' TTL, at least min_ttl.
	Interval time.Duration `yaml:"interval" default:"0s" min:"0s"`
	// Shortest time between lookups when following TTLs.
	MinTTL time.Duration `yaml:"min_ttl" default:"1s" min:"100ms"`
	// A lookup that takes longer has failed; the last good answer stays.
	Timeout time.Duration `yaml:"timeout" default:"2s" min:"1ms"`
	// Address family to use.
	Family string `yaml:"family" default:"any" enum:"any|ipv4|ipv6"`
}
