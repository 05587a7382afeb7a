# The gateways that are compared, as bench-idle.sh and bench-relay.sh run them: "/" goes
# to an HTTP backend and "/ws" to a WebSocket backend. Sourced after lib.sh, not run.
# What the caller sets and reads is not seen here, and $pin is several words or none.
# shellcheck shell=bash disable=SC2034,SC2154,SC2086

# Set by the caller before start_peer: peer_port, http_port, ws_port, admin_port, tls
# (0 or 1), workers, most_fds, pin (a command that pins to processors, or nothing).
# Left by start_peer: peer_pid.

# peer_exists NAME demands a peer that is installed.
peer_exists() {
	case $1 in
	tickgate | nethttp) ;;
	nginx) need nginx nginx-light ;;
	haproxy) need haproxy haproxy ;;
	*) die "no peer $1: there are tickgate, nginx, nethttp and haproxy" ;;
	esac
}

# peer_version NAME prints the peer's name for a table.
peer_version() {
	case $1 in
	tickgate) bin/tickgate version | awk '{ print $1, $2 }' ;;
	nginx) nginx -v 2>&1 | sed 's|.*/|nginx |' ;;
	haproxy) haproxy -v | awk 'NR == 1 { sub("-.*", "", $3); print "HAProxy", $3 }' ;;
	nethttp) echo 'net/http ReverseProxy' ;;
	esac
}

# start_peer NAME starts one alone, and waits until it listens.
start_peer() {
	"configure_$1"
	"run_$1"
	peer_pid=$started
	wait_for_port "$1" "$peer_port"
}

configure_tickgate() {
	{
		echo "admin: {listen: 127.0.0.1:$admin_port}"
		echo 'timeouts: {idle: 1h, tunnel_idle: 1h}'
		echo 'listeners:'
		echo "  - listen: 127.0.0.1:$peer_port"
		[[ $tls == 1 ]] && echo "    tls: {certificates: [{cert_file: $work_dir/cert.pem, key_file: $work_dir/key.pem}]}"
		cat <<YAML
forwarding: {request_id_header: ""}
upstreams:
  be:
    servers: [{address: 127.0.0.1:$http_port}]
  ws:
    servers: [{address: 127.0.0.1:$ws_port}]
    pool: {max_conns: 100000}
routes:
  - {path: /, upstream: be}
  - {path: /ws, upstream: ws${TUNNEL:+, tunnel: {$TUNNEL\}}}
YAML
	} >"$work_dir/tickgate.yaml"
}

run_tickgate() { GOMAXPROCS=$workers start tickgate $pin bin/tickgate run -c "$work_dir/tickgate.yaml"; }

# Debian's buffers and limits, but for the number of connections and the time they
# may idle; no access log, as nobody writes one.
configure_nginx() {
	local listen="127.0.0.1:$peer_port" ssl='' kind
	mkdir -p "$work_dir/nginx"
	if [[ $tls == 1 ]]; then
		listen+=' ssl'
		ssl="ssl_certificate $work_dir/cert.pem; ssl_certificate_key $work_dir/key.pem; ssl_protocols TLSv1.2 TLSv1.3;"
	fi
	{
		echo "worker_processes $workers;"
		((EUID == 0)) && echo 'user root;'
		cat <<CONF
pid $work_dir/nginx.pid;
error_log stderr crit;
worker_rlimit_nofile $most_fds;
events { worker_connections $most_fds; }
http {
	access_log off;
	keepalive_timeout 1h;
	keepalive_requests 1000000000;
	map \$http_upgrade \$connection_upgrade { default upgrade; '' ''; }
	upstream be { server 127.0.0.1:$http_port; keepalive 64; }
	upstream ws { server 127.0.0.1:$ws_port; }
	proxy_http_version 1.1;
	proxy_set_header Host \$http_host;
	proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
	proxy_set_header X-Forwarded-Proto \$scheme;
	proxy_set_header X-Forwarded-Host \$http_host;
	proxy_set_header Upgrade \$http_upgrade;
	proxy_set_header Connection \$connection_upgrade;
CONF
		for kind in client_body proxy fastcgi uwsgi scgi; do
			echo "	${kind}_temp_path $work_dir/nginx/$kind;"
		done
		cat <<CONF
	server {
		listen $listen backlog=4096;
		$ssl
		location / { proxy_pass http://be; }
		location /ws { proxy_pass http://ws; proxy_read_timeout 1h; proxy_send_timeout 1h; }
	}
}
CONF
	} >"$work_dir/nginx.conf"
}

run_nginx() {
	start nginx $pin nginx -e stderr -p "$work_dir/nginx" -c "$work_dir/nginx.conf" -g 'daemon off;'
}

# HAProxy reserves two descriptors for each connection of maxconn, and would not start
# where only one is needed: no strict-limits.
configure_haproxy() {
	local ssl=
	[[ $tls == 1 ]] && ssl=" ssl crt $work_dir/both.pem ssl-min-ver TLSv1.2"
	cat >"$work_dir/haproxy.cfg" <<CONF
global
	nbthread $workers
	maxconn $((most_fds - 200))
	no strict-limits
	ulimit-n $most_fds
defaults
	mode http
	timeout connect 3s
	timeout client 1h
	timeout server 1h
	timeout tunnel 1h
	timeout http-keep-alive 1h
	option http-keep-alive
	http-reuse always
frontend fe
	bind 127.0.0.1:$peer_port$ssl backlog 4096
	option forwardfor
	http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
	http-request set-header X-Forwarded-Host %[req.hdr(Host)]
	use_backend ws if { path_beg /ws }
	default_backend be
backend be
	server s1 127.0.0.1:$http_port
backend ws
	server s1 127.0.0.1:$ws_port
CONF
}

run_haproxy() { start haproxy $pin haproxy -db -f "$work_dir/haproxy.cfg"; }

# The baseline has one backend: the one that the measurement is about.
configure_nethttp() { :; }

run_nethttp() {
	local backend=$http_port
	[[ ${tunnels:-0} == 1 ]] && backend=$ws_port
	local -a args=(-listen "127.0.0.1:$peer_port" -backend "127.0.0.1:$backend")
	[[ $tls == 1 ]] && args+=(-tls-cert "$work_dir/cert.pem" -tls-key "$work_dir/key.pem")
	GOMAXPROCS=$workers start nethttp $pin bin/tickload baseline "${args[@]}"
}

# choose_peers fills peers from $PEERS, or with all that are installed.
choose_peers() {
	local peer
	if [[ -n ${PEERS:-} ]]; then
		read -ra peers <<<"$PEERS"
	else
		peers=(tickgate nginx nethttp)
		if command -v haproxy >/dev/null; then
			peers+=(haproxy)
		else
			echo 'haproxy is not installed and left out: apt-get install haproxy' >&2
		fi
	fi
	for peer in "${peers[@]}"; do
		peer_exists "$peer"
	done
}
